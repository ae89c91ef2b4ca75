"""The colours of scans' findings, the same in every picture and viewer, and told apart by colour-blind readers."""

from __future__ import annotations

import numpy as np

MAP_COLOURS = "inferno"
"""Of the anomaly map; matplotlib, FSLeyes and 3D Slicer know it by this name."""
FADE = 0.6
"""The map begins to show at this share of the threshold."""
MASK_COLOUR = "#ff9d2e"
TRUTH_COLOUR = "#35c4e8"

_STOPS = [(0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164)]  # inferno at 0, 1/4, … 1


def map_colour(value: float) -> tuple[int, int, int]:
    """Red, green and blue (0–255) of a value of the anomaly map."""
    channels = [np.interp(value, np.linspace(0, 1, len(_STOPS)), [stop[c] for stop in _STOPS]) for c in range(3)]
    return tuple(round(float(channel)) for channel in channels)


def rgb(colour: str) -> tuple[int, int, int]:
    """Red, green and blue (0–255) of "#rrggbb"."""
    return tuple(int(colour[start : start + 2], 16) for start in (1, 3, 5))
