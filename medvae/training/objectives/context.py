"""The ELBO mixed with context encoding: restore what was blanked."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from medvae.networks.densities import negative_log_likelihood
from medvae.training.corruptions import blank_squares
from medvae.training.objectives.base import LossTerms, Reconstruction, generator_of, objective
from medvae.training.objectives.elbo import beta_at, latent_noise, vae_loss


def cevae_loss(
    network: nn.Module,
    x: Tensor,
    corrupted: Tensor,
    mask: Tensor,
    noise: Tensor | None,
    *,
    context_weight: float = 0.5,
    likelihood: str = "laplace",
    scale: float = 0.1,
    beta: float | Tensor = 1.0,
    free_nats: float = 0.0,
) -> LossTerms:
    """Context-encoding VAE: (1−λ)·ELBO loss of ``x`` + λ·reconstruction of ``x`` from ``corrupted`` with z = μ.

    The target of the context branch is the clean tile, over the whole brain (Zimmerer et al. 2018, arXiv
    1812.05941, eq. 3; the paper's L1 term is here the same likelihood as the ELBO's, so that both are in nats).

    Parameters
    ----------
    network
        One with a posterior: ``network(x, noise) -> VAEOutput``.
    x, corrupted, mask
        Clean tiles ``(N, C, *spatial)``, the same with blanked squares, and the brain masks ``(N, 1, *spatial)`` bool.
    noise
        Of the ELBO's branch, as in `medvae.training.objectives.elbo.vae_loss`.
    context_weight
        λ, from 0 to 1.
    likelihood, scale
        Of a voxel around its reconstruction, in both branches.
    beta, free_nats
        Of the ELBO, as in `medvae.training.objectives.elbo.vae_loss`.

    Returns
    -------
    LossTerms
        ``total``, and ``reconstruction`` and ``kl`` of the ELBO, and ``context``, each without its weight.
    """
    elbo = vae_loss(network, x, mask, noise, likelihood=likelihood, scale=scale, beta=beta, free_nats=free_nats)
    restored = network(corrupted).reconstruction
    context = negative_log_likelihood(x, restored, mask, likelihood=likelihood, scale=scale).sum() / mask.sum()
    total = (1 - context_weight) * elbo.total + context_weight * context
    return LossTerms(total, elbo.reconstruction, elbo.kl, context)


@objective("cevae")
class ContextEncoding(Reconstruction):
    """The negative ELBO and the restoration of blanked squares; see `cevae_loss`."""

    def training_terms(
        self, network: nn.Module, x: Tensor, mask: Tensor, seed: Sequence[int], step: int, beta: Tensor | None = None
    ) -> LossTerms:
        """Of tiles with latent noise, and of the same with squares blanked."""
        options, generator = self.options, generator_of(seed, x.device)
        noise = latent_noise(network, x, generator)
        corrupted, _ = blank_squares(
            x, mask, generator, count=options.context_squares, side=options.context_side, fill=options.context_fill
        )
        return cevae_loss(
            network, x, corrupted, mask, noise, context_weight=options.context_weight, likelihood=options.likelihood,
            scale=options.likelihood_scale, beta=beta_at(options, step, beta), free_nats=options.free_nats,
        )  # fmt: skip
