"""Flagged voxels at an operating point, in one case and in all cases, and the counts that metrics need."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from medvae.evaluation.lesions import LesionMatch, LesionNumbers, lesion_numbers, match_lesions
from medvae.evaluation.slices import SliceAlarms
from medvae.evaluation.surfaces import SurfaceDistances, surface_distances
from medvae.imaging.volume import Geometry


@dataclass(frozen=True)
class Flagged:
    """Flagged voxels and truth of one case, ``(X, Y, Z)`` bool each; the rest is computed on demand."""

    mask: np.ndarray
    truth: np.ndarray
    brain: np.ndarray
    geometry: Geometry
    overlap: float
    """The criteria for a found lesion and for a lesion; see `medvae.evaluation.lesions.match_lesions`."""
    smallest_ml: float

    @cached_property
    def n_flagged(self) -> int:
        """Flagged voxels."""
        return int(np.count_nonzero(self.mask))

    @cached_property
    def n_true(self) -> int:
        """Of these, lesion voxels."""
        return int(np.count_nonzero(self.mask & self.truth))

    @cached_property
    def n_lesion(self) -> int:
        """Lesion voxels."""
        return int(np.count_nonzero(self.truth))

    @cached_property
    def match(self) -> LesionMatch:
        """Lesions and findings of the case."""
        return match_lesions(
            self.mask,
            self.truth,
            self.geometry.voxel_volume_ml,
            overlap=self.overlap,
            smallest_ml=self.smallest_ml,
        )

    @cached_property
    def lesions(self) -> LesionNumbers:
        """Lesions and findings, counted."""
        return lesion_numbers([self.match])

    @cached_property
    def distances(self) -> SurfaceDistances:
        """Distances between the two surfaces, in mm."""
        return surface_distances(self.mask, self.truth, self.geometry.spacing_mm)

    @cached_property
    def slices(self) -> SliceAlarms:
        """Lesion-free slices, and those with a false alarm."""
        return SliceAlarms.of(self.mask, self.truth, self.brain, self.geometry)


@dataclass(frozen=True)
class CaseAtPoint:
    """One case at one operating point, without its voxels."""

    numbers: dict[str, float]
    """Per-case numbers by metric."""
    voxels: int
    """Voxels that count."""
    lesion_voxels: int
    match: LesionMatch = field(repr=False)
    slices: SliceAlarms = field(repr=False)


@dataclass(frozen=True)
class CasesAtPoint:
    """All cases at one operating point, from which pooled numbers are computed."""

    ill: Sequence[CaseAtPoint]
    """Cases with a lesion label."""
    well: Sequence[CaseAtPoint]
    """Healthy cases."""

    def each(self, metric: str) -> list[float]:
        """A number of each case with a lesion label."""
        return [case.numbers[metric] for case in self.ill]

    def total(self, metric: str) -> float:
        """A number summed over the cases with a lesion label."""
        return sum(self.each(metric))

    @cached_property
    def lesion_voxels(self) -> int:
        """Lesion voxels of the cases with a lesion label."""
        return sum(case.lesion_voxels for case in self.ill)

    @cached_property
    def lesions(self) -> LesionNumbers:
        """Lesions and findings in cases with a lesion label."""
        return lesion_numbers([case.match for case in self.ill])

    @cached_property
    def healthy_lesions(self) -> LesionNumbers:
        """Findings in healthy cases."""
        return lesion_numbers([case.match for case in self.well])

    @cached_property
    def slices(self) -> SliceAlarms:
        """Lesion-free slices of all cases."""
        return SliceAlarms.added(case.slices for case in (*self.ill, *self.well))
