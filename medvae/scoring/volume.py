"""From a config and a network to the score of a whole volume."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medvae.config import Config
from medvae.config.methods import OBJECTIVES, SCORES
from medvae.networks.interface import Network
from medvae.scoring.combined import unscaled_parts
from medvae.scoring.guided import guided_filter
from medvae.scoring.registry import Scored, score
from medvae.scoring.residual import reconstruction
from medvae.scoring.tiling import score_tiles


def score_volume(
    config: Config,
    network: Network | None,
    image: np.ndarray,
    mask: np.ndarray,
    part_scales: Sequence[float] = (),
    modalities: int | None = None,
) -> np.ndarray:
    """The score that a config asks for, smoothed, before any calibration: `raw_score`, then `smooth_score`.

    Parameters
    ----------
    config
        ``config.score`` says what; a "product" or "sum" is made of its parts.
    network
        The trained network, in evaluation mode; None for a baseline.
    image, mask
        ``(C, X, Y, Z)`` float32 and ``(X, Y, Z)`` bool on the standard grid; for "z_score" its z scores.
    part_scales
        Healthy mean of each part of a combined score.
    modalities
        Channels of ``image`` that are the scan, which come first; all by default. They guide the smoothing.

    Returns
    -------
    ndarray
        ``(X, Y, Z)`` float32, signed where the score is; 0 outside the mask.
    """
    raw = raw_score(config, network, image, mask, part_scales)
    return smooth_score(config, raw, image, mask, modalities)


def raw_score(
    config: Config, network: Network | None, image: np.ndarray, mask: np.ndarray, part_scales: Sequence[float] = ()
) -> np.ndarray:
    """The score ``(X, Y, Z)`` float32 before it is smoothed; arguments as of `score_volume`."""
    return score[config.score.kind](Scored(config, network, image, mask, part_scales))


def smooth_score(
    config: Config, raw: np.ndarray, image: np.ndarray, mask: np.ndarray, modalities: int | None = None
) -> np.ndarray:
    """A score ``(X, Y, Z)``, smoothed, guided by the scan, and with what surrounds each voxel; arguments as of
    `score_volume`."""
    scan = Scored(config, None, image, mask)
    smoothed = raw
    if not SCORES[config.score.kind].smooths:
        smoothed = scan.smoothed(smoothed, config.score.smoothing_mm)
    if config.score.guided_mm:
        radius = max(1, round(config.score.guided_mm / config.grid.voxel_mm))
        smoothed = guided_filter(smoothed, image[:modalities], mask, radius)
    if config.score.surround_mm:
        smoothed = smoothed + config.score.surround_weight * scan.smoothed(smoothed, config.score.surround_mm)
    return smoothed


def score_parts(config: Config, network: Network | None, image: np.ndarray, mask: np.ndarray) -> list[np.ndarray]:
    """Absolute, smoothed maps ``(X, Y, Z)`` of the parts of a combined score, not yet scaled."""
    return unscaled_parts(Scored(config, network, image, mask))


def reconstruct_volume(
    config: Config, network: Network | None, image: np.ndarray, mask: np.ndarray
) -> np.ndarray | None:
    """What the network makes of a scan's first modality, ``(X, Y, Z)`` float32 in normalised intensity, 0 outside.

    ``image`` ``(C, X, Y, Z)`` and ``mask`` ``(X, Y, Z)`` lie on the standard grid. None without a network, and for one
    that segments.
    """
    if network is None or OBJECTIVES[config.objective.kind].needs_segmenter:
        return None
    return score_tiles(Scored(config, network, image, mask), reconstruction)
