"""What an objective is: terms to minimise in training, and terms to watch on healthy validation tiles."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from medvae.config import ObjectiveConfig
from medvae.config.methods import OBJECTIVES
from medvae.imaging.grid import DEFAULT_GRID
from medvae.networks.densities import kl_divergence, negative_log_likelihood
from medvae.registry import Registry


class LossTerms(NamedTuple):
    """Terms of a loss, each a scalar in nats per in-mask voxel (but Dice); ``total`` is what is minimised.

    ``reconstruction`` is the likelihood term: of the scan, or, where lesions are segmented, of the truth.
    """

    total: Tensor
    reconstruction: Tensor
    kl: Tensor | None = None
    context: Tensor | None = None
    dice: Tensor | None = None


class Objective(ABC):
    """What a network is trained to minimise.

    Parameters
    ----------
    options
        The ``objective`` section of a config: the constants.
    voxel_mm
        Edge of a voxel of the tiles, in mm; that of the default grid if not given.
    """

    def __init__(self, options: ObjectiveConfig, voxel_mm: float = DEFAULT_GRID.voxel_mm) -> None:
        self.options, self.voxel_mm = options, voxel_mm

    @abstractmethod
    def training_terms(
        self,
        network: nn.Module,
        x: Tensor,
        mask: Tensor,
        seed: Sequence[int],
        step: int,
        beta: Tensor | None = None,
    ) -> LossTerms:
        """The loss of a step, with all its random numbers drawn from ``seed``.

        Parameters
        ----------
        network
            In training mode; perhaps wrapped, for several processes.
        x, mask
            ``(N, C, *spatial)`` and ``(N, 1, *spatial)`` bool.
        seed
            Of this step and process.
        step
            Steps done before, for the warm-up of β.
        beta
            Instead of the config's, where `medvae.training.objectives.geco.Geco` adapts it.
        """

    @abstractmethod
    def validation_terms(self, network: nn.Module, x: Tensor, mask: Tensor, seed: Sequence[int]) -> dict[str, Tensor]:
        """Terms of healthy validation tiles without noise, each summed over the batch, in nats.

        Parameters
        ----------
        network
            In evaluation mode.
        x, mask
            ``(N, C, *spatial)`` and ``(N, 1, *spatial)`` bool.
        seed
            Of these tiles.
        """


class Reconstruction(Objective):
    """An objective of a network that reconstructs: it is watched by the likelihood of the scan, and by the KL."""

    def validation_terms(self, network: nn.Module, x: Tensor, mask: Tensor, seed: Sequence[int]) -> dict[str, Tensor]:
        """``reconstruction``, and ``kl`` where the network has a posterior."""
        output = network(x)
        likelihood, scale = self.options.likelihood, self.options.likelihood_scale
        nats = negative_log_likelihood(x, output.reconstruction, mask, likelihood=likelihood, scale=scale)
        terms = {"reconstruction": nats.sum()}
        if output.mean is not None:
            terms["kl"] = kl_divergence(output.mean, output.log_variance).sum()
        return terms


objective: Registry[type[Objective]] = Registry("objective", OBJECTIVES, "medvae.training.objectives")
"""``@objective("name")`` registers an `Objective` that `medvae.config.methods.OBJECTIVES` declares."""


def objective_of(options: ObjectiveConfig, voxel_mm: float = DEFAULT_GRID.voxel_mm) -> Objective:
    """The objective that a config asks for, for tiles with voxels of ``voxel_mm``: of the default grid if not given."""
    return objective[options.kind](options, voxel_mm)


def generator_of(seed: Sequence[int], device: torch.device) -> torch.Generator:
    """A source of random numbers on ``device`` that depends on ``seed`` alone."""
    generator = torch.Generator(device)
    generator.manual_seed(int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0] >> 1))
    return generator
