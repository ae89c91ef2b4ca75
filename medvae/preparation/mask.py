"""The brain mask: from anatomical labels, or from the empty background of a skull-stripped scan."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from medvae.errors import MedvaeError
from medvae.imaging.volume import Geometry

LARGEST_BRAIN_ML = 2200.0
"""No brain is larger: the largest of 120 healthy adults (IXI) has 1,850 ml, the MNI152 template 1,890 ml."""

_ADVICE = (
    'Give its brain mask in the manifest ("mask") or a skull-stripped scan with zero background, or have the brain '
    "found: pip install deepbet, with preparation.brain=auto, the default."
)


class HeadFound(MedvaeError):
    """The scan is not skull-stripped."""


def mask_from_anatomy(labels: np.ndarray, *, closing_voxels: int = 2, source: str = "The label map") -> np.ndarray:
    """Brain mask from a map of anatomical structures.

    Parameters
    ----------
    labels
        ``(X, Y, Z)``, 0 is background.
    closing_voxels
        Gaps between structures (sulci, ventricles without a label) up to twice this wide are closed.
    source
        The file that an error names.

    Returns
    -------
    ndarray
        ``(X, Y, Z)`` bool: one component without holes.

    Raises
    ------
    MedvaeError
        If there is no label at all.
    """
    if not (labels > 0).any():
        raise MedvaeError(f"{source}: holds no label, all its voxels are 0. Give the label map of this scan.")
    margin = closing_voxels + 1  # closing erodes from the array's border inwards
    inside = np.pad(labels > 0, margin)
    if closing_voxels:
        inside = ndimage.binary_closing(inside, iterations=closing_voxels)
    inside = inside[(slice(margin, -margin),) * 3]
    return _solid(inside)


def mask_from_background(
    array: np.ndarray, geometry: Geometry, *, threshold: float = 5e-3, source: str = "The scan"
) -> np.ndarray:
    """Brain mask of a skull-stripped volume: what is not background, as one solid component.

    Parameters
    ----------
    array
        ``(X, Y, Z)``. Values may be negative (standardised intensities).
    geometry
        Its grid.
    threshold
        Background is at most this share of the 99th percentile of the absolute nonzero values: interpolation
        leaves small values, also negative ones, around a brain.
    source
        The file that an error names.

    Returns
    -------
    ndarray
        ``(X, Y, Z)`` bool: one component without holes.

    Raises
    ------
    MedvaeError
        If the volume is empty.
    HeadFound
        If it is evidently not skull-stripped: no zero background, more than 2.2 l that is not background, or a head
        that runs into the border of the volume on many sides.
    """
    size = np.abs(array)
    if not size.any():
        raise MedvaeError(f"{source}: is empty, all its voxels are 0. Check that this is the right file.")
    inside = size > threshold * np.percentile(size[size > 0], 99)
    share = float(inside.mean())
    if share > 0.95:
        raise HeadFound(
            f"{source}: has no empty background, {share:.0%} of its voxels are not zero: this looks like a whole "
            f"head. {_ADVICE}"
        )
    mask = _solid(inside)
    volume_ml = np.count_nonzero(mask) * geometry.voxel_volume_ml
    if volume_ml > LARGEST_BRAIN_ML:
        raise HeadFound(
            f"{source}: what is not background measures {volume_ml / 1000:.1f} l, more than any brain "
            f"({LARGEST_BRAIN_ML / 1000:.1f} l): this looks like a whole head. {_ADVICE}"
        )
    faces = [mask.take(end, axis) for axis in range(3) for end in (0, -1)]
    touched = [face for face in faces if face.mean() > 0.1]
    if len(touched) >= 2:
        raise HeadFound(
            f"{source}: what is not background runs into the border of the volume on {len(touched)} of its 6 sides: "
            f"this looks like a head that was not skull-stripped, or a brain that was cut off. {_ADVICE}"
        )
    return mask


def _solid(inside: np.ndarray) -> np.ndarray:
    """The largest component (6-connected) with its holes filled."""
    components, count = ndimage.label(inside)
    if count > 1:
        sizes = np.bincount(components.ravel())
        sizes[0] = 0
        inside = components == sizes.argmax()
    return ndimage.binary_fill_holes(inside)
