"""Means over seeds, intervals over people, paired differences, and average ranks.

Intervals and differences are those of `medvae.evaluation.bootstrap`, for the mean over seeds: in each resample the same
people are drawn for every seed and every method. So seeds are no further sample of people, and what makes a person
hard for all methods cancels out of a difference.

Ranks: Demšar, *Statistical comparisons of classifiers over multiple data sets*, JMLR 7:1-30, 2006. A data set is a
person here: scans of one person are alike, so the number of a person is the mean over his or her scans.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy import stats

from medvae.evaluation.bootstrap import Interval, SubjectCurves, draw, interval
from medvae.evaluation.case_level import SCORES, case_numbers, fewest_people, ranked_scans
from medvae.evaluation.study import Study

FEWEST_PEOPLE = 10
"""With fewer, average ranks say nothing; Friedman's χ² holds for more than ten (Demšar 2006, section 3.2.2)."""
FEWEST_METHODS = 3
OF_POINTS = (
    "dice", "mean_dice", "sensitivity", "precision", "fpr", "lesion_sensitivity", "lesion_precision", "lesion_f1",
    "false_positives_per_scan", "false_positives_per_healthy_scan", "hd95_mm", "assd_mm",
)  # fmt: skip
"""What is told of each operating point."""
ALPHA = 0.05


@dataclass(frozen=True)
class Summary:
    """A number over seeds."""

    mean: float
    sd: float
    """Sample standard deviation over seeds; NaN with one."""
    values: tuple[float, ...]
    interval: Interval | None = None
    """95 % over subjects, of the mean."""


@dataclass(frozen=True)
class Ranks:
    """Average ranks of methods over people, and how far apart they must be."""

    methods: tuple[str, ...]
    """Best first."""
    average: tuple[float, ...]
    people: int
    statistic: float
    """Friedman's χ²."""
    p_value: float
    """That all methods rank alike."""
    critical_difference: float
    """Of two average ranks (Nemenyi), at 5 %."""


@dataclass(frozen=True)
class Measured:
    """The numbers of one detector on one target, and those of its people drawn again."""

    study: Study
    resampled: dict[str, np.ndarray]
    """``(R,)`` each; only of numbers that are made of sums over people."""
    seconds_per_scan: float = math.nan
    """To score one prepared scan, on the machine that did it."""

    @classmethod
    def of(cls, study: Study, seconds_per_scan: float = math.nan) -> Measured:
        """Draw the people of a study again, as often as the study did."""
        return cls(study, _resampled(study), seconds_per_scan)

    @cached_property
    def numbers(self) -> dict[str, float]:
        """Pooled numbers, and those of each operating point as ``dice_fpr_0.01``."""
        return _numbers(self.study)


def summarise(seeds: Sequence[Measured]) -> dict[str, Summary]:
    """Every number over the seeds of a row, with the interval of its mean where it has one."""
    found = {}
    for name in seeds[0].numbers:
        values = tuple(one.numbers.get(name, math.nan) for one in seeds)
        sd = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
        mean, around = float(np.mean(values)), None
        if all(name in one.resampled for one in seeds):
            around = interval(mean, _mean(seeds, name), _people(seeds[0].study, name))
        found[name] = Summary(mean, sd, values, around)
    return found


def paired_differences(row: Sequence[Measured], reference: Sequence[Measured]) -> dict[str, Interval]:
    """The mean over a row's seeds minus that over the reference's, of every number that is made of sums over people."""
    found = {}
    for name in row[0].resampled:
        if all(name in one.resampled for one in (*row, *reference)):
            here, there = (float(np.mean([one.numbers[name] for one in seeds])) for seeds in (row, reference))
            apart = _mean(row, name) - _mean(reference, name)
            found[name] = interval(here - there, apart, _people(row[0].study, name))
    return found


