"""From the options of a config to a network, new or with trained weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file

from medvae.config import Config, NetworkConfig
from medvae.config.limits import require_fit
from medvae.networks.backbone import require_fits
from medvae.networks.interface import Network, network
from medvae.normative.inputs import Inputs
from medvae.tensors import require_shapes


def build(options: NetworkConfig, size: Sequence[int], modalities: int) -> Network:
    """The network of a config, with weights drawn from the global generator.

    Parameters
    ----------
    options
        The ``network`` section of a config.
    size
        Spatial shape of a tile: two axes for slices, three for patches.
    modalities
        Of a scan; what a tile carries besides, `medvae.normative.inputs.Inputs` says.

    Raises
    ------
    ValueError
        If network and tile do not fit; see `medvae.config.limits.require_fit`.
    MedvaeError
        If the network needs MONAI and it is not installed.
    """
    size = tuple(size)
    require_fit(options, size)
    return network[options.kind](options, size, modalities)


def build_network(config: Config, modalities: int) -> Network:
    """The network of a config, freshly initialised from the run's seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return build(config.network_options, config.tile_shape, modalities)


def load_network(config: Config, modalities: int, weights: Path) -> Network:
    """The network of a config with trained weights, in evaluation mode and frozen.

    Raises
    ------
    MedvaeError
        If the file is not what such a network needs. That is looked at before memory is asked for, so that a config
        cannot declare a network that is larger than its weights.
    """
    trained: Network | None = None
    try:
        with torch.device("meta"):
            planned = build(config.network_options, config.tile_shape, modalities)
    except (
        RuntimeError
    ):  # some of MONAI's networks read numbers of tensors; `BackboneConfig` keeps them from being vast
        planned = trained = build_network(config, modalities)
    require_shapes(weights, {name: tuple(tensor.shape) for name, tensor in planned.state_dict().items()})
    trained = trained or build_network(config, modalities)
    trained.load_state_dict(load_file(weights))
    return trained.eval().requires_grad_(False)


def require_backbone(config: Config, modalities: int) -> None:
    """Make the network of a config that names a backbone, and try it on a tile, before anything takes long.

    Raises
    ------
    MedvaeError
        If the backbone cannot be made, or makes no map of the size of a tile.
    """
    options = config.network
    if options is not None and options.backbone is not None:
        shown = Inputs.of(options, modalities * (2 * options.neighbours + 1)).channels.count
        require_fits(build_network(config, modalities), shown, config.tile_shape)
