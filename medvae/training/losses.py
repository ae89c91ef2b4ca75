"""What a network is trained to minimise: functions of tensors, per sample, in nats.

``x`` is a tile ``(N, C, *spatial)``, ``mask`` its brain mask ``(N, 1, *spatial)`` bool. All sums run over in-mask
voxels only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from medvae.config import ObjectiveConfig
from medvae.imaging.components import components
from medvae.imaging.grid import DEFAULT_GRID
from medvae.networks.densities import free_nats_divergence, kl_divergence, negative_log_likelihood
from medvae.networks.interface import Network
from medvae.training.corruptions import blank_squares, coarse_noise, with_lesions

TYPICAL_LESION, WEIGHTS = 300, (0.5, 6.0)
"""Voxels of the lesion whose voxels count once where small ones count for more (2.4 ml on the grid of 2 mm that it was
tuned on), and the least and most they count."""


def discrepancy_loss(
    network: torch.nn.Module,
    corrupted: Tensor,
    truth: Tensor,
    mask: Tensor,
    dice_weight: float = 1.0,
    balance: float = 0.0,
) -> LossTerms:
    """Cross-entropy, in nats per in-mask voxel, plus ``dice_weight`` times 1 − soft Dice of the batch.

    The network is told which voxels ``truth (N, 1, *spatial)`` of ``corrupted (N, C, *spatial)`` were changed. Cross-
    entropy alone is small where lesions are rare, and Dice alone says nothing of a healthy tile. With ``balance`` a
    voxel of a lesion counts, in both, as `lesion_weights` says.
    """
    logits = network(corrupted).logits.float()
    wanted = truth.to(logits.dtype)
    weights = mask * lesion_weights(truth, balance) if balance else mask
    entropy = functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    entropy = (entropy * weights).sum() / mask.sum()
    probability, wanted = logits.sigmoid() * weights, wanted * weights if balance else wanted
    dice = (2 * (probability * truth).sum() + 1) / (probability.sum() + wanted.sum() + 1)
    return LossTerms(entropy + dice_weight * (1 - dice), entropy, dice=dice)


def lesion_weights(truth: Tensor, power: float) -> Tensor:
    """What a voxel counts for, float32 as ``truth (N, 1, *spatial)``: more in small lesions, 1 in healthy tissue.

    `TYPICAL_LESION` over the voxels of its own lesion, to the ``power``, within `WEIGHTS`.
    """
    weights = np.ones(truth.shape, dtype=np.float32)
    for sample, tile in zip(weights, truth.cpu().numpy(), strict=True):
        labels, sizes = components(tile[0])
        if len(sizes):
            sample[0] = np.concatenate([[1.0], ((TYPICAL_LESION / sizes) ** power).clip(*WEIGHTS)])[labels]
    return torch.from_numpy(weights).to(truth.device)


class Geco:
    """The β that holds the reconstruction term to a target: Rezende & Viola 2018, arXiv 1810.00597, algorithm 1.

    Their multiplier of the constraint is 1/β here, so that the loss keeps the scale of the likelihood: after each step
    ``log β −= speed · average(reconstruction − target)``, a moving average of decay 0.99. Nothing leaves the device.
    """

    DECAY = 0.99
    RANGE = (-12.0, 12.0)

    def __init__(self, beta: float, target: float, speed: float, device: torch.device | str = "cpu") -> None:
        self.target, self.speed = target, speed
        self._log_beta = torch.tensor(math.log(beta), device=device)
        self._average = torch.tensor(math.nan, device=device)

    @property
    def beta(self) -> Tensor:
        """The present β, a scalar."""
        return self._log_beta.exp()

    def update(self, reconstruction: Tensor) -> None:
        """Take the reconstruction term of a step, in nats per brain voxel."""
        excess = reconstruction.detach() - self.target
        average = self.DECAY * self._average + (1 - self.DECAY) * excess
        self._average = torch.where(self._average.isnan(), excess, average)
        self._log_beta = (self._log_beta - self.speed * self._average).clamp(*self.RANGE)

    def state(self) -> list[float]:
        """What a checkpoint keeps."""
        return [float(self._log_beta), float(self._average)]

    def restore(self, state: Sequence[float]) -> None:
        """Go on from `state`."""
        self._log_beta.fill_(state[0])
        self._average.fill_(state[1])


class LossTerms(NamedTuple):
    """Terms of a loss, each a scalar in nats per in-mask voxel (but Dice); ``total`` is what is minimised.

    ``reconstruction`` is the likelihood term: of the scan, or, where lesions are segmented, of the truth.
    """

    total: Tensor
    reconstruction: Tensor
    kl: Tensor | None = None
    context: Tensor | None = None
    dice: Tensor | None = None


def vae_loss(
    network: Network,
    x: Tensor,
    mask: Tensor,
    noise: Tensor | None,
    *,
    likelihood: str = "laplace",
    scale: float = 0.1,
    beta: float | Tensor = 1.0,
    free_nats: float = 0.0,
) -> LossTerms:
    """Negative ELBO, −log p(x|z) + β·KL.

    Each term is summed per sample; the sum over the batch is divided by the batch's number of brain voxels. That
    common divisor changes the step length, not the balance between the terms.
    """
    output = network(x, noise)
    voxels = mask.sum()
    reconstruction = (
        negative_log_likelihood(x, output.reconstruction, mask, likelihood=likelihood, scale=scale).sum() / voxels
    )
    kl = kl_divergence(output.mean, output.log_variance).sum() / voxels
    charged = free_nats_divergence(output.mean, output.log_variance, free_nats) / voxels if free_nats else kl
    return LossTerms(reconstruction + beta * charged, reconstruction, kl)


def cevae_loss(
    network: Network,
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
    """
    elbo = vae_loss(network, x, mask, noise, likelihood=likelihood, scale=scale, beta=beta, free_nats=free_nats)
    restored = network(corrupted).reconstruction
    context = negative_log_likelihood(x, restored, mask, likelihood=likelihood, scale=scale).sum() / mask.sum()
    total = (1 - context_weight) * elbo.total + context_weight * context
    return LossTerms(total, elbo.reconstruction, elbo.kl, context)


