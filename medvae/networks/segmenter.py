"""A U-Net that tells, voxel by voxel, what was put into a healthy scan."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn

from medvae.networks.denoiser import unet

RARE = -4.0
"""Logit that every voxel begins with, a probability of 2 %: lesions are rare, and unlearning one half takes hundreds of
steps (Lin et al. 2017, arXiv 1708.02002, section 4.1)."""


class Segmentation(NamedTuple):
    """Result of a forward pass: ``logits`` ``(N, 1, *spatial)``, of the probability that a voxel was changed."""

    logits: Tensor


class Segmenter(nn.Module):
    """MONAI's U-Net of strided convolutions with one logit for each voxel; parameters as those of `Denoiser`."""

    def __init__(
        self,
        size: Sequence[int],
        *,
        channels: int = 1,
        widths: Sequence[int] = (16, 32, 64, 96),
        normalisation: str = "instance",
        activation: str = "leaky_relu",
        residual_blocks: int = 2,
    ) -> None:
        super().__init__()
        self.network = unet(len(size), channels, 1, widths, normalisation, activation, residual_blocks)
        nn.init.constant_(self.network.model[-1].conv.bias, RARE)

    def forward(self, x: Tensor) -> Segmentation:
        """Judge ``x`` ``(N, C, *spatial)``."""
        return Segmentation(self.network(x))
