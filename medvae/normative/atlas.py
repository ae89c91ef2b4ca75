"""What healthy brains look like at each place: mean and SD of the training scans, shown to a network beside a scan."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file, save
from scipy import ndimage
from torch import Tensor

from medvae.config import NetworkConfig
from medvae.files import write_bytes
from medvae.normative import deformation
from medvae.normative.bias_field import SHRINKAGE, STEP, ShadingReference
from medvae.normative.statistics import SMALLEST_SD, mean_and_sd
from medvae.normative.texture import roughness as measure_roughness
from medvae.preparation.prepared import PreparedVolume

ROUNDS = 3
"""Of bending all scans to their mean, which becomes sharper each time."""

SMALLEST_GROWTH_SD = 0.05
"""Of the logarithm of a volume: where healthy brains agree better than this, noise would look like growth."""


@dataclass(frozen=True)
class Atlas:
    """Mean and SD of normalised intensity at each place of the standard grid, ``(C, X, Y, Z)`` float32 each.

    And those of its roughness, see `medvae.normative.texture`, for a network that is shown it, each scan at the same
    level as a whole. An atlas that is to be bent onto each scan also knows which share of the brains covers a place,
    and how much more room than in the atlas they take there: ``(1, X, Y, Z)`` each.
    """

    mean: np.ndarray
    sd: np.ndarray
    rough_mean: np.ndarray | None = None
    rough_sd: np.ndarray | None = None
    cover: np.ndarray | None = None
    growth_mean: np.ndarray | None = None
    growth_sd: np.ndarray | None = None

    def beside(self, image: np.ndarray, mask: np.ndarray, mirror: bool = False) -> np.ndarray:
        """A scan ``(C, X, Y, Z)`` with the atlas inside its brain as further channels: ``(3C, X, Y, Z)`` float32.

        The scan's channels come first, freed of the shading in which they differ from the means; then the means, then
        the SDs, then those of the roughness if the atlas has them, the means at the level of this scan; then, if it is
        bent onto the scan, how much more room tissue takes than in healthy brains, as a z value; with ``mirror`` C
        more, the scan mirrored left to right, inside the same mask.
        """
        return self.beside_fitted(*self.fitted(image, mask), mask, mirror)

    def fitted(self, image: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, Tensor | None]:
        """A scan ``(C, X, Y, Z)`` freed of its shading, and the field that bends the atlas onto it if it is to be bent.

        Shading is taken out twice then: against the atlas where it is, to find the field, and against the bent one.
        """
        even = self._reference(self.mean, self.sd).remove(image, mask)
        if self.cover is None:
            return even, None
        field = deformation.register(torch.from_numpy(even), torch.from_numpy(self._template()))
        return self._reference(*self.healthy(field, mask)).remove(image, mask), field

    def healthy(self, field: Tensor | None, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and SD at the places of a scan, ``(C, X, Y, Z)`` each, by the field of `fitted`; 0 outside if bent."""
        if field is None:
            return self.mean, self.sd
        mean, sd = self._bent(("mean", "sd"), deformation.expand(field, mask.shape), mask).values()
        return mean, sd

    def beside_fitted(
        self,
        even: np.ndarray,
        field: Tensor | None,
        mask: np.ndarray,
        mirror: bool = False,
        other: np.ndarray | None = None,
    ) -> np.ndarray:
        """As `beside`, for what `fitted` gave.

        ``other`` ``(C, X, Y, Z)`` is mirrored instead of the scan: the same brain with other lesions, to learn from.
        """
        source = even if other is None else other
        if field is None:
            healthy = [array for _, array in self._arrays()]
            mirrored = [source[:, ::-1]] if mirror else []  # the standard grid is symmetric about the midline
        else:
            whole = deformation.expand(field, mask.shape)
            healthy = self._bent([name for name, _ in self._arrays() if name != "cover"], whole, mask)
            grown = deformation.expand_map(deformation.growth(field), mask.shape).numpy()[None]
            grown = (grown - healthy.pop("growth_mean")) / np.maximum(healthy.pop("growth_sd"), SMALLEST_GROWTH_SD)
            healthy = [*healthy.values(), np.repeat(grown, len(even), axis=0)]
            mirrored = [_mirrored(torch.from_numpy(source), field, whole, mask)] if mirror else []
        shown = np.concatenate([even, *healthy, *mirrored]).astype(np.float32, copy=False) * mask
        if self.rough_mean is not None:
            means = shown[3 * len(even) : 4 * len(even)]  # after scan, mean and SD
            means += roughness_level(even * mask, mask, means)[:, None, None, None] * mask
        return shown

    def equals(self, other: Atlas) -> bool:
        """Whether both hold the same numbers."""
        mine, others = dict(self._arrays()), dict(other._arrays())
        return mine.keys() == others.keys() and all(np.array_equal(mine[name], others[name]) for name in mine)

    def _bent(self, names: Sequence[str], field: Tensor, mask: np.ndarray) -> dict[str, np.ndarray]:
        """Arrays of the atlas bent by a field of full resolution, inside the mask; 0 outside."""
        arrays = [getattr(self, name) for name in names]
        places = _within(deformation.grid(mask.shape) + field, mask)
        bent = _filled(deformation.sample(torch.from_numpy(np.concatenate(arrays)), places), mask)
        return dict(zip(names, np.split(bent, np.cumsum([len(array) for array in arrays])[:-1]), strict=True))

    def _template(self) -> np.ndarray:
        """The mean brain, 0 outside."""
        return self.mean * (self.cover > 0.5)

    @staticmethod
    def _reference(mean: np.ndarray, sd: np.ndarray) -> ShadingReference:
        return ShadingReference(mean[:, *STEP], sd[:, *STEP])

    def _arrays(self) -> Iterator[tuple[str, np.ndarray]]:
        for field in fields(self):
            if (array := getattr(self, field.name)) is not None:
                yield field.name, array

    def save(self, path: Path) -> None:
        """Write the atlas as a safetensors file of half precision, which loses nothing of what `fit_atlas` made."""
        write_bytes(path, save({name: array.astype(np.float16) for name, array in self._arrays()}))

    @classmethod
    def load(cls, path: Path) -> Atlas:
        """Read what `save` wrote."""
        return cls(**{name: array.astype(np.float32) for name, array in load_file(path).items()})


