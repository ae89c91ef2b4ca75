"""Slices of prepared volumes, as a data set."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch.utils.data import Dataset

from medvae.augmentation.augmenter import Augmenter
from medvae.imaging.planes import Plane, padded, slice_shape, slices_of
from medvae.preparation.prepared import ImageAndMask


class SliceDataset(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """All slices with enough brain of some prepared volumes, addressed by ``(epoch, index)``.

    Items are ``(image (C, H, W) float32, mask (1, H, W) bool)`` tensors; slices of several planes are padded to one
    shape. With an augmenter, an item depends on
    (seed, epoch, index) and on nothing else.
    """

    def __init__(
        self,
        volumes: Sequence[ImageAndMask],
        planes: Sequence[Plane],
        *,
        min_brain_fraction: float,
        augmenter: Augmenter | None = None,
        seed: int = 0,
    ) -> None:
        least = max(min_brain_fraction, 1e-9)
        kept = [
            [np.flatnonzero(slices_of(volume.mask, plane).mean(axis=(1, 2)) >= least) for plane in planes]
            for volume in volumes
        ]
        count = sum(len(keep) for each in kept for keep in each)
        image, mask = volumes[0].image, volumes[0].mask
        shape = slice_shape(mask.shape, planes)
        self.images = np.empty((count, len(image), *shape), image.dtype)  # filled in place: never twice in memory
        self.masks = np.empty((count, 1, *shape), mask.dtype)
        start = 0
        for volume, each in zip(volumes, kept, strict=True):
            image, mask = volume.image, volume.mask
            for plane, keep in zip(planes, each, strict=True):
                place = slice(start, start := start + len(keep))
                self.images[place] = padded(slices_of(image, plane)[keep], shape)
                self.masks[place, 0] = padded(slices_of(mask, plane)[keep], shape)
        self._augmenter = augmenter
        self._seed = seed

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
        epoch, index = key
        image, mask = self.images[index], self.masks[index]
        if self._augmenter is not None:
            moved = self._augmenter(image, mask, (self._seed, epoch, index))
            image, mask = moved if moved[1].any() else (image, mask)
        return torch.from_numpy(image), torch.from_numpy(mask)
