"""Sharpness as a random change: the weight of the difference between a scan and a blurred copy of it."""

from __future__ import annotations

import math

import numpy as np
import torch
from batchgenerators.transforms.abstract_transforms import AbstractTransform
from torch import Tensor

RADIUS = 3
"""Voxels at which the Gaussian of one voxel is cut off."""


def blurred(x: Tensor, mask: Tensor) -> Tensor:
    """``x (N, C, *spatial)`` smoothed by a Gaussian of one voxel that knows only in-mask voxels."""
    weights = torch.tensor([math.exp(-(k**2) / 2) for k in range(-RADIUS, RADIUS + 1)], device=x.device)
    weights /= weights.sum()
    inside = mask.to(x.dtype)
    total, share = x * inside, inside
    for axis in range(2, x.ndim):
        total, share = _along(total, weights, axis), _along(share, weights, axis)
    return torch.where(mask, total / share.clamp(min=1e-6), x)


def sharpened(x: Tensor, mask: Tensor, weight: Tensor) -> Tensor:
    """``x + weight · (x − blurred)`` inside the mask; ``weight`` broadcasts against ``x``."""
    return x + weight * (x - blurred(x, mask))


class SharpnessTransform(AbstractTransform):
    """`sharpened` for batchgenerators, with a weight drawn uniformly for each sample."""

    def __init__(self, limits: tuple[float, float]) -> None:
        self.limits = limits

    def __call__(self, **batch: np.ndarray) -> dict[str, np.ndarray]:
        """A batch whose ``data (N, C, *spatial)`` is changed inside ``seg (N, 1, *spatial)``."""
        weights = np.random.uniform(*self.limits, len(batch["data"])).astype(np.float32)  # noqa: NPY002
        x, mask = torch.from_numpy(batch["data"]), torch.from_numpy(batch["seg"] > 0.5)
        weight = torch.from_numpy(weights).reshape(-1, *(1 for _ in x.shape[1:]))
        return batch | {"data": sharpened(x, mask, weight).numpy()}


def _along(x: Tensor, weights: Tensor, axis: int) -> Tensor:
    """Convolve along one axis, zeros outside, by shifted sums: a CPU is slow at convolutions of one channel."""
    total = x * weights[RADIUS]
    length = x.shape[axis]
    for shift in range(1, min(RADIUS, length - 1) + 1):
        low, high = (slice(None),) * axis + (slice(shift, None),), (slice(None),) * axis + (slice(None, -shift),)
        total[low] += weights[RADIUS + shift] * x[high]
        total[high] += weights[RADIUS - shift] * x[low]
    return total
