"""Means over seeds, intervals over subjects, paired differences, and average ranks.

Intervals and differences are those of `medvae.evaluation.bootstrap`, for the mean over seeds: each resample draws the
same subjects for every seed and every method. So seeds do not inflate the sample of subjects, and subject difficulty
cancels out of a difference.

Ranks: Demšar, *Statistical comparisons of classifiers over multiple data sets*, JMLR 7:1-30, 2006. Here a
subject plays the part of a data set: scans of one person are correlated, so the number of a subject is the mean over
their scans.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import stats

from medvae.evaluation.bootstrap import Interval, SubjectCurves, draw, interval, of_sums
from medvae.evaluation.case_level import SCORES, case_numbers, fewest_people
from medvae.evaluation.metrics import PointMetric, ScanMetric, VoxelMetric, registered
from medvae.evaluation.pooling import summed
from medvae.evaluation.result import CaseResult, Quantity, Study

FEWEST_PEOPLE = 10
"""With fewer, average ranks are meaningless; Friedman's χ² holds for more than ten (Demšar 2006, section 3.2.2)."""
FEWEST_METHODS = 3
ALPHA = 0.05


@dataclass(frozen=True)
class Summary:
    """A number over seeds."""

    mean: float
    sd: float
    """Sample standard deviation over seeds; NaN with one."""
    values: tuple[float, ...]
    interval: Interval | None = None
    """95 % interval of the mean, over subjects."""


@dataclass(frozen=True)
class Ranks:
    """Average ranks of methods over subjects, and their critical difference."""

    methods: tuple[str, ...]
    """Best first."""
    average: tuple[float, ...]
    people: int
    statistic: float
    """Friedman's χ²."""
    p_value: float
    """P-value of the null hypothesis that all methods rank alike."""
    critical_difference: float
    """Critical difference of two average ranks (Nemenyi), at 5 %."""


@dataclass(frozen=True)
class Measured:
    """The numbers of one detector on one target, and their resamples over subjects."""

    study: Study
    resampled: dict[Quantity, np.ndarray]
    """``(R,)`` each; only for numbers made of sums over subjects."""
    seconds_per_scan: float = math.nan
    """Time to score one prepared scan, on the machine that did it."""

    @classmethod
    def of(cls, study: Study, seconds_per_scan: float = math.nan) -> Measured:
        """Resample the subjects of a study, as often as the study did."""
        return cls(study, _resampled(study), seconds_per_scan)

    @cached_property
    def numbers(self) -> dict[Quantity, float]:
        """Pooled numbers, those of each operating point, and scan-level ones."""
        return _numbers(self.study)


def summarise(seeds: Sequence[Measured]) -> dict[Quantity, Summary]:
    """Every number over the seeds of a row, with the interval of its mean if it has one."""
    found = {}
    for name in seeds[0].numbers:
        values = tuple(one.numbers.get(name, math.nan) for one in seeds)
        sd = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
        mean, around = float(np.mean(values)), None
        if all(name in one.resampled for one in seeds):
            around = interval(mean, _mean(seeds, name), _people(seeds[0].study, name))
        found[name] = Summary(mean, sd, values, around)
    return found


def paired_differences(row: Sequence[Measured], reference: Sequence[Measured]) -> dict[Quantity, Interval]:
    """Mean over a row's seeds minus that over the reference's, for every number made of sums over subjects."""
    found = {}
    for name in row[0].resampled:
        if all(name in one.resampled for one in (*row, *reference)):
            here, there = (float(np.mean([one.numbers[name] for one in seeds])) for seeds in (row, reference))
            apart = _mean(row, name) - _mean(reference, name)
            found[name] = interval(here - there, apart, _people(row[0].study, name))
    return found


def per_person(seeds: Sequence[Measured], metric: str = "ap") -> dict[str, float]:
    """A number of each lesion case, averaged over a row's seeds and then over each subject's scans."""
    of_case: dict[str, list[float]] = {}
    person = {}
    for one in seeds:
        for case in one.study.per_case:
            if case.ill:
                of_case.setdefault(case.id, []).append(case.number(metric))
                person[case.id] = case.subject
    of_person: dict[str, list[float]] = {}
    for name, values in of_case.items():
        of_person.setdefault(person[name], []).append(float(np.mean(values)))
    return {name: float(np.mean(values)) for name, values in of_person.items()}


