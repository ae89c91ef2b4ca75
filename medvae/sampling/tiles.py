"""Slices or patches: the data sets that a config asks for."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from medvae.augmentation.augmenter import Augmenter
from medvae.augmentation.batches import augment
from medvae.augmentation.foreign import require_usable
from medvae.config import Config
from medvae.imaging.planes import Plane
from medvae.lesions.patients.outlines import read_outlines
from medvae.normative.inputs import ShownScan
from medvae.sampling.lesion_scans import FixedPatches, LesionScans, lesion_scans
from medvae.sampling.order import WithKey
from medvae.sampling.patches import PatchDataset
from medvae.sampling.slices import SliceDataset

Tiles = SliceDataset | PatchDataset | FixedPatches


def training_tiles(config: Config, volumes: Sequence[ShownScan]) -> Tiles | WithKey | LesionScans:
    """Tiles of the training scans: augmented, or with the keys from which `augment_batch` does it.

    Where the atlas is bent onto each scan, or scans are made into patients: whole scans with lesions, of which
    `MixedPatches` makes batches.
    """
    require_named(config)
    options = config.sampling
    if _from_whole_scans(config):
        return lesion_scans(volumes, config)
    changes = config.augmentation
    augmenter = None
    if changes.enabled and changes.backend == "batchgenerators":
        augmenter = Augmenter(changes, mirror_axis=_mirror_axis(config), voxel_mm=config.grid.voxel_mm)
    tiles: SliceDataset | PatchDataset
    if options.kind == "patch":
        count = options.patches_per_volume
        tiles = PatchDataset(volumes, options.patch_size, per_volume=count, augmenter=augmenter, seed=config.seed)
    else:
        fraction = options.min_brain_fraction
        tiles = SliceDataset(
            volumes, options.planes, min_brain_fraction=fraction, augmenter=augmenter, seed=config.seed
        )  # fmt: skip
    return WithKey(tiles) if changes.enabled and changes.backend == "tensor" else tiles


def augment_batch(config: Config, x: Tensor, mask: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
    """Augment ``x (N, C, *spatial)`` and ``mask`` where they are; ``keys (N, 2)`` hold (epoch, index)."""
    seeds = [(config.seed, *key) for key in keys.tolist()]
    voxel_mm = config.grid.voxel_mm
    return augment(x, mask, config.augmentation, mirror_axis=_mirror_axis(config), seeds=seeds, voxel_mm=voxel_mm)


def validation_tiles(config: Config, volumes: Sequence[ShownScan]) -> Tiles:
    """The same tiles every time, as they are."""
    options = config.sampling
    if _from_whole_scans(config):
        return FixedPatches(lesion_scans(volumes, config, patches=2))
    if options.kind == "patch":
        return PatchDataset(volumes, options.patch_size, per_volume=4, seed=config.seed)
    return SliceDataset(volumes, options.planes, min_brain_fraction=options.min_brain_fraction)


def require_named(config: Config) -> None:
    """Try what the config names and does not hold, before anything takes long: transforms in ``extra``, and outlines.

    Raises
    ------
    MedvaeError
        For what cannot be used.
    """
    patients = config.objective.patients
    if patients is not None and patients.outlines is not None:
        read_outlines(patients.outlines, config.grid)
    options, shape = config.augmentation, config.tile_shape
    if options.enabled:
        require_usable(options.extra, shape)
    if config.objective.kind == "discrepancy":
        require_usable(config.objective.appearance.extra, shape, may_move=False)


def _from_whole_scans(config: Config) -> bool:
    bent = config.network is not None and config.network.deformable
    return bent or config.objective.patients is not None


def _mirror_axis(config: Config) -> int | None:
    return left_right_axis(config.sampling.planes if config.sampling.kind == "slice" else ())


def left_right_axis(planes: Sequence[Plane]) -> int | None:
    """The spatial axis of slices (of a patch, without a plane) along which a mirrored brain is a brain.

    On the standard grid (RAS) left to right is the first axis of a patch and of axial and coronal slices; sagittal
    slices have none.
    """
    return None if "sagittal" in planes else 0
