"""Patches of prepared volumes: drawn in the brain for training, the same ones every time for validation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch.utils.data import Dataset

from medvae.augmentation.augmenter import Augmenter
from medvae.preparation.prepared import ImageAndMask


class PatchDataset(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Patches around random brain voxels, addressed by ``(epoch, index)``.

    Items are ``(image (C, X, Y, Z) float32, mask (1, X, Y, Z) bool)`` tensors. Index ``i`` belongs to volume
    ``i // per_volume``; the place of the patch, like its augmentation, depends on (seed, epoch, index) alone. A patch
    never reaches beyond the volume; where it is as large as the volume, the item is the volume.
    """

    def __init__(
        self,
        volumes: Sequence[ImageAndMask],
        size: Sequence[int],
        *,
        per_volume: int = 8,
        augmenter: Augmenter | None = None,
        seed: int = 0,
    ) -> None:
        self._volumes, self._size, self._per_volume = volumes, tuple(size), per_volume
        self._augmenter, self._seed = augmenter, seed
        self._voxels = [np.flatnonzero(volume.mask).astype(np.int32) for volume in volumes]

    def __len__(self) -> int:
        return len(self._volumes) * self._per_volume

    def __getitem__(self, key: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
        epoch, index = key
        which = index // self._per_volume
        volume, voxels = self._volumes[which], self._voxels[which]
        whole, inside = volume.image, volume.mask
        rng = np.random.default_rng((self._seed, epoch, index, 1))  # 1: apart from the augmentation's numbers
        centre = np.unravel_index(voxels[rng.integers(len(voxels))], inside.shape)
        corner = patch_corner(centre, self._size, inside.shape)
        box = tuple(slice(c, c + n) for c, n in zip(corner, self._size, strict=True))
        image, mask = (
            np.array(whole[(slice(None), *box)]),
            np.array(inside[box][None]),
        )  # copies: they may be written to
        if self._augmenter is not None:
            moved = self._augmenter(image, mask, (self._seed, epoch, index))
            image, mask = moved if moved[1].any() else (image, mask)
        return torch.from_numpy(np.ascontiguousarray(image)), torch.from_numpy(np.ascontiguousarray(mask))


def patch_corner(centre: Sequence[int], size: Sequence[int], shape: Sequence[int]) -> tuple[int, ...]:
    """First voxel of the patch around ``centre``, moved inwards where it would leave the volume."""
    return tuple(int(np.clip(c - n // 2, 0, s - n)) for c, n, s in zip(centre, size, shape, strict=True))
