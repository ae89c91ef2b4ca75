"""The zero of a scan's intensities, estimated inside the brain.

A bias field multiplies intensities, so that its correction, and all else that forms ratios, needs to know where zero
is. A scan that was standardised, clipped or stored with an offset no longer tells. The zero is therefore estimated for
every scan, from the brain alone: the result is the same for any a·x + b with a > 0, and whatever surrounds the brain.
"""

from __future__ import annotations

import numpy as np

DARKEST = 0.125
"""How far the zero lies below the 1st percentile of the brain, in units of the range up to the 98th. On scans with
their own zero this share is 0.10–0.16 (IXI), 0.08–0.11 (Novosibirsk), 0.03–0.29 (tumours, strokes, MS) and 0.09–0.37
(IBSR, brains without the fluid around them). Corrected by N4 with the estimate, 17 scans of these origins have the
coefficient of joint variation of white and grey matter that they have with their own zero: it differs by 0.006 at most
and by 0.002 on average."""

_OUTLIER = 0.5
"""Voxels darker than the 10th percentile by more than this share of the range to the 98th are left out: interpolation
mixes the rim of the brain with its background."""


def zero_and_white(values: np.ndarray) -> tuple[float, float]:
    """The estimated zero and the 98th percentile of a brain's intensities, ``(V,)``; equal if all are equal."""
    dark, bright = (float(level) for level in np.percentile(values, (10, 98)))
    kept = values[values >= dark - _OUTLIER * (bright - dark)]
    darkest = float(np.percentile(kept, 1))
    return darkest - DARKEST * (bright - darkest), bright


def from_zero(array: np.ndarray, brain: np.ndarray) -> np.ndarray:
    """A scan with the estimated zero at 0 and the 98th percentile of the brain at 1; what is below 0 becomes 0.

    Parameters
    ----------
    array
        ``(X, Y, Z)``, of any linear scale; larger is brighter.
    brain
        ``(X, Y, Z)`` bool, not empty.

    Returns
    -------
    ndarray
        ``(X, Y, Z)`` float32; a brain of one value stays as it is.
    """
    zero, white = zero_and_white(array[brain].astype(np.float64))
    if not white > zero:
        return array.astype(np.float32)
    return np.maximum((array.astype(np.float64) - zero) / (white - zero), 0).astype(np.float32)
