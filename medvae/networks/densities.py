"""KL divergence and log-likelihood of a variational autoencoder, per sample, in nats, over in-mask voxels."""

from __future__ import annotations

import math

from torch import Tensor


def kl_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(q(z|x) ‖ N(0, I)) of a diagonal Gaussian, ``(N,)`` nats, computed in float32.

    −½ Σ (1 + log σ² − μ² − σ²); Kingma & Welling 2013, arXiv 1312.6114, appendix B.
    """
    return _kl_terms(mean, log_variance).sum(1)


def free_nats_divergence(mean: Tensor, log_variance: Tensor, free_nats: float) -> Tensor:
    """KL of a batch in which each latent dimension is charged at least ``free_nats``, a scalar.

    Σ_j max(free_nats, mean over the batch of KL_j), times the batch size: a dimension below its allowance is not
    pushed further towards the prior (Kingma et al. 2016, arXiv 1606.04934, eq. 15). With 0 it is the sum of
    `kl_divergence` over the batch.
    """
    terms = _kl_terms(mean, log_variance)
    return terms.mean(0).clamp(min=free_nats).sum() * len(terms)


def _kl_terms(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL of each latent dimension, ``(N, L)`` nats."""
    mean, log_variance = mean.float(), log_variance.float()
    return -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).flatten(1)


def negative_log_likelihood(
    x: Tensor, reconstruction: Tensor, mask: Tensor, *, likelihood: str = "laplace", scale: float = 0.1
) -> Tensor:
    """−log p(x|z) summed over in-mask voxels, ``(N,)`` nats, with its normalising constant.

    ``scale`` is Laplace's b, or Gauss's σ, in units of normalised intensity.
    """
    residual = (x.float() - reconstruction.float()) / scale
    if likelihood == "laplace":
        nats = residual.abs() + math.log(2 * scale)
    else:
        nats = 0.5 * residual.square() + math.log(scale) + 0.5 * math.log(2 * math.pi)
    return (nats * mask).flatten(1).sum(1)
