"""Learned discrepancy: segment lesions that were inserted into healthy scans."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from medvae.imaging.components import components
from medvae.training.corruptions import with_lesions
from medvae.training.objectives.base import LossTerms, Objective, objective

TYPICAL_LESION, WEIGHTS = 300, (0.5, 6.0)
"""Voxels of the lesion whose voxels count once where small ones count for more (2.4 ml on the grid of 2 mm that it was
tuned on), and the least and most they count."""


def discrepancy_loss(
    network: nn.Module,
    corrupted: Tensor,
    truth: Tensor,
    mask: Tensor,
    dice_weight: float = 1.0,
    balance: float = 0.0,
) -> LossTerms:
    """Cross-entropy, in nats per in-mask voxel, plus ``dice_weight`` times 1 − soft Dice of the batch.

    The network is told which voxels were changed. Cross-entropy alone is small where lesions are rare, and Dice alone
    says nothing of a healthy tile.

    Parameters
    ----------
    network
        One that segments.
    corrupted, truth, mask
        Tiles with lesions ``(N, C, *spatial)``, the changed voxels and the brain masks ``(N, 1, *spatial)`` bool.
    dice_weight
        Weight of 1 − soft Dice.
    balance
        Above 0 a voxel of a lesion counts, in both terms, as `lesion_weights` of this power says.

    Returns
    -------
    LossTerms
        ``total``, the cross-entropy as ``reconstruction``, and ``dice``.
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


@objective("discrepancy")
class Discrepancy(Objective):
    """Cross-entropy and Dice of inserted lesions; see `discrepancy_loss`."""

    def training_terms(
        self, network: nn.Module, x: Tensor, mask: Tensor, seed: Sequence[int], step: int, beta: Tensor | None = None
    ) -> LossTerms:
        """Of tiles with lesions; no β."""
        corrupted, truth = with_lesions(self.options, network, x, mask, seed, self.voxel_mm)
        return discrepancy_loss(network, corrupted, truth, mask, self.options.dice_weight, self.options.balance)

    def validation_terms(self, network: nn.Module, x: Tensor, mask: Tensor, seed: Sequence[int]) -> dict[str, Tensor]:
        """The cross-entropy, every voxel counting once, as ``reconstruction``."""
        corrupted, truth = with_lesions(self.options, network, x, mask, seed, self.voxel_mm)
        entropy = discrepancy_loss(network, corrupted, truth, mask).reconstruction
        return {"reconstruction": entropy * mask.sum()}
