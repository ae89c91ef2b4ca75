"""The scale of anomaly maps: any score in [0, 1], with a threshold at one half."""

from __future__ import annotations

import numpy as np

_LARGEST = 1 - 1e-6


def bounded(distance: np.ndarray) -> np.ndarray:
    """Map distances from the threshold, in units of that from the healthy median to it, to [0, 1]; float64."""
    return 0.5 + 0.5 * distance / (1 + np.abs(distance))


def distance(values: np.ndarray) -> np.ndarray:
    """The distances from the threshold that `bounded` gave these values in [0, 1]; float64."""
    signed = np.clip(2 * np.asarray(values, np.float64) - 1, -_LARGEST, _LARGEST)
    return signed / (1 - np.abs(signed))
