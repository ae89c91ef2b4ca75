"""The numbers of one case: its curves, those of each operating point, and one score for the whole scan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from medvae.evaluation.brats import lesion_wise
from medvae.evaluation.case_level import case_scores
from medvae.evaluation.curves import PackedCounts, SparseCounts
from medvae.evaluation.flagged import CaseAtPoint, Flagged
from medvae.evaluation.maps import CaseVoxels
from medvae.evaluation.metrics import PointMetric, RegionMetric, VoxelMetric, registered
from medvae.evaluation.points import Point
from medvae.evaluation.result import MASK, CaseResult, Quantity
from medvae.manifest import Case


@dataclass(frozen=True)
class MeasuredCase:
    """The measurements of one case, from which pooled numbers are computed."""

    result: CaseResult
    counts: PackedCounts = field(repr=False)
    at: Mapping[str, CaseAtPoint] = field(repr=False)
    """By the name of the operating point."""

    def with_names_of(self, known: dict[Any, Any]) -> MeasuredCase:
        """The same with the names of its numbers taken from ``known``, which gets those it does not hold.

        Each case brings names of its own from another process: of thousands of cases they would need more memory than
        the numbers.
        """
        numbers = {known.setdefault(quantity, quantity): number for quantity, number in self.result.numbers.items()}
        at = {
            known.setdefault(point, point): replace(
                found, numbers={known.setdefault(name, name): number for name, number in found.numbers.items()}
            )
            for point, found in self.at.items()
        }
        return MeasuredCase(replace(self.result, numbers=numbers), self.counts, at)


def measure_case(
    case: Case,
    voxels: CaseVoxels,
    points: Sequence[Point],
    *,
    overlap: float,
    smallest_ml: float,
    missing: bool = False,
    regions: Mapping[str, np.ndarray] | None = None,
) -> MeasuredCase:
    """Measure one case.

    Parameters
    ----------
    case, voxels
        The case, and its map, truth and brain.
    points
        Operating points. The one called `MASK` stands for the lesion mask written by the method itself.
    overlap, smallest_ml
        The criteria for a found lesion and for a lesion; see `medvae.evaluation.lesions.match_lesions`.
    missing
        The method gave no map.
    regions
        ``(X, Y, Z)`` bool by name: flagged voxels are also compared with each, as in `lesion_wise`.
    """
    scores, truth = voxels.scores[voxels.brain], voxels.truth[voxels.brain]
    counts = SparseCounts.of(scores, truth)
    numbers: dict[Quantity, float] = {Quantity("voxels"): len(scores)}
    numbers |= {Quantity("score", part=name): value for name, value in case_scores(scores).items()}
    if not case.healthy:
        summary, voxel_ml = counts.summary(), voxels.geometry.voxel_volume_ml
        for metric in registered(VoxelMetric):
            if metric.of_case is not None:
                numbers[Quantity(metric.name)] = metric.of_case(summary, voxel_ml)
    at = {}
    for point in points:
        flagged = _flagged(voxels, point, overlap, smallest_ml)
        found = _at_point(flagged, healthy=case.healthy)
        at[point.name] = CaseAtPoint(found, len(scores), flagged.n_lesion, flagged.match, flagged.slices)
        numbers |= {Quantity(name, point.name): value for name, value in found.items()}
        for region, mask in (regions or {}).items():
            wise = lesion_wise(flagged.mask, mask, voxels.geometry.spacing_mm)
            numbers |= {Quantity(m.name, point.name, region): m.of_case(wise) for m in registered(RegionMetric)}
    return MeasuredCase(CaseResult(case.id, case.subject_id, case.healthy, missing, numbers), counts.packed(), at)


def _flagged(voxels: CaseVoxels, point: Point, overlap: float, smallest_ml: float) -> Flagged:
    if point.name == MASK and voxels.mask is not None:
        mask = voxels.mask
    else:
        mask = (voxels.scores > np.float32(point.threshold)) & voxels.brain
    return Flagged(mask, voxels.truth, voxels.brain, voxels.geometry, overlap, smallest_ml)


def _at_point(flagged: Flagged, *, healthy: bool) -> dict[str, float]:
    """The numbers of a single case by metric; those that healthy cases also have come first."""
    of_case = [(metric, metric.of_case) for metric in registered(PointMetric) if metric.of_case is not None]
    every = {metric.name: number(flagged) for metric, number in of_case if metric.in_healthy}
    return every if healthy else every | {m.name: number(flagged) for m, number in of_case if not m.in_healthy}
