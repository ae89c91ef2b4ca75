"""Denoising: restore the scan from coarse noise."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from medvae.networks.densities import negative_log_likelihood
from medvae.training.corruptions import coarse_noise
from medvae.training.objectives.base import LossTerms, Reconstruction, generator_of, objective


def denoising_loss(
    network: nn.Module, x: Tensor, noisy: Tensor, mask: Tensor, *, likelihood: str = "laplace", scale: float = 0.1
) -> LossTerms:
    """−log p(x | noisy): restore the clean tile from the noisy one, in nats per in-mask voxel.

    Parameters
    ----------
    network
        One that reconstructs.
    x, noisy, mask
        Clean tiles ``(N, C, *spatial)``, the same with noise, and the brain masks ``(N, 1, *spatial)`` bool.
    likelihood, scale
        Of a voxel around its reconstruction, as in `medvae.training.objectives.elbo.vae_loss`.
    """
    restored = network(noisy).reconstruction
    reconstruction = negative_log_likelihood(x, restored, mask, likelihood=likelihood, scale=scale).sum() / mask.sum()
    return LossTerms(reconstruction, reconstruction)


@objective("dae")
class Denoising(Reconstruction):
    """The likelihood of the clean tile (Kascenas et al. 2022); see `denoising_loss`."""

    def training_terms(
        self, network: nn.Module, x: Tensor, mask: Tensor, seed: Sequence[int], step: int, beta: Tensor | None = None
    ) -> LossTerms:
        """Of tiles with coarse noise; no β."""
        options, generator = self.options, generator_of(seed, x.device)
        spread = options.noise_standard_deviation
        noisy = coarse_noise(x, mask, generator, cell=options.noise_cell, standard_deviation=spread)
        likelihood, scale = options.likelihood, options.likelihood_scale
        return denoising_loss(network, x, noisy, mask, likelihood=likelihood, scale=scale)
