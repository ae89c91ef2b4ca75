"""A member's network without medvae around it: a module from one tensor to plain tensors, and what it expects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from medvae.config import Config
from medvae.config.methods import NETWORKS
from medvae.detection.base import Calibrated
from medvae.detection.detector import Detector
from medvae.detection.ensemble import Ensemble
from medvae.errors import MedvaeError
from medvae.imaging.planes import cropped, padded, slices_of, with_neighbours
from medvae.networks.interface import Network
from medvae.normative.inputs import Channels
from medvae.preparation.prepare import prepare_array
from medvae.preparation.prepared import ImageAndMask, InMemory, PreparedVolume, standardised
from medvae.preparation.standard_brain import read_template

INPUT = "tile"
MEANINGS = {
    "scan": "the prepared scan, in normalised intensity",
    "mean": "mean of the healthy training scans at the voxel, in normalised intensity",
    "sd": "SD of the healthy training scans at the voxel, in normalised intensity",
    "mirrored": "the prepared scan mirrored left to right",
    "texture_mean": "healthy mean of the log of the local SD of fine detail, at this scan's level",
    "texture_sd": "healthy SD of the log of the local SD of fine detail",
    "log_jacobian": "z score of the log-Jacobian of the field that warps the healthy mean onto the scan",
}
"""What the maps of `medvae.normative.inputs` hold."""
OUTPUTS = {
    "logits": "logit of the probability that a voxel is abnormal, before smoothing and calibration",
    "reconstruction": "the tile as the network restores it, with z = μ",
    "mean": "mean μ of the posterior q(z|x)",
    "log_variance": "log σ² of the posterior q(z|x)",
}
_LARGEST_STEP = 32


class PlainNetwork(nn.Module):
    """A network as a function of one tile ``(N, C, *spatial)``: its logits, or its reconstruction and posterior."""

    def __init__(self, network: Network, names: tuple[str, ...]) -> None:
        super().__init__()
        self.network, self.names = network, names

    def forward(self, tile: Tensor) -> Tensor | tuple[Tensor, ...]:
        """The outputs in the order of ``names``; a tensor if there is but one."""
        found = self.network(tile)
        outputs = tuple(getattr(found, name) for name in self.names)
        return outputs[0] if len(outputs) == 1 else outputs


@dataclass(frozen=True)
class Member:
    """A member of an ensemble that has a network, or a detector that is no ensemble."""

    name: str
    detector: Detector
    weight: float = 1.0
    """Of its score in the mean of the ensemble."""

    @property
    def config(self) -> Config:
        """Of the member."""
        return self.detector.config

    @property
    def network(self) -> Network:
        """On the CPU."""
        if self.detector.network is None:
            raise ValueError(f'"{self.name}" has no network; one was expected.')
        return self.detector.network

    @property
    def plain(self) -> PlainNetwork:
        """The network as a function of tensors, in evaluation mode.

        Raises
        ------
        MedvaeError
            If it needs gradients to work, which neither ONNX nor TorchScript has.
        """
        options = self.config.network_options
        if options.reconstructor and "kl_gradient" in options.reconstructor.shows:
            raise MedvaeError(
                f"{self.name}: its network is shown the gradient of a reconstructor's KL divergence, which cannot be "
                f"computed outside of PyTorch. Export it with --to monai."
            )
        return PlainNetwork(self.network, self.outputs).eval().requires_grad_(False)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs."""
        kind = NETWORKS[self.config.network_options.kind]
        if kind.segments:
            return ("logits",)
        return ("reconstruction", "mean", "log_variance") if kind.has_posterior else ("reconstruction",)

    @property
    def channels(self) -> Channels:
        """The maps in a tile; with neighbours, one channel of each for each slice."""
        return self.detector.inputs.channels

    @property
    def channel_count(self) -> int:
        """Channels of a tile."""
        return self.channels.count * (2 * self.config.network_options.neighbours + 1)

    @property
    def step(self) -> int | None:
        """Sides of a tile may be any multiple of this, as far as the layers tell; None if they are fixed."""
        options, sides = self.config.network_options, self.config.tile_shape
        if options.backbone:  # what MONAI's networks allow only a trial tells
            return next(n for n in (_LARGEST_STEP, 16, 8, 4, 2, 1) if all(side % n == 0 for side in sides))
        if options.kind == "vae" and options.latent == "dense":
            return None
        if options.reconstructor and options.reconstructor.network and options.reconstructor.network.latent == "dense":
            return None
        return 2 ** (len(options.widths) - (options.kind == "autoencoder_kl"))

    def shown(self, volume: PreparedVolume) -> InMemory:
        """A prepared scan as the network is shown it, and its brain."""
        scale = self.detector.scale
        own = volume if scale is None else standardised(volume, scale, self.config.preparation)
        return InMemory(self.detector.shown(own), own.mask, own.source_mask)

    def tiles(self, scan: ImageAndMask, size: tuple[int, ...], count: int = 3) -> Tensor:
        """Tiles ``(N, C, *size)`` from the middle of the brain of a scan that is `shown`."""
        shown, sampling = scan.image, self.config.sampling
        if sampling.kind == "slice":
            found = []
            for plane in sampling.planes:
                stack, filled = slices_of(shown, plane), np.flatnonzero(slices_of(scan.mask, plane).any(axis=(1, 2)))
                chosen = filled[(np.linspace(0.3, 0.7, count) * (len(filled) - 1)).astype(int)]
                slices = with_neighbours(stack, chosen, self.config.network_options.neighbours)
                least = [min(n, m) for n, m in zip(size, slices.shape[-2:], strict=True)]
                found.append(padded(cropped(slices, least), size))
            tiles = np.concatenate(found)
        else:
            short = [(0, max(0, n - m)) for n, m in zip(size, shown.shape[1:], strict=True)]
            shown = np.pad(shown, [(0, 0), *short])
            centre = np.argwhere(scan.mask).mean(axis=0)
            tiles = np.stack([_patch(shown, centre + offset, size) for offset in np.linspace(-8, 8, count)])
        return torch.from_numpy(np.ascontiguousarray(tiles, dtype=np.float32))

    def description(self) -> dict[str, Any]:
        """What the network expects and gives, as JSON."""
        config, sampling = self.config, self.config.sampling
        neighbours = config.network_options.neighbours
        channels = [
            {"map": name, "meaning": MEANINGS[name], "modality": modality} | ({"slice": offset} if neighbours else {})
            for name in self.channels.names
            for modality in self.detector.modalities
            for offset in range(-neighbours, neighbours + 1)
        ]
        scale = self.detector.scale
        return {
            "member": self.name,
            "weight_in_ensemble": self.weight,
            "network": config.network_options.model_dump(mode="json"),
            "input": {
                "name": INPUT,
                "dtype": "float32",
                "layout": "(batch, channel, x, y, z)"
                if sampling.kind == "patch"
                else "(batch, channel, first, second)",
                "trained_spatial_shape": list(config.tile_shape),
                "channels": {str(index): channel for index, channel in enumerate(channels)},
                "background": 0,
            },
            "outputs": {name: OUTPUTS[name] for name in self.outputs},
            "tiles": {"kind": sampling.kind}
            | ({"planes": list(sampling.planes)} if sampling.kind == "slice" else {"overlap": sampling.patch_overlap}),
            "grid": {
                "name": config.grid.name,
                "spacing_mm": list(config.grid.spacing_mm),
                "shape": list(config.grid.shape),
                "affine": config.grid.geometry.affine.tolist(),
                "orientation": "RAS",
                "space": "MNI152",
            },
            "preparation": config.preparation.model_dump(mode="json"),
            "normalisation": {
                "intensity": config.preparation.intensity,
                "clip": config.preparation.clip and list(config.preparation.clip),
                "landmarks": None if scale is None else scale.model_dump(mode="json"),
            },
            "afterwards": {
                "score": config.score.model_dump(mode="json"),
                "healthy_median": self.detector.healthy_median,
                "first_threshold": self.detector.points[0].threshold,
            },
        }


