"""Brightness: a factor on the intensities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from pydantic import model_validator

from medvae.augmentation.base import VoxelAugmentation, require_not_negative, spread
from medvae.augmentation.randomness import Sample
from medvae.schema import Strict

if TYPE_CHECKING:
    from torch import Tensor


class BrightnessOptions(Strict):
    """Which factors."""

    brightness: tuple[float, float] = (0.95, 1.05)
    """Factor on the intensities, drawn for each channel."""

    @model_validator(mode="after")
    def _brightness_range(self) -> BrightnessOptions:
        require_not_negative("brightness", self.brightness)
        return self


class Brightness(VoxelAugmentation[BrightnessOptions, np.ndarray]):
    """Multiply each channel by a factor of its own, ``(C,)``."""

    fields: ClassVar[type[Strict]] = BrightnessOptions

    @property
    def active(self) -> bool:
        """Whether a factor can differ from 1."""
        return self.options.brightness != (1.0, 1.0)

    def draw(self, sample: Sample) -> np.ndarray:
        """The factors."""
        return sample.generator("brightness").uniform(*self.options.brightness, sample.channels)

    def draw_for_array(self, rng: np.random.RandomState, sample: Sample, voxels: int) -> np.ndarray:
        """As batchgenerators' BrightnessMultiplicativeTransform, which draws a chance and a factor it does not use."""
        rng.random(2)
        return rng.uniform(*self.options.brightness, sample.channels)

    def apply(self, x: Tensor, mask: Tensor, drawn: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
        """Multiply."""
        return x * spread(drawn, x), mask

    def apply_to_voxels(self, values: np.ndarray, drawn: np.ndarray) -> np.ndarray:
        """Multiply."""
        for channel, factor in zip(values, drawn.tolist(), strict=True):
            channel *= factor
        return values
