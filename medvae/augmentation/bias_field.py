"""A bias field: a smooth factor over the tile, a cubic B-spline with few control points, the model of N4."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import numpy as np
from pydantic import Field

from medvae.augmentation.base import Augmentation, spread
from medvae.augmentation.randomness import Sample
from medvae.schema import Strict

if TYPE_CHECKING:
    from torch import Tensor

CONTROL_POINTS = 5
"""Along each axis. Two spans of a cubic spline: the field rises and falls about once over a tile."""


class BiasFieldOptions(Strict):
    """How strong the field is."""

    bias_field: float = Field(default=0.0, ge=0, lt=1)
    """Largest relative amplitude of a smooth multiplicative field, as coils cause it; 0 is off."""


class FieldOfOne(NamedTuple):
    """What is drawn for one sample."""

    amplitude: float
    """Largest relative amplitude."""
    control: np.ndarray
    """``(points, ...)``: control points, from −1 to 1."""


class BiasField(Augmentation[BiasFieldOptions, FieldOfOne]):
    """Multiply all channels by one smooth field ``1 + a f``: ``a`` from 0 to ``bias_field``, ``|f| ≤ 1``.

    The channels share the field because the sequences of a session share the coils.
    """

    fields: ClassVar[type[Strict]] = BiasFieldOptions

    @property
    def active(self) -> bool:
        """Whether there is an amplitude."""
        return self.options.bias_field > 0

    def draw(self, sample: Sample) -> FieldOfOne:
        """Amplitude and control points."""
        amplitude = sample.generator("bias_amplitude").uniform(0, self.options.bias_field)
        points = (CONTROL_POINTS,) * sample.dimensions
        return FieldOfOne(amplitude, sample.generator("bias_field").uniform(-1, 1, points))

    def draw_for_array(self, rng: np.random.RandomState, sample: Sample, voxels: int) -> FieldOfOne:
        """The same, next in the workers' stream."""
        amplitude = rng.uniform(0, self.options.bias_field)
        return FieldOfOne(amplitude, rng.uniform(-1, 1, (CONTROL_POINTS,) * sample.dimensions))

    def apply(self, x: Tensor, mask: Tensor, drawn: Sequence[FieldOfOne]) -> tuple[Tensor, Tensor]:
        """Multiply by the field."""
        import torch

        field = torch.from_numpy(np.stack([one.control for one in drawn]).astype(np.float32)).to(x.device)
        for length in x.shape[2:]:
            weights = torch.from_numpy(spline_weights(length).astype(np.float32)).to(x.device)
            field = torch.tensordot(field, weights, dims=([1], [1]))  # the axis done moves to the end
        largest = field.abs().flatten(1).amax(1)
        field = (field / largest.reshape(-1, *(1 for _ in x.shape[2:])))[:, None]
        return x * (1 + spread([one.amplitude for one in drawn], x) * field), mask

    def apply_to_array(self, image: np.ndarray, mask: np.ndarray, drawn: FieldOfOne) -> tuple[np.ndarray, np.ndarray]:
        """The same in double precision, as the workers always did."""
        image *= 1 + drawn.amplitude * smooth_field(drawn.control, image.shape[1:])
        return image, mask


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
    from scipy.interpolate import BSpline

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
