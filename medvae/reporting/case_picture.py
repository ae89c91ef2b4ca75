"""One picture per case: three planes through the largest finding, as scan, anomaly map, lesion mask and truth."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from scipy import ndimage

from medvae.calibrated import Calibrated
from medvae.manifest import Manifest
from medvae.prediction import Prediction
from medvae.reporting.figures import save_figure
from medvae.volume import Volume, read_volume

MASK_COLOUR = "#ff9d2e"
TRUTH_COLOUR = "#35c4e8"


def draw_case(
    scan: Path | str,
    anomaly_map: Path | str,
    mask: Path | str,
    out: Path | str,
    *,
    truth: Path | str | None = None,
    title: str = "",
    threshold: float = 0.5,
) -> Path:
    """Draw a case to ``out`` (PNG, PDF or SVG).

    The planes go through the centre of the largest connected component of the mask, or through the largest value of
    the map if the mask is empty. The patient's right is on the left (radiological convention), and is marked.

    Parameters
    ----------
    scan, anomaly_map, mask, truth
        NIfTI files on one grid.
    title
        Written above the picture.
    threshold
        Value of the map that the mask was cut at; the colours begin below it.
    """
    first = _upright(read_volume(scan))
    spacing, box = first.geometry.spacing_mm, _brain_box(first.array, first.geometry.spacing_mm)
    image = first.array[box]
    heat, found = (_upright(read_volume(file)).array[box] for file in (anomaly_map, mask))
    lesion = _upright(read_volume(truth)).array[box] if truth else None
    centre = _largest_finding(found > 0, heat)
    brain = image[image > 0]
    top = float(np.percentile(brain, 99.5)) if brain.size else 1.0
    columns = ["scan", "anomaly map", "lesion mask"] + (["truth"] if lesion is not None else [])

    figure = Figure(figsize=(2.5 * len(columns) + 0.7, 7.9), layout="constrained", facecolor="white")
    axes = figure.subplots(3, len(columns), squeeze=False)
    colour = None
    for row, (axis, name) in enumerate(((2, "axial"), (1, "coronal"), (0, "sagittal"))):
        background = _plane(image, axis, centre)
        aspect = _aspect(spacing, axis)
        for column, label in enumerate(columns):
            panel = axes[row, column]
            panel.imshow(background, cmap="gray", vmin=0, vmax=top, aspect=aspect, interpolation="nearest")
            if label == "anomaly map":
                values = _plane(heat, axis, centre)
                opacity = np.clip((values - 0.6 * threshold) / (0.4 * threshold), 0, 1) * 0.85
                colour = panel.imshow(values, cmap="inferno", vmin=0, vmax=1, alpha=opacity, aspect=aspect,
                                      interpolation="nearest")  # fmt: skip
            elif label == "lesion mask":
                _paint(panel, _plane(found, axis, centre) > 0, MASK_COLOUR, aspect)
            elif label == "truth":
                _paint(panel, _plane(lesion, axis, centre) > 0, TRUTH_COLOUR, aspect)
            panel.set(xticks=[], yticks=[], facecolor="black")
            panel.spines[:].set_visible(False)
            if row == 0:
                panel.set_title(label, fontsize=11)
        axes[row, 0].set_ylabel(name, fontsize=11)
        if axis != 0:
            axes[row, 0].text(0.03, 0.95, "R", color="white", transform=axes[row, 0].transAxes, va="top", fontsize=11)
            axes[row, 0].text(0.97, 0.95, "L", color="white", transform=axes[row, 0].transAxes, va="top", ha="right",
                              fontsize=11)  # fmt: skip
    bar = figure.colorbar(colour, ax=axes[:, -1], shrink=0.5, pad=0.02)
    bar.ax.axhline(threshold, color="white", linewidth=1.5)
    bar.set_label(f"anomaly map (mask above {threshold:.2f})")
    if title:
        figure.suptitle(title, fontsize=12, x=0.01, ha="left")
    return save_figure(figure, out)


def draw_predictions(
    predictions: Sequence[Prediction], manifest: Manifest | None, detector: Calibrated, out: Path | str
) -> list[Path]:
    """Draw every prediction to ``out/ID.png``; with a manifest, the truth of its labelled cases beside it."""
    drawn = []
    for item in predictions:
        case = manifest.case(item.id) if manifest else None
        truth = manifest.resolve(case.label) if case and case.label else None
        title = f"{item.id}, {detector.config.name}: {item.lesion_volume_ml:.1f} ml above the threshold"
        picture = Path(out) / f"{item.id}.png"
        drawn.append(
            draw_case(item.scan, item.map, item.mask, picture, truth=truth, title=title, threshold=item.threshold)
        )
    return drawn


def _upright(volume: Volume) -> Volume:
    """The volume with its axes flipped and reordered to RAS; no interpolation."""
    turned = nib.as_closest_canonical(nib.Nifti1Image(volume.array, volume.geometry.affine))
    return Volume(np.asarray(turned.dataobj), type(volume.geometry)(turned.affine, turned.shape))


def _brain_box(image: np.ndarray, spacing: tuple[float, float, float], margin_mm: float = 6.0) -> tuple[slice, ...]:
    """Where the scan is not empty, with a margin."""
    boxes = ndimage.find_objects((image != 0).astype(np.uint8))
    if not boxes:
        return (slice(None),) * 3
    margins = [round(margin_mm / length) for length in spacing]
    return tuple(slice(max(0, s.start - m), s.stop + m) for s, m in zip(boxes[0], margins, strict=True))


def _largest_finding(mask: np.ndarray, heat: np.ndarray) -> tuple[int, int, int]:
    labels, count = ndimage.label(mask)
    if not count:
        return tuple(int(i) for i in np.unravel_index(int(np.argmax(heat)), heat.shape))
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    voxels = np.argwhere(labels == int(np.argmax(sizes)))
    centre = voxels[np.argmin(((voxels - voxels.mean(0)) ** 2).sum(1))]  # a voxel of it, also when it is curved
    return tuple(int(i) for i in centre)


def _plane(array: np.ndarray, axis: int, centre: tuple[int, int, int]) -> np.ndarray:
    """A slice as an image with the patient's right, or front, on the left and up at the top."""
    return np.rot90(np.take(array, centre[axis], axis=axis))[:, ::-1]


def _aspect(spacing: tuple[float, float, float], axis: int) -> float:
    across, up = [length for index, length in enumerate(spacing) if index != axis]
    return up / across


def _paint(panel, region: np.ndarray, colour: str, aspect: float) -> None:
    panel.imshow(np.ma.masked_equal(region.astype(float), 0), cmap=ListedColormap([colour]), alpha=0.75, aspect=aspect,
                 interpolation="nearest")  # fmt: skip
