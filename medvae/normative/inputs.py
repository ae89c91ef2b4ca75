"""Voxelwise inputs of a network: one class for each input, assembled here.

Inputs are made in two stages. On the whole scan, `NetworkInputs` computes the *maps* that an input needs and stacks
them along the channel axis, so that patches are cropped, flipped and rotated with all of them. In the network, `Inputs`
turns a tile's maps into the *images* that the first convolution sees. `Channels` names the maps.

To add an input, add a subclass of `Input` to `INPUTS` and the option of `NetworkConfig` that enables it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from medvae.config import NetworkConfig
from medvae.imaging.boxes import box_of
from medvae.normative import deformation
from medvae.normative.atlas import Atlas, FittedScan, atlas_of
from medvae.normative.bias_field import BiasFieldReference, fit_reference
from medvae.normative.statistics import SMALLEST_SD
from medvae.normative.texture import log_local_sd
from medvae.preparation.prepared import PreparedVolume

LARGEST_Z = 6.0
"""z scores are clipped here and divided by half of it, so that all inputs have about the same range."""

SMALLEST_LOG_JACOBIAN_SD = 0.05
"""Lower bound of the SD of the log-Jacobian; with a smaller one noise would look like expansion."""


@dataclass(frozen=True)
class Channels:
    """The maps that a tile carries, in their order along the channel axis: names, and one channel for each modality."""

    names: tuple[str, ...] = ("scan",)
    modalities: int = 1

    @property
    def count(self) -> int:
        """Channels of a tile."""
        return len(self.names) * self.modalities

    def of(self, name: str) -> slice:
        """The channels of one map."""
        first = self.names.index(name) * self.modalities
        return slice(first, first + self.modalities)

    def split(self, tile: Tensor) -> dict[str, Tensor]:
        """The maps ``(N, C, *spatial)`` of a tile ``(N, count, *spatial)``."""
        return dict(zip(self.names, tile.split(self.modalities, dim=1), strict=True))

    def join(self, maps: Mapping[str, Tensor]) -> Tensor:
        """The tile of some maps; the inverse of `split`."""
        return torch.cat([maps[name] for name in self.names], dim=1)


class Input(ABC):
    """One input of a network."""

    maps: ClassVar[tuple[str, ...]]
    """Names of the maps that it needs in a tile."""
    atlas: ClassVar[tuple[str, ...]] = ()
    """Arrays of the atlas needed to compute them."""

    @classmethod
    @abstractmethod
    def wanted(cls, options: NetworkConfig) -> bool:
        """Whether a config enables it."""

    @abstractmethod
    def measure(self, scan: FittedScan, healthy: Mapping[str, np.ndarray]) -> Sequence[np.ndarray]:
        """Its maps ``(C, X, Y, Z)`` of a whole scan; ``healthy`` are its arrays of the atlas at the scan's voxels."""

    @abstractmethod
    def images(self, tile: Mapping[str, Tensor]) -> Sequence[Tensor]:
        """Images that the network sees, ``(N, C, *spatial)`` each, from a tile's maps, which include other inputs'."""


class Scan(Input):
    """The scan itself, without its residual bias field if there is an atlas."""

    maps = ("scan",)

    @classmethod
    def wanted(cls, options: NetworkConfig) -> bool:
        """Always."""
        return True

    def measure(self, scan: FittedScan, healthy: Mapping[str, np.ndarray]) -> Sequence[np.ndarray]:
        """``(C, X, Y, Z)`` in normalised intensity."""
        return [scan.image]

    def images(self, tile: Mapping[str, Tensor]) -> Sequence[Tensor]:
        """Unchanged."""
        return [tile["scan"]]


class HealthyIntensity(Input):
    """The healthy mean at each voxel, and the z score of the scan.

    The same intensity is a lesion in one location and a ventricle in another. Learning normal anatomy from lesions
    alone takes thousands of steps.
    """

    maps = ("mean", "sd")
    atlas = ("mean", "sd")

    @classmethod
    def wanted(cls, options: NetworkConfig) -> bool:
        """With ``network.atlas``."""
        return options.atlas

    def measure(self, scan: FittedScan, healthy: Mapping[str, np.ndarray]) -> Sequence[np.ndarray]:
        """Mean and SD."""
        return [healthy["mean"], healthy["sd"]]

    def images(self, tile: Mapping[str, Tensor]) -> Sequence[Tensor]:
        """Mean and z score."""
        return [tile["mean"], z_score(tile["scan"], tile["mean"], tile["sd"])]


