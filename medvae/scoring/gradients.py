"""Gradient scores: |∂L/∂x| of a term of the loss, plain or averaged over noisy copies (SmoothGrad)."""

from __future__ import annotations

from functools import partial

import numpy as np

from medvae.networks.gradients import Term, gradient, smooth_gradient
from medvae.scoring.registry import Scored, score
from medvae.scoring.tiling import TileScore, score_tiles


@score("kl_gradient")
def kl_gradient(scan: Scored) -> np.ndarray:
    """|∂KL/∂x|."""
    return score_tiles(scan, _gradient(scan, "kl"))


@score("reconstruction_gradient")
def reconstruction_gradient(scan: Scored) -> np.ndarray:
    """|∂ −log p(x|z)/∂x|."""
    return score_tiles(scan, _gradient(scan, "reconstruction"))


@score("elbo_gradient")
def elbo_gradient(scan: Scored) -> np.ndarray:
    """|∂ −ELBO/∂x|."""
    return score_tiles(scan, _gradient(scan, "elbo"))


def _gradient(scan: Scored, term: Term) -> TileScore:
    options, loss = scan.config.score, scan.config.objective
    likelihood, scale, beta = loss.likelihood, loss.likelihood_scale, loss.beta
    if not options.smoothgrad_draws:
        return partial(gradient, term=term, likelihood=likelihood, scale=scale, beta=beta)
    return partial(
        smooth_gradient, draws=options.smoothgrad_draws, noise=options.smoothgrad_noise, seed=scan.config.seed,
        term=term, likelihood=likelihood, scale=scale, beta=beta,
    )  # fmt: skip
