"""Intensity normalisation inside the brain."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from medvae.config import PreparationConfig
from medvae.errors import MedvaeError
from medvae.preparation.landmarks import LandmarkScale


def normalise(image: np.ndarray, mask: np.ndarray, config: PreparationConfig, source: str) -> np.ndarray:
    """Bring the in-mask intensities of one modality to a common scale; 0 outside the mask.

    Intensities by landmarks take two steps: this one, with what `before_scale` gives, and `standardise`.

    Parameters
    ----------
    image, mask
        ``(X, Y, Z)``, float and bool.
    config
        Method, percentiles and limits.
    source
        The file that an error names.

    Returns
    -------
    ndarray
        ``(X, Y, Z)`` float32.

    Raises
    ------
    MedvaeError
        If the brain has one intensity only, or white matter that is not above 0 for "white_matter".
    """
    values = image[mask]
    if config.intensity == "zscore":
        offset, width = float(values.mean(dtype=np.float64)), float(values.std(dtype=np.float64))
    else:
        low, high = np.percentile(values, config.percentiles)
        offset, width = float(low), float(high - low)
    if not width > 0:
        raise MedvaeError(
            f"{source}: every brain voxel has about the same intensity ({offset:g}); a scan with contrast was "
            f"expected. Look at the file: it may be a mask or a label map."
        )
    if config.intensity == "white_matter":
        offset, width = 0.0, white_matter_peak(values)
        if not width > 0:
            raise MedvaeError(
                f"{source}: its white matter has the intensity {width:g}; a scan whose intensities are positive was "
                f"expected. Set preparation.intensity=percentile for scans that were standardised before."
            )
    return _limited((image - offset) / width, mask, config)


def before_scale(config: PreparationConfig) -> PreparationConfig:
    """How scans are prepared before a learned scale is applied: by percentiles without limits, for "landmarks"."""
    if config.intensity != "landmarks":
        return config
    return config.model_copy(update={"intensity": "percentile", "clip": None})


def standardise(image: np.ndarray, mask: np.ndarray, scale: LandmarkScale, config: PreparationConfig) -> np.ndarray:
    """All modalities ``(C, X, Y, Z)`` on a learned scale, within the config's limits, float32, 0 outside the mask."""
    return np.stack([_limited(scale.apply(channel, mask, n), mask, config) for n, channel in enumerate(image)])


def _limited(image: np.ndarray, mask: np.ndarray, config: PreparationConfig) -> np.ndarray:
    if config.clip is not None:
        image = np.clip(image, *config.clip)
    return np.where(mask, image, 0.0).astype(np.float32)


def white_matter_peak(values: np.ndarray) -> float:
    """The most frequent intensity of white matter: the brightest clear peak of a T1 brain's histogram.

    Parameters
    ----------
    values
        ``(V,)`` intensities inside the brain mask of a T1 scan.
    """
    from scipy.signal import find_peaks  # half a second, which the other ways of scaling need not wait for

    low, high = (float(n) for n in np.percentile(values, [0.5, 99.5]))
    counts, edges = np.histogram(values, bins=256, range=(low, high))
    smooth = ndimage.gaussian_filter1d(counts.astype(np.float64), 5.0, mode="constant")
    peaks, _ = find_peaks(smooth, prominence=0.03 * smooth.max())
    peak = peaks[-1] if peaks.size else int(smooth.argmax())
    return float((edges[peak] + edges[peak + 1]) / 2)