class Mirrored(Input):
    """The scan mirrored left to right, and its z score: symmetric findings are rarely lesions."""

    maps = ("mirrored",)

    @classmethod
    def wanted(cls, options: NetworkConfig) -> bool:
        """With ``network.mirror``."""
        return options.mirror

    def measure(self, scan: FittedScan, healthy: Mapping[str, np.ndarray]) -> Sequence[np.ndarray]:
        """The mirrored scan."""
        return [scan.mirrored]

    def images(self, tile: Mapping[str, Tensor]) -> Sequence[Tensor]:
        """The mirrored scan and, with an atlas, its z score."""
        if "mean" not in tile:
            return [tile["mirrored"]]
        return [tile["mirrored"], z_score(tile["mirrored"], tile["mean"], tile["sd"])]


class Texture(Input):
    """The z score of the texture of the scan, and of the mirrored scan if that is shown.

    The network's strided convolutions would lose this detail.
    """

    maps = ("texture_mean", "texture_sd")
    atlas = ("texture_mean", "texture_sd")

    @classmethod
    def wanted(cls, options: NetworkConfig) -> bool:
        """With ``network.texture``."""
        return options.texture

    def measure(self, scan: FittedScan, healthy: Mapping[str, np.ndarray]) -> Sequence[np.ndarray]:
        """Healthy mean, shifted to this scan's overall level, and SD."""
        mean = healthy["texture_mean"] * scan.mask
        level = texture_level(scan.image * scan.mask, scan.mask, mean)
        return [mean + level[:, None, None, None] * scan.mask, healthy["texture_sd"]]

    def images(self, tile: Mapping[str, Tensor]) -> Sequence[Tensor]:
        """One z score, or two."""
        scans = [tile[name] for name in ("scan", "mirrored") if name in tile]
        return [z_score(log_local_sd(scan), tile["texture_mean"], tile["texture_sd"]) for scan in scans]


class LogJacobian(Input):
    """Local expansion relative to healthy brains, as a z score: a sign of mass effect."""

    maps = ("log_jacobian",)
    atlas = ("log_jacobian_mean", "log_jacobian_sd")

    @classmethod
    def wanted(cls, options: NetworkConfig) -> bool:
        """With ``network.deformable``."""
        return options.deformable

    def measure(self, scan: FittedScan, healthy: Mapping[str, np.ndarray]) -> Sequence[np.ndarray]:
        """The z score, the same for each modality."""
        found = deformation.expand_map(deformation.log_jacobian(scan.displacement), scan.mask.shape).numpy()[None]
        sd = np.maximum(healthy["log_jacobian_sd"], SMALLEST_LOG_JACOBIAN_SD)
        return [np.repeat((found - healthy["log_jacobian_mean"]) / sd, len(scan.image), axis=0)]

    def images(self, tile: Mapping[str, Tensor]) -> Sequence[Tensor]:
        """The z score in the range of the others."""
        return [tile["log_jacobian"].clamp(-LARGEST_Z, LARGEST_Z) / (LARGEST_Z / 2)]


INPUTS: tuple[type[Input], ...] = (Scan, HealthyIntensity, Mirrored, Texture, LogJacobian)
"""In the order in which a network sees them; trained weights depend on it."""


@dataclass(frozen=True)
class Inputs:
    """The inputs of one network, for some modalities."""

    inputs: tuple[Input, ...] = (Scan(),)
    modalities: int = 1

    @classmethod
    def of(cls, options: NetworkConfig, modalities: int) -> Inputs:
        """The inputs that a config enables."""
        return cls(tuple(kind() for kind in INPUTS if kind.wanted(options)), modalities)

    @property
    def channels(self) -> Channels:
        """The channels of a tile."""
        return Channels(tuple(name for one in self.inputs for name in one.maps), self.modalities)

    def images(self, tile: Tensor) -> Tensor:
        """The network's images, ``(N, S, *spatial)``, from a tile ``(N, channels.count, *spatial)``."""
        maps = self.channels.split(tile)
        return torch.cat([image for one in self.inputs for image in one.images(maps)], dim=1)

    @property
    def seen(self) -> int:
        """S, the number of channels that the network sees."""
        # On the CPU wherever the caller builds its network: arithmetic on the meta device imports torch's compiler,
        # which takes longer than everything else of loading a detector.
        return self.images(torch.zeros(1, self.channels.count, 1, 1, device="cpu")).shape[1]


