"""A brain moved onto the place of the template's without registration, for scores that compare no places.

It cannot fail: contrast, lesions and thick slices have no part in it, only the brain mask has.
"""

from __future__ import annotations

import numpy as np

from medvae.imaging.grid import Grid
from medvae.imaging.volume import Geometry
from medvae.preparation.standard_brain import read_template

_STRAY = 0.05
"""Percentage of the brain's voxels at each end of an axis that need not fit on the grid: those of a rough mask."""


def centre(mask: np.ndarray, geometry: Geometry, grid: Grid) -> np.ndarray:
    """The shift that lays the centre of a brain on that of the template's.

    A brain that would then jut out of the grid is moved as far as needed; one that is longer than the grid is also made
    smaller, by the same factor along all axes. Nothing is turned.

    Parameters
    ----------
    mask
        ``(X, Y, Z)`` bool, the brain; at least one voxel.
    geometry
        Its grid.
    grid
        The standard grid.

    Returns
    -------
    ndarray
        ``(4, 4)`` float64, from standard world coordinates to the scan's, RAS, mm.
    """
    brain = _places(mask, geometry)
    low, high = np.percentile(brain, [_STRAY, 100 - _STRAY], axis=0)
    first = grid.geometry.affine[:3, 3]
    last = first + (np.array(grid.shape) - 1) * grid.voxel_mm
    factor = max(1.0, float(((high - low) / (last - first)).max()))
    middle, target = brain.mean(axis=0), _places(read_template(grid)[1], grid.geometry).mean(axis=0)
    lowest, highest = target + (low - middle) / factor, target + (high - middle) / factor
    target = target + np.maximum(first - lowest, 0) - np.maximum(highest - last, 0)
    transform = np.diag([factor, factor, factor, 1.0])
    transform[:3, 3] = middle - factor * target
    return transform


def _places(mask: np.ndarray, geometry: Geometry) -> np.ndarray:
    """World coordinates of a mask's voxels, ``(V, 3)`` in mm."""
    return np.argwhere(mask) @ geometry.affine[:3, :3].T + geometry.affine[:3, 3]
