"""Figures for papers: slices of one or several cases as scan, reconstruction, anomaly map, lesion mask and truth.

All panels of a picture share one scale in mm. Slices are drawn in RAS order, whatever the order in the file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.textpath import TextPath
from scipy import ndimage

from medvae.drawing import FADE, MAP_COLOURS, MASK_COLOUR, TRUTH_COLOUR, grey_window, rgb, save_figure
from medvae.errors import MedvaeError
from medvae.imaging.background import foreground, on_black
from medvae.imaging.components import components
from medvae.imaging.volume import Geometry

Plane = Literal["axial", "coronal", "sagittal"]
KINDS = ("scan", "reconstruction", "anomaly map", "lesion mask", "truth")
"""The rows of a picture."""
AXIS: dict[str, int] = {"sagittal": 0, "coronal": 1, "axial": 2}
APART_MM = 6.0
"""Minimum distance between automatically chosen slices."""
_INCHES_PER_MM = 0.0095
_NARROWEST, _WIDEST = 4.2, 11.0  # inches, as the rest; the first fits the line below the picture
_GAP, _LEFT, _RIGHT, _TOP, _BOTTOM = 0.04, 0.3, 0.9, 0.42, 0.3


@dataclass(frozen=True)
class Shown:
    """Volumes of a case to draw, in RAS order, ``(X, Y, Z)`` each and cropped to a box."""

    name: str
    image: np.ndarray
    anomaly: np.ndarray
    mask: np.ndarray
    threshold: float
    """Threshold of the mask on the map."""
    window: tuple[float, float]
    """Intensities of the scan shown as black and white."""
    geometry: Geometry
    """Geometry of the box."""
    truth: np.ndarray | None = None
    reconstruction: np.ndarray | None = None
    """1 is white."""
    healthy: bool = False
    """Whether the case is known to have no lesion."""

    @classmethod
    def of(
        cls,
        name: str,
        geometry: Geometry,
        image: np.ndarray,
        anomaly: np.ndarray,
        mask: np.ndarray,
        *,
        threshold: float = 0.5,
        truth: np.ndarray | None = None,
        reconstruction: np.ndarray | None = None,
        healthy: bool = False,
        brain_only: bool = False,
    ) -> Shown:
        """From arrays in a file's own voxel order, all on the grid ``geometry``.

        The box is that of the scan, or of the brain, where the map is not 0.
        """
        upright = _upright(image, geometry.affine)
        affine, scan = upright.affine, np.asarray(upright.dataobj)
        brain = np.asarray(_upright(anomaly, geometry.affine).dataobj) > 0
        inside = brain if brain_only and brain.any() else foreground(scan)
        box = _box(inside, np.linalg.norm(affine[:3, :3], axis=0))
        corner = affine @ [*(part.start for part in box), 1]

        def cut(array: np.ndarray) -> np.ndarray:
            return np.asarray(_upright(array, geometry.affine).dataobj)[box]

        x, y, z = scan[box].shape
        window = grey_window(scan, brain)
        return cls(
            name=name,
            geometry=Geometry(np.column_stack([affine[:, :3], corner]), (x, y, z)),
            image=on_black(scan, window[0])[box],
            anomaly=cut(anomaly),
            mask=cut(mask > 0) > 0,
            threshold=threshold,
            truth=None if truth is None else cut(truth) > 0,
            reconstruction=None if reconstruction is None else cut(reconstruction),
            window=window,
            healthy=healthy,
        )

    @property
    def kinds(self) -> list[str]:
        """The rows it can fill."""
        known = {"reconstruction": self.reconstruction, "truth": self.truth}
        return [kind for kind in KINDS if kind not in known or known[kind] is not None]

    def position_mm(self, axis: int, index: int) -> float:
        """World coordinate (RAS) of the centre of a slice."""
        voxel = [(length - 1) / 2 for length in self.image.shape]
        voxel[axis] = index
        return float((self.geometry.affine @ [*voxel, 1])[axis])


@dataclass(frozen=True)
class Column:
    """A slice of a case: RAS axis and index."""

    shown: Shown
    axis: int
    index: int


def largest_slices(shown: Shown, axis: int, count: int) -> list[int]:
    """The most informative slices, in ascending order.

    The first has the largest area of truth; without truth, of the lesion mask; if that is empty, the largest sum of
    the map. The next has the largest among those at least `APART_MM` from all chosen slices, and so on. When no slice
    with lesion is left, the sum of the map decides. Fewer are returned if the brain is too small.
    """
    others = tuple(other for other in range(3) if other != axis)
    brain = np.asarray((shown.anomaly > 0).any(axis=others))
    areas = [region.sum(axis=others) for region in (shown.truth, shown.mask) if region is not None and region.any()]
    ranks = [*areas[:1], shown.anomaly.sum(axis=others, dtype=np.float64) + 1e-9 * brain]
    spacing = shown.geometry.spacing_mm[axis]
    free = np.ones(len(brain), dtype=np.bool_)
    chosen: list[int] = []
    for rank in ranks:
        while len(chosen) < count and (left := np.where(free, rank, 0)).max() > 0:
            chosen.append(int(left.argmax()))
            free &= np.abs(np.arange(len(brain)) - chosen[-1]) * spacing >= APART_MM
    return sorted(chosen) or [len(brain) // 2]


def slices_at(shown: Shown, axis: int, positions_mm: Sequence[float]) -> list[int]:
    """The slices nearest to world coordinates.

    Raises
    ------
    MedvaeError
        For a position outside the scan.
    """
    length = shown.image.shape[axis]
    places = np.array([shown.position_mm(axis, index) for index in range(length)])
    for position in positions_mm:
        if not places[0] - APART_MM <= position <= places[-1] + APART_MM:
            raise MedvaeError(
                f'"{shown.name}" has no slice at {position:g} mm: it goes from {places[0]:.0f} to {places[-1]:.0f} mm.'
            )
    return [int(np.abs(places - position).argmin()) for position in positions_mm]


def largest_finding(shown: Shown) -> tuple[int, int, int]:
    """The middle voxel of the mask's largest component, or the map's maximum if the mask is empty."""
    labels, sizes = components(shown.mask)
    if not len(sizes):
        x, y, z = (int(i) for i in np.unravel_index(int(np.argmax(shown.anomaly)), shown.anomaly.shape))
        return x, y, z
    voxels = np.argwhere(labels == int(np.argmax(sizes)) + 1)
    centre = voxels[np.argmin(((voxels - voxels.mean(0)) ** 2).sum(1))]  # a voxel of the component even if it is curved
    x, y, z = (int(i) for i in centre)
    return x, y, z


def draw_montage(columns: Sequence[Column], out: Path | str, *, title: str = "", radiological: bool = True) -> Path:
    """Draw slices side by side, one row per kind of picture, to ``out`` (PNG, PDF or SVG by its extension).

    Parameters
    ----------
    columns
        In drawing order; adjacent slices of one case share its name.
    title
        Above the picture, instead of the cases' names.
    radiological
        Show the patient's right on the left; else neurological. Either is marked and stated.
    """
    kinds = [kind for kind in KINDS if any(kind in column.shown.kinds for column in columns)]

    sizes = [_size_mm(column) for column in columns]
    gaps = [_GAP if one.shown is next.shown else 3 * _GAP for one, next in pairwise(columns)]
    scale = min(_INCHES_PER_MM, (_WIDEST - sum(gaps)) / sum(across for across, _ in sizes))
    sizes = [(across * scale, up * scale) for across, up in sizes]
    tall = max(up for _, up in sizes)
    right = _LEFT + sum(across for across, _ in sizes) + sum(gaps)
    width, height = max(right + _RIGHT, _NARROWEST), _TOP + len(kinds) * (tall + _GAP) + _BOTTOM
    figure = Figure(figsize=(width, height), facecolor="white")
    canvas = figure.add_axes((0, 0, 1, 1))  # one for all panels, in inches from the top left: many axes are slow
    canvas.set_axis_off()

    tops = [_TOP + row * (tall + _GAP) for row in range(len(kinds))]
    lefts = [_LEFT + sum(across for across, _ in sizes[:n]) + sum(gaps[:n]) for n in range(len(columns))]
    for kind, top in zip(kinds, tops, strict=True):
        _write(canvas, _LEFT / 2, top + tall / 2, kind, fontsize=9, rotation=90, ha="center", va="center")
        for column, left, (across, up) in zip(columns, lefts, sizes, strict=True):
            canvas.add_patch(Rectangle((left, top), across, tall, color="black", linewidth=0, zorder=-1))
            middle = top + (tall - up) / 2
            _draw_panel(canvas, column, kind, (left, left + across, middle + up, middle), radiological)
    if title:
        _write(canvas, _LEFT, 0.06, title, fontsize=9, va="top")
    else:
        firsts = [n for n, column in enumerate(columns) if n == 0 or column.shown is not columns[n - 1].shown]
        for n, end in zip(firsts, [*(lefts[n] - _GAP for n in firsts[1:]), width], strict=True):
            name = columns[n].shown.name
            _write(canvas, lefts[n], 0.06, name, fontsize=fitting_size(name, end - lefts[n]), va="top")
    for column, left, (across, _) in zip(columns, lefts, sizes, strict=True):
        _write(canvas, left + across / 2, _TOP - 0.05, _place(column), fontsize=8, ha="center", va="bottom")
        _mark_sides(canvas, column, (left, left + across), _TOP, radiological)
    _draw_scale_bar(canvas, _LEFT, _TOP + tall, sizes[0][0], scale)
    thresholds = sorted({column.shown.threshold for column in columns})
    _draw_colour_bar(canvas, right + 0.08, tops[kinds.index("anomaly map")], tall, thresholds)
    side = (
        "Radiological convention: the patient's right"
        if radiological
        else "Neurological convention: the patient's left"
    )
    _write(canvas, _LEFT, height - 0.08, f"{side} is on the left.", fontsize=7.5, va="bottom")
    canvas.set(xlim=(0, width), ylim=(height, 0), aspect="auto")
    return save_figure(figure, out, dpi=200)


def fitting_size(text: str, inches: float, largest: float = 9.0) -> float:
    """The font size in points, 9 or less, at which a text fits this width."""
    wide = TextPath((0, 0), text, size=largest, usetex=False).get_extents().width / 72 if text.strip() else 0.0
    return largest * min(1.0, inches / wide) if wide else largest


def plane(array: np.ndarray, axis: int, index: int, *, radiological: bool = True) -> np.ndarray:
    """A slice of an array in RAS order: rows from top to bottom, columns as displayed, anterior left."""
    picture = np.take(array, index, axis=axis).T[::-1]
    return picture[:, ::-1] if radiological or axis == 0 else picture


def grey_plane(shown: Shown, axis: int, index: int, *, radiological: bool = True) -> np.ndarray:
    """A slice of the scan as a grey picture, ``(rows, columns, 3)`` from 0 to 1."""
    black, white = shown.window
    grey = (plane(shown.image, axis, index, radiological=radiological) - black) / (white - black)
    return np.repeat(np.clip(grey, 0, 1)[..., None], 3, axis=-1)


def with_map(colours: np.ndarray, values: np.ndarray, opacity: np.ndarray) -> np.ndarray:
    """The map's colours blended onto a picture ``(…, 3)``; ``values`` and ``opacity`` (0 to 1) are ``(…)``."""
    opacity = 0.85 * opacity[..., None]
    return (1 - opacity) * colours + opacity * colormaps[MAP_COLOURS](values)[..., :3]


