"""Intensity normalisation inside the brain."""

from __future__ import annotations

import numpy as np
from scipy import ndimage, signal

from medvae.config import PreparationConfig
from medvae.errors import MedvaeError
from medvae.preparation.landmarks import LandmarkScale


def normalise(
    image: np.ndarray,
    mask: np.ndarray,
    config: PreparationConfig,
    source: str,
    *,
    scale: LandmarkScale | None = None,
    modality: int = 0,
) -> np.ndarray:
    """Bring the in-mask intensities of one modality to a common scale; 0 outside the mask.

    Parameters
    ----------
    image, mask
        ``(X, Y, Z)``, float and bool.
    config
        Method, percentiles and limits.
    source
        The file that an error names.
    scale, modality
        What "landmarks" was learned as, and which of its modalities this is.

    Returns
    -------
    ndarray
        ``(X, Y, Z)`` float32.

    Raises
    ------
    MedvaeError
        If the brain has one intensity only, there is no scale for "landmarks", or no white matter above 0.
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
    scaled = (image - offset) / width
    if config.intensity == "landmarks":
        scaled = on_scale(scaled, mask, scale, modality, source)
    return limited(scaled, mask, config)


def on_scale(
    image: np.ndarray, mask: np.ndarray, scale: LandmarkScale | None, modality: int, source: str
) -> np.ndarray:
    """One modality, as "percentile" leaves it, on a learned scale."""
    if scale is None or modality >= len(scale.levels):
        raise MedvaeError(
            f"{source}: preparation.intensity=landmarks needs the scale that was learned from the training scans, for "
            f"each modality. Give that of the detector (detector.scale), or choose another preparation.intensity."
        )
    return scale.apply(image.astype(np.float32), mask, modality)


def limited(image: np.ndarray, mask: np.ndarray, config: PreparationConfig) -> np.ndarray:
    """The image within the config's limits, float32, 0 outside the mask."""
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
    low, high = (float(n) for n in np.percentile(values, [0.5, 99.5]))
    counts, edges = np.histogram(values, bins=256, range=(low, high))
    smooth = ndimage.gaussian_filter1d(counts.astype(np.float64), 5.0, mode="constant")
    peaks, _ = signal.find_peaks(smooth, prominence=0.03 * smooth.max())
    peak = peaks[-1] if peaks.size else int(smooth.argmax())
    return float((edges[peak] + edges[peak + 1]) / 2)
