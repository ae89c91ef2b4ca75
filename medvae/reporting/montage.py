"""Pictures for papers: slices of one or several cases as scan, reconstruction, anomaly map, lesion mask and truth.

All panels of a picture have one scale in mm. Slices are drawn in RAS order, whatever the order in the file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import nibabel as nib
import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import ndimage

from medvae.errors import MedvaeError
from medvae.reporting.colours import FADE, MAP_COLOURS, MASK_COLOUR, TRUTH_COLOUR, rgb
from medvae.reporting.figures import save_figure
from medvae.volume import Geometry

Plane = Literal["axial", "coronal", "sagittal"]
KINDS = ("scan", "reconstruction", "anomaly map", "lesion mask", "truth")
"""The rows of a picture."""
AXIS: dict[str, int] = {"sagittal": 0, "coronal": 1, "axial": 2}
APART_MM = 6.0
"""Slices that are chosen automatically lie at least this far apart."""
_INCHES_PER_MM, _WIDEST_INCHES = 0.0095, 11.0
_GAP, _LEFT, _RIGHT, _TOP, _BOTTOM = 0.04, 0.3, 0.95, 0.42, 0.3  # inches


@dataclass(frozen=True)
class Shown:
    """What there is to draw of a case, in RAS order, ``(X, Y, Z)`` each and cut to the scan's box."""

    name: str
    image: np.ndarray
    anomaly: np.ndarray
    mask: np.ndarray
    threshold: float
    """Value of the map that the mask was cut at."""
    white: float
    """Intensity of the scan shown as white; black is 0."""
    geometry: Geometry
    """Of the box."""
    truth: np.ndarray | None = None
    reconstruction: np.ndarray | None = None
    """1 is white."""

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
    ) -> Shown:
        """From arrays in a file's own voxel order, all on the grid ``geometry``."""
        box = None
        arrays: list[np.ndarray | None] = []
        for array in (image, anomaly, mask > 0, truth, reconstruction):
            if array is None:
                arrays.append(None)
                continue
            values = array.astype(np.uint8) if array.dtype == bool else np.asarray(array)
            upright = nib.as_closest_canonical(nib.Nifti1Image(values, geometry.affine))
            values = np.asarray(upright.dataobj)
            if box is None:
                box = _box(values, np.linalg.norm(upright.affine[:3, :3], axis=0))
                corner = upright.affine @ [*(part.start for part in box), 1]
                affine = np.column_stack([upright.affine[:, :3], corner])
            arrays.append(values[box])
        brain = arrays[0][arrays[1] > 0]
        white = float(np.percentile(brain, 99.5)) if brain.size else float(np.max(arrays[0]))
        return cls(
            name, arrays[0], arrays[1], arrays[2] > 0, threshold, white if white > 0 else 1.0,
            Geometry(affine, arrays[0].shape), None if arrays[3] is None else arrays[3] > 0, arrays[4],
        )  # fmt: skip

    @property
    def kinds(self) -> list[str]:
        """The rows that it can fill."""
        known = {"reconstruction": self.reconstruction, "truth": self.truth}
        return [kind for kind in KINDS if kind not in known or known[kind] is not None]

    def position_mm(self, axis: int, index: int) -> float:
        """World coordinate (right, front, up) of the middle of a slice."""
        voxel = [(length - 1) / 2 for length in self.image.shape]
        voxel[axis] = index
        return float((self.geometry.affine @ [*voxel, 1])[axis])


@dataclass(frozen=True)
class Column:
    """A slice of a case: across which axis of RAS, and which."""

    shown: Shown
    axis: int
    index: int


def largest_slices(shown: Shown, axis: int, count: int) -> list[int]:
    """The slices with most to see, in ascending order.

    The first has the largest area of truth; where none is known, of the lesion mask; where that is empty, the largest
    sum of the map. The next has the largest among those at least `APART_MM` away from all chosen, and so on. When no
    slice with lesion is left, the sum of the map decides. Fewer are given where the brain is too small.
    """
    others = tuple(other for other in range(3) if other != axis)
    brain = (shown.anomaly > 0).any(axis=others)
    areas = [region.sum(axis=others) for region in (shown.truth, shown.mask) if region is not None and region.any()]
    ranks = [*areas[:1], shown.anomaly.sum(axis=others, dtype=np.float64) + 1e-9 * brain]
    spacing = shown.geometry.spacing_mm[axis]
    free, chosen = np.ones(len(brain), dtype=bool), []
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
    """The middle voxel of the mask's largest component, or where the map is largest if the mask is empty."""
    labels, count = ndimage.label(shown.mask)
    if not count:
        return tuple(int(i) for i in np.unravel_index(int(np.argmax(shown.anomaly)), shown.anomaly.shape))
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    voxels = np.argwhere(labels == int(np.argmax(sizes)))
    centre = voxels[np.argmin(((voxels - voxels.mean(0)) ** 2).sum(1))]  # a voxel of it, also when it is curved
    return tuple(int(i) for i in centre)


