"""The colours of findings, the same in every figure and viewer, and how a figure is saved.

The colours can be told apart with the common kinds of colour blindness.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from medvae.files import write_bytes
from medvae.imaging.zero import zero_and_white

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAP_COLOURS = "inferno"
"""Colour map of the anomaly map, by its name in matplotlib, FSLeyes, 3D Slicer and NiiVue."""
SPREAD_COLOURS = "viridis"
"""Of the spread of an ensemble's maps."""
FADE = 0.6
"""The map becomes visible at this fraction of the threshold."""
MASK_COLOUR = "#ff9d2e"
TRUTH_COLOUR = "#35c4e8"

_STOPS = [(0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164)]  # inferno at 0, 1/4, … 1


def map_colour(value: float) -> tuple[int, int, int]:
    """Red, green and blue (0–255) of a value of the anomaly map."""
    places = np.linspace(0, 1, len(_STOPS))
    red, green, blue = (round(float(np.interp(value, places, channel))) for channel in zip(*_STOPS, strict=True))
    return red, green, blue


def rgb(colour: str) -> tuple[int, int, int]:
    """Red, green and blue (0–255) of "#rrggbb"."""
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def page_colours() -> dict[str, str | tuple[int, int, int]]:
    """For the style sheet and the viewer of a page: the ramp of the map, mask, truth, and both."""
    mask, truth = rgb(MASK_COLOUR), rgb(TRUTH_COLOUR)
    red, green, blue = ((one + other) // 2 for one, other in zip(mask, truth, strict=True))
    return {
        "map": MAP_COLOURS,
        "ramp": ", ".join(f"rgb{stop}" for stop in _STOPS),
        "spread": SPREAD_COLOURS,
        "mask": mask,
        "truth": truth,
        "both": (red, green, blue),
    }


def grey_window(scan: np.ndarray, brain: np.ndarray) -> tuple[float, float]:
    """Intensities of a scan shown as black and white: the brain's own zero and 99.5th percentile.

    So dark lesions show on any scale of intensities; the zero is that of `medvae.imaging.zero`.

    Parameters
    ----------
    scan
        ``(X, Y, Z)``.
    brain
        ``(X, Y, Z)`` bool, where the map is not 0; may be empty.
    """
    values = scan[brain] if brain.any() else scan.ravel()
    low, high = zero_and_white(values)[0], float(np.percentile(values, 99.5))
    return (low, high) if high > low else (low, low + 1.0)


def save_figure(figure: Figure, path: Path | str, *, dpi: int = 110) -> Path:
    """Write ``figure`` in the format of the path's ending (PNG, PDF or SVG), without time stamps.

    Text stays text in PDF, as journals require, and identifiers in SVG do not change from run to run.
    """
    from matplotlib import rc_context  # only here: viewers' files need the colours and no matplotlib

    path = Path(path)
    suffix = path.suffix.lstrip(".").lower()
    stamp = {"png": {"Software": None}, "pdf": {"CreationDate": None}, "svg": {"Date": None}}
    buffer = io.BytesIO()
    with rc_context({"svg.hashsalt": "medvae", "pdf.fonttype": 42}):
        figure.savefig(buffer, format=suffix, dpi=dpi, metadata=stamp.get(suffix))
    return write_bytes(path, buffer.getvalue())
