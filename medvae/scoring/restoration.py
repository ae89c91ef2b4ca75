"""Restoration score: how far a scan must be moved until the model believes it."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import Tensor

from medvae.networks.densities import kl_divergence, negative_log_likelihood
from medvae.networks.interface import Network
from medvae.scoring.registry import Scored, score
from medvae.scoring.tiling import score_tiles


def restoration(
    network: Network,
    tile: Tensor,
    mask: Tensor,
    *,
    steps: int = 30,
    step_size: float = 0.01,
    total_variation: float = 2.0,
    likelihood: str = "laplace",
    scale: float = 0.1,
    beta: float = 1.0,
) -> Tensor:
    """Signed change x₀ − x after gradient descent on −ELBO(x) + λ·TV(x − x₀), averaged over modalities.

    The prior pulls the scan towards what healthy scans look like; the total variation of the change makes it move in
    pieces rather than voxel by voxel. Each step moves a voxel by ``step_size`` times the gradient divided by its own
    tile's root mean square, so that one step means the same for every tile and no tile depends on another.

    Parameters
    ----------
    network
        In evaluation mode, frozen.
    tile, mask
        ``(N, C, *spatial)`` float and ``(N, 1, *spatial)`` bool.
    steps, step_size
        Gradient steps, and their size in normalised intensity.
    total_variation
        λ, in nats per unit of normalised intensity.
    likelihood, scale, beta
        As the network was trained.

    Returns
    -------
    Tensor
        ``(N, *spatial)`` float32; negative where the scan is darker than its restoration, 0 outside the mask.

    References
    ----------
    Chen et al. 2020, "Unsupervised lesion detection via image restoration with a normative prior", Medical Image
    Analysis 64, doi:10.1016/j.media.2020.101713, eq. 5.
    """
    original = tile.detach().float()
    restored = original.clone()
    inside = mask.float()
    for _ in range(steps):
        with torch.enable_grad():
            x = restored.requires_grad_(True)
            output = network(x)
            loss = negative_log_likelihood(x, output.reconstruction, mask, likelihood=likelihood, scale=scale).sum()
            loss = loss + beta * kl_divergence(output.mean, output.log_variance).sum()
            loss = loss + total_variation * _variation((x - original) * inside)
            (slope,) = torch.autograd.grad(loss, x)
        slope = slope * inside
        voxels = inside.flatten(1).sum(1).clamp(min=1) * tile.shape[1]
        size = (slope.flatten(1).square().sum(1) / voxels).sqrt().clamp(min=1e-12)
        restored = (x - step_size * slope / size.view(-1, *[1] * (x.ndim - 1))).detach()
    return ((original - restored) * inside).mean(1)


@score("restoration")
def _restoration(scan: Scored) -> np.ndarray:
    options, loss = scan.config.score, scan.config.objective
    function = partial(
        restoration, steps=options.restoration_steps, step_size=options.restoration_step_size,
        likelihood=loss.likelihood, scale=loss.likelihood_scale, beta=loss.beta,
    )  # fmt: skip
    return score_tiles(scan, function)


def _variation(change: Tensor) -> Tensor:
    """Anisotropic total variation, summed over everything."""
    return sum((change.diff(dim=axis).abs().sum() for axis in range(2, change.ndim)), change.new_zeros(()))
