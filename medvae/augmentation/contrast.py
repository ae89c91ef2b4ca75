"""Contrast: a factor on the distance from the mean inside the brain."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from pydantic import model_validator

from medvae.augmentation.base import VoxelAugmentation, require_around_one, spread
from medvae.augmentation.randomness import Sample, around_one
from medvae.schema import Strict

if TYPE_CHECKING:
    from torch import Tensor


class ContrastOptions(Strict):
    """Which factors."""

    contrast: tuple[float, float] = (1.0, 1.0)
    """Factor on the distance from the mean inside the brain, drawn for each channel; (1, 1) is off."""

    @model_validator(mode="after")
    def _contrast_range(self) -> ContrastOptions:
        require_around_one("contrast", self.contrast)
        return self


class Contrast(VoxelAugmentation[ContrastOptions, np.ndarray]):
    """Stretch each channel about its mean by a factor of its own, ``(C,)``; nothing is clipped, so the mean stays."""

    fields: ClassVar[type[Strict]] = ContrastOptions

    @property
    def active(self) -> bool:
        """Whether a factor can differ from 1."""
        return self.options.contrast != (1.0, 1.0)

    def draw(self, sample: Sample) -> np.ndarray:
        """The factors."""
        rng = sample.generator("contrast")
        return np.array([around_one(rng, self.options.contrast) for _ in range(sample.channels)])

    def draw_for_array(self, rng: np.random.RandomState, sample: Sample, voxels: int) -> np.ndarray:
        """As batchgenerators' ContrastAugmentationTransform: a chance for the sample and one for each channel."""
        rng.random()
        factors = np.empty(sample.channels)
        for channel in range(sample.channels):
            rng.random()
            factors[channel] = around_one(rng, self.options.contrast)
        return factors

    def apply(self, x: Tensor, mask: Tensor, drawn: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
        """About the mean of the brain."""
        spatial = tuple(range(2, x.ndim))
        mean = (x * mask).sum(spatial, keepdim=True) / mask.sum(spatial, keepdim=True)
        return (x - mean) * spread(drawn, x) + mean, mask

    def apply_to_voxels(self, values: np.ndarray, drawn: np.ndarray) -> np.ndarray:
        """The formula of batchgenerators' ``augment_contrast``, which cannot be had without its draw."""
        for channel, factor in zip(values, drawn.tolist(), strict=True):
            mean = channel.mean()
            channel[:] = (channel - mean) * factor + mean
        return values
