"""A U-Net that tells, voxel by voxel, what was put into a healthy scan."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from medvae.config import NetworkConfig
from medvae.config.backbone import BackboneConfig
from medvae.networks import layers
from medvae.networks.backbone import Backbone
from medvae.networks.denoiser import unet
from medvae.networks.gradients import gradient
from medvae.networks.interface import Network, network
from medvae.normative.inputs import Inputs

RARE = -4.0
"""Logit that every voxel begins with, a probability of 2 %: lesions are rare, and unlearning one half takes hundreds of
steps (Lin et al. 2017, arXiv 1708.02002, section 4.1)."""

TYPICAL_RATIO = 5.0
"""Gradients are this many times smaller than over their mean, which brings them to the range of the other inputs."""


class Segmentation(NamedTuple):
    """Result of a forward pass: ``logits`` ``(N, 1, *spatial)``, of the probability that a voxel was changed."""

    logits: Tensor


class Segmenter(Network):
    """MONAI's U-Net of strided convolutions with one logit for each voxel.

    Parameters
    ----------
    size
        Spatial shape of a tile, two or three axes, each divisible by ``2 ** len(widths)``.
    inputs
        What it is shown; a tile carries ``inputs.channels``.
    widths, normalisation, activation, residual_blocks
        As of `medvae.networks.denoiser.Denoiser`.
    detail
        Channels in which the U-Net ends; two pointwise layers make the logit of them and of all that it is shown. Its
        first convolution has stride 2, and what is finer than that would be lost. 0 ends in the logit itself.
    reconstructor
        A network that reconstructs healthy scans; it is frozen.
    shows
        What of the reconstructor's opinion is shown, see `medvae.config.learning.ReconstructorConfig`.
    backbone
        Another network of MONAI, instead of this U-Net.
    """

    def __init__(
        self,
        size: Sequence[int],
        *,
        inputs: Inputs | None = None,
        widths: Sequence[int] = (16, 32, 64, 96),
        normalisation: str = "instance",
        activation: str = "leaky_relu",
        residual_blocks: int = 2,
        detail: int = 0,
        reconstructor: Network | None = None,
        shows: Sequence[str] = (),
        backbone: BackboneConfig | None = None,
    ) -> None:
        super().__init__()
        self.inputs = inputs or Inputs()
        self.channels = self.inputs.channels
        self.reconstructor = reconstructor.requires_grad_(False) if reconstructor is not None else None
        self.shows = tuple(shows)
        opinion = {"residual": self.channels.modalities, "kl_gradient": 1}
        seen = self.inputs.seen + sum(opinion[show] for show in self.shows)
        self.network = (
            unet(len(size), seen, detail or 1, widths, normalisation, activation, residual_blocks)
            if backbone is None
            else Backbone(backbone, len(size), seen, detail or 1)
        )
        self.detail: nn.Module | None = None
        if detail:
            convolution = (nn.Conv2d, nn.Conv3d)[len(size) - 2]
            last = convolution(2 * detail, 1, 1)
            self.detail = nn.Sequential(convolution(detail + seen, 2 * detail, 1), layers.activation(activation), last)
        self.offset = 0.0
        if backbone is not None and self.detail is None:
            self.offset = RARE  # which of another network's weights is the logit's bias nobody knows
        else:
            *_, bias = (self.network if self.detail is None else self.detail).parameters()  # the last, of the logit
            nn.init.constant_(bias, RARE)
        self.register_load_state_dict_pre_hook(_with_present_names)

    def forward(self, x: Tensor) -> Segmentation:
        """Judge ``x`` ``(N, channels.count, *spatial)``."""
        opinion = self._opinion(x[:, self.channels.of("scan")])
        seen = torch.cat([self.inputs.images(x), *opinion], dim=1)
        found = self.network(seen)
        if self.detail is not None:
            return Segmentation(self.detail(torch.cat([found, seen], dim=1)))
        return Segmentation(found + self.offset if self.offset else found)

    def _opinion(self, scan: Tensor) -> list[Tensor]:
        """What the reconstructor makes of the scan, ``(N, K, *spatial)`` each; 0 outside the brain."""
        if self.reconstructor is None:
            return []
        brain = (scan != 0).any(dim=1, keepdim=True)
        maps = []
        for show in self.shows:
            if show == "residual":
                with torch.no_grad():
                    maps.append((scan - self.reconstructor(scan).reconstruction) * brain)
            else:
                slope = gradient(self.reconstructor, scan, brain)[:, None]
                axes = tuple(range(1, slope.ndim))
                mean = slope.sum(axes, keepdim=True) / brain.sum(axes, keepdim=True).clamp(min=1)
                maps.append(slope / mean.clamp(min=1e-12) / TYPICAL_RATIO)
        return maps


def _with_present_names(module: nn.Module, weights: dict[str, Tensor], prefix: str, *_: object) -> None:
    """Weights of detectors in which the reconstructor was called prior."""
    for name in [name for name in weights if name.startswith(f"{prefix}prior.")]:
        weights[f"{prefix}reconstructor.{name.removeprefix(f'{prefix}prior.')}"] = weights.pop(name)


@network("segmenter")
def _segmenter(options: NetworkConfig, size: tuple[int, ...], modalities: int) -> Network:
    reconstructor: Network | None = None
    shows: Sequence[str] = ()
    if options.reconstructor:
        inner, shows = options.reconstructor.network, options.reconstructor.shows
        if inner is None:
            raise ValueError("network.reconstructor.network is filled in when training begins; it is missing.")
        reconstructor = network[inner.kind](inner, size, modalities)
    shown = modalities * (2 * options.neighbours + 1)  # to the network a neighbour is as another modality
    return Segmenter(
        size, inputs=Inputs.of(options, shown), widths=options.widths, normalisation=options.normalisation,
        activation=options.activation, residual_blocks=options.residual_blocks, detail=options.detail,
        reconstructor=reconstructor, shows=shows, backbone=options.backbone,
    )  # fmt: skip
