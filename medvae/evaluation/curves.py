"""Voxel curves in one pass: counts of lesion and healthy voxels at every score, mergeable by addition.

Scores are real numbers of any range. They are counted in ordered bins that keep the 13 leading mantissa bits of
float32: the relative width of a bin is 1.2e-4 everywhere, so heavy tails are resolved as well as the bulk.
Everything else (AUROC, AP, Dice at all thresholds) is computed from the counts.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

SHIFT = 10
"""Trailing bits of a float32 that are dropped: 2^22 bins."""
BINS = 1 << (32 - SHIFT)
_CHUNK = 1 << 20
_NOTHING = (np.zeros(0, np.uint32), np.zeros(0, np.int64))


@dataclass(frozen=True)
class VoxelCounts:
    """Number of lesion and healthy voxels in every score bin, ``(BINS,)`` int64 each, lowest score first."""

    lesion: np.ndarray
    healthy: np.ndarray

    @classmethod
    def of(cls, scores: np.ndarray, truth: np.ndarray) -> VoxelCounts:
        """Count the voxels of one case.

        Parameters
        ----------
        scores
            ``(V,)`` in-mask scores; infinities are allowed, NaN is not.
        truth
            ``(V,)`` bool, True in a lesion.

        Raises
        ------
        ValueError
            If a score is NaN.
        """
        keys = score_bins(scores)
        truth = np.asarray(truth, dtype=bool).ravel()
        lesion = np.bincount(keys[truth], minlength=BINS)
        healthy = np.bincount(keys, minlength=BINS)
        healthy -= lesion
        return cls(lesion, healthy)

    def __add__(self, other: VoxelCounts) -> VoxelCounts:
        return VoxelCounts(self.lesion + other.lesion, self.healthy + other.healthy)

    def include(self, cases: Iterable[SparseCounts]) -> None:
        """Add the counts of more cases to these, in place."""
        for case in cases:
            self.lesion[case.bins] += case.lesion
            self.healthy[case.bins] += case.healthy

    def summary(self) -> CurveSummary:
        """AUROC, AP, the best Dice over all thresholds, and the false-positive rate at high sensitivity."""
        return self.sparse().summary()

    def sparse(self) -> SparseCounts:
        """The non-empty bins."""
        used = np.flatnonzero(self.lesion + self.healthy)
        return SparseCounts(used.astype(np.uint32), self.lesion[used], self.healthy[used])


@dataclass(frozen=True)
class SparseCounts:
    """The same counts without the empty bins: for one scan some 100 kB instead of 67 MB.

    ``bins`` are ascending; ``bins``, ``lesion`` and ``healthy`` are ``(U,)`` each.
    """

    bins: np.ndarray
    lesion: np.ndarray
    healthy: np.ndarray

    @classmethod
    def of(cls, scores: np.ndarray, truth: np.ndarray) -> SparseCounts:
        """Count the voxels of one case, as `VoxelCounts.of` does, a million at a time (some 20 MB)."""
        scores, truth = np.asarray(scores).reshape(-1), np.asarray(truth, dtype=bool).reshape(-1)
        values, counts = np.zeros(0, np.uint32), np.zeros(0, np.int64)
        pending: list[tuple[np.ndarray, np.ndarray]] = []
        for start in range(0, len(scores), _CHUNK):
            part = slice(start, start + _CHUNK)
            marked = score_bins(scores[part])
            marked <<= np.uint32(1)  # 22 bits and 1
            marked |= truth[part]
            marked.sort()
            pending.append(_runs(marked))
            if sum(len(found) for found, _ in pending) >= _CHUNK or part.stop >= len(scores):
                values, counts = _added([(values, counts), *pending])
                pending = []
        bins, place = np.unique(values >> np.uint32(1), return_inverse=True)
        of_lesion = (values & np.uint32(1)).astype(bool)
        lesion, healthy = np.zeros(len(bins), np.int64), np.zeros(len(bins), np.int64)
        lesion[place[of_lesion]], healthy[place[~of_lesion]] = counts[of_lesion], counts[~of_lesion]
        return cls(bins, lesion, healthy)

    @classmethod
    def merged(cls, cases: Iterable[SparseCounts | PackedCounts]) -> SparseCounts:
        """The counts of several cases together; their order does not matter. Few are unpacked at a time."""
        few: list[SparseCounts] = []
        size, total = 0, None
        for case in cases:
            few.append(case.sparse())
            size += len(few[-1].bins)
            if size >= _CHUNK:  # with so many bins, much faster than sorting
                total = total or VoxelCounts(np.zeros(BINS, np.int64), np.zeros(BINS, np.int64))
                total.include(few)
                few, size = [], 0
        if total is not None:
            total.include(few)
            return total.sparse()
        bins, lesion = _added([(case.bins, case.lesion) for case in few])
        return cls(bins, lesion, _added([(case.bins, case.healthy) for case in few])[1])

    def sparse(self) -> SparseCounts:
        """These counts, as `PackedCounts` have them too."""
        return self

    def packed(self) -> PackedCounts:
        """The same counts in a tenth of the memory or less, to be kept for each of many cases."""
        bins = np.diff(self.bins.astype(np.int64), prepend=0)  # small numbers, as the counts are
        planes = [
            np.ascontiguousarray(array, "<i8").view(np.uint8).reshape(-1, 8).T.tobytes()
            for array in (bins, self.lesion, self.healthy)
        ]
        return PackedCounts(zlib.compress(b"".join(planes), 1))

    def summary(self) -> CurveSummary:
        """AUROC, AP, the best Dice over all thresholds, and the false-positive rate at high sensitivity."""
        lesion, healthy = int(self.lesion.sum()), int(self.healthy.sum())
        if lesion == 0 or healthy == 0:
            return CurveSummary(math.nan, math.nan, math.nan, math.nan, math.nan, lesion, healthy)
        true_positives, false_positives = (np.cumsum(a[::-1], dtype=np.float64) for a in (self.lesion, self.healthy))
        curve = {name: float(value) for name, value in curve_numbers(true_positives, false_positives).items()}
        dice = 2 * true_positives / (lesion + true_positives + false_positives)
        best = bin_floor(int(self.bins[len(self.bins) - 1 - int(np.argmax(dice))]))
        return CurveSummary(
            curve["auroc"], curve["ap"], curve["oracle_dice"], best, curve["fpr_at_95_tpr"], lesion, healthy
        )

    def threshold(self, rate: float) -> float:
        """The smallest score with at most ``rate`` of the healthy voxels above it, rounded up to its bin.

        Same definition as a detector's operating points, within 1.2e-4 of the score.

        Raises
        ------
        ValueError
            Without a healthy voxel.
        """
        total = int(self.healthy.sum())
        if total == 0:
            raise ValueError("there is no healthy voxel")
        above = total - np.cumsum(self.healthy)  # in the bins over this one
        return bin_ceiling(int(self.bins[int(np.argmax(above <= math.floor(rate * total)))]))


@dataclass(frozen=True)
class PackedCounts:
    """`SparseCounts` as they are kept for each of thousands of cases: some 20 kB for a 2 mm scan.

    The bytes of all numbers are sorted by their place in the 64-bit integers and deflated. The high bytes are all 0 and
    take no room, so that no smaller integer type has to be chosen, which large counts could overflow.
    """

    deflated: bytes

    def sparse(self) -> SparseCounts:
        """The counts that were packed."""
        planes = np.frombuffer(zlib.decompress(self.deflated), np.uint8).reshape(3, 8, -1)
        bins, lesion, healthy = (
            np.ascontiguousarray(plane.T).view("<i8").ravel().astype(np.int64, copy=False) for plane in planes
        )
        return SparseCounts(np.cumsum(bins).astype(np.uint32), lesion, healthy)


@dataclass(frozen=True)
class CurveSummary:
    """Threshold-free numbers of a set of voxels; NaN if one of the two classes is absent."""

    auroc: float
    """Area under the ROC curve; ties count half."""
    ap: float
    """Average precision, Σ (R_n − R_{n−1}) P_n over thresholds, without interpolation."""
    oracle_dice: float
    """⌈Dice⌉: the largest Dice over all thresholds. Choosing it needs the truth: an upper bound."""
    oracle_threshold: float
    """A threshold that attains it: voxels with this score or more are flagged."""
    fpr_at_95_tpr: float
    """The smallest share of healthy voxels flagged at a threshold that finds at least 95 % of the lesion voxels."""
    n_lesion: int
    """Lesion voxels."""
    n_healthy: int
    """Healthy voxels."""

    @property
    def prevalence(self) -> float:
        """Share of lesion voxels: the AP of a random score."""
        return self.n_lesion / max(1, self.n_lesion + self.n_healthy)


def curve_numbers(true_positives: np.ndarray, false_positives: np.ndarray) -> dict[str, np.ndarray]:
    """The numbers of one or more curves, computed together.

    Parameters
    ----------
    true_positives, false_positives
        ``(..., T)``: lesion and healthy voxels at or above each of T thresholds, the highest threshold first; at the
        last one every voxel is flagged.

    Returns
    -------
    dict
        ``auroc``, ``ap``, ``oracle_dice`` and ``fpr_at_95_tpr``, each ``(...)``; NaN if a class is absent.
    """
    lesion, healthy = true_positives[..., -1], false_positives[..., -1]
    flagged = true_positives + false_positives
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = np.where(flagged > 0, true_positives / flagged, 0.0)
        ap = (np.diff(true_positives, axis=-1, prepend=0.0) * precision).sum(-1) / lesion
        before = np.concatenate([np.zeros_like(true_positives[..., :1]), true_positives[..., :-1]], axis=-1)
        heights = (true_positives + before) / 2  # ties count half
        auroc = (np.diff(false_positives, axis=-1, prepend=0.0) * heights).sum(-1) / (lesion * healthy)
        dice = (2 * true_positives / (lesion[..., None] + flagged)).max(-1)
        sensitive = np.argmax(true_positives >= 0.95 * lesion[..., None], axis=-1)
        fpr = np.take_along_axis(false_positives, sensitive[..., None], -1)[..., 0] / healthy
    absent = (lesion == 0) | (healthy == 0)
    numbers = {"auroc": auroc, "ap": ap, "oracle_dice": dice, "fpr_at_95_tpr": fpr}
    return {name: np.where(absent, math.nan, values) for name, values in numbers.items()}


def score_bins(scores: np.ndarray) -> np.ndarray:
    """The bin of each score, ``(V,)`` uint32: larger scores never have smaller bins."""
    scores = np.array(scores, dtype=np.float32, order="C").ravel()  # a copy: the following works in place
    if np.isnan(scores).any():
        raise ValueError("a score is NaN")
    scores += np.float32(0)  # −0 becomes 0
    bits = scores.view(np.uint32)
    sign = (bits.view(np.int32) >> 31).view(np.uint32)  # all ones for a negative number
    sign |= np.uint32(0x80000000)
    bits ^= sign  # negative numbers are reversed, the others moved above them
    bits >>= np.uint32(SHIFT)
    return bits


def _runs(ordered: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct values of a sorted array, and how often each occurs."""
    first = np.flatnonzero(np.concatenate([ordered[:1] == ordered[:1], ordered[1:] != ordered[:-1]]))
    return ordered[first], np.diff(first, append=len(ordered))


def _added(parts: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Counts by value, ``(values, counts)`` each, summed over equal values; values are ascending."""
    values, counts = (np.concatenate(found) for found in zip(*parts, strict=True)) if parts else _NOTHING
    order = np.argsort(values, kind="stable")
    values = values[order]
    first = np.flatnonzero(np.concatenate([values[:1] == values[:1], values[1:] != values[:-1]]))
    added = np.add.reduceat(counts[order], first) if len(first) else np.zeros(0, np.int64)
    return values[first], added


def bin_floor(key: int) -> float:
    """The smallest score of a bin."""
    value = _score(int(key) << SHIFT)
    return -math.inf if math.isnan(value) else value  # below −∞ lie only NaN patterns


def bin_ceiling(key: int) -> float:
    """The largest score of a bin."""
    value = _score(((int(key) + 1) << SHIFT) - 1)
    return bin_floor(key) if math.isnan(value) else value  # +∞ shares its bin with NaN patterns only


def _score(ordered: int) -> float:
    bits = ordered & 0x7FFFFFFF if ordered >> 31 else ~ordered & 0xFFFFFFFF
    return float(np.array(bits, dtype=np.uint32).view(np.float32))
