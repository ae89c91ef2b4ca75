"""Deformable (demons) registration of healthy anatomy to a scan.

After affine registration, sulci and ventricles still differ between subjects by millimetres, and these differences
dominate the deviation from the healthy mean. A smooth displacement field removes most of them. The field itself is
informative: local expansion relative to healthy subjects may indicate mass effect.

A *field* is ``(3, x, y, z)`` float32, in voxels of its own grid, which may be coarser than the image's: the warped
image at ``p`` is the image at ``p + field(p)``. Grids share their outermost voxels.

References
----------
Thirion 1998, doi:10.1016/S1361-8415(98)80022-4; the symmetric forces and compositions of Vercauteren et al. 2009,
doi:10.1016/j.neuroimage.2008.10.040.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional

LEVELS = ((4, 15), (2, 20))
"""Voxels per node and number of iterations of each level: 8 and 4 mm on the 2 mm grid used for tuning.
A third level at full resolution took eight times as long and improved the z score of MS-like lesions only slightly (AP
0.317 instead of 0.296). On a 1 mm grid an equally fine field would need ((8, 15), (4, 20))."""

SMOOTH_UPDATE, SMOOTH_FIELD = 1.0, 1.0
"""SD in voxels of a level. A stiffer field follows anatomy less well; a softer one warps lesions away."""

LARGEST_DIFFERENCE = 0.3
"""In normalised intensity: larger differences exert no larger force."""

NOISE = 0.05
"""Gradients of normalised intensity per voxel below this exert a reduced force."""

INVERSION_STEPS = 12
"""Fixed-point iterations; for an invertible field the error is then below a hundredth of a voxel."""


def demons(fixed: Tensor, moving: Tensor) -> Tensor:
    """The field that warps one image onto another.

    Parameters
    ----------
    fixed, moving
        ``(C, X, Y, Z)`` float32 in normalised intensity, 0 outside the brain.

    Returns
    -------
    Tensor
        On a grid of half as many voxels along each axis: ``pull(moving, expand(field, shape))`` matches ``fixed``.
    """
    field = fixed.new_zeros(3, *(n // LEVELS[0][0] for n in fixed.shape[1:]))
    for coarseness, iterations in LEVELS:
        shape = tuple(n // coarseness for n in fixed.shape[1:])
        target, source = (_coarser(image, shape, 0.4 * coarseness) for image in (fixed, moving))
        field = expand(field, shape)
        slopes = _gradients(target)
        for _ in range(iterations):
            bent = pull(source, field)
            difference = (target - bent).clamp(-LARGEST_DIFFERENCE, LARGEST_DIFFERENCE)[:, None]
            slope = (_gradients(bent) + slopes) / 2
            size = slope.square().sum(1, keepdim=True)
            step = (difference * slope / (size + difference.square() + NOISE**2)).mean(0)
            step = smooth(step, SMOOTH_UPDATE)
            field = smooth(pull(field, step) + step, SMOOTH_FIELD)
    return field


def pull(image: Tensor, field: Tensor) -> Tensor:
    """An image ``(C, x, y, z)`` warped by a field on its own grid; linear interpolation, edge values beyond it."""
    return sample(image, grid(tuple(field.shape[1:])) + field)


def sample(image: Tensor, places: Tensor) -> Tensor:
    """An image ``(C, x, y, z)`` sampled at positions ``(3, ...)`` in voxels, ``(C, ...)``; edge values beyond it."""
    scale = places.new_tensor([2 / (n - 1) for n in image.shape[1:]])
    relative = (places * scale.reshape(3, *[1] * (places.ndim - 1)) - 1).flip(0)
    points = relative.reshape(3, -1, 1, 1).movedim(0, -1)[None]
    found = functional.grid_sample(image[None], points, padding_mode="border", align_corners=True)
    return found.reshape(len(image), *places.shape[1:])


def expand(field: Tensor, shape: Sequence[int]) -> Tensor:
    """A field on a finer grid of ``shape`` voxels, in voxels of that grid."""
    factors = [(n - 1) / (m - 1) for n, m in zip(shape, field.shape[1:], strict=True)]
    finer = functional.interpolate(field[None], size=tuple(shape), mode="trilinear", align_corners=True)[0]
    return finer * field.new_tensor(factors).reshape(3, 1, 1, 1)


def expand_map(values: Tensor, shape: Sequence[int]) -> Tensor:
    """A map ``(x, y, z)`` on a finer grid of ``shape`` voxels."""
    return functional.interpolate(values[None, None], size=tuple(shape), mode="trilinear", align_corners=True)[0, 0]


def inverse(field: Tensor) -> Tensor:
    """The inverse of a field, on the same grid."""
    back = -field
    for _ in range(INVERSION_STEPS):
        back = -pull(field, back)
    return back


def log_jacobian(field: Tensor) -> Tensor:
    """Local expansion of tissue from the moving to the fixed image, as the log of the volume ratio.

    ``(x, y, z)`` for a field ``(3, x, y, z)``: the log-Jacobian of the map from the moving to the fixed image, which is
    minus the log of the field's own Jacobian determinant. Positive where tissue has expanded.
    """
    jacobian = _gradients(field).movedim((0, 1), (-2, -1)) + torch.eye(3, device=field.device)
    return -torch.linalg.det(jacobian).clamp(min=0.1).log()


def smooth(image: Tensor, sigma: float) -> Tensor:
    """Gaussian smoothing of each channel of ``(C, x, y, z)``, SD in voxels; edge values are replicated."""
    return _along_axes(image, [_smoothing(n, sigma) for n in image.shape[1:]])


@lru_cache(maxsize=8)
def grid(shape: tuple[int, ...]) -> Tensor:
    """The coordinates of the voxels, ``(3, x, y, z)`` float32."""
    return torch.stack(torch.meshgrid(*(torch.arange(n, dtype=torch.float32) for n in shape), indexing="ij"))


def _coarser(image: Tensor, shape: Sequence[int], sigma: float) -> Tensor:
    """Smoothed, then sampled on a coarser grid by linear interpolation."""
    return _along_axes(
        image, [_interpolation(m, n) @ _smoothing(n, sigma) for m, n in zip(shape, image.shape[1:], strict=True)]
    )


def _along_axes(image: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """Each axis of ``(C, x, y, z)`` multiplied by its matrix ``(new, old)``.

    Single-channel convolution along one axis took four times as long on a CPU.
    """
    first, second, third = (matrix.to(image.device) for matrix in weights)
    image = second @ (image @ third.T)
    channels, x, y, z = image.shape
    return (first @ image.reshape(channels, x, y * z)).reshape(channels, len(first), y, z)


@lru_cache(maxsize=32)
def _smoothing(length: int, sigma: float) -> Tensor:
    """Weights of the ``length`` voxels in each smoothed one: ``(length, length)``, rows sum to 1."""
    reach = math.ceil(3 * sigma)
    offsets = torch.arange(-reach, reach + 1)
    weights = torch.exp(-offsets.to(torch.float32).square() / (2 * sigma**2))
    sources = (torch.arange(length)[:, None] + offsets).clamp(0, length - 1)
    matrix = torch.zeros(length, length)
    return matrix.scatter_add_(1, sources, (weights / weights.sum()).expand(length, -1))


@lru_cache(maxsize=32)
def _interpolation(new: int, old: int) -> Tensor:
    """Weights of the ``old`` voxels in each of the ``new`` ones, ``(new, old)``; both share the outermost voxels."""
    return functional.interpolate(torch.eye(old)[None], size=new, mode="linear", align_corners=True)[0].T


def _gradients(image: Tensor) -> Tensor:
    """``(C, 3, x, y, z)``: gradients per voxel along each axis."""
    return torch.stack(torch.gradient(image, dim=(1, 2, 3)), dim=1)
