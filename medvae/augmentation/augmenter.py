"""Augmentation in the worker processes: one slice or patch at a time, as batchgenerators does it.

`medvae.augmentation.batches` does the same on whole batches, on the device that trains.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from medvae.augmentation.base import VoxelAugmentation
from medvae.augmentation.options import AugmentationConfig
from medvae.augmentation.randomness import Sample, seed_word
from medvae.imaging.grid import DEFAULT_GRID


class Augmenter:
    """Augments one slice or patch at a time; the same seed gives the same result on every machine and worker.

    Spatial changes move image and mask together, with linear interpolation (order 1: the order, not the library,
    decides the time). Positive angles turn axis 0 towards axis 1 in a slice; in a patch the rotation matrix is
    ``R_x R_y R_z``, right-handed, about its centre. Intensity changes act inside the brain, take their statistics
    there, and come in the order sharpness, slices, bias field, gamma, brightness, contrast, noise; the transforms of
    ``extra`` come last. The background stays 0.

    Parameters
    ----------
    config
        The ranges.
    mirror_axis
        Spatial axis to mirror along, or None: see `medvae.sampling.tiles.left_right_axis`.
    voxel_mm
        Edge of a voxel, in mm; that of the default grid if not given.
    """

    def __init__(
        self, config: AugmentationConfig, *, mirror_axis: int | None, voxel_mm: float = DEFAULT_GRID.voxel_mm
    ) -> None:
        self._changes, self._extra, self._voxel_mm = config.changes(mirror_axis), config.extra, voxel_mm

    def __call__(self, image: np.ndarray, mask: np.ndarray, seed: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Augment one slice or patch; the arguments are left as they are.

        Parameters
        ----------
        image
            ``(C, *spatial)`` float32.
        mask
            ``(1, *spatial)`` bool, the brain.
        seed
            Non-negative integers, for instance (seed, epoch, index).

        Returns
        -------
        tuple of numpy.ndarray
            Image and mask, of the same shapes and types; the mask may have become empty.
        """
        rng = np.random.RandomState(seed_word(seed))  # the generator that np.random.seed seeds, and a stream of our own
        sample = Sample(tuple(seed), channels=len(image), dimensions=mask.ndim - 1, voxel_mm=self._voxel_mm)
        image, mask = image.copy(), mask.copy()
        for voxelwise, group in itertools.groupby(self._changes, key=lambda c: isinstance(c, VoxelAugmentation)):
            voxels = int(np.count_nonzero(mask))
            if not voxels:
                break
            if voxelwise:  # the brain's voxels are taken out once
                flat, brain = image.reshape(len(image), -1), np.flatnonzero(mask)
                values = flat.take(brain, axis=1)
                for each in (change for change in group if isinstance(change, VoxelAugmentation)):
                    values = each.apply_to_voxels(values, each.draw_for_array(rng, sample, voxels))
                flat[:, brain] = values
                image = flat.reshape(image.shape)
                continue
            for change in group:
                image, mask = change.apply_to_array(image, mask, change.draw_for_array(rng, sample, voxels))
        image = np.where(mask, image, np.float32(0))
        return self._with_extra(image, mask, seed) if self._extra else (image, mask)

    def _with_extra(self, image: np.ndarray, mask: np.ndarray, seed: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        import torch

        from medvae.augmentation.foreign import apply_extra

        x, brain = apply_extra(self._extra, torch.from_numpy(image), torch.from_numpy(mask), seed)
        return x.numpy(), brain.numpy()
