"""Slices of a volume on the standard grid: planes, and views of an array as a stack of slices."""

from __future__ import annotations

from typing import Literal

import numpy as np

Plane = Literal["axial", "coronal", "sagittal"]

PLANE_AXIS: dict[Plane, int] = {"sagittal": 0, "coronal": 1, "axial": 2}
"""Array axis of the standard grid (RAS) that a slice is perpendicular to."""


def slices_of(array: np.ndarray, plane: Plane) -> np.ndarray:
    """View ``(..., X, Y, Z)`` as a stack of slices ``(S, ..., H, W)``."""
    return np.moveaxis(array, PLANE_AXIS[plane] - 3, 0)


def volume_of(slices: np.ndarray, plane: Plane) -> np.ndarray:
    """Inverse of `slices_of`: a stack ``(S, ..., H, W)`` seen as ``(..., X, Y, Z)``."""
    return np.moveaxis(slices, 0, PLANE_AXIS[plane] - 3)
