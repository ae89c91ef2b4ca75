"""What surrounds a brain: the constant values of the background, which need not be zero."""

from __future__ import annotations

import numpy as np

CONSTANT_SHARE = 0.05
"""Share of the border's voxels from which the value of a corner counts as background."""


def backgrounds(array: np.ndarray) -> tuple[float, ...]:
    """The values that surround the brain: the median at the border of the volume, and constants in its corners.

    Skull-stripped scans have 0 around the brain, or -1, -1000, or what 0 has become when the volume was standardised;
    cropping, padding and turning can add a second constant.

    Parameters
    ----------
    array
        ``(X, Y, Z)``, finite.
    """
    border = np.concatenate([array.take(end, axis).ravel() for axis in range(3) for end in (0, -1)])
    corners = np.unique(array[np.ix_(*((0, -1),) * 3)])
    constant = [corner for corner in corners if np.mean(border == corner) >= CONSTANT_SHARE]
    return tuple(float(value) for value in dict.fromkeys([np.median(border), *constant]))


def foreground(array: np.ndarray) -> np.ndarray:
    """Where a volume has none of its background's values, ``(X, Y, Z)`` bool."""
    return ~np.isin(array, np.asarray(backgrounds(array), array.dtype))