@dataclass(frozen=True)
class NetworkInputs:
    """The inputs of a network, with the normative data of the healthy training scans."""

    inputs: Inputs
    atlas: Atlas | None = None
    """For a network that is shown it."""
    bias_field: BiasFieldReference | None = None
    """For a network without an atlas that is shown bias-corrected scans."""

    @classmethod
    def fit(
        cls,
        options: NetworkConfig,
        modalities: int,
        training: Sequence[PreparedVolume],
        *,
        atlas: Atlas | None = None,
        bias_field: BiasFieldReference | None = None,
    ) -> NetworkInputs:
        """The inputs of a config, with the atlas or bias-field reference of healthy training scans.

        ``atlas`` and ``bias_field`` are given where they have been made before.

        Raises
        ------
        MedvaeError
            With fewer than three scans where they are needed.
        """
        inputs = Inputs.of(options, modalities)
        if options.atlas:
            return cls(inputs, atlas=atlas or atlas_of(options, training))
        removed = options.bias_field == "removed"
        return cls(inputs, bias_field=(bias_field or fit_reference(training)) if removed else None)

    @property
    def channels(self) -> Channels:
        """The maps in a stack."""
        return self.inputs.channels

    def fitted(self, image: np.ndarray, mask: np.ndarray) -> FittedScan:
        """A scan ``(C, X, Y, Z)`` corrected for residual bias field, with a deformable atlas warped onto it."""
        if self.atlas is not None:
            return self.atlas.fit(image, mask)
        return FittedScan(image if self.bias_field is None else self.bias_field.remove(image, mask), mask)

    def stack(self, scan: FittedScan) -> np.ndarray:
        """The maps of a scan, ``(channels.count, X, Y, Z)`` float32; 0 outside the brain, save the scan alone."""
        if self.plain:
            return scan.image
        names = [name for one in self.inputs.inputs for name in one.atlas]
        healthy = self.atlas.at(scan, names) if self.atlas is not None else {}
        maps = [found for one in self.inputs.inputs for found in one.measure(scan, healthy)]
        return np.concatenate(maps).astype(np.float32, copy=False) * scan.mask

    @property
    def plain(self) -> bool:
        """Whether the network is shown nothing but the scan."""
        return len(self.inputs.inputs) == 1

    def shown(self, volume: PreparedVolume) -> ShownScan:
        """A prepared scan as the network is shown it."""
        return ShownScan(volume, self)


@dataclass(frozen=True)
class ShownScan:
    """A prepared scan as a network is shown it.

    Only the fitted scan is kept; the maps are recomputed at each use, to save memory.
    """

    volume: PreparedVolume
    inputs: NetworkInputs

    @property
    def channels(self) -> Channels:
        """The maps in `image`."""
        return self.inputs.channels

    @cached_property
    def fitted(self) -> FittedScan:
        """The scan corrected for residual bias field, and the field that warps the atlas onto it."""
        return self.inputs.fitted(self.volume.image, self.volume.mask)

    @property
    def image(self) -> np.ndarray:
        """``(channels.count, X, Y, Z)`` float32."""
        if self.inputs.plain and self.inputs.bias_field is None:
            return self.volume.image  # may be on disk
        return self.inputs.stack(self.fitted)

    @property
    def mask(self) -> np.ndarray:
        """``(X, Y, Z)`` bool: the brain."""
        return self.volume.mask


def z_score(scan: Tensor, mean: Tensor, sd: Tensor) -> Tensor:
    """The z score of a tile as networks see it: clipped at `LARGEST_Z` and divided by half of that."""
    return ((scan - mean) / sd.clamp(min=SMALLEST_SD)).clamp(-LARGEST_Z, LARGEST_Z) / (LARGEST_Z / 2)


def texture_level(image: np.ndarray, mask: np.ndarray, means: np.ndarray) -> np.ndarray:
    """The overall texture of a scan relative to healthy ones: the median difference over its brain, ``(C,)``.

    It is high for sharp or noisy scans and low for blurred ones and thick slices; lesions hardly affect it.

    Parameters
    ----------
    image
        ``(C, X, Y, Z)``, 0 outside the mask.
    mask
        ``(X, Y, Z)`` bool.
    means
        ``(C, X, Y, Z)``, the healthy texture at each place.
    """
    box = box_of(mask)
    found = log_local_sd(torch.from_numpy(np.ascontiguousarray(image[:, *box]))[None])[0].numpy()
    return np.median((found - means[:, *box])[:, mask[box]], axis=1).astype(np.float32)
