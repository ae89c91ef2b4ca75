"""What healthy brains look like at each place: mean and SD of the training scans, shown to a network beside a scan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file, save

from medvae.calibration import mean_and_sd
from medvae.files import write_bytes
from medvae.preparation.prepare import PreparedVolume
from medvae.roughness import roughness as measure_roughness
from medvae.shading import SHRINKAGE, STEP, ShadingReference


@dataclass(frozen=True)
class Atlas:
    """Mean and SD of normalised intensity at each place of the standard grid, ``(C, X, Y, Z)`` float32 each.

    And those of its roughness, see `medvae.roughness`, for a network that is shown it.
    """

    mean: np.ndarray
    sd: np.ndarray
    rough_mean: np.ndarray | None = None
    rough_sd: np.ndarray | None = None

    def beside(self, image: np.ndarray, mask: np.ndarray, mirror: bool = False) -> np.ndarray:
        """A scan ``(C, X, Y, Z)`` with the atlas inside its brain as further channels: ``(3C, X, Y, Z)`` float32.

        The scan's channels come first, freed of the shading in which they differ from the means; then the means, then
        the SDs, then those of the roughness if the atlas has them; with ``mirror`` C more, the scan mirrored left to
        right, inside the same mask.
        """
        return self._beside(self.even(image, mask), mask, mirror)

    def even(self, image: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """A scan ``(C, X, Y, Z)`` freed of its shading, see `medvae.shading.without_shading`."""
        return ShadingReference(self.mean[:, *STEP], self.sd[:, *STEP]).remove(image, mask)

    def _beside(self, even: np.ndarray, mask: np.ndarray, mirror: bool) -> np.ndarray:
        mirrored = [even[:, ::-1] * mask] if mirror else []  # the standard grid is symmetric about the midline
        healthy = [array * mask for array in self._arrays().values()]
        return np.concatenate([even, *healthy, *mirrored]).astype(np.float32, copy=False)

    def _arrays(self) -> dict[str, np.ndarray]:
        return {field.name: array for field in fields(self) if (array := getattr(self, field.name)) is not None}

    def save(self, path: Path) -> None:
        """Write the atlas as a safetensors file of half precision, which loses nothing of what `fit_atlas` made."""
        write_bytes(path, save({name: array.astype(np.float16) for name, array in self._arrays().items()}))

    @classmethod
    def load(cls, path: Path) -> Atlas:
        """Read what `save` wrote."""
        return cls(**{name: array.astype(np.float32) for name, array in load_file(path).items()})


def fit_atlas(volumes: Sequence[PreparedVolume], *, roughness: bool = False) -> Atlas:
    """The atlas of some healthy scans, rounded to half precision; with that of their ``roughness`` if asked for.

    Raises
    ------
    MedvaeError
        With fewer than three scans.
    """
    masks = [volume.mask for volume in volumes]
    found = [*mean_and_sd([volume.image for volume in volumes], masks, SHRINKAGE)]
    if roughness:
        found += mean_and_sd([_roughness(volume) for volume in volumes], masks, SHRINKAGE)
    return Atlas(*(array.astype(np.float16).astype(np.float32) for array in found))


def _roughness(volume: PreparedVolume) -> np.ndarray:
    return measure_roughness(torch.from_numpy(volume.image * volume.mask)[None])[0].numpy()


class VolumeWithAtlas(PreparedVolume):
    """A prepared volume whose image, freed of shading, is followed by the atlas: as `Atlas.beside`.

    Only the scan is kept; the channels are put together anew at each use, to save memory.
    """

    plain: PreparedVolume
    atlas: Atlas
    even: np.ndarray
    mirror: bool

    def __init__(self, plain: PreparedVolume, atlas: Atlas, mirror: bool = False) -> None:
        same = {name: getattr(plain, name) for name in ("source", "transform", "registered", "brain_from", "quality")}
        self.__dict__.update(same, plain=plain, atlas=atlas, mirror=mirror)
        self.__dict__["even"] = atlas.even(plain.image, plain.mask)

    @property
    def image(self) -> np.ndarray:
        """``(3C, X, Y, Z)`` float32, or more; see `Atlas.beside`."""
        return self.atlas._beside(self.even, self.mask, self.mirror)

    @property
    def mask(self) -> np.ndarray:
        """``(X, Y, Z)`` bool on the standard grid."""
        return self.plain.mask

    @property
    def source_mask(self) -> np.ndarray:
        """``(X, Y, Z)`` bool on the scan's own grid."""
        return self.plain.source_mask
