"""What a score is given, and the table of scores: each registers itself in the file that defines it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from medvae.config import Config
from medvae.config.methods import SCORES
from medvae.imaging.smoothing import smooth_in_mask
from medvae.networks.interface import Network
from medvae.registry import Registry


@dataclass(frozen=True)
class Scored:
    """A scan that is to be scored, with all that a score may ask of it and of its config."""

    config: Config
    """Of the run; ``config.score`` has the options of the scores."""
    network: Network | None
    """The trained network, in evaluation mode; None for a score that needs none."""
    image: np.ndarray
    """``(C, X, Y, Z)`` float32 on the standard grid: what the network is shown, or the scan's z scores for a score that
    needs the atlas."""
    mask: np.ndarray
    """``(X, Y, Z)`` bool: the brain."""
    part_scales: Sequence[float] = ()
    """Healthy mean of each part of a combined score."""

    def smoothed(self, values: np.ndarray, smoothing_mm: float) -> np.ndarray:
        """A map ``(X, Y, Z)`` smoothed in the brain by a Gaussian of ``smoothing_mm`` (SD)."""
        return smooth_in_mask(values, self.mask, [smoothing_mm / n for n in self.config.grid.spacing_mm])


RawScore = Callable[[Scored], np.ndarray]
"""From a scan to its map ``(X, Y, Z)`` float32, 0 outside the mask, before smoothing and calibration."""

score: Registry[RawScore] = Registry("score", SCORES, "medvae.scoring")
"""``@score("name")`` registers a `RawScore` that `medvae.config.methods.SCORES` declares; ``score["name"]`` is it."""
