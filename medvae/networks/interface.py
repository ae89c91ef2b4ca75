"""What training, scoring and detectors know of a network, whichever it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor, nn

from medvae.config import NetworkConfig
from medvae.config.methods import NETWORKS
from medvae.registry import Registry

LOG_VARIANCE_RANGE = (-12.0, 8.0)
"""Limits of log σ²: beyond them exp() leaves what float16 can hold and the KL only grows."""


class VAEOutput(NamedTuple):
    """Result of a forward pass.

    ``reconstruction`` ``(N, C, *spatial)``; ``mean`` and ``log_variance`` of the posterior q(z|x), in float32:
    ``(N, latent_size)`` where the latent is dense, ``(N, latent_size, *bottom)`` where it is spatial, None for a
    network without a posterior.
    """

    reconstruction: Tensor
    mean: Tensor | None = None
    log_variance: Tensor | None = None


class Network(nn.Module):
    """A module that returns a small named result for a tile ``(N, C, *spatial)``.

    One that reconstructs is called as ``network(x, noise) -> VAEOutput``; one with a posterior q(z|x) has `encode`.
    """

    def noise_shape(self, batch: int) -> tuple[int, ...]:
        """Shape of the latent noise of ``batch`` tiles; an empty one where there is no latent to draw."""
        return batch, 0

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q(z|x), ``noise_shape(N)`` each, float32."""
        raise NotImplementedError(f"{type(self).__name__} has no posterior.")


Builder = Callable[[NetworkConfig, tuple[int, ...], int], Network]
"""From the options of a config, the spatial shape of a tile and the number of modalities to a network."""

network: Registry[Builder] = Registry("network", NETWORKS, "medvae.networks")
"""``@network("name")`` registers a `Builder` that `medvae.config.methods.NETWORKS` declares."""
