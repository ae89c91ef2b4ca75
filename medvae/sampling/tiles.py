"""Slices or patches: the data sets that a config asks for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medvae.config import Config
from medvae.preparation.grid import STANDARD_GRID
from medvae.preparation.prepare import PreparedVolume
from medvae.sampling.augmentation import Augmenter, left_right_axis
from medvae.sampling.patches import PatchDataset
from medvae.sampling.slices import SliceDataset, slices_of

Tiles = SliceDataset | PatchDataset


def tile_shape(config: Config) -> tuple[int, ...]:
    """Spatial shape of a tile: two axes for slices, three for patches."""
    if config.sampling.kind == "patch":
        return config.sampling.patch_size
    return slices_of(np.empty(STANDARD_GRID.shape, dtype=bool), config.sampling.plane).shape[1:]


def training_tiles(config: Config, volumes: Sequence[PreparedVolume]) -> Tiles:
    """Augmented tiles of the training scans."""
    options = config.sampling
    augmenter = None
    if config.augmentation.enabled:
        mirror_axis = left_right_axis(options.plane if options.kind == "slice" else None)
        augmenter = Augmenter(config.augmentation, tile_shape(config), mirror_axis=mirror_axis)
    if options.kind == "patch":
        count = options.patches_per_volume
        return PatchDataset(volumes, options.patch_size, per_volume=count, augmenter=augmenter, seed=config.seed)
    return SliceDataset(
        volumes, options.plane, min_brain_fraction=options.min_brain_fraction, augmenter=augmenter, seed=config.seed
    )


def validation_tiles(config: Config, volumes: Sequence[PreparedVolume]) -> Tiles:
    """The same tiles every time, as they are."""
    options = config.sampling
    if options.kind == "patch":
        return PatchDataset(volumes, options.patch_size, per_volume=4, seed=config.seed)
    return SliceDataset(volumes, options.plane, min_brain_fraction=options.min_brain_fraction)
