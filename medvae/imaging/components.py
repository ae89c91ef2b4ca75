"""Connected components of a mask: what counts as one lesion, or as one finding.

Voxels that touch at a corner belong together (26 neighbours), as in MSSEG 2016 and BraTS 2023.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import ndimage

TOUCHING = np.ones((3, 3, 3), dtype=bool)
"""A voxel and its 26 neighbours."""


class Components(NamedTuple):
    """Which component each voxel belongs to, and how large each is."""

    labels: np.ndarray
    """``(X, Y, Z)``, from 1; 0 outside the mask."""
    sizes: np.ndarray
    """``(L,)`` voxels of each component."""


def components(mask: np.ndarray) -> Components:
    """Tell the components of ``mask`` ``(X, Y, Z)`` bool, or of a slice, apart."""
    labels, count = ndimage.label(mask, np.ones((3,) * mask.ndim))
    return Components(labels, np.bincount(labels.ravel(), minlength=count + 1)[1:])


def largest_component(mask: np.ndarray) -> np.ndarray:
    """The largest component of ``mask`` ``(X, Y, Z)`` bool, bool; the mask itself if it has one only, or none."""
    labels, sizes = components(mask)
    return mask if len(sizes) < 2 else labels == np.argmax(sizes) + 1
