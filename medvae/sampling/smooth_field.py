"""Smooth fields over a tile: cubic B-splines with few control points, the model of a bias field in N4."""

from __future__ import annotations

import functools

import numpy as np
from batchgenerators.transforms.abstract_transforms import AbstractTransform
from scipy.interpolate import BSpline

CONTROL_POINTS = 5
"""Along each axis. Two spans of a cubic spline: the field rises and falls about once over a tile."""


@functools.lru_cache
def spline_weights(length: int, points: int = CONTROL_POINTS) -> np.ndarray:
    """What each control point of a uniform cubic B-spline weighs at each voxel of an axis.

    Parameters
    ----------
    length
        Voxels along the axis; the spline spans them all.
    points
        Control points, at least 4.

    Returns
    -------
    numpy.ndarray
        ``(length, points)``; rows are not negative and sum to 1.

    References
    ----------
    Tustison et al. 2010, doi:10.1109/TMI.2010.2046908, section II (the field as a B-spline).
    """
    spans = points - 3
    position = (np.arange(length) + 0.5) / length * spans
    weights = BSpline.design_matrix(position, np.arange(-3.0, spans + 4), 3).toarray()
    weights.flags.writeable = False  # every caller gets the same array
    return weights


def smooth_field(control: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The field of control points ``(points, ...)`` on a tile of ``shape``, scaled to a largest magnitude of 1."""
    for length in shape:
        control = np.tensordot(control, spline_weights(length), axes=(0, 1))  # the axis done moves to the end
    return control / np.abs(control).max()


class SmoothFieldTransform(AbstractTransform):
    """Multiply all channels of each sample by one smooth field ``1 + a f``: ``a`` from 0 to ``amplitude``, ``|f| ≤ 1``.

    The channels share the field because the sequences of a session share the coils. Draws from numpy's global
    generator, as batchgenerators does.
    """

    def __init__(self, amplitude: float, data_key: str = "data") -> None:
        self.amplitude, self.data_key = amplitude, data_key

    def __call__(self, **batch: np.ndarray) -> dict[str, np.ndarray]:
        """Change ``batch[data_key] (N, C, *spatial)`` in place."""
        for sample in batch[self.data_key]:
            shape = sample.shape[1:]
            amplitude = np.random.uniform(0, self.amplitude)  # noqa: NPY002
            control = np.random.uniform(-1, 1, (CONTROL_POINTS,) * len(shape))  # noqa: NPY002
            sample *= 1 + amplitude * smooth_field(control, shape)
        return batch
