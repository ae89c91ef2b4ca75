"""What is unusual about a scan and its brain mask, in sentences: `medvae check` and `medvae predict` say the same."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from medvae.imaging.volume import Geometry, Volume
from medvae.preparation.anatomy import cut_ends
from medvae.preparation.fingerprint import sample
from medvae.preparation.mask import LARGEST_BRAIN_ML

SMALLEST_BRAIN_ML = 1000.0
"""Adult brains below this are rare: the smallest of 120 healthy adults (IXI) has 1,080 ml."""
CT = "its values are those of a CT in Hounsfield units, not of an MR image: the maps of a detector for MR mean nothing."
"""What is said of a scan whose values are `like_ct`; a T1 whose unit happens to give such values looks like a T1."""
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


def like_ct(volume: Volume, brain: np.ndarray) -> bool:
    """Whether the values inside the ``brain``, ``(X, Y, Z)`` bool, can be Hounsfield units: fluid has 0 to 15, white
    matter about 28 and grey matter about 36, so nothing is much brighter than the median."""
    low, middle, third, high = np.percentile(sample(volume.array[brain]), (2, 50, 75, 98))
    return bool(low >= -30 and 20 <= middle <= 45 and third <= 1.25 * middle and high <= 2 * middle)


def unusual_brain(brain: np.ndarray, geometry: Geometry) -> tuple[str, ...]:
    """A warning about the volume of the brain, ``(X, Y, Z)`` bool."""
    brain_ml = np.count_nonzero(brain) * geometry.voxel_volume_ml
    if SMALLEST_BRAIN_ML <= brain_ml <= LARGEST_BRAIN_ML:
        return ()
    perhaps = ", and a child's brain is smaller" if brain_ml < SMALLEST_BRAIN_ML else ""
    return (
        f"its brain measures {brain_ml:,.0f} ml; {SMALLEST_BRAIN_ML:,.0f} to {LARGEST_BRAIN_ML:,.0f} ml were expected "
        f"of an adult{perhaps}; look at it, and at the spacing of its header.",
    )


def unusual_ends(brain: np.ndarray, geometry: Geometry) -> tuple[str, ...]:
    """A warning about sides on which the brain, ``(X, Y, Z)`` bool, ends in a plane."""
    return cut_off(cut_ends(brain, geometry))


def cut_off(sides: Mapping[str, float], uncovered: Collection[str] = ()) -> tuple[str, ...]:
    """The warning about sides where brain is missing: those that end in a slice as large as this share of the largest,
    and those that are `uncovered`."""
    told = [f"{side} (its last slice is {share:.0%} as large as the largest)" for side, share in sides.items()]
    told += [side for side in uncovered if side not in sides]
    if not told:
        return ()
    return (f"its brain is cut off at the {' and the '.join(told)}: what is missing is not searched.",)
