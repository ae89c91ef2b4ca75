"""Gaussian noise of a variance drawn uniformly (batchgenerators' own takes its variance for the deviation)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import numpy as np
from pydantic import model_validator

from medvae.augmentation.base import VoxelAugmentation, require_not_negative, spread
from medvae.augmentation.randomness import Sample
from medvae.schema import Strict

if TYPE_CHECKING:
    from torch import Tensor


class NoiseOptions(Strict):
    """How much noise."""

    noise_variance: tuple[float, float] = (0.0, 0.0004)
    """Variance of additive Gaussian noise, on normalised intensities."""

    @model_validator(mode="after")
    def _noise_range(self) -> NoiseOptions:
        require_not_negative("noise_variance", self.noise_variance)
        return self


class NoiseOfOne(NamedTuple):
    """What is drawn for one sample."""

    deviation: float
    seed: int
    """Of a generator on the device."""
    values: np.ndarray | None = None
    """In the workers ``(C, brain voxels)``, drawn at once from their stream; else None."""


class Noise(VoxelAugmentation[NoiseOptions, NoiseOfOne]):
    """Add white noise."""

    fields: ClassVar[type[Strict]] = NoiseOptions

    @property
    def active(self) -> bool:
        """Whether there is a variance."""
        return self.options.noise_variance[1] > 0

    def draw(self, sample: Sample) -> NoiseOfOne:
        """Deviation and seed."""
        rng = sample.generator("noise")
        deviation = np.sqrt(rng.uniform(*self.options.noise_variance))
        return NoiseOfOne(deviation, int(rng.integers(2**63)))

    def draw_for_array(self, rng: np.random.RandomState, sample: Sample, voxels: int) -> NoiseOfOne:
        """Deviation and noise."""
        deviation = math.sqrt(rng.uniform(*self.options.noise_variance))
        return NoiseOfOne(deviation, 0, rng.normal(0, deviation, (sample.channels, voxels)))

    def apply(self, x: Tensor, mask: Tensor, drawn: Sequence[NoiseOfOne]) -> tuple[Tensor, Tensor]:
        """Add noise from a generator of the device's kind that is seeded anew for each sample."""
        import torch

        generator = torch.Generator(x.device)
        noise = torch.empty_like(x)
        for sample, one in zip(noise, drawn, strict=True):
            sample.normal_(generator=generator.manual_seed(one.seed))
        return x + spread([one.deviation for one in drawn], x) * noise, mask

    def apply_to_voxels(self, values: np.ndarray, drawn: NoiseOfOne) -> np.ndarray:
        """Add the noise that was drawn."""
        values += drawn.values
        return values
