"""What is unusual about a scan, in sentences: `medvae check` and `medvae predict` say the same."""

from __future__ import annotations

import numpy as np

from medvae.imaging.volume import Geometry, Volume
from medvae.preparation.fingerprint import sample
from medvae.preparation.mask import LARGEST_BRAIN_ML

SMALLEST_BRAIN_ML = 700.0
"""Adult brains below this are rare; the smallest of 120 healthy adults (IXI) has 1,080 ml."""
FEWEST_VALUES = 12
"""A scan with this many different values or fewer may be a label map."""


def unusual_voxels(volume: Volume) -> tuple[str, ...]:
    """Warnings about the size and number of voxels."""
    spacing, shape = volume.geometry.spacing_mm, volume.geometry.shape
    shown, found = " × ".join(f"{n:.3g}" for n in spacing), []
    if min(spacing) < 0.2 or max(spacing) > 12:
        found.append(f"its voxels measure {shown} mm. Is the unit of its header mm?")
    elif max(spacing) > 3 * min(spacing):
        found.append(f"its voxels measure {shown} mm: thick slices hide small lesions.")
    if min(shape) < 16:
        found.append(f"has shape {shape}, only {min(shape)} slices along one axis.")
    return tuple(found)


def unusual_values(volume: Volume, brain: np.ndarray | None) -> tuple[str, ...]:
    """Warnings about the intensities inside the ``brain``, ``(X, Y, Z)`` bool, or everywhere without one."""
    values = np.unique(sample(volume.array.ravel(order="K") if brain is None else volume.array[brain]))
    if len(values) > FEWEST_VALUES:
        return ()
    return (f"has only {len(values)} different values in the brain: it may be a label map.",)


def unusual_brain(brain: np.ndarray, geometry: Geometry) -> tuple[str, ...]:
    """A warning about the volume of the brain, ``(X, Y, Z)`` bool."""
    brain_ml = np.count_nonzero(brain) * geometry.voxel_volume_ml
    if SMALLEST_BRAIN_ML <= brain_ml <= LARGEST_BRAIN_ML:
        return ()
    return (
        f"its brain measures {brain_ml:,.0f} ml; {SMALLEST_BRAIN_ML:,.0f} to {LARGEST_BRAIN_ML:,.0f} ml were expected "
        f"of an adult. Look at it, and at the spacing of its header.",
    )
