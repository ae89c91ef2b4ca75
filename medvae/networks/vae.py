"""The convolutional variational autoencoder, for slices and for volumes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medvae.config import NetworkConfig
from medvae.networks import layers
from medvae.networks.interface import LOG_VARIANCE_RANGE, Network, VAEOutput, network


class ConvVAE(Network):
    """VAE of stride-2 convolutions (k4 s2), 2D or 3D from one class.

    The first layer already leaves the full resolution, which is where a CPU would spend its time, and nothing else
    ever works there. No layer mixes samples, so the output for a tile cannot depend on its batch. A dense latent is
    made after a 1×1 convolution has squeezed the channels: in 3D it would otherwise need hundreds of millions of
    weights. A spatial latent keeps a vector at every place of the lowest level, made by 1×1 convolutions.

    Parameters
    ----------
    size
        Spatial shape of a tile, two or three axes, each divisible by ``2 ** len(widths)``.
    channels
        Modalities in and out.
    widths
        Channels after each stride-2 convolution.
    latent
        ``"dense"``, one vector per tile, or ``"spatial"``.
    latent_size
        Length of z, or of z at each place.
    squeeze
        Channels before a dense latent.
    normalisation
        ``"none"``, ``"instance"`` or ``"group"``, before each activation.
    activation
        ``"leaky_relu"``, ``"silu"`` or ``"gelu"``.
    residual_blocks
        Pre-activation residual blocks at each level below the full resolution, on the way down and on the way up.

    Notes
    -----
    :func:`medvae.networks.build.build` refuses what does not fit together.

    References
    ----------
    Kingma & Welling 2013, arXiv 1312.6114. Layer pattern after Zimmerer et al. 2018, arXiv 1812.05941.
    """

    to_latent: nn.Module
    from_latent: nn.Module

    def __init__(
        self,
        size: Sequence[int],
        *,
        channels: int = 1,
        widths: Sequence[int] = (16, 32, 64, 128),
        latent: str = "dense",
        latent_size: int = 128,
        squeeze: int = 32,
        normalisation: str = "none",
        activation: str = "leaky_relu",
        residual_blocks: int = 0,
    ) -> None:
        super().__init__()
        dimensions = len(size)
        convolution = (nn.Conv2d, nn.Conv3d)[dimensions - 2]
        transposed = (nn.ConvTranspose2d, nn.ConvTranspose3d)[dimensions - 2]
        bottom = tuple(n // 2 ** len(widths) for n in size)
        self.dense = latent == "dense"
        self.bottom = (squeeze, *bottom)
        self.latent_shape = (latent_size,) if self.dense else (latent_size, *bottom)

        def level(width: int) -> list[nn.Module]:
            blocks = [
                layers.residual_block(dimensions, width, norm=normalisation, act=activation)
                for _ in range(residual_blocks)
            ]
            return [*blocks, *layers.normalisation(normalisation, dimensions, width), layers.activation(activation)]

        encoder: list[nn.Module] = []
        for before, after in zip((channels, *widths), widths, strict=False):
            encoder += [convolution(before, after, 4, stride=2, padding=1), *level(after)]
        decoder: list[nn.Module] = []
        if self.dense:
            features = math.prod(self.bottom)
            self.encoder = nn.Sequential(*encoder, convolution(widths[-1], squeeze, 1))
            self.to_latent = nn.Linear(features, 2 * latent_size)
            self.from_latent = nn.Linear(latent_size, features)
            decoder += [convolution(squeeze, widths[-1], 1)]
        else:
            self.encoder = nn.Sequential(*encoder)
            self.to_latent = convolution(widths[-1], 2 * latent_size, 1)
            self.from_latent = convolution(latent_size, widths[-1], 1)
        for before, after in zip(widths[::-1], (*widths[-2::-1], channels), strict=True):
            decoder += [*level(before), transposed(before, after, 4, stride=2, padding=1)]
        self.decoder = nn.Sequential(*decoder)

    def noise_shape(self, batch: int) -> tuple[int, ...]:
        """Shape of the latent noise of ``batch`` tiles: that of their posterior means."""
        return batch, *self.latent_shape

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q(z|x), ``noise_shape(N)`` each, float32, log-variance clamped."""
        features = self.encoder(x)
        mean, log_variance = self.to_latent(features.flatten(1) if self.dense else features).float().chunk(2, dim=1)
        return mean, log_variance.clamp(*LOG_VARIANCE_RANGE)

    def decode(self, z: Tensor) -> Tensor:
        """Reconstruction ``(N, C, *spatial)`` of latents ``noise_shape(N)``."""
        features = self.from_latent(z)
        return self.decoder(features.unflatten(1, self.bottom) if self.dense else features)

    def forward(self, x: Tensor, noise: Tensor | None = None) -> VAEOutput:
        """Reconstruct ``x`` ``(N, C, *spatial)``.

        ``noise`` of ``noise_shape(N)`` is the standard normal draw of z = μ + σ·noise; without it z = μ. Passing it
        in, instead of drawing it here, makes a step repeatable and "train" and "eval" mode the same.
        """
        mean, log_variance = self.encode(x)
        z = mean if noise is None else mean + torch.exp(0.5 * log_variance) * noise
        return VAEOutput(self.decode(z), mean, log_variance)


@network("vae")
def _vae(options: NetworkConfig, size: tuple[int, ...], modalities: int) -> Network:
    return ConvVAE(
        size, channels=modalities, widths=options.widths, latent=options.latent, latent_size=options.latent_size,
        squeeze=options.squeeze, normalisation=options.normalisation, activation=options.activation,
        residual_blocks=options.residual_blocks,
    )  # fmt: skip
