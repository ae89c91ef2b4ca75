"""Smoothing of a score that keeps to the borders of the scan: a guided filter."""

from __future__ import annotations

from itertools import combinations_with_replacement

import numpy as np
from scipy import ndimage

from medvae.imaging.boxes import box_of

FLAT = 0.1
"""SD, as a share of that in the whole brain, at which a window of the scan counts half as flat. On validation scans any
share from 0.05 to 0.5 gave the same AP within 0.005 (docs/archive/EXPERIMENTS_LOG.md)."""


def guided_filter(values: np.ndarray, guide: np.ndarray, mask: np.ndarray, radius: int) -> np.ndarray:
    """Replace a score by what the scan explains of it nearby (He et al. 2013, doi:10.1109/TPAMI.2012.213, eqs. 5–8).

    In every cube of ``2 radius + 1`` voxels the score is regressed on the scan, with a ridge; a voxel gets the mean of
    what the cubes around the voxels of its own cube predict for it. Where the scan is flat that is a mean over
    neighbours, and where the scan has a border the score has one too.

    Parameters
    ----------
    values
        The score, ``(X, Y, Z)``.
    guide
        The scan, ``(C, X, Y, Z)``; its unit does not matter.
    mask
        ``(X, Y, Z)`` bool. What lies outside does not count.
    radius
        In voxels.

    Returns
    -------
    ndarray
        ``(X, Y, Z)`` float32; 0 outside the mask.
    """
    found = np.zeros(mask.shape, dtype=np.float32)
    if not mask.any():
        return found
    box = box_of(mask)
    inside = mask[box]
    values, *guides = (np.where(inside, array[box], 0).astype(np.float32) for array in (values, *guide))
    guides = [(one - one[inside].mean()) / max(float(one[inside].std()), 1e-6) * inside for one in guides]
    size = 2 * radius + 1
    share = np.maximum(ndimage.uniform_filter(inside.astype(np.float32), size, mode="constant"), 1e-6)

    def mean(array: np.ndarray) -> np.ndarray:
        return ndimage.uniform_filter(array * inside, size, mode="constant") / share

    means, level = [mean(one) for one in guides], mean(values)
    with_score = np.stack([mean(g * values) - m * level for g, m in zip(guides, means, strict=True)], axis=-1)
    together = np.empty((*inside.shape, len(guides), len(guides)), dtype=np.float32)
    for i, j in combinations_with_replacement(range(len(guides)), 2):
        both = mean(guides[i] * guides[j]) - means[i] * means[j] + (i == j) * FLAT**2
        together[..., i, j] = together[..., j, i] = both
    slopes = np.linalg.solve(together, with_score[..., None])[..., 0]
    offset = level - sum(slopes[..., i] * m for i, m in enumerate(means))
    smooth = mean(offset) + sum(mean(slopes[..., i]) * g for i, g in enumerate(guides))
    found[box] = np.where(inside, smooth, 0)
    return found
