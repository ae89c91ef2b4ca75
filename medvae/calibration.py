"""Healthy scores turned into thresholds and normative maps. No lesion is ever seen here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from medvae.errors import MedvaeError


def smooth_in_mask(values: np.ndarray, mask: np.ndarray, sigma_voxels: Sequence[float]) -> np.ndarray:
    """Gaussian smoothing that knows only in-mask voxels (normalised convolution); 0 outside.

    ``values`` and ``mask`` ``(X, Y, Z)``; a constant inside the mask stays that constant up to its rim.
    """
    if max(sigma_voxels) <= 0:
        return np.where(mask, values, 0).astype(np.float32)
    weights = ndimage.gaussian_filter(mask.astype(np.float32), sigma_voxels, mode="constant")
    sums = ndimage.gaussian_filter(np.where(mask, values, 0).astype(np.float32), sigma_voxels, mode="constant")
    return np.where(mask, sums / np.maximum(weights, 1e-6), 0).astype(np.float32)


@dataclass(frozen=True)
class NormativeMap:
    """Mean and SD of a score at each place of the standard grid, over healthy scans.

    ``mean`` and ``sd`` ``(X, Y, Z)`` float32; ``sd`` is positive everywhere.
    """

    mean: np.ndarray
    sd: np.ndarray

    def z(self, score: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """How many SDs the score lies from the healthy mean of its place; 0 outside the mask."""
        return np.where(mask, (score - self.mean) / self.sd, 0).astype(np.float32)


def fit_normative(scores: Sequence[np.ndarray], masks: Sequence[np.ndarray], shrinkage: float) -> NormativeMap:
    """Mean and SD of healthy scores at each place.

    The variance of each place is drawn towards the average variance by ``shrinkage`` pseudo-subjects, because few
    scans make a poor estimate of it: ``(n·s² + k·s̄²) / (n + k)``. A place that fewer than three brains cover takes
    the mean and SD of all voxels.

    Parameters
    ----------
    scores, masks
        One ``(X, Y, Z)`` score and brain mask per healthy scan.
    shrinkage
        k; 0 uses each place's own variance.

    Raises
    ------
    MedvaeError
        With fewer than three scans.
    """
    if len(scores) < 3:
        raise MedvaeError(
            f"A normative map needs at least three healthy training scans, {len(scores)} were given. Add scans, or "
            f"set score.normative=false."
        )
    shape = masks[0].shape
    count, total = np.zeros(shape), np.zeros(shape)
    for score, mask in zip(scores, masks, strict=True):
        count += mask
        total += np.where(mask, score, 0)
    mean = total / np.maximum(count, 1)
    squares = np.zeros(shape)  # second pass: a sum of squares minus a square of sums cancels in float
    for score, mask in zip(scores, masks, strict=True):
        squares += np.where(mask, (score - mean) ** 2, 0)
    enough = count >= 3
    average = squares[enough].sum() / max(1.0, (count[enough] - 1).sum())
    variance = squares / np.maximum(count - 1, 1)
    shrunk = (count * variance + shrinkage * average) / np.maximum(count + shrinkage, 1)
    overall = total[enough].sum() / max(1.0, count[enough].sum())
    spread = average + mean[enough].var()
    if not average > 0:
        raise MedvaeError("All healthy scores are the same: a normative map cannot be made from them.")
    mean = np.where(enough, mean, overall)
    sd = np.sqrt(np.where(enough, np.maximum(shrunk, 1e-3 * average), spread))
    return NormativeMap(mean.astype(np.float32), sd.astype(np.float32))


def mean_and_sd(
    images: Sequence[np.ndarray], masks: Sequence[np.ndarray], shrinkage: float
) -> tuple[np.ndarray, np.ndarray]:
    """`fit_normative` of each channel of ``(C, X, Y, Z)`` images: mean and SD, ``(C, X, Y, Z)`` float32 each.

    Raises
    ------
    MedvaeError
        With fewer than three scans.
    """
    channels = images[0].shape[0] if images else 1
    maps = [fit_normative([image[channel] for image in images], masks, shrinkage) for channel in range(channels)]
    return np.stack([found.mean for found in maps]), np.stack([found.sd for found in maps])


@dataclass(frozen=True)
class OperatingPoint:
    """A threshold: voxels with a score above it are flagged."""

    name: str
    """``"fpr_0.01"`` for a false-positive rate of 1 %; `medvae.guarantees` makes others."""
    false_positive_rate: float
    """The asked share of healthy brain voxels above the threshold; of another kind, about the share that is."""
    threshold: float
    """On the calibrated score."""
    kind: str = "voxel_rate"
    """"voxel_rate" or, with a promise, "family_wise", "family_wise_cluster", "false_positive_volume"."""
    guarantee: str = ""
    """What is promised of a new healthy scan, and under which assumption; nothing for a voxel rate."""
    minimum_lesion_ml: float = 0.0
    """Findings of this volume or less are not flagged ("family_wise_cluster")."""


def operating_points(
    scores: Sequence[np.ndarray], masks: Sequence[np.ndarray], rates: Sequence[float]
) -> tuple[list[OperatingPoint], float]:
    """Thresholds from healthy validation scans, and the median healthy score.

    The threshold for a rate is the smallest score of the pooled brain voxels such that at most that share of them
    lies above it.

    Raises
    ------
    MedvaeError
        Without a scan.
    """
    if not scores:
        raise MedvaeError(
            "There is no healthy validation scan, so no threshold can be set. Mark some healthy cases as split "
            '"validation" in the manifest.'
        )
    pooled = np.sort(np.concatenate([s[m] for s, m in zip(scores, masks, strict=True)]))
    points = []
    for rate in rates:
        allowed = int(np.floor(rate * len(pooled)))
        points.append(OperatingPoint(f"fpr_{rate:g}", rate, float(pooled[len(pooled) - 1 - allowed])))
    return points, float(pooled[len(pooled) // 2])
