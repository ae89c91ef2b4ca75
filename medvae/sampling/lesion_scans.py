"""Whole scans with lesions put in, and cut into patches, or slices with their neighbours, with their truth.

What bends the atlas onto a scan is the scan, lesions and all. So a network that is shown a bent atlas has to learn from
scans that were bent after they had lesions, and no patch of them can be made without the whole. Nor can one of a
patient, whose tumour is as large as a lobe.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.utils.data import Dataset

from medvae.augmentation.batches import augment
from medvae.config import Config
from medvae.imaging.boxes import box_of
from medvae.imaging.planes import padded, slices_of, with_neighbours
from medvae.lesions.patients import make_patient
from medvae.lesions.patients.outlines import read_outlines
from medvae.lesions.synthesis import insert_lesions
from medvae.normative.inputs import ShownScan
from medvae.preparation.intensity import normalise
from medvae.sampling.patches import patch_corner

MARGIN = 6
"""Voxels around a healthy brain in which a patient's brain lies, which is deformed."""

BLOCK = 6
"""Scans, at least, whose patches are mixed: a batch from one scan would be one-sided."""


class LesionScans(Dataset[tuple[Tensor, Tensor]]):
    """Patches of scans with lesions, addressed by ``(epoch, index)`` of the scan.

    Items are ``(x (K, P + C, X, Y, Z) float32, mask (K, 1, X, Y, Z) bool)`` of K random patches of one scan: what the
    network is shown, and the truth, 0 or 1, as the last channel. All that is random depends on (seed, epoch, index).
    """

    def __init__(self, volumes: Sequence[ShownScan], config: Config, *, patches: int | None = None) -> None:
        self._volumes, self._config = volumes, config
        self.patches = patches or config.sampling.patches_per_volume
        patients = config.objective.patients
        named = patients.outlines if patients is not None else None
        self._outlines = read_outlines(named, config.grid) if named is not None else None

    def __len__(self) -> int:
        return len(self._volumes)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, Tensor]:
        epoch, index = key
        volume, config, seed = self._volumes[index], self._config, (self._config.seed, epoch, index)
        mask = np.array(volume.mask)
        image = np.where(mask, volume.volume.image, 0).astype(np.float32)
        make = self._with_lesions if config.objective.patients is None else self._patient
        scan, mask, other, truth = make(image, mask, seed, volume.volume.grid.voxel_mm)
        fitted = volume.inputs.fitted(scan, mask)
        gain = np.where(scan > 0.01, fitted.image / np.maximum(scan, 0.01), 1)  # the bias field that was taken out
        shown = volume.inputs.stack(replace(fitted, mirror_source=other * gain))
        stack = np.concatenate([shown, truth, mask[None]]).astype(np.float32, copy=False)
        rng = np.random.default_rng((*seed, 1))
        if config.augmentation.enabled and config.augmentation.mirror and rng.random() < 0.5:
            stack, mask = stack[:, ::-1], mask[::-1]
        made = self._tiles(stack, mask, rng)
        return made[:, :-1], made[:, -1:] > 0.5

    def _tiles(self, stack: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> Tensor:
        """Random patches ``(K, C, X, Y, Z)`` of a whole scan ``(C, X, Y, Z)``, around voxels of its brain."""
        config = self._config
        voxels = np.flatnonzero(mask)
        patches = np.empty((self.patches, len(stack), *config.sampling.patch_size), dtype=np.float32)
        for patch in patches:  # filled one by one: numpy.stack took ten times as long
            centre = np.unravel_index(voxels[rng.integers(len(voxels))], mask.shape)
            corner = patch_corner(centre, config.sampling.patch_size, mask.shape)
            box = tuple(slice(c, c + n) for c, n in zip(corner, config.sampling.patch_size, strict=True))
            patch[...] = stack[(slice(None), *box)]
        return torch.from_numpy(patches)

    def _with_lesions(
        self, whole: np.ndarray, mask: np.ndarray, seed: tuple[int, ...], voxel_mm: float
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """The scan with lesions, its brain, the same brain with other lesions, which looks alike, and the truth of the
        first."""
        options = self._config.objective
        box = (slice(None), *box_of(mask))
        image, brain = torch.from_numpy(whole[box])[None], torch.from_numpy(mask[None][box])[None]
        sick, truth = insert_lesions(image, brain, options.lesions, (*seed, 2), voxel_mm)
        other, _ = insert_lesions(image, brain, options.lesions, (*seed, 3), voxel_mm)
        pair, brains = torch.cat([sick, other]), torch.cat([brain, brain])
        seeds = [(*seed, 4)] * 2
        pair, _ = augment(pair, brains, options.appearance, mirror_axis=None, seeds=seeds, voxel_mm=voxel_mm)

        def placed(part: Tensor) -> np.ndarray:
            whole = np.zeros((len(part), *mask.shape), dtype=np.float32)
            whole[box] = part.numpy()
            return whole

        return placed(pair[0]), mask, placed(pair[1]), placed(truth[0])

    def _patient(
        self, whole: np.ndarray, mask: np.ndarray, seed: tuple[int, ...], voxel_mm: float
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """As `_with_lesions`, of a scan that is made into a patient; the other scan is the same."""
        config, options = self._config, self._config.objective
        if options.patients is None:
            raise ValueError("objective.patients says how patients are made; found None.")
        found = ndimage.find_objects(mask.astype(np.int8))[0]
        box = tuple(slice(max(0, s.start - MARGIN), s.stop + MARGIN) for s in found)  # a patient's brain may be larger
        image, brain = torch.from_numpy(whole[(slice(None), *box)]), torch.from_numpy(mask[box])
        sick, brain, truth = make_patient(
            image, brain, options.patients, options.lesions, (*seed, 2), voxel_mm, corner=[s.start for s in box],
            outlines=self._outlines,
        )  # fmt: skip
        if config.preparation.intensity == "percentile":  # a lesion moves the percentiles
            inside = brain.numpy()
            scaled = [normalise(channel, inside, config.preparation, "a patient") for channel in sick.numpy()]
            sick = torch.from_numpy(np.stack(scaled))
        look, _ = augment(
            sick[None], brain[None, None], options.appearance, mirror_axis=None, seeds=[(*seed, 4)], voxel_mm=voxel_mm
        )
        scan, inside, lesions = np.zeros_like(whole), np.zeros_like(mask), np.zeros((1, *mask.shape), dtype=np.float32)
        scan[(slice(None), *box)], inside[box], lesions[0][box] = look[0].numpy(), brain.numpy(), truth.numpy()
        return scan, inside, scan, lesions


class LesionSlices(LesionScans):
    """Slices of scans with lesions, each between its neighbours, addressed by ``(epoch, index)`` of the scan.

    Items are those of `LesionScans` with K random slices: ``(K, P · (2 · neighbours + 1) + 1, H, W)`` and
    ``(K, 1, H, W)``. Of a scan with lesions, a third of the slices are those of a random voxel of the lesions, a third
    are drawn from all slices with lesions, and a third from the whole brain.
    """

    def _tiles(self, stack: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> Tensor:
        planes, shape = self._config.sampling.planes, self._config.tile_shape
        neighbours = self._config.network_options.neighbours
        tiles = []
        for plane, count in zip(planes, rng.multinomial(self.patches, [1 / len(planes)] * len(planes)), strict=True):
            slices = slices_of(stack, plane)
            lesions, brain = slices[:, -2].sum(axis=(1, 2)), slices[:, -1].any(axis=(1, 2))
            weights = [lesions, lesions > 0, brain] if lesions.any() else [brain]
            drawn = [np.cumsum(weights[rng.integers(len(weights))]) for _ in range(count)]
            chosen = np.array([np.searchsorted(d, rng.random() * d[-1], side="right") for d in drawn], dtype=np.int64)
            shown = with_neighbours(slices[:, :-2], chosen, neighbours)
            tiles.append(padded(np.concatenate([shown, slices[chosen, -2:]], axis=1), shape))
        return torch.from_numpy(np.concatenate(tiles))


def lesion_scans(volumes: Sequence[ShownScan], config: Config, *, patches: int | None = None) -> LesionScans:
    """Scans with lesions of which patches or slices are cut, as ``config.sampling.kind`` says."""
    kind = LesionSlices if config.sampling.kind == "slice" else LesionScans
    return kind(volumes, config, patches=patches)


class FixedPatches(Dataset[tuple[Tensor, Tensor]]):
    """Patches of the first epoch, made once: ``patches[0, i]`` is ``(x, mask)`` of the i-th."""

    def __init__(self, scans: LesionScans) -> None:
        made = [scans[0, index] for index in range(len(scans))]
        self._x, self._mask = (torch.cat(parts) for parts in zip(*made, strict=True))

    def __len__(self) -> int:
        return len(self._x)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, Tensor]:
        return self._x[key[1]], self._mask[key[1]]


class MixedPatches:
    """Batches of patches from blocks of scans, each block shuffled: what `LesionScans` is trained on.

    Parameters
    ----------
    scans
        The data set.
    batch
        Patches of a step.
    seed
        Of the shuffling.
    """

    def __init__(self, scans: LesionScans, batch: int, seed: int) -> None:
        self._batch, self._seed = batch, seed
        self.block = max(BLOCK, -(-batch // scans.patches))
        """Scans whose patches are mixed."""
        self.steps = self.block * scans.patches // batch
        """Of one block."""

    def scans_of(self, start: int, stop: int) -> tuple[int, int]:
        """First scan, and last but one, that a process needs for the steps from ``start`` to ``stop``."""
        return start // self.steps * self.block, -(-stop // self.steps) * self.block

    def batches(self, loader: Iterable[tuple[Tensor, Tensor]], start: int, stop: int) -> Iterator[tuple[Tensor, ...]]:
        """The batches of steps ``start`` to ``stop``, from a loader of `single` scans that begins at `scans_of`."""
        scans, step = iter(loader), start // self.steps * self.steps
        while step < stop:
            patches = [patch for _ in range(self.block) for patch in zip(*next(scans), strict=True)]
            order = np.random.default_rng((self._seed, step)).permutation(len(patches))
            for first in range(0, self.steps * self._batch, self._batch):
                if start <= step < stop:
                    chosen = (patches[index] for index in order[first : first + self._batch])
                    yield tuple(torch.stack(parts) for parts in zip(*chosen, strict=True))
                step += 1


def single(items: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """The patches of the one scan that a loader was asked for, as they are: not copied into a batch of one."""
    (item,) = items
    return item
