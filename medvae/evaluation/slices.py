"""False alarms per slice, as seen by a reader who scrolls through a scan."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from medvae.imaging.volume import Geometry


@dataclass(frozen=True)
class SliceAlarms:
    """Axial slices with brain and no lesion: how many, how many with a flagged voxel, and total flagged area."""

    lesion_free: int
    with_alarm: int
    area_mm2: float

    @classmethod
    def of(cls, flagged: np.ndarray, truth: np.ndarray, brain: np.ndarray, geometry: Geometry) -> SliceAlarms:
        """Slices of one scan; ``flagged``, ``truth`` and ``brain`` are ``(X, Y, Z)`` bool."""
        axis = axial_axis(geometry)
        within = tuple(other for other in range(3) if other != axis)
        lesion_free = brain.any(axis=within) & ~truth.any(axis=within)
        voxels = np.count_nonzero(flagged, axis=within)[lesion_free]
        pixel_mm2 = float(np.prod([geometry.spacing_mm[other] for other in within]))
        return cls(int(lesion_free.sum()), int((voxels > 0).sum()), float(voxels.sum() * pixel_mm2))

    @classmethod
    def added(cls, scans: Iterable[SliceAlarms]) -> SliceAlarms:
        """Sum over several scans."""
        scans = list(scans)
        return cls(
            sum(scan.lesion_free for scan in scans),
            sum(scan.with_alarm for scan in scans),
            sum(scan.area_mm2 for scan in scans),
        )


def axial_axis(geometry: Geometry) -> int:
    """The array axis closest to the inferior-superior direction."""
    return int(np.argmax(np.abs(geometry.affine[2, :3]) / geometry.spacing_mm))
