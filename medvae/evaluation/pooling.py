"""Numbers pooled over the voxels, lesions and scans of many cases, with intervals over subjects."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from medvae.evaluation.bootstrap import Interval, SubjectCurves, curve_intervals, subject_sums, sum_interval
from medvae.evaluation.case import MeasuredCase
from medvae.evaluation.case_level import SCORES, CaseLevel, case_level
from medvae.evaluation.conventions import best_threshold, trapezoid_area, without_small
from medvae.evaluation.curves import SparseCounts
from medvae.evaluation.flagged import CasesAtPoint
from medvae.evaluation.lesions import sensitivity_by_size
from medvae.evaluation.maps import CaseVoxels
from medvae.evaluation.metrics import OfSums, PointMetric, RegionMetric, VoxelMetric, registered
from medvae.evaluation.metrics.of_voxels import voxel_dice
from medvae.evaluation.points import Point
from medvae.evaluation.protocols import Protocol
from medvae.evaluation.result import CaseResult, PointResult, Quantity, RegionResult
from medvae.evaluation.summaries import MeanSd, mean_sd


@dataclass(frozen=True)
class MeasuredCases:
    """All cases that were measured."""

    every: Sequence[MeasuredCase]
    healthy_pooled: bool = False
    """Voxels of healthy cases are pooled with those of lesion cases."""

    @property
    def ill(self) -> list[MeasuredCase]:
        """Cases with a lesion."""
        return [case for case in self.every if case.result.ill]

    @property
    def well(self) -> list[MeasuredCase]:
        """Cases declared healthy."""
        return [case for case in self.every if case.result.healthy]

    @property
    def pool(self) -> list[MeasuredCase]:
        """Cases whose voxels are pooled."""
        return list(self.every) if self.healthy_pooled else self.ill

    @cached_property
    def pooled_counts(self) -> SparseCounts:
        """The voxels of `pool`."""
        return SparseCounts.merged(case.counts for case in self.pool)

    @cached_property
    def all_counts(self) -> SparseCounts:
        """The voxels of all cases."""
        return self.pooled_counts if self.healthy_pooled else SparseCounts.merged(case.counts for case in self.every)


def pooled_numbers(cases: MeasuredCases, missing: Sequence[str] = ()) -> dict[str, float]:
    """Case counts, and the curve numbers over the pooled voxels; ``missing`` are the cases without a map."""
    pooled: dict[str, float] = {
        "n_cases": len(cases.ill), "n_healthy": len(cases.well), "n_missing": len(missing),
        "n_subjects": len(subjects(cases.ill)), "n_healthy_subjects": len(subjects(cases.well)),
    }  # fmt: skip
    if cases.ill:
        summary = cases.pooled_counts.summary()
        for metric in registered(VoxelMetric):
            if metric.of_pool is not None:
                pooled[metric.name] = metric.of_pool(summary)
    return pooled


def protocol_numbers(rules: Protocol, cases: MeasuredCases, read: Callable[[str], CaseVoxels]) -> dict[str, float]:
    """The pooled numbers of some protocols only; cases are read again, by id, to find small components."""
    counts, found = cases.pooled_counts, {}
    if rules.trapezoid:
        found["auprc_trapezoid"] = trapezoid_area(counts)
    if rules.smallest_component:
        found["oracle_dice"], found["oracle_threshold"] = best_threshold(counts, rules.dice_steps)
        hits = flagged = lesion = 0
        for case in cases.pool:
            voxels = read(case.result.id)
            above = (voxels.scores > found["oracle_threshold"]) & voxels.brain
            kept = without_small(above, rules.smallest_component)
            hits, flagged = hits + int((kept & voxels.truth).sum()), flagged + int(kept.sum())
            lesion += int(voxels.truth.sum())
        found["oracle_dice_components"] = voxel_dice(hits, flagged, lesion)
    return found


def point_result(point: Point, cases: MeasuredCases) -> PointResult:
    """Results of an operating point."""
    at = CasesAtPoint([case.at[point.name] for case in cases.ill], [case.at[point.name] for case in cases.well])
    numbers = {m.name: m.of_cases(at) for m in registered(PointMetric) if m.of_cases is not None}
    by_size = sensitivity_by_size(case.match for case in at.ill)
    return PointResult(point.name, point.asked_fpr, point.threshold, numbers, by_size)


def pooled_intervals(cases: MeasuredCases, points: Sequence[Point], resamples: int) -> dict[Quantity, Interval]:
    """Intervals over subjects of the pooled curve numbers and of those of each operating point."""
    found: dict[Quantity, Interval] = {}
    if cases.ill:
        counts = [(case.result.subject, case.counts) for case in cases.pool]
        curves = curve_intervals(SubjectCurves.of(counts), resamples=resamples)
        found |= {Quantity(name): interval for name, interval in curves.items()}
    results = [case.result for case in cases.every]
    for point in points:
        for metric in registered(PointMetric):
            if metric.of_sums is not None:
                sums = summed(metric.of_sums, results, point.name)
                if len(sums):
                    number = metric.of_sums.number
                    found[Quantity(metric.name, point.name)] = sum_interval(sums, number, resamples=resamples)
    return found


def summed(of: OfSums, cases: Sequence[CaseResult], point: str) -> np.ndarray:
    """The terms of a number at an operating point, summed over the cases of each subject, ``(S, terms)``."""
    own = {metric.name for metric in registered(PointMetric)}
    terms = [Quantity(name, point if name in own else None) for name in of.terms]
    counted = [case for case in cases if (case.healthy if of.healthy else case.ill)]
    return subject_sums([(case.subject, [case.numbers[term] for term in terms]) for case in counted])


def region_results(
    ill: Sequence[MeasuredCase], points: Sequence[Point], resamples: int
) -> tuple[list[RegionResult], dict[Quantity, Interval]]:
    """Lesion-wise numbers over lesion cases, and intervals of those that are means."""
    measured = [(q.point, q.part) for q in (ill[0].result.numbers if ill else ()) if isinstance(q.metric, RegionMetric)]
    results: list[RegionResult] = []
    intervals: dict[Quantity, Interval] = {}
    for point in points:
        for region in dict.fromkeys(part for at, part in measured if at == point.name and part is not None):
            numbers: dict[str, float] = {}
            for metric in registered(RegionMetric):
                quantity = Quantity(metric.name, point.name, region)
                if metric.mean:
                    sums = subject_sums([(c.result.subject, [c.result.numbers[quantity], 1]) for c in ill])
                    found = sum_interval(sums, lambda total, n: total / n, resamples=resamples)
                    intervals[quantity], numbers[metric.key] = found, found.value
                else:
                    numbers[metric.key] = sum(case.result.numbers[quantity] for case in ill)
            results.append(RegionResult(region, point.name, numbers))
    return results, intervals


def per_case_summary(ill: Sequence[MeasuredCase]) -> dict[Quantity, MeanSd]:
    """Mean, SD and count of each number over the lesion cases where it is defined."""
    quantities = [quantity for quantity in (ill[0].result.numbers if ill else ()) if quantity.metric.summarised]
    return {quantity: mean_sd([case.result.numbers[quantity] for case in ill]) for quantity in quantities}


def scan_numbers(results: Sequence[CaseResult], resamples: int) -> CaseLevel:
    """Lesion scans against healthy scans; see `case_level`."""
    ranked = [case for case in results if case.is_ranked]
    scores = {name: [case.number("score", part=name) for case in ranked] for name in SCORES}
    return case_level(
        [case.subject for case in ranked], [not case.healthy for case in ranked], scores, resamples=resamples
    )


def all_voxel_numbers(cases: MeasuredCases) -> dict[str, float]:
    """AP and AUROC over the voxels of all cases, healthy ones too."""
    summary = cases.all_counts.summary()
    return {
        "ap": summary.ap,
        "auroc": summary.auroc,
        "n_lesion": summary.n_lesion,
        "n_healthy": summary.n_healthy,
    }


def subjects(cases: Sequence[MeasuredCase]) -> set[str]:
    """The subjects of the cases."""
    return {case.result.subject for case in cases}
