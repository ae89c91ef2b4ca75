"""From the options of a config to a network, new or with trained weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file

from medvae.config import Config, NetworkConfig
from medvae.config.limits import require_fit
from medvae.networks.autoencoder_kl import AutoencoderKL
from medvae.networks.denoiser import Denoiser
from medvae.networks.interface import Network
from medvae.networks.segmenter import Segmenter, tile_parts
from medvae.networks.vae import ConvVAE


def build(options: NetworkConfig, size: Sequence[int], channels: int) -> Network:
    """The network of a config, with weights drawn from the global generator.

    Parameters
    ----------
    options
        The ``network`` section of a config.
    size
        Spatial shape of a tile: two axes for slices, three for patches.
    channels
        Of a tile: its modalities, as many times as `medvae.networks.segmenter.tile_parts` says.

    Raises
    ------
    ValueError
        If network and tile do not fit; see `medvae.config.limits.require_fit`.
    MedvaeError
        If the network needs MONAI and it is not installed.
    """
    size = tuple(size)
    require_fit(options, size)
    common = {"channels": channels, "widths": options.widths, "residual_blocks": options.residual_blocks}
    if options.kind == "autoencoder_kl":
        return AutoencoderKL(size, latent_size=options.latent_size, **common)
    common |= {"normalisation": options.normalisation, "activation": options.activation}
    if options.kind == "unet":
        return Denoiser(size, **common)
    if options.kind == "segmenter":
        prior, shows, shown = None, (), _shown(options)
        if options.prior:
            modalities = channels // parts_of(options)
            prior, shows = build(options.prior.network, size, modalities), options.prior.shows
        return Segmenter(size, **shown, detail=options.detail, prior=prior, shows=shows, **common)
    return ConvVAE(
        size, latent=options.latent, latent_size=options.latent_size, squeeze=options.squeeze, **common
    )  # fmt: skip


def parts_of(options: NetworkConfig) -> int:
    """Of how many images a tile for this network consists, see `medvae.networks.segmenter.tile_parts`."""
    return tile_parts(**_shown(options))


def _shown(options: NetworkConfig) -> dict[str, bool]:
    return {name: getattr(options, name) for name in ("atlas", "mirror", "roughness", "deformable")}


def build_network(config: Config, channels: int) -> Network:
    """The network of a config, freshly initialised from the run's seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return build(config.network, config.tile_shape, channels)


def load_network(config: Config, channels: int, weights: Path) -> Network:
    """The network of a config with trained weights, in evaluation mode and frozen."""
    network = build_network(config, channels)
    network.load_state_dict(load_file(weights))
    return network.eval().requires_grad_(False)
