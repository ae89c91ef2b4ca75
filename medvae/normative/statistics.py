"""Voxelwise mean and SD over healthy scans on the standard grid, and the resulting z scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medvae.errors import MedvaeError

SMALLEST_SD = 0.03
"""Lower bound of an atlas's SD, in normalised intensity; with a smaller one noise would look like a lesion."""


@dataclass(frozen=True)
class NormativeMap:
    """Voxelwise mean and SD of a score over healthy scans on the standard grid.

    ``mean`` and ``sd`` ``(X, Y, Z)`` float32; ``sd`` is positive everywhere.
    """

    mean: np.ndarray
    sd: np.ndarray

    def z(self, score: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """z score: how many SDs the score lies from the healthy mean of its voxel; 0 outside the mask."""
        return np.where(mask, (score - self.mean) / self.sd, 0).astype(np.float32)


def fit_normative(scores: Sequence[np.ndarray], masks: Sequence[np.ndarray], shrinkage: float) -> NormativeMap:
    """Voxelwise mean and SD of healthy scores.

    The variance of each voxel is shrunk towards the average variance by ``shrinkage`` pseudo-subjects, because few
    scans estimate it poorly: ``(n·s² + k·s̄²) / (n + k)``. A voxel covered by fewer than three brains gets the mean and
    SD of all voxels.

    Parameters
    ----------
    scores, masks
        One ``(X, Y, Z)`` score and brain mask per healthy scan.
    shrinkage
        k; 0 uses each voxel's own variance.

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


def z_scores(values: np.ndarray, mean: np.ndarray, sd: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """z score: SDs of each voxel above the healthy mean there, ``(C, X, Y, Z)`` float32; 0 outside the mask.

    ``values``, ``mean`` and ``sd`` ``(C, X, Y, Z)`` in normalised intensity; SDs below `SMALLEST_SD` are raised to it.
    """
    return np.where(mask, (values - mean) / np.maximum(sd, SMALLEST_SD), 0).astype(np.float32)
