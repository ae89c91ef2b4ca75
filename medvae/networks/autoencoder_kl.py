"""MONAI's AutoencoderKL, the first stage of latent diffusion models, with the interface of the project's VAE."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from medvae.config import NetworkConfig
from medvae.monai_import import import_monai
from medvae.networks.interface import LOG_VARIANCE_RANGE, Network, VAEOutput, network
from medvae.networks.layers import groups


class AutoencoderKL(Network):
    """Residual VAE with a spatial latent, group normalisation and SiLU, 2D or 3D.

    Unlike :class:`medvae.networks.vae.ConvVAE` it works at full resolution too, at many times the cost. It is built
    without attention, so that its memory grows with the tile and not with the tile's square.

    Parameters
    ----------
    size
        Spatial shape of a tile, two or three axes, each divisible by ``2 ** (len(widths) - 1)``.
    channels
        Modalities in and out.
    widths
        Channels of each level; the first is the full resolution.
    latent_size
        Length of z at each place of the lowest level.
    residual_blocks
        Residual blocks at each level, at least one.

    Raises
    ------
    MedvaeError
        If MONAI is not installed.

    References
    ----------
    Rombach et al. 2022, arXiv 2112.10752; for brain MRI Pinaya et al. 2022, arXiv 2209.07162.
    """

    def __init__(
        self,
        size: Sequence[int],
        *,
        channels: int = 1,
        widths: Sequence[int] = (32, 64, 64),
        latent_size: int = 3,
        residual_blocks: int = 1,
    ) -> None:
        super().__init__()
        self.latent_shape = (latent_size, *(n // 2 ** (len(widths) - 1) for n in size))
        self.network = import_monai("networks.nets").AutoencoderKL(
            spatial_dims=len(size),
            in_channels=channels,
            out_channels=channels,
            channels=tuple(widths),
            latent_channels=latent_size,
            num_res_blocks=residual_blocks,
            norm_num_groups=groups(*widths),
            attention_levels=(False,) * len(widths),
            with_encoder_nonlocal_attn=False,
            with_decoder_nonlocal_attn=False,
        )

    def noise_shape(self, batch: int) -> tuple[int, ...]:
        """Shape of the latent noise of ``batch`` tiles: that of their posterior means."""
        return batch, *self.latent_shape

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q(z|x), ``noise_shape(N)`` each, float32, log-variance clamped."""
        features = self.network.encoder(x)  # MONAI's own encode() gives σ, which underflows in half precision
        log_variance = self.network.quant_conv_log_sigma(features).float()
        return self.network.quant_conv_mu(features).float(), log_variance.clamp(*LOG_VARIANCE_RANGE)

    def decode(self, z: Tensor) -> Tensor:
        """Reconstruction ``(N, C, *spatial)`` of latents ``noise_shape(N)``."""
        return self.network.decode(z)

    def forward(self, x: Tensor, noise: Tensor | None = None) -> VAEOutput:
        """Reconstruct ``x`` ``(N, C, *spatial)`` with z = μ + σ·noise, or z = μ without ``noise``."""
        mean, log_variance = self.encode(x)
        z = mean if noise is None else mean + torch.exp(0.5 * log_variance) * noise
        return VAEOutput(self.decode(z), mean, log_variance)


@network("autoencoder_kl")
def _autoencoder_kl(options: NetworkConfig, size: tuple[int, ...], modalities: int) -> Network:
    return AutoencoderKL(
        size, channels=modalities, widths=options.widths, latent_size=options.latent_size,
        residual_blocks=options.residual_blocks,
    )  # fmt: skip