def _draw_panel(
    canvas: Axes, column: Column, kind: str, extent: tuple[float, float, float, float], radiological: bool
) -> None:
    shown = column.shown
    if kind not in shown.kinds:
        middle = (extent[0] + extent[1]) / 2, (extent[2] + extent[3]) / 2
        absent = "healthy" if shown.healthy and kind == "truth" else "not known"
        _write(canvas, *middle, absent, color="0.6", fontsize=8, ha="center", va="center")
        return
    cut = partial(plane, axis=column.axis, index=column.index, radiological=radiological)
    colours = grey_plane(shown, column.axis, column.index, radiological=radiological)
    if kind == "reconstruction" and shown.reconstruction is not None:
        colours = np.repeat(np.clip(cut(shown.reconstruction), 0, 1)[..., None], 3, axis=-1)
    elif kind == "anomaly map":
        colours = with_map(colours, values := cut(shown.anomaly), _fading(values, shown.threshold))
    elif kind == "lesion mask":
        colours = _painted(colours, cut(shown.mask), MASK_COLOUR)
    elif kind == "truth" and shown.truth is not None:
        colours = _painted(colours, cut(shown.truth), TRUTH_COLOUR)
    # "none" keeps the voxels as they are in PDF and SVG
    canvas.imshow(np.rint(colours * 255).astype(np.uint8), extent=extent, interpolation="none")


