"""The negative ELBO of a variational autoencoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from medvae.config import ObjectiveConfig
from medvae.networks.densities import free_nats_divergence, kl_divergence, negative_log_likelihood
from medvae.training.objectives.base import LossTerms, Reconstruction, generator_of, objective


def vae_loss(
    network: nn.Module,
    x: Tensor,
    mask: Tensor,
    noise: Tensor | None,
    *,
    likelihood: str = "laplace",
    scale: float = 0.1,
    beta: float | Tensor = 1.0,
    free_nats: float = 0.0,
) -> LossTerms:
    """Negative ELBO, −log p(x|z) + β·KL (Kingma & Welling 2013, arXiv 1312.6114, eq. 10).

    Each term is summed per sample; the sum over the batch is divided by the batch's number of brain voxels. That
    common divisor changes the step length, not the balance between the terms.

    Parameters
    ----------
    network
        One with a posterior: ``network(x, noise) -> VAEOutput``.
    x, mask
        Tiles ``(N, C, *spatial)`` and their brain masks ``(N, 1, *spatial)`` bool.
    noise
        ε of z = μ + σ ε, of the network's ``noise_shape(N)``; None takes z = μ.
    likelihood
        Distribution of a voxel around its reconstruction, "laplace" or "gaussian".
    scale
        Its scale, Laplace's b or Gauss's σ, in normalised intensity.
    beta
        Weight of the KL divergence.
    free_nats
        KL, in nats, that each latent dimension may spend without being charged for less.

    Returns
    -------
    LossTerms
        ``total``, ``reconstruction`` and ``kl``; the last as it is, without β and free nats.
    """
    output = network(x, noise)
    voxels = mask.sum()
    reconstruction = (
        negative_log_likelihood(x, output.reconstruction, mask, likelihood=likelihood, scale=scale).sum() / voxels
    )
    kl = kl_divergence(output.mean, output.log_variance).sum() / voxels
    charged = free_nats_divergence(output.mean, output.log_variance, free_nats) / voxels if free_nats else kl
    return LossTerms(reconstruction + beta * charged, reconstruction, kl)


def latent_noise(network: nn.Module, x: Tensor, generator: torch.Generator) -> Tensor:
    """ε of z = μ + σ ε for tiles ``x (N, C, *spatial)``: standard normal, of the network's ``noise_shape(N)``."""
    bare: Any = getattr(network, "module", network)  # several processes wrap the network; compilation hides its class
    return torch.randn(bare.noise_shape(len(x)), generator=generator, device=x.device)


def beta_at(options: ObjectiveConfig, step: int, adapted: Tensor | None) -> float | Tensor:
    """β of a step: the adapted one, or the config's, which a warm-up raises from nothing."""
    if adapted is not None:
        return adapted
    return options.beta * (min(1.0, (step + 1) / options.kl_warmup_steps) if options.kl_warmup_steps else 1.0)


@objective("vae")
class Elbo(Reconstruction):
    """The negative ELBO; see `vae_loss`."""

    def training_terms(
        self, network: nn.Module, x: Tensor, mask: Tensor, seed: Sequence[int], step: int, beta: Tensor | None = None
    ) -> LossTerms:
        """Of tiles with latent noise."""
        options = self.options
        noise = latent_noise(network, x, generator_of(seed, x.device))
        return vae_loss(
            network, x, mask, noise, likelihood=options.likelihood, scale=options.likelihood_scale,
            beta=beta_at(options, step, beta), free_nats=options.free_nats,
        )  # fmt: skip