def denoising_loss(
    network: torch.nn.Module, x: Tensor, noisy: Tensor, mask: Tensor, *, likelihood: str = "laplace", scale: float = 0.1
) -> LossTerms:
    """−log p(x | noisy): restore the clean tile from the noisy one, in nats per in-mask voxel."""
    restored = network(noisy).reconstruction
    reconstruction = negative_log_likelihood(x, restored, mask, likelihood=likelihood, scale=scale).sum() / mask.sum()
    return LossTerms(reconstruction, reconstruction)


def training_loss(
    options: ObjectiveConfig,
    network: torch.nn.Module,
    x: Tensor,
    mask: Tensor,
    seed: Sequence[int],
    step: int,
    beta: Tensor | None = None,
    voxel_mm: float = DEFAULT_GRID.voxel_mm,
) -> LossTerms:
    """The loss that a config asks for, with all its random numbers drawn from ``seed``.

    Parameters
    ----------
    options
        Which objective, and its constants.
    network
        Gives reconstruction, mean and log-variance of a tile.
    x, mask
        ``(N, C, *spatial)`` and ``(N, 1, *spatial)`` bool.
    seed
        Of this step and process.
    step
        For the warm-up of β.
    beta
        Instead of the config's, where `Geco` adapts it.
    voxel_mm
        Edge of a voxel, in mm; that of the default grid if not given.
    """
    if options.kind == "discrepancy":
        changed = with_lesions(options, network, x, mask, seed, voxel_mm)
        return discrepancy_loss(network, *changed, mask, options.dice_weight, options.balance)
    generator = torch.Generator(x.device)
    generator.manual_seed(int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0] >> 1))
    likelihood = {"likelihood": options.likelihood, "scale": options.likelihood_scale}
    if options.kind == "dae":
        noisy = coarse_noise(
            x, mask, generator, cell=options.noise_cell, standard_deviation=options.noise_standard_deviation
        )
        return denoising_loss(network, x, noisy, mask, **likelihood)
    warm = min(1.0, (step + 1) / options.kl_warmup_steps) if options.kl_warmup_steps else 1.0
    elbo = {**likelihood, "beta": options.beta * warm if beta is None else beta, "free_nats": options.free_nats}
    bare = getattr(network, "module", network)  # several processes wrap the network
    noise = torch.randn(bare.noise_shape(len(x)), generator=generator, device=x.device)
    if options.kind == "vae":
        return vae_loss(network, x, mask, noise, **elbo)
    corrupted, _ = blank_squares(
        x, mask, generator, count=options.context_squares, side=options.context_side, fill=options.context_fill
    )
    return cevae_loss(network, x, corrupted, mask, noise, context_weight=options.context_weight, **elbo)


def validation_terms(
    options: ObjectiveConfig,
    network: torch.nn.Module,
    x: Tensor,
    mask: Tensor,
    seed: Sequence[int],
    voxel_mm: float = DEFAULT_GRID.voxel_mm,
) -> dict[str, Tensor]:
    """Terms of healthy validation tiles without noise, each summed over the batch, in nats.

    Arguments as of `training_loss`; ``voxel_mm`` is that of the default grid if not given.
    """
    if options.kind == "discrepancy":
        corrupted, truth = with_lesions(options, network, x, mask, seed, voxel_mm)
        entropy = discrepancy_loss(network, corrupted, truth, mask).reconstruction
        return {"reconstruction": entropy * mask.sum()}
    output = network(x)
    likelihood = {"likelihood": options.likelihood, "scale": options.likelihood_scale}
    terms = {"reconstruction": negative_log_likelihood(x, output.reconstruction, mask, **likelihood).sum()}
    if output.mean is not None:
        terms["kl"] = kl_divergence(output.mean, output.log_variance).sum()
    return terms
