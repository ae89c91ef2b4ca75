"""Thick slices as a random change: means over slabs along one axis, interpolated back to the grid."""

from __future__ import annotations

import numpy as np
import torch
from batchgenerators.transforms.abstract_transforms import AbstractTransform
from torch import Tensor


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


def thickly_sliced(x: Tensor, mask: Tensor, axis: int, thickness: float, phase: float) -> Tensor:
    """``x (C, *spatial)`` in slices along a spatial ``axis``, by `slab_weights`; inside ``mask (1, *spatial)`` only.

    Only voxels of the mask count, as skull and air next to the brain are gone.
    """
    weights = torch.from_numpy(slab_weights(x.shape[axis + 1], thickness, phase)).to(x.device)
    inside = mask.to(x.dtype)
    total, share = (
        torch.tensordot(weights, part, ([1], [axis + 1])).movedim(0, axis + 1) for part in (x * inside, inside)
    )
    return torch.where(mask, total / share.clamp(min=1e-6), x)


class ThickSlicesTransform(AbstractTransform):
    """`thickly_sliced` for batchgenerators, for a ``share`` of the samples, with a thickness of ``limits`` mm.

    Voxels have an edge of ``voxel_mm``.
    """

    def __init__(self, share: float, limits: tuple[float, float], voxel_mm: float) -> None:
        self.share, self.limits, self.voxel_mm = share, limits, voxel_mm

    def __call__(self, **batch: np.ndarray) -> dict[str, np.ndarray]:
        """A batch whose ``data (N, C, *spatial)`` is changed inside ``seg (N, 1, *spatial)``."""
        data = batch["data"].copy()
        for sample, seg in zip(data, batch["seg"], strict=True):
            thickness, axis, phase = draw_slices(np.random, self.share, self.limits, self.voxel_mm, seg.ndim - 1)
            if thickness:
                x, mask = torch.from_numpy(sample), torch.from_numpy(seg > 0.5)
                sample[:] = thickly_sliced(x, mask, axis, thickness, phase).numpy()
        return batch | {"data": data}


def draw_slices(
    rng: np.random.Generator, share: float, limits: tuple[float, float], voxel_mm: float, dimensions: int
) -> tuple[float, int, float]:
    """Thickness in voxels, 0 in all but a ``share`` of the draws; the axis; the phase. ``limits`` are in mm."""
    chance, millimetres, place, phase = rng.uniform(size=4)
    thickness = (limits[0] + millimetres * (limits[1] - limits[0])) / voxel_mm
    return thickness if chance < share else 0.0, min(int(place * dimensions), dimensions - 1), float(phase)
