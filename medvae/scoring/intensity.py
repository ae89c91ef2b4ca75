"""Scores that need no network: the scan's own intensity, plain or histogram-equalised."""

from __future__ import annotations

import numpy as np
from scipy.stats import rankdata

from medvae.scoring.registry import Scored, score


def intensity(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The first modality as it is; ``(C, X, Y, Z)`` and ``(X, Y, Z)`` give ``(X, Y, Z)``."""
    return np.where(mask, image[0], 0).astype(np.float32)


def equalized_intensity(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Histogram-equalised intensity: the share of brain voxels that are darker, in (0, 1].

    A threshold on it beats many published networks on FLAIR (Meissen et al. 2021, arXiv 2109.06023).
    """
    equalized = np.zeros(mask.shape, dtype=np.float32)
    values = image[0][mask]
    equalized[mask] = rankdata(values) / len(values)
    return equalized


@score("intensity")
@score("z_score")  # the image is then the scan's z scores
def _intensity(scan: Scored) -> np.ndarray:
    return intensity(scan.image, scan.mask)


@score("equalized_intensity")
def _equalized_intensity(scan: Scored) -> np.ndarray:
    return equalized_intensity(scan.image, scan.mask)