def draw_montage(
    columns: Sequence[Column], out: Path | str, *, title: str = "", radiological: bool = True, note: str = ""
) -> Path:
    """Draw slices side by side, a row for each kind of picture, to ``out`` (PNG, PDF or SVG by its ending).

    Parameters
    ----------
    columns
        In the order drawn; neighbours of one case stand under its name.
    title
        Above the picture, instead of the cases' names.
    radiological
        The patient's right on the left, or else his left. Either is marked and said.
    note
        Added to the line below.
    """
    kinds = [kind for kind in KINDS if any(kind in column.shown.kinds for column in columns)]

    extents = [_extent_mm(column) for column in columns]
    total_mm, height_mm = sum(width for width, _ in extents), max(height for _, height in extents)
    scale = min(_INCHES_PER_MM, (_WIDEST_INCHES - len(columns) * _GAP) / total_mm)
    width = _LEFT + _RIGHT + total_mm * scale + _GAP * (len(columns) - 1)
    width = max(width, 5.2)  # the line below the picture needs it
    height = _TOP + _BOTTOM + len(kinds) * (height_mm * scale + _GAP)
    figure = Figure(figsize=(width, height), facecolor="white")

    def add(left: float, top: float, across: float, down: float) -> Axes:
        return figure.add_axes((left / width, 1 - (top + down) / height, across / width, down / height))

    left = _LEFT
    for number, (column, (across_mm, up_mm)) in enumerate(zip(columns, extents, strict=True)):
        for row, kind in enumerate(kinds):
            top = _TOP + row * (height_mm * scale + _GAP)
            panel = add(left, top, across_mm * scale, height_mm * scale)
            _draw_panel(panel, column, kind, (across_mm, up_mm), height_mm, radiological)
            if number == 0:
                panel.set_ylabel(kind, fontsize=9)
                if row == 0:
                    _draw_scale_bar(panel, across_mm)
            if row == 0:
                panel.set_title(_place(column), fontsize=8, pad=3)
                if not title and (number == 0 or columns[number - 1].shown is not column.shown):
                    _text(figure, left / width, 1 - 0.06 / height, column.shown.name, fontsize=9, va="top")
        left += across_mm * scale + _GAP
    if title:
        _text(figure, _LEFT / width, 1 - 0.06 / height, title, fontsize=9, va="top")

    row = kinds.index("anomaly map")
    bar = add(left + 0.04, _TOP + row * (height_mm * scale + _GAP), 0.13, height_mm * scale)
    _draw_colour_bar(bar, sorted({column.shown.threshold for column in columns}))
    said = "Radiological convention: the patient's right is on the left." if radiological else (
        "Neurological convention: the patient's left is on the left."
    )  # fmt: skip
    _text(figure, _LEFT / width, 0.08 / height, f"{said} {note}".strip(), fontsize=7.5, va="bottom")
    return save_figure(figure, out, dpi=200)


