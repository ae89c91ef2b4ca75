"""Sharpness: the weight of the difference between a scan and a blurred copy of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from pydantic import model_validator

from medvae.augmentation.base import Augmentation, spread
from medvae.augmentation.randomness import Sample
from medvae.schema import Strict

if TYPE_CHECKING:
    from torch import Tensor

RADIUS = 3
"""Voxels at which the Gaussian of one voxel is cut off."""


class SharpnessOptions(Strict):
    """How much sharper or less sharp."""

    sharpness: tuple[float, float] = (0.0, 0.0)
    """Weight of the difference to a copy blurred by one voxel that is added: −1 is the blurred copy, 1 doubles the fine
    detail. Scanners differ in it."""

    @model_validator(mode="after")
    def _sharpness_range(self) -> SharpnessOptions:
        if not -1 <= self.sharpness[0] <= self.sharpness[1]:
            raise ValueError(f"sharpness must be a range from low to high, not below −1; found {self.sharpness}.")
        return self


class Sharpness(Augmentation[SharpnessOptions, float]):
    """``x + weight · (x − blurred)``."""

    fields: ClassVar[type[Strict]] = SharpnessOptions

    @property
    def active(self) -> bool:
        """Whether a weight can differ from 0."""
        return self.options.sharpness != (0.0, 0.0)

    def draw(self, sample: Sample) -> float:
        """The weight."""
        return sample.generator("sharpness").uniform(*self.options.sharpness)

    def draw_for_array(self, rng: np.random.RandomState, sample: Sample, voxels: int) -> float:
        """The weight, next in the workers' stream."""
        return rng.uniform(*self.options.sharpness)

    def apply(self, x: Tensor, mask: Tensor, drawn: Sequence[float]) -> tuple[Tensor, Tensor]:
        """Sharpen or blur inside the mask."""
        return sharpened(x, mask, spread(drawn, x)), mask


def blurred(x: Tensor, mask: Tensor) -> Tensor:
    """``x (N, C, *spatial)`` smoothed by a Gaussian of one voxel that knows only in-mask voxels."""
    import torch

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


def _along(x: Tensor, weights: Tensor, axis: int) -> Tensor:
    """Convolve along one axis, zeros outside, by shifted sums: a CPU is slow at convolutions of one channel."""
    total = x * weights[RADIUS]
    length = x.shape[axis]
    for shift in range(1, min(RADIUS, length - 1) + 1):
        low, high = (slice(None),) * axis + (slice(shift, None),), (slice(None),) * axis + (slice(None, -shift),)
        total[low] += weights[RADIUS + shift] * x[high]
        total[high] += weights[RADIUS - shift] * x[low]
    return total
