"""The box of a mask, outside of which nothing need be smoothed, interpolated or registered; the faces of a volume."""

from __future__ import annotations

import numpy as np

Box = tuple[slice, slice, slice]


def box_of(mask: np.ndarray, margin: int = 0) -> Box:
    """The smallest box that holds ``mask`` ``(X, Y, Z)`` bool, wider by ``margin`` voxels where the array goes on.

    All of the array for an empty mask.
    """
    sides = []
    for axis in range(3):
        held = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
        size = mask.shape[axis]
        first, last = (held[0], held[-1]) if held.size else (0, size - 1)
        sides.append(slice(max(0, int(first) - margin), min(size, int(last) + 1 + margin)))
    return (sides[0], sides[1], sides[2])


def faces(array: np.ndarray) -> list[np.ndarray]:
    """The six outer faces of a volume ``(X, Y, Z)``, first and last along each axis in turn, as views.

    ``array.take(end, axis)`` first copies all of an array in Fortran order, as scans are.
    """
    return [np.moveaxis(array, axis, 0)[end] for axis in range(3) for end in (0, -1)]