def _painted(colours: np.ndarray, region: np.ndarray, colour: str) -> np.ndarray:
    return np.where(region[..., None], 0.25 * colours + 0.75 * np.array(rgb(colour)) / 255, colours)


def _fading(values: np.ndarray, threshold: float) -> np.ndarray:
    """Opacity of the map: it fades in towards the threshold."""
    return np.clip((values / threshold - FADE) / (1 - FADE), 0, 1)


def _draw_colour_bar(canvas: Axes, left: float, top: float, tall: float, thresholds: Sequence[float]) -> None:
    values = np.linspace(1, 0, 256)[:, None]
    colours = with_map(np.full((256, 1, 3), 0.5), values, _fading(values, thresholds[0]))
    right = left + 0.13
    canvas.imshow(np.rint(colours * 255).astype(np.uint8), extent=(left, right, top + tall, top), interpolation="none")
    for value in (0, 0.25, 0.5, 0.75, 1):
        _write(canvas, right + 0.06, top + (1 - value) * tall, f"{value:g}", fontsize=7, va="center")
        canvas.plot([right, right + 0.04], [top + (1 - value) * tall] * 2, color="black", linewidth=0.6)
    for threshold in thresholds:
        canvas.plot([left, right], [top + (1 - threshold) * tall] * 2, color="white", linewidth=1.2)
    above = " to ".join(f"{value:.2f}" for value in dict.fromkeys((thresholds[0], thresholds[-1])))
    text = f"anomaly map (no unit)\nthreshold {above}"
    _write(canvas, right + 0.36, top + tall / 2, text, fontsize=7, rotation=90, va="center")


