"""Intensity normalisation inside the brain."""

from __future__ import annotations

import numpy as np

from medvae.config import PreparationConfig
from medvae.errors import MedvaeError


def normalise(image: np.ndarray, mask: np.ndarray, config: PreparationConfig, source: str) -> np.ndarray:
    """Bring the in-mask intensities of one modality to a common scale; 0 outside the mask.

    Parameters
    ----------
    image, mask
        ``(X, Y, Z)``, float and bool.
    config
        Method, percentiles and limits.
    source
        The file that an error names.

    Raises
    ------
    MedvaeError
        If the brain has one intensity only.
    """
    values = image[mask]
    if config.intensity == "percentile":
        low, high = np.percentile(values, config.percentiles)
        offset, width = float(low), float(high - low)
    else:
        offset, width = float(values.mean(dtype=np.float64)), float(values.std(dtype=np.float64))
    if not width > 0:
        raise MedvaeError(
            f"{source}: every brain voxel has about the same intensity ({offset:g}); a scan with contrast was "
            f"expected. Look at the file: it may be a mask or a label map."
        )
    scaled = (image - offset) / width
    if config.clip is not None:
        scaled = np.clip(scaled, *config.clip)
    return np.where(mask, scaled, 0.0).astype(np.float32)
