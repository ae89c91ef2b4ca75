"""Scores that need no network: the scan's own intensity, plain, histogram-equalised, or as a smoothed rank."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.special import logit

from medvae.scoring.registry import Scored, score

_RAREST = 1e-7
"""Ranks of at most 2 million voxels are farther from 0 and 1; single precision may round to those."""


def intensity(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The first modality as it is; ``(C, X, Y, Z)`` and ``(X, Y, Z)`` give ``(X, Y, Z)``."""
    return np.where(mask, image[0], 0).astype(np.float32)


def equalized_intensity(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Histogram-equalised intensity: the share of brain voxels that are darker, in (0, 1].

    A threshold on it beats many published networks on FLAIR (Meissen et al. 2021, arXiv 2109.06023).
    """
    equalized = np.zeros(mask.shape, dtype=np.float32)
    values = image[0][mask]
    equalized[mask] = _ranks(values) / len(values)
    return equalized


def smoothed_rank(image: np.ndarray, mask: np.ndarray, smooth: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """The rank of each voxel's brightness in the brain, smoothed there, as log-odds: 0 is the middle of the scan.

    Parameters
    ----------
    image, mask
        ``(C, X, Y, Z)``, of which the first modality is ranked, and ``(X, Y, Z)`` bool.
    smooth
        From a map ``(X, Y, Z)`` to its mean around each voxel of the brain.

    Returns
    -------
    ndarray
        ``(X, Y, Z)`` float32, 0 outside the brain; negative in the darker half. `rank_score` gives the value of a rank.
    """
    ranks = np.zeros(mask.shape, dtype=np.float32)
    values = image[0][mask]
    ranks[mask] = (_ranks(values) - 0.5) / len(values)
    odds = np.zeros(mask.shape, dtype=np.float32)
    odds[mask] = logit(np.clip(smooth(ranks)[mask].astype(np.float64), _RAREST, 1 - _RAREST))
    return odds


def _ranks(values: np.ndarray) -> np.ndarray:
    """The rank of each value from 1, ties by their mean."""
    from scipy.stats import rankdata  # half a second, which detectors of other scores need not wait for

    return rankdata(values)


def rank_score(rank: float) -> float:
    """What `smoothed_rank` gives where the smoothed rank is ``rank``, between 0 and 1."""
    return float(logit(rank))


@score("intensity")
@score("z_score")  # the image is then the scan's z scores
def _intensity(scan: Scored) -> np.ndarray:
    return intensity(scan.image, scan.mask)


@score("brightness_rank")
def _brightness_rank(scan: Scored) -> np.ndarray:
    smoothing_mm = scan.config.score.smoothing_mm
    return smoothed_rank(scan.image, scan.mask, lambda ranks: scan.smoothed(ranks, smoothing_mm))


@score("equalized_intensity")
def _equalized_intensity(scan: Scored) -> np.ndarray:
    return equalized_intensity(scan.image, scan.mask)
