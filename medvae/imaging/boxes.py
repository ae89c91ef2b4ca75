"""The box of a mask: what lies outside the brain need not be smoothed, interpolated or registered."""

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
