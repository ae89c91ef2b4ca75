"""The convolutional variational autoencoder, for slices and for volumes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

LOG_VARIANCE_RANGE = (-12.0, 8.0)
"""Limits of log σ²: beyond them exp() leaves what float16 can hold and the KL only grows."""


class VAEOutput(NamedTuple):
    """Result of a forward pass.

    ``reconstruction`` ``(N, C, *spatial)``; ``mean`` and ``log_variance`` ``(N, latent_size)`` of the posterior
    q(z|x), in float32.
    """

    reconstruction: Tensor
    mean: Tensor
    log_variance: Tensor


class ConvVAE(nn.Module):
    """VAE of stride-2 convolutions (k4 s2) with a dense latent, 2D or 3D from one class.

    The first layer already leaves the full resolution, which is where a CPU would spend its time. Without
    normalisation layers the output for a slice cannot depend on its batch. The channels are squeezed by a 1×1
    convolution before the dense layer: in 3D a dense latent would otherwise need hundreds of millions of weights.

    Parameters
    ----------
    size
        Spatial shape of a tile, two or three axes, each divisible by ``2 ** len(widths)``.
    channels
        Modalities in and out.
    widths
        Channels after each stride-2 convolution.
    latent_size
        Length of z.
    squeeze
        Channels before the dense latent.

    Raises
    ------
    ValueError
        If an axis of ``size`` is not divisible by the total stride.

    References
    ----------
    Kingma & Welling 2013, arXiv 1312.6114. Layer pattern after Zimmerer et al. 2018, arXiv 1812.05941.
    """

    def __init__(
        self,
        size: Sequence[int],
        *,
        channels: int = 1,
        widths: Sequence[int] = (16, 32, 64, 128),
        latent_size: int = 128,
        squeeze: int = 32,
    ) -> None:
        super().__init__()
        stride = 2 ** len(widths)
        if any(n % stride for n in size):
            raise ValueError(
                f"a tile of {'×'.join(map(str, size))} voxels cannot be halved {len(widths)} times: every side "
                f"must be divisible by {stride}. Use fewer widths, or another tile size."
            )
        convolution = (nn.Conv2d, nn.Conv3d)[len(size) - 2]
        transposed = (nn.ConvTranspose2d, nn.ConvTranspose3d)[len(size) - 2]
        self.bottom = (squeeze, *(n // stride for n in size))
        features = math.prod(self.bottom)

        encoder: list[nn.Module] = []
        for before, after in zip((channels, *widths), widths, strict=False):
            encoder += [convolution(before, after, 4, stride=2, padding=1), nn.LeakyReLU(0.1)]
        self.encoder = nn.Sequential(*encoder, convolution(widths[-1], squeeze, 1))
        self.to_latent = nn.Linear(features, 2 * latent_size)
        self.from_latent = nn.Linear(latent_size, features)
        decoder: list[nn.Module] = [convolution(squeeze, widths[-1], 1)]
        for before, after in zip(widths[::-1], (*widths[-2::-1], channels), strict=True):
            decoder += [nn.LeakyReLU(0.1), transposed(before, after, 4, stride=2, padding=1)]
        self.decoder = nn.Sequential(*decoder)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q(z|x), ``(N, latent_size)`` each, float32, log-variance clamped."""
        mean, log_variance = self.to_latent(self.encoder(x).flatten(1)).float().chunk(2, dim=1)
        return mean, log_variance.clamp(*LOG_VARIANCE_RANGE)

    def decode(self, z: Tensor) -> Tensor:
        """Reconstruction ``(N, C, *spatial)`` of latent vectors ``(N, latent_size)``."""
        return self.decoder(self.from_latent(z).unflatten(1, self.bottom))

    def forward(self, x: Tensor, noise: Tensor | None = None) -> VAEOutput:
        """Reconstruct ``x`` ``(N, C, *spatial)``.

        ``noise`` ``(N, latent_size)`` is the standard normal draw of z = μ + σ·noise; without it z = μ. Passing it
        in, instead of drawing it here, makes a step repeatable and "train" and "eval" mode the same.
        """
        mean, log_variance = self.encode(x)
        z = mean if noise is None else mean + torch.exp(0.5 * log_variance) * noise
        return VAEOutput(self.decode(z), mean, log_variance)
