"""Slices of prepared volumes, as a data set."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch.utils.data import Dataset

from medvae.augmentation.augmenter import Augmenter
from medvae.imaging.planes import Plane, slices_of
from medvae.preparation.prepared import ImageAndMask


class SliceDataset(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """All slices with enough brain of some prepared volumes, addressed by ``(epoch, index)``.

    Items are ``(image (C, H, W) float32, mask (1, H, W) bool)`` tensors. With an augmenter, an item depends on
    (seed, epoch, index) and on nothing else.
    """

    def __init__(
        self,
        volumes: Sequence[ImageAndMask],
        plane: Plane,
        *,
        min_brain_fraction: float,
        augmenter: Augmenter | None = None,
        seed: int = 0,
    ) -> None:
        kept = [
            np.flatnonzero(slices_of(volume.mask, plane).mean(axis=(1, 2)) >= max(min_brain_fraction, 1e-9))
            for volume in volumes
        ]
        count = sum(map(len, kept))
        image, mask = slices_of(volumes[0].image, plane), slices_of(volumes[0].mask, plane)
        self.images = np.empty((count, *image.shape[1:]), image.dtype)  # filled in place: never twice in memory
        self.masks = np.empty((count, 1, *mask.shape[1:]), mask.dtype)
        start = 0
        for volume, keep in zip(volumes, kept, strict=True):
            place = slice(start, start := start + len(keep))
            self.images[place] = slices_of(volume.image, plane)[keep]
            self.masks[place, 0] = slices_of(volume.mask, plane)[keep]
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
