"""A U-Net that tells, voxel by voxel, what was put into a healthy scan."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from medvae.networks import layers
from medvae.networks.denoiser import unet
from medvae.networks.gradients import gradient
from medvae.networks.interface import Network
from medvae.normative.statistics import SMALLEST_SD
from medvae.normative.texture import roughness

RARE = -4.0
"""Logit that every voxel begins with, a probability of 2 %: lesions are rare, and unlearning one half takes hundreds of
steps (Lin et al. 2017, arXiv 1708.02002, section 4.1)."""

LARGEST_Z = 6.0
"""z values are cut off here and divided by half of it, so that all inputs have about the same range."""

TYPICAL_RATIO = 5.0
"""Gradients are this many times smaller than over their mean, which brings them to the range of the other inputs."""

SHOWN_CHANNELS = {"residual": lambda modalities: modalities, "kl_gradient": lambda modalities: 1}
"""Channels of what a prior shows."""


def tile_parts(atlas: bool, mirror: bool, roughness: bool = False, deformable: bool = False) -> int:
    """Of how many images a tile consists.

    Scan, healthy mean and SD, those of the roughness, how much room tissue takes, and the mirrored scan.
    """
    return 1 + 2 * atlas + 2 * roughness + deformable + mirror


class Segmentation(NamedTuple):
    """Result of a forward pass: ``logits`` ``(N, 1, *spatial)``, of the probability that a voxel was changed."""

    logits: Tensor


class Segmenter(Network):
    """MONAI's U-Net of strided convolutions with one logit for each voxel; parameters as those of `Denoiser`.

    With ``atlas``, the ``channels`` of a tile are the scan, the healthy mean at each place and the SD there, as
    `medvae.normative.atlas.Atlas.beside` stacks them. The U-Net is shown the scan, the mean, and the z value of the
    scan: what is a lesion in one place is a ventricle in another, and to learn from lesions alone where everything
    belongs takes thousands of steps. With ``roughness`` mean and SD of that follow, and the U-Net is shown the z value
    of the scan's (`medvae.normative.texture`), which its strided convolutions would see too late. With ``deformable``
    the atlas was bent onto the scan, and how much more room tissue takes than in healthy brains, as a z value,
    follows. With ``mirror`` the mirrored scan comes last, and the U-Net is shown it and its z values as well.

    With ``detail`` the U-Net ends in so many channels, and two pointwise layers make the logit of them and of all that
    it is shown: its first convolution has stride 2, and what is finer than that would be lost.

    A ``prior``, a network that reconstructs healthy scans, is frozen; the U-Net is shown what it ``shows`` of the scan,
    see `medvae.config.learning.PriorConfig`.
    """

    def __init__(
        self,
        size: Sequence[int],
        *,
        channels: int = 1,
        widths: Sequence[int] = (16, 32, 64, 96),
        normalisation: str = "instance",
        activation: str = "leaky_relu",
        residual_blocks: int = 2,
        atlas: bool = False,
        mirror: bool = False,
        roughness: bool = False,
        deformable: bool = False,
        detail: int = 0,
        prior: nn.Module | None = None,
        shows: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.atlas, self.mirror, self.roughness, self.deformable = atlas, mirror, roughness, deformable
        parts = tile_parts(atlas, mirror, roughness, deformable)
        self.modalities = channels // parts
        self.prior = prior.requires_grad_(False) if prior is not None else None
        self.shows = tuple(shows)
        images = (
            parts - roughness + mirror * (1 + roughness)
        )  # a z value instead of mean and SD; of the mirror image too
        seen = images * self.modalities + sum(SHOWN_CHANNELS[show](self.modalities) for show in self.shows)
        self.network = unet(len(size), seen, detail or 1, widths, normalisation, activation, residual_blocks)
        self.detail, last = None, self.network.model[-1].conv
        if detail:
            convolution = (nn.Conv2d, nn.Conv3d)[len(size) - 2]
            last = convolution(2 * detail, 1, 1)
            self.detail = nn.Sequential(convolution(detail + seen, 2 * detail, 1), layers.activation(activation), last)
        nn.init.constant_(last.bias, RARE)

    def forward(self, x: Tensor) -> Segmentation:
        """Judge ``x`` ``(N, C, *spatial)``."""
        shown = self._of_prior(x[:, : self.modalities])
        if self.atlas:
            scan, mean, sd, *others = x.split(self.modalities, dim=1)
            rough, others = (others[:2], others[2:]) if self.roughness else ((), others)
            grown, mirrored = (others[:1], others[1:]) if self.deformable else ((), others)
            seen = [scan, mean, _z(scan, mean, sd), *(y for m in mirrored for y in (m, _z(m, mean, sd)))]
            if self.roughness:
                seen += [_z(roughness(y), *rough) for y in (scan, *mirrored)]
            seen += [y.clamp(-LARGEST_Z, LARGEST_Z) / (LARGEST_Z / 2) for y in grown]
            x = torch.cat(seen, dim=1)
        x = torch.cat([x, *shown], dim=1)
        found = self.network(x)
        return Segmentation(found if self.detail is None else self.detail(torch.cat([found, x], dim=1)))

    def _of_prior(self, scan: Tensor) -> list[Tensor]:
        """What the prior makes of the scan, ``(N, K, *spatial)`` each; 0 outside the brain, where the scan is 0."""
        brain = (scan != 0).any(dim=1, keepdim=True)
        maps = []
        for show in self.shows:
            if show == "residual":
                with torch.no_grad():
                    maps.append((scan - self.prior(scan).reconstruction) * brain)
            else:
                slope = gradient(self.prior, scan, brain)[:, None]
                axes = tuple(range(1, slope.ndim))
                mean = slope.sum(axes, keepdim=True) / brain.sum(axes, keepdim=True).clamp(min=1)
                maps.append(slope / mean.clamp(min=1e-12) / TYPICAL_RATIO)
        return maps


def _z(scan: Tensor, mean: Tensor, sd: Tensor) -> Tensor:
    return ((scan - mean) / sd.clamp(min=SMALLEST_SD)).clamp(-LARGEST_Z, LARGEST_Z) / (LARGEST_Z / 2)
