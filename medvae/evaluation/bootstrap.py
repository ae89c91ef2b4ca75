"""Bootstrap confidence intervals over subjects, never over voxels or scans.

Voxels of one brain and scans of one person are correlated; an interval that treats them as independent is far too
narrow. A resample is a vector of how often each subject was drawn. Cumulative voxel counts are linear in it, so the
curves of all resamples are one matrix product, ``(resamples, subjects) @ (subjects, thresholds)``. The thresholds are
a few thousand of the distinct scores, placed where the curves bend; with fewer distinct scores all are used. The error
of this approximation on the original cohort (some 1e-4 in AP) is known and subtracted from every resample.

Intervals are percentile intervals (Efron and Tibshirani, *An Introduction to the Bootstrap*, 1993, chapter 13).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from medvae.evaluation.curves import PackedCounts, SparseCounts, curve_numbers

RESAMPLES = 2000
LEVEL = 0.95
SEED = 0
FEW_SUBJECTS = 5
"""With fewer an interval means little: five subjects give 126 distinct resamples, three give 10."""
THRESHOLDS = 1000
"""Thresholds for each of the three ways of placing them."""
_CHUNK = 100  # resamples at a time: some 10 MB per array
_SUBJECTS = 500
"""Subjects at a time whose rows are widened to floating-point numbers: 12 MB."""
_WEIGHTS = 1 << 23
"""Numbers of a block of resamples, 64 MB; those of up to 4,000 subjects are one block."""


@dataclass(frozen=True)
class SubjectCurves:
    """Lesion and healthy voxels of each subject between common thresholds, the highest first.

    Each subject has a row of ``(T,)`` counts of each kind, in the smallest type that holds the largest of them.
    """

    subjects: tuple[str, ...]
    lesion: Sequence[np.ndarray]
    healthy: Sequence[np.ndarray]
    correction: dict[str, float]
    """Each number from all thresholds minus that from these, on the original cohort."""

    @classmethod
    def of(
        cls, cases: Sequence[tuple[str, SparseCounts | PackedCounts]], *, thresholds: int = THRESHOLDS
    ) -> SubjectCurves:
        """Merge the scans of each subject, given as (subject, counts), on thresholds chosen from all scans."""
        pooled = SparseCounts.merged(counts for _, counts in cases)
        edges = _common_edges(pooled, thresholds)
        scans: dict[str, list[SparseCounts | PackedCounts]] = {}
        for name, counts in cases:
            scans.setdefault(name, []).append(counts)
        tables: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
        for own in scans.values():
            rows = np.zeros((2, len(edges)), np.int64)
            for one in own:
                counted = one.sparse()
                place = np.searchsorted(edges, counted.bins, side="right") - 1  # edges are the lowest bins of groups
                for row, values in zip(rows, (counted.lesion, counted.healthy), strict=True):
                    np.add.at(row, place, values)
            for table, row in zip(tables, rows[:, ::-1], strict=True):
                table.append(row.astype(np.min_scalar_type(row.max(initial=0))))
        found = cls(tuple(scans), *tables, correction={})
        exact, rough = pooled.summary(), found._uncorrected(np.ones((1, len(scans))))
        correction = {name: getattr(exact, name) - float(values[0]) for name, values in rough.items()}
        return replace(found, correction=correction)

    def numbers(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """The pooled curve numbers (see `curve_numbers`) of subjects drawn ``weights`` ``(R, S)`` times, ``(R,)``."""
        parts = [self._uncorrected(rows) for rows in np.array_split(weights, max(1, math.ceil(len(weights) / _CHUNK)))]
        return {
            name: np.clip(np.concatenate([part[name] for part in parts]) + correction, 0, 1)
            for name, correction in self.correction.items()
        }

    def _uncorrected(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        return curve_numbers(_above(weights, self.lesion), _above(weights, self.healthy))


def _above(weights: np.ndarray, rows: Sequence[np.ndarray]) -> np.ndarray:
    """Voxels at or above each threshold, of subjects drawn ``weights`` times, ``(R, T)``.

    The sums of counts are whole numbers below 2^53, and therefore exact in whatever order they are made.
    """
    between = np.zeros((len(weights), len(rows[0]) if rows else 0))
    for start in range(0, len(rows), _SUBJECTS):
        part = slice(start, start + _SUBJECTS)
        between += weights[:, part].astype(np.float64) @ np.array(rows[part], dtype=np.float64)
    return np.cumsum(between, axis=-1)


@dataclass(frozen=True)
class Interval:
    """A number and its 95 % percentile interval."""

    value: float
    low: float
    high: float
    n_subjects: int
    means_little: bool
    """There are fewer than 5 subjects."""


def draw(n_subjects: int, resamples: int = RESAMPLES, seed: int = SEED) -> np.ndarray:
    """How often each subject is drawn in each resample, ``(resamples, n_subjects)``; every row sums to ``n_subjects``.

    The same draws for every method on the same subjects, so that differences between methods are paired.
    """
    return np.concatenate(list(blocks(n_subjects, resamples, seed)))


def blocks(n_subjects: int, resamples: int = RESAMPLES, seed: int = SEED) -> Iterator[np.ndarray]:
    """The rows of `draw`, some at a time: all of ten thousand subjects would take 160 MB."""
    rng, most = np.random.default_rng(seed), max(1, _WEIGHTS // max(1, n_subjects))
    for start in range(0, max(1, resamples), most):  # of no resamples, one block without a row
        rows = min(most, resamples - start)
        yield rng.multinomial(n_subjects, np.full(n_subjects, 1 / n_subjects), size=rows)


def interval(value: float, resampled: np.ndarray, n_subjects: int) -> Interval:
    """The percentile interval of a number over the resamples where it is defined; NaN with fewer than 2 subjects."""
    kept = resampled[np.isfinite(resampled)]
    if n_subjects < 2 or not len(kept) or not math.isfinite(value):
        return Interval(value, math.nan, math.nan, n_subjects, True)
    low, high = np.quantile(kept, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(value, float(low), float(high), n_subjects, n_subjects < FEW_SUBJECTS)


def curve_intervals(curves: SubjectCurves, *, resamples: int = RESAMPLES, seed: int = SEED) -> dict[str, Interval]:
    """Intervals of pooled AUROC, AP, oracle Dice and FPR at 95 % TPR."""
    n_subjects = len(curves.subjects)
    point = curves.numbers(np.ones((1, n_subjects)))
    parts = [curves.numbers(weights) for weights in blocks(n_subjects, resamples, seed)]
    return {
        name: interval(float(point[name][0]), np.concatenate([part[name] for part in parts]), n_subjects)
        for name in point
    }


def subject_sums(cases: Sequence[tuple[str, Sequence[float]]]) -> np.ndarray:
    """Per-case numbers, given as (subject, numbers), summed over the cases of each subject, ``(S, numbers)``."""
    sums: dict[str, np.ndarray] = {}
    for subject, numbers in cases:
        added = np.asarray(numbers, dtype=np.float64)
        sums[subject] = sums[subject] + added if subject in sums else added
    return np.array(list(sums.values()))


def of_sums(sums: np.ndarray, number: Callable[..., np.ndarray], weights: np.ndarray) -> np.ndarray:
    """A number of sums ``(S, numbers)`` over subjects drawn ``weights`` ``(R, S)`` times, ``(R,)``."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return number(*(weights @ sums).T)


