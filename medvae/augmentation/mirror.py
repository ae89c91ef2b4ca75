"""Mirroring left to right."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from medvae.augmentation.affine import AffineAugmentation
from medvae.augmentation.randomness import Sample
from medvae.schema import Strict


class MirrorOptions(Strict):
    """Whether brains are mirrored."""

    mirror: bool = True
    """Mirror every second slice left to right, by chance; has no effect on sagittal slices."""


class Mirror(AffineAugmentation[MirrorOptions, bool]):
    """Mirror image and mask along one axis, every second sample by chance; folded into the matrix of a rotation."""

    fields: ClassVar[type[Strict]] = MirrorOptions

    @property
    def active(self) -> bool:
        """Whether there is an axis to mirror along."""
        return self.options.mirror and self.mirror_axis is not None

    def draw(self, sample: Sample) -> bool:
        """Whether this sample is mirrored."""
        return bool(sample.generator("mirror").random() < 0.5)

    def draw_for_array(self, rng: np.random.RandomState, sample: Sample, voxels: int) -> bool:
        """As batchgenerators' MirrorTransform, which first draws whether the sample is changed at all."""
        rng.random()
        return bool(rng.random() < 0.5)

    def matrix(self, drawn: bool, dimensions: int) -> np.ndarray:
        """The identity, or a reflection."""
        matrix = np.eye(dimensions)
        if drawn and self.mirror_axis is not None:
            matrix[self.mirror_axis, self.mirror_axis] = -1
        return matrix

    def apply_to_array(self, image: np.ndarray, mask: np.ndarray, drawn: bool) -> tuple[np.ndarray, np.ndarray]:
        """A flip, without interpolation."""
        if not drawn or self.mirror_axis is None:
            return image, mask
        axis = 1 + self.mirror_axis
        return np.ascontiguousarray(np.flip(image, axis)), np.ascontiguousarray(np.flip(mask, axis))
