"""Normative atlas: voxelwise mean and SD of the healthy training scans."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save
from torch import Tensor

from medvae.config import NetworkConfig
from medvae.files import write_bytes
from medvae.normative import deformation
from medvae.normative.bias_field import SHRINKAGE, STEP, BiasFieldReference
from medvae.normative.statistics import mean_and_sd, z_scores
from medvae.normative.texture import log_local_sd
from medvae.preparation.prepared import PreparedVolume
from medvae.tensors import read_arrays

ROUNDS = 3
"""Rounds of registering all scans to their mean, which becomes sharper each time."""


NAMES_ON_DISK = {
    "texture_mean": "rough_mean",
    "texture_sd": "rough_sd",
    "log_jacobian_mean": "growth_mean",
    "log_jacobian_sd": "growth_sd",
}
"""Attributes that are stored under an older name in ``atlas.safetensors``."""


@dataclass(frozen=True)
class FittedScan:
    """A scan without its residual bias field, and the displacement field that warps an atlas onto it."""

    image: np.ndarray
    """``(C, X, Y, Z)`` float32 in normalised intensity."""
    mask: np.ndarray
    """``(X, Y, Z)`` bool: the brain."""
    field: Tensor | None = None
    """At half the resolution, see `medvae.normative.deformation`; None for an atlas that is not warped."""
    mirror_source: np.ndarray | None = None
    """``(C, X, Y, Z)``, mirrored in place of the scan: the same brain with other lesions, for training."""

    @property
    def displacement(self) -> Tensor:
        """`field` of a scan onto which an atlas was warped."""
        if self.field is None:
            raise ValueError("no atlas was bent onto this scan, so it has no displacement field.")
        return self.field

    @cached_property
    def full_field(self) -> Tensor:
        """The field at every voxel, ``(3, X, Y, Z)``."""
        return deformation.expand(self.displacement, self.mask.shape)

    @property
    def mirrored(self) -> np.ndarray:
        """The scan mirrored left to right, ``(C, X, Y, Z)``: at each voxel the contralateral intensity.

        Mirrored at the midline of the standard grid or, with a field, at that of the atlas: each voxel is mapped to the
        atlas, mirrored there, and mapped back to the scan. Values outside the brain are meaningless.
        """
        source = self.image if self.mirror_source is None else self.mirror_source
        if self.field is None:
            return source[:, ::-1]  # the standard grid is symmetric about the midline
        places = _within(deformation.grid(self.mask.shape) + self.full_field, self.mask)
        places[0] = len(self.mask) - 1 - places[0]
        back = deformation.expand(deformation.inverse(self.field), self.mask.shape)
        moved = deformation.sample(torch.from_numpy(source), places + deformation.sample(back, places))
        return _filled(moved, self.mask)


@dataclass(frozen=True)
class Atlas:
    """Mean and SD of normalised intensity at each voxel of the standard grid, ``(C, X, Y, Z)`` float32 each.

    For a network that is shown the texture (`medvae.normative.texture`), also its mean and SD, after all scans are
    brought to the same overall level. An atlas that is warped onto each scan also holds, at each voxel, the fraction of
    brains that cover it and the mean and SD of the log-Jacobian: ``(1, X, Y, Z)`` each.
    """

    mean: np.ndarray
    sd: np.ndarray
    texture_mean: np.ndarray | None = None
    texture_sd: np.ndarray | None = None
    cover: np.ndarray | None = None
    log_jacobian_mean: np.ndarray | None = None
    log_jacobian_sd: np.ndarray | None = None

    def fit(self, image: np.ndarray, mask: np.ndarray) -> FittedScan:
        """Correct a scan ``(C, X, Y, Z)`` for residual bias field, and find the field that warps the atlas onto it.

        For a warped atlas the bias field is estimated twice: first against the unwarped atlas, to find the displacement
        field, then against the warped one.
        """
        even = self._reference(self.mean, self.sd).remove(image, mask)
        if self.cover is None:
            return FittedScan(even, mask)
        field = deformation.demons(torch.from_numpy(even), torch.from_numpy(self.mean * (self.cover > 0.5)))
        bent = FittedScan(even, mask, field)
        healthy = self.at(bent, ("mean", "sd"))
        return replace(bent, image=self._reference(healthy["mean"], healthy["sd"]).remove(image, mask))

    def at(self, scan: FittedScan, names: Sequence[str]) -> dict[str, np.ndarray]:
        """Arrays of the atlas at the voxels of a scan, ``(C, X, Y, Z)`` each; if warped, inside the brain only."""
        arrays = [getattr(self, name) for name in names]
        if scan.field is None:
            return dict(zip(names, arrays, strict=True))
        places = _within(deformation.grid(scan.mask.shape) + scan.full_field, scan.mask)
        bent = _filled(deformation.sample(torch.from_numpy(np.concatenate(arrays)), places), scan.mask)
        return dict(zip(names, np.split(bent, np.cumsum([len(array) for array in arrays])[:-1]), strict=True))

    def z_scores(self, scan: FittedScan) -> np.ndarray:
        """z score of each voxel of a scan, in SDs above the healthy mean there, ``(C, X, Y, Z)`` float32."""
        healthy = self.at(scan, ("mean", "sd"))
        return z_scores(scan.image, healthy["mean"], healthy["sd"], scan.mask)

    def equals(self, other: Atlas) -> bool:
        """Whether both hold the same numbers."""
        mine, others = dict(self._arrays()), dict(other._arrays())
        return mine.keys() == others.keys() and all(np.array_equal(mine[name], others[name]) for name in mine)

    @staticmethod
    def _reference(mean: np.ndarray, sd: np.ndarray) -> BiasFieldReference:
        return BiasFieldReference(mean[:, *STEP], sd[:, *STEP])

    def _arrays(self) -> Iterator[tuple[str, np.ndarray]]:
        for field in fields(self):
            if (array := getattr(self, field.name)) is not None:
                yield field.name, array

    def save(self, path: Path) -> None:
        """Write the atlas as a half-precision safetensors file; lossless for an atlas made by `fit_atlas`."""
        write_bytes(
            path, save({NAMES_ON_DISK.get(name, name): array.astype(np.float16) for name, array in self._arrays()})
        )

    @classmethod
    def load(cls, path: Path, shape: Sequence[int]) -> Atlas:
        """Read an atlas written by `save`, of a grid of ``shape``."""
        known = {NAMES_ON_DISK.get(field.name, field.name): field.name for field in fields(cls)}
        arrays = read_arrays(
            path, {name: (None, *shape) for name in ("mean", "sd")}, {n: (None, *shape) for n in known}
        )
        return cls(**{known[name]: array.astype(np.float32) for name, array in arrays.items()})


def fit_atlas(volumes: Sequence[PreparedVolume], *, texture: bool = False, deformable: bool = False) -> Atlas:
    """The atlas of some healthy scans, rounded to half precision.

    Parameters
    ----------
    volumes
        At least three prepared healthy scans.
    texture
        With mean and SD of the texture.
    deformable
        To be warped onto each scan. The training scans are first registered to their mean, in a few rounds, each with
        the mean of the previous one; the SD then reflects only the variability that no field can remove (0.3 s per scan
        and round).

    Raises
    ------
    MedvaeError
        With fewer than three scans.
    """
    images, masks = [volume.image for volume in volumes], [volume.mask for volume in volumes]
    found = dict(zip(("mean", "sd"), mean_and_sd(images, masks, SHRINKAGE), strict=True))
    if texture and not deformable:
        found |= _texture_of([image * mask for image, mask in zip(images, masks, strict=True)], masks)
    if deformable:
        found["cover"] = _share(masks)
        for last in [*[False] * (ROUNDS - 1), True]:
            found = _bent_to_mean(_rounded(found), images, masks, texture and last)
    return _rounded(found)


def atlas_of(options: NetworkConfig, volumes: Sequence[PreparedVolume]) -> Atlas:
    """The atlas that a network with ``options.atlas`` is shown; see `fit_atlas`."""
    return fit_atlas(volumes, texture=options.texture, deformable=options.deformable)


def _bent_to_mean(
    atlas: Atlas, images: Sequence[np.ndarray], masks: Sequence[np.ndarray], texture: bool
) -> dict[str, np.ndarray]:
    """Mean and SD of scans that were warped to an atlas; also of their texture and log-Jacobian."""
    bent, brains, rough, levels, grown = [], [], [], [], []
    for image, mask in zip(images, masks, strict=True):
        scan = atlas.fit(image, mask)
        even, field = scan.image, scan.displacement
        back = deformation.expand(deformation.inverse(field), mask.shape)
        size = deformation.expand_map(deformation.log_jacobian(field), mask.shape)[None]
        parts = [torch.from_numpy(even), torch.from_numpy(np.array(mask, dtype=np.float32))[None], size]
        if texture:
            parts.append(log_local_sd(parts[0][None])[0])
            levels.append(np.median(parts[-1][:, mask].numpy(), axis=1))
        moved = deformation.pull(torch.cat(parts), back).numpy()
        channels = len(even)
        bent.append(moved[:channels])
        brains.append(moved[channels] > 0.5)
        grown.append(moved[channels + 1 : channels + 2])
        rough.append(moved[channels + 2 :])
    everywhere = [np.ones_like(brain) for brain in brains]
    found = dict(zip(("mean", "sd"), mean_and_sd(bent, brains, SHRINKAGE), strict=True))
    if texture:
        found |= _texture_statistics(rough, levels, brains)
    found["cover"] = _share(brains)
    found |= dict(zip(("log_jacobian_mean", "log_jacobian_sd"), mean_and_sd(grown, everywhere, SHRINKAGE), strict=True))
    return found


def _share(masks: Sequence[np.ndarray]) -> np.ndarray:
    """Fraction of brains that cover each voxel, ``(1, X, Y, Z)`` float32."""
    return np.expand_dims(np.mean(masks, axis=0, dtype=np.float32), 0)


def _within(places: Tensor, mask: np.ndarray) -> Tensor:
    """The positions ``(3, X, Y, Z)`` that lie in the mask, ``(3, V)``: only a third of the grid is brain."""
    return places[:, torch.from_numpy(np.ascontiguousarray(mask))]


def _filled(values: Tensor, mask: np.ndarray) -> np.ndarray:
    """Values ``(C, V)`` of the mask's voxels on the whole grid, ``(C, X, Y, Z)``, 0 outside."""
    whole = np.zeros((len(values), *mask.shape), dtype=np.float32)
    whole[:, mask] = values.numpy()
    return whole


def _texture_of(images: Sequence[np.ndarray], masks: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    rough = [log_local_sd(torch.from_numpy(image)[None])[0].numpy() for image in images]
    levels = [np.median(one[:, mask], axis=1) for one, mask in zip(rough, masks, strict=True)]
    return _texture_statistics(rough, levels, masks)


def _texture_statistics(
    rough: Sequence[np.ndarray], levels: Sequence[np.ndarray], masks: Sequence[np.ndarray]
) -> dict[str, np.ndarray]:
    """Mean and SD of the texture ``(C, X, Y, Z)``, each scan shifted from its own level ``(C,)`` to the mean level."""
    moves = np.mean(levels, axis=0) - np.array(levels)
    even = [one + move[:, None, None, None] for one, move in zip(rough, moves, strict=True)]
    return dict(zip(("texture_mean", "texture_sd"), mean_and_sd(even, masks, SHRINKAGE), strict=True))


def _rounded(arrays: dict[str, np.ndarray]) -> Atlas:
    """Rounded to half precision, as it is saved."""
    return Atlas(**{name: array.astype(np.float16).astype(np.float32) for name, array in arrays.items()})