def sum_interval(
    sums: np.ndarray, number: Callable[..., np.ndarray], *, resamples: int = RESAMPLES, seed: int = SEED
) -> Interval:
    """The interval of a number made of sums over subjects, such as a pooled Dice or a proportion.

    Parameters
    ----------
    sums
        ``(S, numbers)`` of each subject; see `subject_sums`.
    number
        From each of the summed numbers, ``(R,)``, to the number, ``(R,)``.
    """
    value = float(of_sums(sums, number, np.ones((1, len(sums))))[0])
    drawn = [of_sums(sums, number, weights) for weights in blocks(len(sums), resamples, seed)]
    return interval(value, np.concatenate(drawn), len(sums))


def paired_difference(
    a: Sequence[tuple[str, SparseCounts | PackedCounts]],
    b: Sequence[tuple[str, SparseCounts | PackedCounts]],
    *,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> dict[str, Interval]:
    """Pooled AUROC, AP, oracle Dice and FPR at 95 % TPR of one method minus those of another, on the same subjects.

    Both methods share every resample, so that subject difficulty cancels out. An interval that excludes 0 is a
    significant difference at the 5 % level, if it was the only comparison.

    Parameters
    ----------
    a, b
        (subject, counts) of the same scans under two methods.

    Raises
    ------
    ValueError
        If the subjects of the two differ.
    """
    first, second = SubjectCurves.of(a), SubjectCurves.of(b)
    if sorted(first.subjects) != sorted(second.subjects):
        raise ValueError("the two methods were not measured on the same subjects")
    n_subjects = len(first.subjects)
    place = {name: index for index, name in enumerate(first.subjects)}
    order = [place[name] for name in second.subjects]

    def minus(weights: np.ndarray) -> dict[str, np.ndarray]:
        one, other = first.numbers(weights), second.numbers(weights[:, order])
        return {name: one[name] - other[name] for name in one}

    point, parts = minus(np.ones((1, n_subjects))), [minus(w) for w in blocks(n_subjects, resamples, seed)]
    return {
        name: interval(float(point[name][0]), np.concatenate([part[name] for part in parts]), n_subjects)
        for name in point
    }


def _common_edges(pooled: SparseCounts, thresholds: int) -> np.ndarray:
    """The lowest bin of each group in which scores are counted, ``(T,)`` ascending.

    The scores are divided evenly in three ways: by lesion voxels (for the sum in AP), by healthy voxels (for the
    integral in AUROC) and by the log of the number flagged (for precision at the highest scores).
    """
    bins, lesion, healthy = pooled.bins, pooled.lesion, pooled.healthy
    if len(bins) <= 3 * thresholds:
        return bins
    flagged = np.cumsum((lesion + healthy)[::-1])[::-1]
    chosen = [np.array([0])]
    steps = np.arange(1, thresholds) / thresholds
    for sums in (np.cumsum(lesion), np.cumsum(healthy)):
        chosen.append(np.searchsorted(sums, steps * sums[-1]))
    wanted = np.geomspace(1, flagged[0], thresholds)
    chosen.append(len(bins) - np.searchsorted(flagged[::-1], wanted, side="right"))
    return bins[np.unique(np.clip(np.concatenate(chosen), 0, len(bins) - 1))]
