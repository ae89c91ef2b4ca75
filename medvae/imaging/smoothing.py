"""Gaussian smoothing inside a brain mask."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage


def smooth_in_mask(values: np.ndarray, mask: np.ndarray, sigma_voxels: Sequence[float]) -> np.ndarray:
    """Gaussian smoothing that knows only in-mask voxels (normalised convolution); 0 outside.

    ``values`` and ``mask`` ``(X, Y, Z)``; a constant inside the mask stays that constant up to its rim.
    """
    if max(sigma_voxels) <= 0:
        return np.where(mask, values, 0).astype(np.float32)
    weights = ndimage.gaussian_filter(mask.astype(np.float32), sigma_voxels, mode="constant")
    sums = ndimage.gaussian_filter(np.where(mask, values, 0).astype(np.float32), sigma_voxels, mode="constant")
    return np.where(mask, sums / np.maximum(weights, 1e-6), 0).astype(np.float32)