def per_person(seeds: Sequence[Measured], name: str = "ap") -> dict[str, float]:
    """A number of each case with lesions, averaged over a row's seeds and then over a person's scans."""
    of_case: dict[str, list[float]] = {}
    person = {}
    for one in seeds:
        for row in one.study.per_case:
            if not row["healthy"]:
                of_case.setdefault(row["id"], []).append(row[name])
                person[row["id"]] = row["subject"]
    of_person: dict[str, list[float]] = {}
    for case, values in of_case.items():
        of_person.setdefault(person[case], []).append(float(np.mean(values)))
    return {name: float(np.mean(values)) for name, values in of_person.items()}


def rank(table: np.ndarray, methods: Sequence[str], *, alpha: float = ALPHA) -> Ranks:
    """Average ranks, Friedman's test and Nemenyi's critical difference.

    Parameters
    ----------
    table
        ``(people, methods)``, higher is better; rank 1 is the best, ties share their mean rank.
    methods
        Names of the columns.
    alpha
        Level of the critical difference.

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


def _numbers(study: Study) -> dict[str, float]:
    found = {name: study.pooled.get(name, math.nan) for name in ("ap", "auroc", "oracle_dice", "fpr_at_95_tpr")}
    for point in study.operating_points:
        found |= {f"{key}_{point.name}": getattr(point, key) for key in OF_POINTS}
    for score, kinds in study.case_level.items():
        if isinstance(kinds, dict):
            found |= {f"case_{key}_{score}": kinds[key]["value"] for key in kinds}
    return found


def _resampled(study: Study) -> dict[str, np.ndarray]:
    resamples, found = study.settings["resamples"], {}
    if study.counts and sum(int(counts.lesion.sum()) for _, _, counts in study.counts):
        curves = SubjectCurves.of([(subject, counts) for _, subject, counts in study.counts])
        found |= curves.numbers(draw(len(curves.subjects), resamples))
    ill, well = ([row for row in study.per_case if row["healthy"] == healthy] for healthy in (False, True))
    with np.errstate(invalid="ignore", divide="ignore"):
        for name in (point.name for point in study.operating_points):
            if ill:
                hits, flagged, lesion = _sums(ill, (f"true_{name}", f"flagged_{name}", "lesion_voxels"), resamples)
                found[f"dice_{name}"] = 2 * hits / (flagged + lesion)
                found[f"sensitivity_{name}"] = hits / lesion
            if well:
                flagged, voxels = _sums(well, (f"flagged_{name}", "voxels"), resamples)
                found[f"fpr_{name}"] = flagged / voxels
    rows = ranked_scans(study.per_case)
    subjects, diseased = [row["subject"] for row in rows], [not row["healthy"] for row in rows]
    if ill and well and any(diseased):
        weights = draw(len(set(subjects)), resamples)
        for score in SCORES:
            drawn = case_numbers(subjects, diseased, [row[f"score_{score}"] for row in rows], weights)
            found |= {f"case_{key}_{score}": values for key, values in drawn.items()}
    return found


def _sums(rows: Sequence[dict[str, Any]], names: Sequence[str], resamples: int) -> list[np.ndarray]:
    """Sums over people drawn again, ``(R,)`` for each name."""
    sums: dict[str, Any] = {}
    for row in rows:
        sums[row["subject"]] = sums.get(row["subject"], 0) + np.array([row[name] for name in names], np.float64)
    return list((draw(len(sums), resamples) @ np.array(list(sums.values()))).T)


def _mean(seeds: Sequence[Measured], name: str) -> np.ndarray:
    return np.mean([one.resampled[name] for one in seeds], axis=0)


def _people(study: Study, name: str) -> int:
    """How many people a number rests on: a realised false-positive rate on the healthy ones, a number of whole scans
    on those with lesions or those without, whichever are fewer."""
    if name.startswith("case_"):
        rows = ranked_scans(study.per_case)
        return fewest_people([row["subject"] for row in rows], [not row["healthy"] for row in rows])
    healthy = name.startswith("fpr_") and name != "fpr_at_95_tpr"
    return len({row["subject"] for row in study.per_case if row["healthy"] == healthy})
