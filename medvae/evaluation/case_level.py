"""Scan-level detection: does this scan contain a lesion at all?

A scan's score is the mean, the 99th percentile or the maximum of its map in the brain. Lesion cases (with a lesion
voxel in the brain) are ranked against cases declared healthy; a labelled case without a lesion voxel is neither.

Intervals resample subjects. A subject who is drawn twice must not be compared with himself: with inserted lesions, one
subject has a lesion scan and a healthy one. Such pairs are the easy ones, and counting them as pairs of different
subjects lifts the whole interval above its number. So each lesion scan is ranked among its own subject's scans, counted
once, and those of the other subjects drawn, weighted to the number of other subjects in the cohort. For AUROC the mean
of the resamples is then the number itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import compress

import numpy as np

from medvae.evaluation.bootstrap import FEW_SUBJECTS, Interval, blocks, interval

SCORES = ("mean", "p99", "max")
NUMBERS = ("auroc", "ap")
_CHUNK = 200  # resamples at a time


@dataclass(frozen=True)
class CaseLevel:
    """Lesion scans against healthy scans."""

    n_lesion: int = 0
    n_healthy: int = 0
    prevalence: float = math.nan
    """The AP of a random score; NaN if one of the two kinds is missing."""
    scores: dict[str, dict[str, Interval]] = field(default_factory=dict)
    """`NUMBERS` of each scan-level score, with intervals over subjects; empty if one of the two kinds is missing."""


def case_scores(values: np.ndarray) -> dict[str, float]:
    """The scores of a scan from the values ``(V,)`` of its map in the brain; −∞ for a scan without a map."""
    if np.isneginf(values).all():
        return dict.fromkeys(SCORES, -math.inf)
    return {"mean": float(values.mean()), "p99": float(np.percentile(values, 99)), "max": float(values.max())}


def case_level(
    subjects: Sequence[str], diseased: Sequence[bool], scores: Mapping[str, Sequence[float]], *, resamples: int
) -> CaseLevel:
    """AUROC and AP of lesion scans against healthy scans, with intervals over subjects.

    The AP is the sample-level number of the MOOD challenge (Zimmerer et al. 2022, doi:10.1109/TMI.2022.3170077): the
    average precision of one score per scan, over all scans, healthy and not.

    Parameters
    ----------
    subjects, diseased
        The subject of each scan, and whether it contains a lesion.
    scores
        One score per scan, by name of the score.
    """
    n_lesion, n = sum(diseased), len(diseased)
    if not 0 < n_lesion < n:
        return CaseLevel(n_lesion, n - n_lesion)
    few = fewest_people(subjects, diseased) < FEW_SUBJECTS  # two patients among a hundred healthy subjects count as two
    n_subjects = len(set(subjects))
    found = {}
    for name, values in scores.items():
        point = case_numbers(subjects, diseased, values, np.ones((1, n_subjects)))
        parts = [case_numbers(subjects, diseased, values, weights) for weights in blocks(n_subjects, resamples)]
        found[name] = {
            number: replace(
                interval(float(point[number][0]), np.concatenate([part[number] for part in parts]), n_subjects),
                means_little=few,
            )
            for number in NUMBERS
        }
    return CaseLevel(n_lesion, n - n_lesion, n_lesion / n, found)


def fewest_people(subjects: Sequence[str], diseased: Sequence[bool]) -> int:
    """Effective sample size: subjects with a lesion scan or with a healthy one, whichever are fewer."""
    return min(len(set(compress(subjects, kind))) for kind in (diseased, [not ill for ill in diseased]))


def case_numbers(
    subjects: Sequence[str], diseased: Sequence[bool], scores: Sequence[float], weights: np.ndarray
) -> dict[str, np.ndarray]:
    """AUROC and AP of scans, with subjects drawn ``weights`` ``(R, S)`` times, in order of first appearance.

    Returns
    -------
    dict
        ``auroc`` and ``ap``, ``(R,)`` each; NaN if nobody with a lesion scan, or with a healthy one, was drawn. With
        every subject drawn once they are those of all scans.
    """
    place = {name: index for index, name in enumerate(dict.fromkeys(subjects))}
    person, n = np.array([place[one] for one in subjects]), len(place)
    ill, values = np.asarray(diseased, dtype=bool), np.asarray(scores, dtype=np.float64)
    own = person[ill]
    rank = np.unique(values, return_inverse=True)[1]
    lesion, healthy = _Scans(person[ill], rank[ill]), _Scans(person[~ill], rank[~ill])
    mine_of = {  # of the scans of the own person, those that count for each lesion scan
        "true": lesion.own_above(own, rank[ill]),
        "false": healthy.own_above(own, rank[ill]),
        "ties": healthy.own_above(own, rank[ill], equal_only=True),
        "healthy": healthy.own_above(own, np.zeros(len(own), np.int64)),
    }
    found: dict[str, list[np.ndarray]] = {name: [] for name in NUMBERS}
    for start in range(0, max(1, len(weights)), _CHUNK):
        times = weights[start : start + _CHUNK].astype(np.float64)
        mine = times[:, own]
        true, false = lesion.above(times, rank[ill]), healthy.above(times, rank[ill])
        ties, every = false - healthy.above(times, rank[ill] + 1), healthy.above(times, np.zeros(1, np.int64))
        with np.errstate(invalid="ignore", divide="ignore"):
            factor = np.where(mine < n, (n - 1) / (n - mine), 0.0)

            def among(
                once: np.ndarray, sums: np.ndarray, mine: np.ndarray = mine, factor: np.ndarray = factor
            ) -> np.ndarray:
                """Sums over the subject's own scans once, and over those of the others drawn, ``(R, lesion scans)``."""
                return once + (sums - mine * once) * factor

            hits, alarms = among(mine_of["true"], true), among(mine_of["false"], false)
            beaten = among(mine_of["healthy"] - mine_of["false"] + 0.5 * mine_of["ties"], every - false + 0.5 * ties)
            ranks = {"auroc": beaten / among(mine_of["healthy"], every), "ap": hits / (hits + alarms)}
            for name, of_scan in ranks.items():
                total = np.where(mine > 0, mine * of_scan, 0.0).sum(axis=1) / mine.sum(axis=1)
                found[name].append(np.where(every[:, 0] > 0, total, math.nan))
    return {name: np.concatenate(parts) for name, parts in found.items()}


class _Scans:
    """Scans of one kind in the order of their scores: how many lie above a score costs a sum over all, once."""

    def __init__(self, person: np.ndarray, rank: np.ndarray) -> None:
        order = np.argsort(rank, kind="stable")
        self._person, self._rank = person[order], rank[order]
        self._most = int(rank.max(initial=0)) + 2
        self._own = np.sort(person * self._most + rank)  # by person, and by score within each

    def above(self, times: np.ndarray, rank: np.ndarray) -> np.ndarray:
        """Scans at or above each rank, of people drawn ``times`` ``(R, S)``: ``(R, ranks)``."""
        counted = np.zeros((len(times), len(self._person) + 1))
        np.cumsum(times[:, self._person[::-1]], axis=1, out=counted[:, 1:])
        return np.take(counted, len(self._rank) - np.searchsorted(self._rank, rank), axis=1)

    def own_above(self, person: np.ndarray, rank: np.ndarray, *, equal_only: bool = False) -> np.ndarray:
        """Scans of each person at or above a rank, or only those at it."""
        rank = np.minimum(rank, self._most - 1)
        least = person * self._most + rank
        most = least + 1 if equal_only else (person + 1) * self._most
        return np.searchsorted(self._own, most) - np.searchsorted(self._own, least)
