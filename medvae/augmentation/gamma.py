"""Gamma: an exponent on the intensity range of the brain."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from pydantic import model_validator

from medvae.augmentation.base import VoxelAugmentation, require_around_one, spread
from medvae.augmentation.randomness import Sample, around_one
from medvae.schema import Strict

if TYPE_CHECKING:
    from torch import Tensor

EPSILON = 1e-7
"""Added to the range, as batchgenerators does: a constant brain is not divided by 0."""


class GammaOptions(Strict):
    """Which exponents."""

    gamma: tuple[float, float] = (0.9, 1.1)
    """Exponent applied to the intensity range."""

    @model_validator(mode="after")
    def _gamma_range(self) -> GammaOptions:
        require_around_one("gamma", self.gamma)
        return self


class Gamma(VoxelAugmentation[GammaOptions, float]):
    """Raise intensities, scaled to 0 and 1 at the brain's darkest and brightest voxel, to a power."""

    fields: ClassVar[type[Strict]] = GammaOptions

    @property
    def active(self) -> bool:
        """Whether an exponent can differ from 1."""
        return self.options.gamma != (1.0, 1.0)

    def draw(self, sample: Sample) -> float:
        """The exponent."""
        return around_one(sample.generator("gamma"), self.options.gamma)

    def draw_for_array(self, rng: np.random.RandomState, sample: Sample, voxels: int) -> float:
        """As batchgenerators' GammaTransform, which first draws whether the sample is changed at all."""
        rng.random()
        return around_one(rng, self.options.gamma)

    def apply(self, x: Tensor, mask: Tensor, drawn: Sequence[float]) -> tuple[Tensor, Tensor]:
        """The range is that of all channels together."""
        axes = tuple(range(1, x.ndim))
        low = x.masked_fill(~mask, math.inf).amin(axes, keepdim=True)
        span = x.masked_fill(~mask, -math.inf).amax(axes, keepdim=True) - low
        scaled = ((x - low) / (span + EPSILON)).clamp(0, 1)  # the clamp is for outside
        return scaled ** spread(drawn, x) * span + low, mask

    def apply_to_voxels(self, values: np.ndarray, drawn: float) -> np.ndarray:
        """The formula of batchgenerators' ``augment_gamma``, which cannot be had without its draw."""
        low = values.min()
        span = values.max() - low
        return np.power((values - low) / float(span + EPSILON), drawn) * span + low