def rank(table: np.ndarray, methods: Sequence[str], *, alpha: float = ALPHA) -> Ranks:
    """Average ranks, Friedman's test and Nemenyi's critical difference.

    Parameters
    ----------
    table
        ``(people, methods)``, higher is better; rank 1 is the best, ties share their mean rank.
    methods
        Column names.
    alpha
        Significance level of the critical difference.

    Raises
    ------
    ValueError
        With fewer than three methods, or a value that is not finite.
    """
    people, count = table.shape
    if count < FEWEST_METHODS or not np.isfinite(table).all():
        raise ValueError("ranks need three methods and a finite number for each person")
    average = stats.rankdata(-table, axis=1).mean(axis=0)
    if (table == table[:, :1]).all():  # Friedman's statistic is 0 / 0 there
        statistic, p_value = 0.0, 1.0
    else:
        statistic, p_value = stats.friedmanchisquare(*table.T)
    order = np.argsort(average, kind="stable")
    return Ranks(
        tuple(methods[i] for i in order), tuple(float(average[i]) for i in order), people, float(statistic),
        float(p_value), critical_difference(count, people, alpha),
    )  # fmt: skip


def critical_difference(methods: int, people: int, alpha: float = ALPHA) -> float:
    """Average ranks this far apart differ at level ``alpha`` (Nemenyi; Demšar 2006, section 3.2.2)."""
    return nemenyi_quantile(methods, alpha) * math.sqrt(methods * (methods + 1) / (6 * people))


def nemenyi_quantile(methods: int, alpha: float = ALPHA) -> float:
    """q_α: the studentized range of ``methods`` values with infinite degrees of freedom, over √2."""
    return float(stats.studentized_range.ppf(1 - alpha, methods, np.inf)) / math.sqrt(2)


def alike(ranks: Ranks) -> list[tuple[int, int]]:
    """First and last of each longest group of methods whose average ranks lie within the critical difference."""
    groups: list[tuple[int, int]] = []
    for first, low in enumerate(ranks.average):
        last = max(i for i, high in enumerate(ranks.average) if high - low <= ranks.critical_difference)
        if last > first and (not groups or last > groups[-1][1]):
            groups.append((first, last))
    return groups


def _numbers(study: Study) -> dict[Quantity, float]:
    compared = [metric.name for metric in registered(VoxelMetric) if metric.compared]
    found = {Quantity(name): study.pooled.get(name, math.nan) for name in compared}
    of_points = [metric.name for metric in registered(PointMetric) if metric.compared and metric.of_cases is not None]
    for point in study.operating_points:
        found |= {Quantity(name, point.name): point[name] for name in of_points}
    for score, numbers in study.case_level.scores.items():
        found |= {Quantity(m.name, part=score): numbers[m.key].value for m in registered(ScanMetric)}
    return found


def _resampled(study: Study) -> dict[Quantity, np.ndarray]:
    resamples = study.settings.resamples
    found: dict[Quantity, np.ndarray] = {}
    if any(counts.sparse().lesion.any() for _, _, counts in study.counts):
        curves = SubjectCurves.of([(subject, counts) for _, subject, counts in study.counts])
        drawn = curves.numbers(draw(len(curves.subjects), resamples))
        found |= {Quantity(name): values for name, values in drawn.items()}
    for point in study.operating_points:
        for metric in registered(PointMetric):
            if metric.of_sums is not None:
                sums = summed(metric.of_sums, study.per_case, point.name)
                if len(sums):
                    weights = draw(len(sums), resamples)
                    found[Quantity(metric.name, point.name)] = of_sums(sums, metric.of_sums.number, weights)
    ranked = [case for case in study.per_case if case.is_ranked]
    if any(case.healthy for case in ranked) and not all(case.healthy for case in ranked):
        weights = draw(len({case.subject for case in ranked}), resamples)
        for score in SCORES:
            values = [case.number("score", part=score) for case in ranked]
            drawn = case_numbers(*_people_and_kinds(ranked), values, weights)
            found |= {Quantity(metric.name, part=score): drawn[metric.key] for metric in registered(ScanMetric)}
    return found


def _people_and_kinds(ranked: Sequence[CaseResult]) -> tuple[list[str], list[bool]]:
    """The subject of each scan, and whether it contains a lesion."""
    return [case.subject for case in ranked], [not case.healthy for case in ranked]


def _mean(seeds: Sequence[Measured], name: Quantity) -> np.ndarray:
    return np.mean([one.resampled[name] for one in seeds], axis=0)


def _people(study: Study, quantity: Quantity) -> int:
    """Sample size of a number: healthy subjects for a realised false-positive rate; for scan-level numbers, subjects
    with or without lesions, whichever are fewer."""
    metric = quantity.metric
    if isinstance(metric, ScanMetric):
        return fewest_people(*_people_and_kinds([case for case in study.per_case if case.is_ranked]))
    healthy = isinstance(metric, PointMetric) and metric.of_sums is not None and metric.of_sums.healthy
    return len({case.subject for case in study.per_case if (case.healthy if healthy else case.ill)})
