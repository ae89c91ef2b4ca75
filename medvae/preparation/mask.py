"""The brain mask: from anatomical labels, or from the constant background of a skull-stripped scan."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from medvae.errors import MedvaeError
from medvae.imaging.background import backgrounds
from medvae.imaging.boxes import box_of, faces
from medvae.imaging.volume import Geometry

LARGEST_BRAIN_ML = 2200.0
"""No brain is larger: the largest of 120 healthy adults (IXI) has 1,850 ml, the MNI152 template 1,890 ml."""

_ADVICE = (
    'Give its brain mask in the manifest ("mask") or a skull-stripped scan with constant background, or have the brain '
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
        ``(X, Y, Z)``. Its background may have any value, see `backgrounds`, and the brain any, also negative ones.
    geometry
        Its grid.
    threshold
        A voxel is background if it differs from it by at most this share of the 99th percentile of all differences:
        interpolation leaves small deviations around a brain.
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
        If it is evidently not skull-stripped: no constant background, more than 2.2 l that is not background, or a
        head that runs into the border of the volume on many sides.
    """
    constants = backgrounds(array)
    distance = np.abs(array - constants[0])
    for other in constants[1:]:
        np.minimum(distance, np.abs(array - other), out=distance)
    if not distance.any():
        values = " or ".join(f"{constant:g}" for constant in constants)
        raise MedvaeError(f"{source}: is empty, all its voxels are {values}. Check that this is the right file.")
    inside = distance > threshold * np.percentile(distance[distance > 0], 99)
    share = float(inside.mean())
    if share > 0.95:
        raise HeadFound(
            f"{source}: has no empty background, {share:.0%} of its voxels differ from {constants[0]:g}: this looks "
            f"like a whole head. {_ADVICE}"
        )
    mask = _solid(inside)
    mask = _with_dark_rim(mask, (distance > 0) & ~inside & ~mask)
    volume_ml = np.count_nonzero(mask) * geometry.voxel_volume_ml
    if volume_ml > LARGEST_BRAIN_ML:
        raise HeadFound(
            f"{source}: what is not background measures {volume_ml / 1000:.1f} l, more than any brain "
            f"({LARGEST_BRAIN_ML / 1000:.1f} l): this looks like a whole head. {_ADVICE}"
        )
    touched = [face for face in faces(mask) if face.mean() > 0.1]
    if len(touched) >= 2:
        raise HeadFound(
            f"{source}: what is not background runs into the border of the volume on {len(touched)} of its 6 sides: "
            f"this looks like a head that was not skull-stripped, or a brain that was cut off. {_ADVICE}"
        )
    return mask


def _with_dark_rim(mask: np.ndarray, near: np.ndarray) -> np.ndarray:
    """The mask with the voxels that are ``near`` the background in value, if all lie within two voxels of it.

    Then nothing has disturbed the background, and they are tissue that happens to have almost its value, as the middle
    grey of a standardised brain in zeros. Ringing and noise lie farther out, too.
    """
    places = np.argwhere(near)
    if not 0 < len(places) < 0.01 * np.count_nonzero(mask):
        return mask
    wide, touched = np.pad(mask, 1), np.zeros(len(places), bool)
    for _ in range(2):
        for shift in np.ndindex(3, 3, 3):
            touched |= wide[tuple((places + shift).T)]
        wide[tuple((places[touched] + 1).T)] = True
    return mask | near if touched.all() else mask


def _solid(inside: np.ndarray) -> np.ndarray:
    """The largest component (6-connected) with its holes filled."""
    components, count = ndimage.label(inside)
    if count > 1:
        sizes = np.bincount(components.ravel())
        sizes[0] = 0
        inside = components == sizes.argmax()
    solid, box = np.zeros_like(inside), box_of(inside, margin=1)
    solid[box] = ndimage.binary_fill_holes(inside[box])
    return solid
