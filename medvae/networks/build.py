"""From the options of a config to a network that fits the tile, or the reason why there is none."""

from __future__ import annotations

import math
from collections.abc import Sequence

from medvae.config import NetworkConfig
from medvae.networks.autoencoder_kl import AutoencoderKL
from medvae.networks.denoiser import Denoiser
from medvae.networks.vae import ConvVAE

MOST_DENSE_WEIGHTS = 50_000_000
"""Weights that the two linear layers of a dense latent may have together: 200 MB, and as much again for each of
gradient and Adam's two moments."""

Network = ConvVAE | AutoencoderKL | Denoiser
"""Any of the networks; all are called as ``network(x, noise) -> VAEOutput``."""


def build(options: NetworkConfig, size: Sequence[int], channels: int) -> Network:
    """The network of a config, with weights drawn from the global generator.

    Parameters
    ----------
    options
        The ``network`` section of a config.
    size
        Spatial shape of a tile: two axes for slices, three for patches.
    channels
        Modalities in and out.

    Raises
    ------
    ValueError
        If the tile cannot be halved as often as asked, a dense latent would be too large, or a normalisation has
        nothing to normalise.
    MedvaeError
        If the network needs MONAI and it is not installed.
    """
    size = tuple(size)
    if len(size) not in (2, 3):
        raise ValueError(f"a tile has two or three axes; found {_times(size)}.")
    bottom = _bottom(options, size)
    common = {"channels": channels, "widths": options.widths, "residual_blocks": options.residual_blocks}
    if options.kind == "autoencoder_kl":
        return AutoencoderKL(size, latent_size=options.latent_size, **common)
    if options.normalisation == "instance" and math.prod(bottom) == 1:
        raise ValueError(
            f'normalisation "instance" would turn the lowest level into zeros: {len(options.widths)} widths leave a '
            f"single voxel of a tile of {_times(size)}. Write normalisation: group, or use fewer widths."
        )
    common |= {"normalisation": options.normalisation, "activation": options.activation}
    if options.kind == "unet":
        return Denoiser(size, **common)
    if options.latent == "dense":
        _check_dense(options, bottom)
    return ConvVAE(
        size, latent=options.latent, latent_size=options.latent_size, squeeze=options.squeeze, **common
    )  # fmt: skip


def _bottom(options: NetworkConfig, size: tuple[int, ...]) -> tuple[int, ...]:
    """Spatial shape of the lowest level."""
    halvings = len(options.widths) - (options.kind == "autoencoder_kl")
    stride = 2**halvings
    if any(n % stride for n in size):
        raise ValueError(
            f"a tile of {_times(size)} voxels cannot be halved {halvings} times: every side must be divisible by "
            f"{stride}. Use fewer widths, or another tile size."
        )
    return tuple(n // stride for n in size)


def _check_dense(options: NetworkConfig, bottom: tuple[int, ...]) -> None:
    features = options.squeeze * math.prod(bottom)
    weights = 3 * features * options.latent_size  # mean, log-variance, and the way back
    if weights > MOST_DENSE_WEIGHTS:
        raise ValueError(
            f"a dense latent of {options.latent_size} from {options.squeeze} channels of {_times(bottom)} voxels needs "
            f"{weights / 1e6:,.0f} million weights, more than {MOST_DENSE_WEIGHTS // 10**6} million. Write latent: "
            f"spatial, lower squeeze or latent_size, or use more widths, which make the lowest level smaller."
        )


def _times(shape: Sequence[int]) -> str:
    return "×".join(map(str, shape))