def fit_atlas(volumes: Sequence[PreparedVolume], *, roughness: bool = False, deformable: bool = False) -> Atlas:
    """The atlas of some healthy scans, rounded to half precision.

    Parameters
    ----------
    volumes
        At least three prepared healthy scans.
    roughness
        With that of their roughness.
    deformable
        To be bent onto each scan. The scans are bent to their mean first, in a few rounds, each with the mean of the
        round before: what is left of their variety is what a field cannot take away (0.3 s per scan and round).

    Raises
    ------
    MedvaeError
        With fewer than three scans.
    """
    images, masks = [volume.image for volume in volumes], [volume.mask for volume in volumes]
    found = dict(zip(("mean", "sd"), mean_and_sd(images, masks, SHRINKAGE), strict=True))
    if roughness and not deformable:
        found |= _roughness_of([image * mask for image, mask in zip(images, masks, strict=True)], masks)
    if deformable:
        found["cover"] = np.mean(masks, axis=0, dtype=np.float32)[None]
        for last in [*[False] * (ROUNDS - 1), True]:
            found = _bent_to_mean(_rounded(found), images, masks, roughness and last)
    return _rounded(found)


def atlas_of(options: NetworkConfig, volumes: Sequence[PreparedVolume]) -> Atlas:
    """The atlas that a network with ``options.atlas`` is shown; see `fit_atlas`."""
    return fit_atlas(volumes, roughness=options.roughness, deformable=options.deformable)


def roughness_level(image: np.ndarray, mask: np.ndarray, means: np.ndarray) -> np.ndarray:
    """How much rougher a scan is than healthy ones as a whole: the median over its brain, of each channel ``(C,)``.

    Sharp scans and noisy ones are rough everywhere, blurred ones and thick slices nowhere; no lesion is.

    Parameters
    ----------
    image
        ``(C, X, Y, Z)``, 0 outside the mask.
    mask
        ``(X, Y, Z)`` bool.
    means
        ``(C, X, Y, Z)``, of the healthy roughness at each place.
    """
    box = ndimage.find_objects(mask.astype(np.int8))[0]
    rough = measure_roughness(torch.from_numpy(np.ascontiguousarray(image[:, *box]))[None])[0].numpy()
    return np.median((rough - means[:, *box])[:, mask[box]], axis=1).astype(np.float32)


def _bent_to_mean(
    atlas: Atlas, images: Sequence[np.ndarray], masks: Sequence[np.ndarray], roughness: bool
) -> dict[str, np.ndarray]:
    """Mean and SD of scans that were bent to an atlas; also of their roughness and growth."""
    bent, brains, rough, levels, grown = [], [], [], [], []
    for image, mask in zip(images, masks, strict=True):
        even, field = atlas.fitted(image, mask)
        back = deformation.expand(deformation.inverse(field), mask.shape)
        size = deformation.expand_map(deformation.growth(field), mask.shape)[None]
        parts = [torch.from_numpy(even), torch.from_numpy(np.array(mask, dtype=np.float32))[None], size]
        if roughness:
            parts.append(measure_roughness(parts[0][None])[0])
            levels.append(np.median(parts[-1][:, mask].numpy(), axis=1))
        moved = deformation.pull(torch.cat(parts), back).numpy()
        channels = len(even)
        bent.append(moved[:channels])
        brains.append(moved[channels] > 0.5)
        grown.append(moved[channels + 1 : channels + 2])
        rough.append(moved[channels + 2 :])
    everywhere = [np.ones_like(brain) for brain in brains]
    found = dict(zip(("mean", "sd"), mean_and_sd(bent, brains, SHRINKAGE), strict=True))
    if roughness:
        found |= _roughness_statistics(rough, levels, brains)
    found["cover"] = np.mean(brains, axis=0, dtype=np.float32)[None]
    found |= dict(zip(("growth_mean", "growth_sd"), mean_and_sd(grown, everywhere, SHRINKAGE), strict=True))
    return found


