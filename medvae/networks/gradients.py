"""Gradient scores: how strongly the model's loss asks each voxel to change, |∂L/∂x|.

Zimmerer et al. 2018, "Context-encoding Variational Autoencoder", and 2019, "A Case for the Score", arXiv 1912.00003.
The loss is summed over the batch, and no layer mixes samples, so the gradient of a tile is its own.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from medvae.networks.densities import kl_divergence, negative_log_likelihood
from medvae.networks.interface import Network

Term = Literal["elbo", "kl", "reconstruction"]


def gradient(
    network: Network,
    tile: Tensor,
    mask: Tensor,
    *,
    term: Term = "kl",
    likelihood: str = "laplace",
    scale: float = 0.1,
    beta: float = 1.0,
) -> Tensor:
    """|∂L/∂x| with z = μ, averaged over modalities.

    Parameters
    ----------
    network
        In evaluation mode; freeze its weights (``requires_grad_(False)``) to save a third of the time.
    tile, mask
        ``(N, C, *spatial)`` float and ``(N, 1, *spatial)`` bool.
    term
        L: the KL divergence, −log p(x|z), or the negative ELBO (their sum with weight ``beta``), in nats.
    likelihood, scale, beta
        As the network was trained; see `medvae.networks.densities`.

    Returns
    -------
    Tensor
        ``(N, *spatial)`` float32 ≥ 0, in nats per unit of normalised intensity; 0 outside the mask.
    """
    with torch.enable_grad():
        x = tile.detach().requires_grad_(True)
        if term == "kl":  # the decoder takes no part in it
            loss = kl_divergence(*network.encode(x)).sum()
        else:
            output = network(x)
            loss = negative_log_likelihood(
                x, output.reconstruction, mask, likelihood=likelihood, scale=scale
            ).sum()  # fmt: skip
            if term == "elbo":
                loss = loss + beta * kl_divergence(output.mean, output.log_variance).sum()
        (slope,) = torch.autograd.grad(loss, x)
    return (slope.float().abs() * mask).mean(1)


def smooth_gradient(
    network: Network,
    tile: Tensor,
    mask: Tensor,
    *,
    draws: int = 8,
    noise: float = 0.05,
    seed: int = 0,
    term: Term = "kl",
    likelihood: str = "laplace",
    scale: float = 0.1,
    beta: float = 1.0,
) -> Tensor:
    """SmoothGrad: the mean of `gradient` over independent noisy copies of the tile (Smilkov 2017, arXiv 1706.03825).

    Each draw adds fresh noise of standard deviation ``noise`` to the tile itself; draws do not accumulate. The noise of
    draw k is one field for all tiles of a shape, seeded by (seed, k), so that a tile's score does not depend on its
    place in the batch.
    """
    total = torch.zeros(tile.shape[0], *tile.shape[2:], device=tile.device)
    for draw in range(draws):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + draw)
        field = torch.randn(tile.shape[1:], generator=generator).to(tile.device)
        noisy = tile + noise * field * mask
        total += gradient(network, noisy, mask, term=term, likelihood=likelihood, scale=scale, beta=beta)
    return total / draws
