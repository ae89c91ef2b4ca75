"""Thick slices: means over slabs along one axis, interpolated back to the grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import numpy as np
from pydantic import Field, model_validator

from medvae.augmentation.base import Augmentation
from medvae.augmentation.randomness import Sample
from medvae.schema import Strict

if TYPE_CHECKING:
    from torch import Tensor


class ThickSlicesOptions(Strict):
    """How often, and how thick."""

    thick_slices: float = Field(default=0.0, ge=0, le=1)
    """Share of the scans that are cut into thick slices along one axis by chance, as many clinical scans are."""
    slice_mm: tuple[float, float] = (3.0, 7.0)
    """Thinnest and thickest of these slices; choose them thicker than a voxel of the standard grid."""

    @model_validator(mode="after")
    def _slice_range(self) -> ThickSlicesOptions:
        if not 0 < self.slice_mm[0] <= self.slice_mm[1]:
            raise ValueError(f"slice_mm must be a range from low to high, above 0; found {self.slice_mm}.")
        return self


class Slabs(NamedTuple):
    """What is drawn for one sample."""

    thickness: float
    """In voxels; 0 leaves the sample as it is."""
    axis: int
    phase: float
    """Share of a slab that lies before the first voxel."""


class ThickSlices(Augmentation[ThickSlicesOptions, Slabs]):
    """Cut a share of the samples into thick slices."""

    fields: ClassVar[type[Strict]] = ThickSlicesOptions

    @property
    def active(self) -> bool:
        """Whether there is a share."""
        return self.options.thick_slices > 0

    def draw(self, sample: Sample) -> Slabs:
        """Thickness, axis and phase."""
        return self._draw(sample.generator("thick_slices"), sample)

    def draw_for_array(self, rng: np.random.RandomState, sample: Sample, voxels: int) -> Slabs:
        """The same, next in the workers' stream."""
        return self._draw(rng, sample)

    def _draw(self, rng: np.random.Generator | np.random.RandomState, sample: Sample) -> Slabs:
        chance, millimetres, place, phase = rng.uniform(size=4)
        thin, thick = self.options.slice_mm
        thickness = (thin + millimetres * (thick - thin)) / sample.voxel_mm
        axis = min(int(place * sample.dimensions), sample.dimensions - 1)
        return Slabs(thickness if chance < self.options.thick_slices else 0.0, axis, float(phase))

    def apply(self, x: Tensor, mask: Tensor, drawn: Sequence[Slabs]) -> tuple[Tensor, Tensor]:
        """Sample by sample: each has another axis and another thickness."""
        import torch

        samples = zip(x, mask, drawn, strict=True)
        sliced = [thickly_sliced(image, brain, slabs) if slabs.thickness else image for image, brain, slabs in samples]
        return torch.stack(sliced), mask


def slab_weights(length: int, thickness: float, phase: float) -> np.ndarray:
    """What each of ``length`` voxels weighs in each voxel of the thickly sliced image: ``(length, length)``.

    Slices of ``thickness`` voxels follow each other without a gap, the first of them begins ``phase`` of a thickness
    before the image. A slice is the mean of the voxels, or parts of them, that it covers; between the middles of two
    slices is interpolated linearly. Rows sum to 1.
    """
    count = int(np.ceil(length / thickness + phase))
    starts = (np.arange(count) - phase) * thickness
    voxels = np.arange(length)
    covered = np.minimum(starts[:, None] + thickness, voxels + 1) - np.maximum(starts[:, None], voxels)
    means = np.maximum(covered, 0)
    means = means / np.maximum(means.sum(1, keepdims=True), 1e-9)
    places = np.clip((voxels + 0.5 - starts[0]) / thickness - 0.5, 0, count - 1)
    low = np.minimum(places.astype(int), max(0, count - 2))
    high = np.minimum(low + 1, count - 1)
    share = (places - low)[:, None]
    return ((1 - share) * means[low] + share * means[high]).astype(np.float32)


def thickly_sliced(x: Tensor, mask: Tensor, slabs: Slabs) -> Tensor:
    """``x (C, *spatial)`` in slices along an axis, by `slab_weights`; inside ``mask (1, *spatial)`` only.

    Only voxels of the mask count, as skull and air next to the brain are gone.
    """
    import torch

    thickness, axis, phase = slabs
    weights = torch.from_numpy(slab_weights(x.shape[axis + 1], thickness, phase)).to(x.device)
    inside = mask.to(x.dtype)
    total, share = (
        torch.tensordot(weights, part, ([1], [axis + 1])).movedim(0, axis + 1) for part in (x * inside, inside)
    )
    return torch.where(mask, total / share.clamp(min=1e-6), x)
