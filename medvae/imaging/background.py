"""What surrounds a brain: the constant values of the background, which need not be zero."""

from __future__ import annotations

import numpy as np

from medvae.imaging.boxes import faces

CONSTANT_SHARE, BORDER_SHARE = 0.05, 0.75
"""Shares of the voxels at the border of a volume: from which a corner's value may be a constant background, and from
which one or two such values together are. Noise around a head has neither."""


def backgrounds(array: np.ndarray) -> tuple[float, ...]:
    """The constant values that surround a brain, one or two; 0 if nothing constant does.

    Skull-stripped scans have 0 around the brain, or -1, -1000, or what 0 has become when the volume was standardised;
    cropping, padding and turning can add a second constant in the corners.

    Parameters
    ----------
    array
        ``(X, Y, Z)``, finite.
    """
    border = np.concatenate([face.ravel() for face in faces(array)])
    shares = {float(corner): float(np.mean(border == corner)) for corner in np.unique(array[np.ix_(*((0, -1),) * 3)])}
    values = sorted((v for v, share in shares.items() if share >= CONSTANT_SHARE), key=lambda v: -shares[v])
    surrounded = len(values) <= 2 and sum(shares[value] for value in values) >= BORDER_SHARE
    return tuple(values) if surrounded else (0.0,)


def foreground(array: np.ndarray) -> np.ndarray:
    """Where a volume has none of its background's values, ``(X, Y, Z)`` bool."""
    return ~np.isin(array, np.asarray(backgrounds(array), array.dtype))


def on_black(array: np.ndarray, black: float) -> np.ndarray:
    """A volume to show, ``(X, Y, Z)``, its background no brighter than ``black``: standardised brains lie in grey."""
    return np.where(foreground(array), array, np.minimum(array, black))
