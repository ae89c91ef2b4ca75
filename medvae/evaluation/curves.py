"""Voxel curves in one pass: counts of lesion and healthy voxels at every score, mergeable by addition.

Scores are real numbers of any range. They are counted in bins that keep the 13 leading mantissa bits of float32, in
the order of the numbers: the relative width of a bin is 1.2e-4 everywhere, so heavy tails are resolved as well as the
bulk. Everything else (AUROC, AP, Dice at all thresholds) is computed from the counts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

SHIFT = 10
"""Trailing bits of a float32 that are dropped: 2^22 bins."""
BINS = 1 << (32 - SHIFT)


@dataclass(frozen=True)
class VoxelCounts:
    """Number of lesion and healthy voxels in every bin of score, ``(BINS,)`` int64 each, lowest score first."""

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
        return cls(np.bincount(keys[truth], minlength=BINS), np.bincount(keys[~truth], minlength=BINS))

    def __add__(self, other: VoxelCounts) -> VoxelCounts:
        return VoxelCounts(self.lesion + other.lesion, self.healthy + other.healthy)

    def summary(self) -> CurveSummary:
        """AUROC, AP and the best Dice over all thresholds."""
        used = np.flatnonzero(self.lesion + self.healthy)[::-1]  # highest score first
        true_positives = np.cumsum(self.lesion[used], dtype=np.float64)
        false_positives = np.cumsum(self.healthy[used], dtype=np.float64)
        lesion, healthy = int(self.lesion.sum()), int(self.healthy.sum())
        if lesion == 0 or healthy == 0:
            return CurveSummary(math.nan, math.nan, math.nan, math.nan, lesion, healthy)
        precision = true_positives / (true_positives + false_positives)
        dice = 2 * true_positives / (lesion + true_positives + false_positives)
        step = np.diff(np.concatenate([[0.0], true_positives]))
        average_precision = float((step * precision).sum() / lesion)
        widths = np.diff(np.concatenate([[0.0], false_positives]))
        heights = (true_positives + np.concatenate([[0.0], true_positives[:-1]])) / 2  # ties count half
        auroc = float((widths * heights).sum() / (lesion * healthy))
        best = int(np.argmax(dice))
        return CurveSummary(auroc, average_precision, float(dice[best]), bin_floor(used[best]), lesion, healthy)


@dataclass(frozen=True)
class CurveSummary:
    """Threshold-free numbers of a set of voxels; NaN where one of the two classes is absent."""

    auroc: float
    """Area under the ROC curve; ties count half."""
    ap: float
    """Average precision, Σ (R_n − R_{n−1}) P_n over thresholds, without interpolation."""
    oracle_dice: float
    """⌈Dice⌉: the largest Dice over all thresholds. It needs the truth, so no detector reaches it."""
    oracle_threshold: float
    """A threshold that reaches it: voxels with this score or more are flagged."""
    n_lesion: int
    """Lesion voxels."""
    n_healthy: int
    """Healthy voxels."""

    @property
    def prevalence(self) -> float:
        """Share of lesion voxels: the AP of chance."""
        return self.n_lesion / max(1, self.n_lesion + self.n_healthy)


def score_bins(scores: np.ndarray) -> np.ndarray:
    """The bin of each score, ``(V,)`` int64: larger scores never have smaller bins."""
    scores = np.ascontiguousarray(scores, dtype=np.float32).ravel() + np.float32(0)  # −0 becomes 0
    if np.isnan(scores).any():
        raise ValueError("a score is NaN")
    bits = scores.view(np.uint32)
    ordered = np.where(bits >> 31, ~bits, bits | np.uint32(0x80000000))
    return (ordered >> SHIFT).astype(np.int64)


def bin_floor(key: int) -> float:
    """The smallest score of a bin."""
    ordered = np.uint32(int(key) << SHIFT)
    bits = ordered & np.uint32(0x7FFFFFFF) if ordered >> 31 else ~ordered
    value = float(np.array(bits, dtype=np.uint32).view(np.float32))
    return -math.inf if math.isnan(value) else value  # below −∞ lie only NaN patterns