def members_with_network(detector: Calibrated) -> list[Member]:
    """The members of an ensemble that have a network, or the detector itself.

    Raises
    ------
    MedvaeError
        If there is no network.
    """
    if isinstance(detector, Ensemble):
        named: Mapping[str, Any] = detector.members
        weights = detector.weights
    else:
        named, weights = {detector.config.name: detector}, (1.0,)
    found = [
        Member(name, member.on("cpu"), weight)
        for (name, member), weight in zip(named.items(), weights, strict=True)
        if member.network is not None
    ]
    if not found:
        raise MedvaeError(
            f'"{detector.config.name}" has no network (its score is {detector.config.score.kind}), so there is nothing '
            f"to write as ONNX or TorchScript. --to monai exports all of it."
        )
    return found


def template_volume(detector: Calibrated) -> PreparedVolume:
    """The MNI152 brain that comes with medvae, prepared as the detector prepares scans; the same for each sequence."""
    grid = detector.config.grid
    brain, mask = read_template(grid)
    images = np.repeat(brain[None], detector.channels, axis=0)
    return prepare_array(images, grid.geometry.affine, detector.config.preparation, mask=mask, scale=detector.scale)


def _patch(shown: np.ndarray, centre: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    first = [int(min(max(0, c - n // 2), m - n)) for c, n, m in zip(centre, size, shown.shape[1:], strict=True)]
    return shown[(slice(None), *(slice(f, f + n) for f, n in zip(first, size, strict=True)))]
