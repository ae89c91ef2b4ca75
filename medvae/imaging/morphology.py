"""From a map to a lesion mask: threshold, growing, erosion of the brain, smallest finding; in mm and ml.

A finding is a connected component; voxels that touch at a corner belong together.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from medvae.errors import MedvaeError
from medvae.imaging.components import TOUCHING, components


def erode(mask: np.ndarray, spacing_mm: Sequence[float], distance_mm: float) -> np.ndarray:
    """The voxels of ``mask`` ``(X, Y, Z)`` farther than ``distance_mm`` from every voxel outside, centre to centre.

    What lies beyond the grid counts as outside. 0 mm keeps the mask.

    Raises
    ------
    MedvaeError
        If nothing is left.
    """
    if distance_mm <= 0:
        return mask
    distance = ndimage.distance_transform_edt(np.pad(mask, 1), sampling=spacing_mm)[1:-1, 1:-1, 1:-1]
    inner = distance > distance_mm
    if not inner.any():
        raise MedvaeError(
            f"postprocessing.erosion_mm={distance_mm:g} leaves nothing of the brain, which is at most "
            f"{distance.max():.1f} mm deep. Use less."
        )
    return inner


def grow(values: np.ndarray, seed: float, low: float) -> np.ndarray:
    """Components of ``values > low`` ``(X, Y, Z)`` that hold a voxel above ``seed``: a threshold with hysteresis.

    The mask lies between those of the two thresholds. A ``low`` that is not below ``seed`` grows nothing.
    """
    seeds = values > seed
    return seeds if low >= seed else ndimage.binary_propagation(seeds, TOUCHING, mask=values > low)


def finding_volumes_ml(mask: np.ndarray, voxel_volume_ml: float) -> np.ndarray:
    """Volume of each finding of ``mask`` ``(X, Y, Z)``, in ml, largest first."""
    return np.sort(components(mask).sizes)[::-1] * voxel_volume_ml


def remove_small(mask: np.ndarray, voxel_volume_ml: float, minimum_ml: float) -> np.ndarray:
    """The findings of ``mask`` ``(X, Y, Z)`` that are larger than ``minimum_ml``; 0 keeps all."""
    if minimum_ml <= 0:
        return mask
    labels, sizes = components(mask)
    return np.concatenate([[False], sizes * voxel_volume_ml > minimum_ml])[labels]


def choose_minimum_ml(healthy_findings_ml: Sequence[np.ndarray], findings_left: int = 1) -> float:
    """The smallest volume above which no healthy scan has more than ``findings_left`` findings, in ml.

    Parameters
    ----------
    healthy_findings_ml
        `finding_volumes_ml` of the mask of each healthy *validation* scan. Never give it scans with lesions: a volume
        that was chosen to keep them is chosen on the answer.
    findings_left
        False findings that a scan may keep.

    Returns
    -------
    float
        For ``postprocessing.minimum_lesion_ml``; 0 where no scan has too many.

    Raises
    ------
    MedvaeError
        Without a scan.
    """
    if not healthy_findings_ml:
        raise MedvaeError("A smallest lesion volume is chosen on healthy validation scans, and none was given.")
    ordered = [np.sort(volumes)[::-1] for volumes in healthy_findings_ml]
    return float(max(volumes[findings_left] if len(volumes) > findings_left else 0.0 for volumes in ordered))
