"""Augmentation on batches of tensors, on the device that trains.

A sampler of parameters and their deterministic application, the idea of TorchIO (Pérez-García et al. 2021,
doi:10.1016/j.cmpb.2021.106236). Each sample has a seed of its own, so that it does not matter with whom it shares a
batch: parameters are drawn on the CPU with numpy, from the sample's seed alone, and are the same on every machine; the
noise comes from a generator of the device's kind that is seeded anew for each sample. Arithmetic is done on whole
batches, which may move the last bit of a voxel.

MONAI's transforms take one sample at a time and know no brain mask; ``benchmarks/augmentation.py`` measures them and
the code here. With slices MONAI takes 2 to 20 times as long. With patches it takes 1.6 to 5 times as long for rotation,
thick slices, bias field and noise, and about as long for sharpness, gamma, brightness and contrast: these are here
because their statistics are those of the brain. Mirroring costs nothing beside a rotation, in whose matrix it is.
``augmentation.extra`` adds any transform of MONAI.
"""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Sequence

import torch
from torch import Tensor

from medvae.augmentation.affine import AffineAugmentation, move
from medvae.augmentation.foreign import apply_extra
from medvae.augmentation.options import AugmentationConfig
from medvae.augmentation.randomness import Sample
from medvae.imaging.grid import DEFAULT_GRID


@torch.no_grad()
def augment(
    x: Tensor,
    mask: Tensor,
    config: AugmentationConfig,
    *,
    mirror_axis: int | None,
    seeds: Sequence[Sequence[int]],
    voxel_mm: float = DEFAULT_GRID.voxel_mm,
) -> tuple[Tensor, Tensor]:
    """Augment a batch, every sample from its own seed.

    Parameters
    ----------
    x
        ``(N, C, *spatial)`` float32, 2D or 3D.
    mask
        ``(N, 1, *spatial)`` bool, the brain.
    config
        The ranges.
    mirror_axis
        Spatial axis to mirror along, or None: see `medvae.sampling.tiles.left_right_axis`.
    seeds
        For each sample non-negative integers, for instance (seed, epoch, index).
    voxel_mm
        Edge of a voxel, in mm; that of the default grid if not given.

    Returns
    -------
    tuple of Tensor
        New x and mask. The background is 0; a sample whose brain would leave the tile is not moved.
    """
    dimensions = x.ndim - 2
    samples = [Sample(tuple(seed), channels=x.shape[1], dimensions=dimensions, voxel_mm=voxel_mm) for seed in seeds]
    changes = config.changes(mirror_axis)
    for affine, group in itertools.groupby(changes, key=lambda change: isinstance(change, AffineAugmentation)):
        if affine:  # interpolated once
            movers = [change for change in group if isinstance(change, AffineAugmentation)]
            matrices = [[mover.matrix(mover.draw(s), dimensions) for mover in movers] for s in samples]
            moved = move(x, mask, [functools.reduce(operator.matmul, each) for each in matrices])
            x, mask = _where_found(moved, (x, mask))
            continue
        for change in group:
            changed = change.apply(x, mask, [change.draw(sample) for sample in samples])
            x, mask = _where_found(changed, (x, mask)) if change.moves_mask else changed
    x = x.masked_fill(~mask, 0)
    if config.extra:
        pairs = zip(x, mask, seeds, strict=True)
        x, mask = map(torch.stack, zip(*(apply_extra(config.extra, *pair) for pair in pairs), strict=True))
    return x, mask


def _where_found(moved: tuple[Tensor, Tensor], before: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """The moved samples, and those whose brain has left the tile as they were before."""
    found = moved[1].flatten(1).any(1)
    found = found.reshape(-1, *(1 for _ in moved[1].shape[1:]))
    return torch.where(found, moved[0], before[0]), torch.where(found, moved[1], before[1])