def _draw_panel(
    panel: Axes, column: Column, kind: str, extent: tuple[float, float], height_mm: float, radiological: bool
) -> None:
    shown, (across, up) = column.shown, extent
    panel.set(xlim=(0, across), ylim=((up - height_mm) / 2, (up + height_mm) / 2), xticks=[], yticks=[],
              facecolor="black")  # fmt: skip
    panel.spines[:].set_visible(False)
    if kind not in shown.kinds:
        panel.text(across / 2, up / 2, "not known", color="0.6", fontsize=8, ha="center", va="center")
        return

    def plane(array: np.ndarray) -> np.ndarray:
        """Rows from the top down; columns as the reader sees them."""
        picture = np.take(array, column.index, axis=column.axis).T[::-1]
        return picture[:, ::-1] if radiological or column.axis == 0 else picture

    grey = np.clip(plane(shown.image) / shown.white, 0, 1)
    if kind == "reconstruction":
        grey = np.clip(plane(shown.reconstruction), 0, 1)
    colours = np.repeat(grey[..., None], 3, axis=-1)
    if kind == "anomaly map":
        colours = _with_map(colours, plane(shown.anomaly), shown.threshold)
    elif kind in ("lesion mask", "truth"):
        region, colour = (shown.mask, MASK_COLOUR) if kind == "lesion mask" else (shown.truth, TRUTH_COLOUR)
        colours = np.where(plane(region)[..., None], 0.25 * colours + 0.75 * np.array(rgb(colour)) / 255, colours)
    # "none" keeps the voxels as they are in PDF and SVG, for the reader's own zoom
    panel.imshow(
        np.rint(colours * 255).astype(np.uint8), extent=(0, across, 0, up), aspect="auto", interpolation="none"
    )
    if kind == "scan":
        marks = ("A", "P") if column.axis == 0 else ("R", "L") if radiological else ("L", "R")
        for place, mark, side in ((0.02, marks[0], "left"), (0.98, marks[1], "right")):
            panel.text(place, 0.97, mark, color="white", transform=panel.transAxes, va="top", ha=side, fontsize=8)


def _with_map(colours: np.ndarray, values: np.ndarray, threshold: float) -> np.ndarray:
    """The map's colours laid on a picture ``(…, 3)``: they fade in towards the threshold."""
    opacity = np.clip((values / threshold - FADE) / (1 - FADE), 0, 1)[..., None] * 0.85
    return (1 - opacity) * colours + opacity * colormaps[MAP_COLOURS](values)[..., :3]


def _draw_colour_bar(bar: Axes, thresholds: Sequence[float]) -> None:
    values = np.linspace(1, 0, 256)[:, None]
    bar.imshow(_with_map(np.full((256, 1, 3), 0.5), values, thresholds[0]), extent=(0, 1, 0, 1), aspect="auto")
    bar.set(xticks=[], yticks=[0, 0.25, 0.5, 0.75, 1])
    bar.yaxis.tick_right()
    bar.tick_params(labelsize=7, length=2, pad=2)
    bar.yaxis.set_label_position("right")
    for threshold in thresholds:
        bar.axhline(threshold, color="white", linewidth=1.2)
    above = " – ".join(f"{value:.2f}" for value in dict.fromkeys((thresholds[0], thresholds[-1])))
    bar.set_ylabel(f"anomaly map (no unit)\nmask above {above}", fontsize=7)


def _draw_scale_bar(panel: Axes, across_mm: float) -> None:
    length = next((mm for mm in (100, 50, 20, 10, 5, 2, 1) if mm <= 0.45 * across_mm), 1)
    low, high = panel.get_ylim()
    start, level = 0.04 * across_mm, low + 0.04 * (high - low)
    panel.plot([start, start + length], [level, level], color="white", linewidth=2, solid_capstyle="butt")
    panel.text(start + length / 2, level + 0.02 * (high - low), f"{length} mm", color="white", fontsize=7, ha="center",
               va="bottom")  # fmt: skip


def _place(column: Column) -> str:
    return f"{'xyz'[column.axis]} = {column.shown.position_mm(column.axis, column.index):.0f} mm".replace("-", "−")


def _text(figure: Figure, x: float, y: float, text: str, **options: object) -> None:
    figure.text(x, y, text, parse_math=False, **options)  # a name may hold a dollar sign


def _extent_mm(column: Column) -> tuple[float, float]:
    """Width and height of a slice."""
    sizes = [n * mm for n, mm in zip(column.shown.image.shape, column.shown.geometry.spacing_mm, strict=True)]
    across, up = [size for axis, size in enumerate(sizes) if axis != column.axis]
    return across, up


def _box(image: np.ndarray, spacing: Sequence[float], margin_mm: float = 6.0) -> tuple[slice, ...]:
    """Where the scan is not empty, with a margin."""
    found = ndimage.find_objects((image != 0).astype(np.uint8))
    if not found:
        return tuple(slice(0, length) for length in image.shape)
    return tuple(
        slice(max(0, part.start - round(margin_mm / mm)), min(length, part.stop + round(margin_mm / mm)))
        for part, mm, length in zip(found[0], spacing, image.shape, strict=True)
    )
