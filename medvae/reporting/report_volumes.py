"""A case's volumes for its page: scan, map, mask, truth and spread on one grid, one byte per voxel."""

from __future__ import annotations

import base64
import gzip
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import nibabel as nib
import numpy as np
from scipy import ndimage

from medvae.imaging.background import foreground, on_black
from medvae.imaging.components import components
from medvae.imaging.readers import require_same_grid
from medvae.imaging.volume import Geometry, read_overlay, read_volume, resample
from medvae.reporting.cases import PredictedCase

NATIVE_VOXELS = 2_500_000
"""Larger scans are shown at 2 mm: a page at 1 mm would be ten times as large, too large for a phone."""
SHOWN_MM = 2.0
STEPS = 20_000
"""Steps of the map, from 0 to 1, at which voxels are counted."""
SPREAD_RANGE = 0.5
"""The largest possible SD of numbers in [0, 1]."""


@dataclass(frozen=True)
class Layers:
    """The superimposed volumes, ``(X, Y, Z)`` each on the grid ``geometry``."""

    geometry: Geometry
    scan: np.ndarray
    heat: np.ndarray
    """The anomaly map."""
    mask: np.ndarray
    truth: np.ndarray | None = None
    spread: np.ndarray | None = None
    """Disagreement of an ensemble's members, from 0 to `SPREAD_RANGE`."""

    @property
    def shown(self) -> Layers:
        """Unchanged if small enough, else resampled to 2 mm over the same field of view."""
        if np.prod(self.geometry.shape) <= NATIVE_VOXELS or min(self.geometry.spacing_mm) >= SHOWN_MM:
            return self
        grid = _coarser(self.geometry)

        def coarse(array: np.ndarray) -> np.ndarray:
            return resample(array, self.geometry, grid)

        return Layers(
            grid,
            coarse(self.scan),
            coarse(self.heat),
            coarse(self.mask) >= 0.5,
            None if self.truth is None else coarse(self.truth) >= 0.5,
            None if self.spread is None else coarse(self.spread),
        )


def read_layers(case: PredictedCase) -> Layers:
    """Read a case that has a scan, without its truth.

    Raises
    ------
    MedvaeError
        If a file is missing or broken, or lies on another grid than the scan.
    """
    scan = case.found_scan
    image = read_volume(scan)
    overlays = [read_overlay(file) for file in (case.map, case.mask, case.spread) if file is not None]
    for overlay in overlays:
        require_same_grid(overlay, image.placement, f"the scan {scan.name}")
    heat, mask, *spread = (overlay.array for overlay in overlays)
    return Layers(image.geometry, image.array, heat, mask > 0, spread=spread[0] if spread else None)


def voxels_above(values: np.ndarray) -> np.ndarray:
    """How many of the ``(V,)`` values in [0, 1] lie above each of ``STEPS + 1`` thresholds from 0 to 1."""
    highest = np.ceil(np.clip(values, 0, 1).astype(np.float64) * STEPS).astype(np.int64)  # above all lower thresholds
    counts = np.bincount(highest, minlength=STEPS + 1)
    return counts.sum() - np.cumsum(counts)


def largest_findings(layers: Layers, count: int = 10) -> tuple[int, list[dict[str, Any]]]:
    """Number of findings (26-connected) of the mask, and the largest: ``ml``, ``peak`` of the map, place in mm RAS+."""
    labels, sizes = components(layers.mask)
    largest = np.argsort(-sizes, kind="stable")[:count] + 1
    boxes = ndimage.find_objects(labels)
    rows = []
    for label in largest:
        box = boxes[label - 1]
        values = np.where(labels[box] == label, layers.heat[box], -1)
        voxel = np.array(np.unravel_index(int(values.argmax()), values.shape)) + [s.start for s in box]
        place = layers.geometry.affine @ [*voxel, 1]
        rows.append(
            {"ml": float(sizes[label - 1] * layers.geometry.voxel_volume_ml), "peak": float(values.max()),
             "mm": [round(float(x), 1) for x in place[:3]]}
        )  # fmt: skip
    return len(sizes), rows


def places_of(
    findings: Sequence[Mapping[str, Any]], count: int, told: Sequence[Mapping[str, Any]] | None
) -> list[Mapping[str, Any]]:
    """What the sidecar of a mask tells of the places of its largest findings, in their order; empty if nothing.

    Parameters
    ----------
    findings, count
        The largest findings of the mask and the number of all, as `largest_findings` gives them.
    told
        All findings as the sidecar lists them; None for one of an earlier version. A mask that was edited since has
        others, and then nothing is told.
    """
    if told is None or len(told) != count or not all(finding.get("Region") for finding in told):
        return []
    largest = list(told[: len(findings)])
    pairs = zip(findings, largest, strict=True)
    return largest if all(math.isclose(one["ml"], other["VolumeMl"], abs_tol=1e-3) for one, other in pairs) else []


def encoded(layers: Layers) -> dict[str, str]:
    """Each layer as gzipped NIfTI in base64: the scan in 256 levels of its own range, the map in steps of 1/255."""
    inside, brain = layers.scan[foreground(layers.scan)], layers.scan[layers.heat > 0]
    high = float(np.percentile(inside, 99.9)) if inside.size else 1.0
    low = float((brain if brain.size else layers.scan).min())
    low = min(low, 0.0) if layers.scan.min() >= 0 else low  # what lies below is background of a standardised scan
    step = max(high - low, 1e-6) / 255
    scan = on_black(layers.scan, low)
    files = {
        "scan": _nifti(np.clip(np.rint((scan - low) / step), 0, 255), layers.geometry, step, low),
        "map": _nifti(np.rint(np.clip(layers.heat, 0, 1) * 255), layers.geometry, 1 / 255, 0.0),
        "mask": _nifti(layers.mask, layers.geometry),
    }
    if layers.truth is not None:
        files["truth"] = _nifti(layers.truth, layers.geometry)
    if layers.spread is not None:
        steps = np.rint(np.clip(layers.spread / SPREAD_RANGE, 0, 1) * 255)
        seen = np.where(layers.heat > 0, np.maximum(steps, 1), 0)  # 0 is transparent and would look like a hole
        files["spread"] = _nifti(seen, layers.geometry, SPREAD_RANGE / 255, 0.0)
    return {name: base64.b64encode(content).decode() for name, content in files.items()}


def _nifti(array: np.ndarray, geometry: Geometry, slope: float = 1.0, inter: float = 0.0) -> bytes:
    image = nib.Nifti1Image(array.astype(np.uint8), geometry.affine)
    image.set_qform(geometry.affine, code=1)
    image.set_sform(geometry.affine, code=1)
    image.header.set_slope_inter(slope, inter)
    return gzip.compress(image.to_bytes(), compresslevel=6, mtime=0)


def _coarser(grid: Geometry) -> Geometry:
    """A 2 mm grid over the same field of view; an axis with wider spacing keeps its own."""
    spacing = np.array(grid.spacing_mm)
    wanted = np.maximum(spacing, SHOWN_MM)
    shape = np.maximum(1, np.ceil(np.array(grid.shape) * spacing / wanted - 1e-3)).astype(int)
    scale = wanted / spacing
    affine = np.array(grid.affine)
    first = (scale - 1) / 2  # the corner of the first voxel stays fixed
    affine[:3, 3] += grid.affine[:3, :3] @ first
    affine[:3, :3] = grid.affine[:3, :3] * scale
    x, y, z = (int(n) for n in shape)
    return Geometry(affine, (x, y, z))
