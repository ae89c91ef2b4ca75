"""A network of MONAI by its name in a config, as the inside of a network that restores or segments."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from medvae.config.backbone import GIVEN, BackboneConfig
from medvae.errors import MedvaeError
from medvae.monai_import import import_monai


class Backbone(nn.Module):
    """A network of MONAI between tiles ``(N, channels_in, *spatial)`` and maps ``(N, channels_out, *spatial)``.

    Parameters
    ----------
    options
        Its name and its arguments.
    dimensions
        Spatial axes of a tile, two or three.
    channels_in, channels_out
        Of a tile, and of what is made of it.

    Raises
    ------
    MedvaeError
        If there is no such network, it cannot be made with these arguments, it takes no number of channels, or it drops
        units by chance, so that a run could not be repeated.
    """

    def __init__(self, options: BackboneConfig, dimensions: int, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.target, self.channels_out = options.target, channels_out
        kind = getattr(import_monai("networks.nets"), options.target.rpartition(".")[2])
        self.network = _made(kind, options, dict(zip(GIVEN, (dimensions, channels_in, channels_out), strict=True)))
        for name, layer in self.network.named_modules():
            chance = getattr(layer, "p", getattr(layer, "drop_prob", 0.0))
            if "drop" in type(layer).__name__.lower() and isinstance(chance, float | int) and chance > 0:
                raise MedvaeError(
                    f"network.backbone: {options.target} drops units by chance ({name}: {chance:g}), and a run could "
                    f"not be repeated. Set its dropout to 0 in network.backbone.options."
                )

    def forward(self, x: Tensor) -> Tensor:
        """The map ``(N, channels_out, *spatial)`` of ``x`` ``(N, channels_in, *spatial)``."""
        found: Any = self.network(x)
        wanted = (x.shape[0], self.channels_out, *x.shape[2:])
        if not isinstance(found, Tensor) or tuple(found.shape) != wanted:
            made = f"shape {_times(found.shape)}" if isinstance(found, Tensor) else f"type {type(found).__name__}"
            raise MedvaeError(
                f"network.backbone: {self.target} makes a result of {made} of tiles {_times(x.shape)}; a tensor of "
                f"{_times(wanted)} is needed. Change its options, or name another network."
            )
        return found


def _made(kind: Any, options: BackboneConfig, given: dict[str, int]) -> nn.Module:
    target = options.target
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        raise MedvaeError(
            f"network.backbone: {target} is not a network. Name one of MONAI's documentation of networks."
        )
    known = inspect.signature(kind).parameters
    if missing := [name for name in GIVEN[1:] if name not in known]:
        raise MedvaeError(
            f"network.backbone: {target} has no {' and no '.join(missing)}, so it does not map images to images. "
            f"Name another network, for instance monai.networks.nets.SegResNet."
        )
    try:
        return kind(**{name: value for name, value in given.items() if name in known} | options.options)
    except Exception as error:  # whatever MONAI raises of arguments, or of a package that it lacks
        if isinstance(error, RuntimeError) and "meta" in str(error):  # of a plan without memory
            raise
        arguments = ", ".join(f"{key}={value!r}" for key, value in options.options.items())
        raise MedvaeError(f"network.backbone: {target}({arguments}) cannot be made: {_first_line(error)}.") from error


def require_fits(network: nn.Module, channels: int, size: Sequence[int]) -> None:
    """Try a network on an empty tile ``(1, channels, *size)``: that takes seconds, preparing scans takes hours.

    Raises
    ------
    MedvaeError
        If it makes something else of it than a map of the tile's size.
    """
    training = network.training
    try:
        with torch.no_grad():
            network.eval()(torch.zeros(1, channels, *size))
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise MedvaeError(
            f"network.backbone: fails on a tile of {_times(size)} voxels: {_first_line(error)}. "
            f"Change the tile's size (sampling), or network.backbone.options."
        ) from error
    finally:
        network.train(training)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".")


def _times(shape: Sequence[int]) -> str:
    return "×".join(map(str, shape))
