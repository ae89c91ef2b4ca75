"""A β that is adapted while the network trains, so that the reconstruction reaches a target."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


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