def _draw_scale_bar(canvas: Axes, left: float, bottom: float, across: float, scale: float) -> None:
    """Draw a scale bar of the longest round length that fits under the first scan; ``scale`` in inches per mm."""
    length = next((mm for mm in (100, 50, 20, 10, 5, 2, 1) if mm * scale <= 0.45 * across), 1)
    start, end = left + 0.06, left + 0.06 + length * scale
    canvas.plot([start, end], [bottom - 0.06] * 2, color="white", linewidth=2, solid_capstyle="butt")
    _write(
        canvas, (start + end) / 2, bottom - 0.09, f"{length} mm", color="white", fontsize=7, ha="center", va="bottom"
    )


def _mark_sides(canvas: Axes, column: Column, sides: tuple[float, float], top: float, radiological: bool) -> None:
    marks = "AP" if column.axis == 0 else "RL" if radiological else "LR"
    for mark, place, align in zip(marks, (sides[0] + 0.04, sides[1] - 0.04), ("left", "right"), strict=True):
        _write(canvas, place, top + 0.04, mark, color="white", fontsize=8, ha=align, va="top")


def _place(column: Column) -> str:
    return f"{'xyz'[column.axis]} = {column.shown.position_mm(column.axis, column.index):.0f} mm".replace("-", "−")


def _write(canvas: Axes, x: float, y: float, text: str, **options: Any) -> None:
    canvas.text(x, y, text, parse_math=False, **options)  # a name may contain a dollar sign


def _size_mm(column: Column) -> tuple[float, float]:
    """Width and height of a slice."""
    sizes = [n * mm for n, mm in zip(column.shown.image.shape, column.shown.geometry.spacing_mm, strict=True)]
    across, up = [size for axis, size in enumerate(sizes) if axis != column.axis]
    return across, up


def _upright(array: np.ndarray, affine: np.ndarray) -> nib.Nifti1Image:
    """The array with axes flipped and reordered to RAS; no interpolation."""
    values = array.astype(np.uint8) if array.dtype == bool else array
    return nib.as_closest_canonical(nib.Nifti1Image(values, affine))


def _box(inside: np.ndarray, spacing: Sequence[float], margin_mm: float = 6.0) -> tuple[slice, ...]:
    """Bounding box of ``inside`` with a margin; everything if it is empty."""
    found = ndimage.find_objects(inside.astype(np.uint8))
    if not found:
        return tuple(slice(0, length) for length in inside.shape)
    return tuple(
        slice(max(0, part.start - round(margin_mm / mm)), min(length, part.stop + round(margin_mm / mm)))
        for part, mm, length in zip(found[0], spacing, inside.shape, strict=True)
    )
