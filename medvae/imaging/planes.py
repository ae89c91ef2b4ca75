"""Slices of a volume on the standard grid: planes, and views of an array as a stack of slices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

Plane = Literal["axial", "coronal", "sagittal"]

PLANE_AXIS: dict[Plane, int] = {"sagittal": 0, "coronal": 1, "axial": 2}
"""Array axis of the standard grid (RAS) that a slice is perpendicular to."""
PLANES: tuple[Plane, ...] = ("axial", "coronal", "sagittal")


def slices_of(array: np.ndarray, plane: Plane) -> np.ndarray:
    """View ``(..., X, Y, Z)`` as a stack of slices ``(S, ..., H, W)``."""
    return np.moveaxis(array, PLANE_AXIS[plane] - 3, 0)


def volume_of(slices: np.ndarray, plane: Plane) -> np.ndarray:
    """Inverse of `slices_of`: a stack ``(S, ..., H, W)`` seen as ``(..., X, Y, Z)``."""
    return np.moveaxis(slices, 0, PLANE_AXIS[plane] - 3)


def slice_shape(shape: Sequence[int], planes: Sequence[Plane]) -> tuple[int, int]:
    """Shape that holds a slice of each of some planes of a volume ``(X, Y, Z)``."""
    shapes = [[n for axis, n in enumerate(shape) if axis != PLANE_AXIS[plane]] for plane in planes]
    return max(first for first, _ in shapes), max(second for _, second in shapes)


def padded(slices: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Slices ``(..., H, W)`` in the middle of zeros of a ``shape`` that is at least theirs."""
    if slices.shape[-2:] == tuple(shape):
        return slices
    missing = [n - length for n, length in zip(shape, slices.shape[-2:], strict=True)]
    return np.pad(slices, [(0, 0)] * (slices.ndim - 2) + [(n // 2, n - n // 2) for n in missing])


def cropped(slices: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Inverse of `padded`: the middle ``shape`` of ``(..., H, W)``."""
    first, second = ((length - n) // 2 for n, length in zip(shape, slices.shape[-2:], strict=True))
    return slices[..., first : first + shape[0], second : second + shape[1]]


def with_neighbours(slices: np.ndarray, chosen: Sequence[int] | np.ndarray, neighbours: int) -> np.ndarray:
    """Some slices of a stack ``(S, C, H, W)``, each between its neighbours: ``(N, C · (2 · neighbours + 1), H, W)``.

    Beyond the ends there is 0. The channels of a modality follow each other.
    """
    if not neighbours:
        return slices[np.asarray(chosen, dtype=np.int64)]
    ends = np.pad(slices, [(neighbours, neighbours)] + [(0, 0)] * 3)
    near = [ends[np.asarray(chosen, dtype=np.int64) + offset] for offset in range(2 * neighbours + 1)]
    stacked = np.stack(near, axis=2)
    return stacked.reshape(len(stacked), stacked.shape[1] * stacked.shape[2], *slices.shape[2:])