def _mirrored(image: Tensor, field: Tensor, whole: Tensor, mask: np.ndarray) -> np.ndarray:
    """A scan ``(C, X, Y, Z)`` mirrored at the midline of the atlas: at each voxel what the other side has in its place.

    By the field that bends the atlas onto the scan, coarse and ``whole``: from a voxel to its place in the atlas, to
    the place mirrored there, and back into the scan. 0 outside the mask.
    """
    places = _within(deformation.grid(mask.shape) + whole, mask)
    places[0] = len(mask) - 1 - places[0]
    back = deformation.expand(deformation.inverse(field), mask.shape)
    return _filled(deformation.sample(image, places + deformation.sample(back, places)), mask)


def _within(places: Tensor, mask: np.ndarray) -> Tensor:
    """Those of the places ``(3, X, Y, Z)`` that lie in the mask, ``(3, V)``: a third of the grid is brain."""
    return places[:, torch.from_numpy(np.ascontiguousarray(mask))]


def _filled(values: Tensor, mask: np.ndarray) -> np.ndarray:
    """Values ``(C, V)`` of the mask's voxels on the whole grid, ``(C, X, Y, Z)``, 0 outside."""
    whole = np.zeros((len(values), *mask.shape), dtype=np.float32)
    whole[:, mask] = values.numpy()
    return whole


def _roughness_of(images: Sequence[np.ndarray], masks: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    rough = [measure_roughness(torch.from_numpy(image)[None])[0].numpy() for image in images]
    levels = [np.median(one[:, mask], axis=1) for one, mask in zip(rough, masks, strict=True)]
    return _roughness_statistics(rough, levels, masks)


def _roughness_statistics(
    rough: Sequence[np.ndarray], levels: Sequence[np.ndarray], masks: Sequence[np.ndarray]
) -> dict[str, np.ndarray]:
    """Mean and SD of roughness ``(C, X, Y, Z)``, each scan moved from its own level ``(C,)`` to the mean one."""
    moves = np.mean(levels, axis=0) - np.array(levels)
    even = [one + move[:, None, None, None] for one, move in zip(rough, moves, strict=True)]
    return dict(zip(("rough_mean", "rough_sd"), mean_and_sd(even, masks, SHRINKAGE), strict=True))


def _rounded(arrays: dict[str, np.ndarray]) -> Atlas:
    """To half precision, as it is saved."""
    return Atlas(**{name: array.astype(np.float16).astype(np.float32) for name, array in arrays.items()})


class VolumeWithAtlas(PreparedVolume):
    """A prepared volume whose image, freed of shading, is followed by the atlas: as `Atlas.beside`.

    Only the scan and the field that bends the atlas onto it are kept; the channels are put together anew at each use,
    to save memory.
    """

    plain: PreparedVolume
    atlas: Atlas
    mirror: bool

    def __init__(self, plain: PreparedVolume, atlas: Atlas, mirror: bool = False) -> None:
        same = {name: getattr(plain, name) for name in ("source", "transform", "registered", "brain_from", "quality")}
        self.__dict__.update(same, plain=plain, grid=plain.grid, atlas=atlas, mirror=mirror)

    @cached_property
    def _fitted(self) -> tuple[np.ndarray, Tensor | None]:
        return self.atlas.fitted(self.plain.image, self.plain.mask)

    @property
    def image(self) -> np.ndarray:
        """``(3C, X, Y, Z)`` float32, or more; see `Atlas.beside`."""
        return self.beside(self.mirror)

    def beside(self, mirror: bool) -> np.ndarray:
        """`image`, with the mirrored scan or without."""
        return self.atlas.beside_fitted(*self._fitted, self.mask, mirror)

    def deviation(self) -> np.ndarray:
        """How many SDs each voxel lies above the healthy mean of its place, ``(C, X, Y, Z)`` float32."""
        scan, field = self._fitted
        mean, sd = self.atlas.healthy(field, self.mask)
        return np.where(self.mask, (scan - mean) / np.maximum(sd, SMALLEST_SD), 0).astype(np.float32)

    @property
    def mask(self) -> np.ndarray:
        """``(X, Y, Z)`` bool on the standard grid."""
        return self.plain.mask

    @property
    def source_mask(self) -> np.ndarray:
        """``(X, Y, Z)`` bool on the scan's own grid."""
        return self.plain.source_mask
