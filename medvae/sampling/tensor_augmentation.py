"""The augmentation of `medvae.sampling.augmentation` on batches of tensors, on the device that trains.

A sampler of parameters (`draw`) and their deterministic application (`apply`), the idea of TorchIO (Pérez-García et
al. 2021, doi:10.1016/j.cmpb.2021.106236). Each sample has a seed of its own, so that it does not matter with whom it
shares a batch: parameters are drawn on the CPU with numpy, from the sample's seed alone, and are the same on every
machine; the noise comes from a generator of the device's kind that is seeded anew for each sample. Arithmetic is done
on whole batches, which may move the last bit of a voxel.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from medvae.config import AugmentationConfig
from medvae.imaging.grid import DEFAULT_GRID
from medvae.sampling.sharpness import sharpened
from medvae.sampling.smooth_field import CONTROL_POINTS, spline_weights
from medvae.sampling.thick_slices import draw_slices, thickly_sliced


class Draws(NamedTuple):
    """What is done to each of N samples, float32 on the CPU; None where the config's range changes nothing."""

    matrix: Tensor | None
    """``(N, D, D)``: from a voxel of the result to the voxel it comes from, both counted from the centre."""
    sharpness: Tensor | None
    """``(N,)``"""
    slices: Sequence[tuple[float, int, float]] | None
    """N of `medvae.sampling.thick_slices.draw_slices`."""
    bias_field: Tensor | None
    """``(N, points, ...)``: control points of a cubic B-spline."""
    bias_amplitude: Tensor | None
    """``(N,)``: largest relative amplitude of that field."""
    gamma: Tensor | None
    """``(N,)``"""
    brightness: Tensor | None
    """``(N, C)``"""
    contrast: Tensor | None
    """``(N, C)``"""
    noise_deviation: Tensor | None
    """``(N,)``: standard deviation."""
    noise_seed: Sequence[int]
    """N seeds for generators on the device."""


def augment(
    x: Tensor,
    mask: Tensor,
    config: AugmentationConfig,
    *,
    mirror_axis: int | None,
    seeds: Sequence[Sequence[int]],
    voxel_mm: float = DEFAULT_GRID.voxel_mm,
) -> tuple[Tensor, Tensor]:
    """Augment a batch, every sample from its own seed.

    Parameters
    ----------
    x
        ``(N, C, *spatial)`` float32, 2D or 3D.
    mask
        ``(N, 1, *spatial)`` bool, the brain.
    config
        The ranges.
    mirror_axis
        Spatial axis to mirror along, or None: see `medvae.sampling.augmentation.left_right_axis`.
    seeds
        For each sample non-negative integers, for instance (seed, epoch, index).
    voxel_mm
        Edge of a voxel, in mm; that of the default grid if not given.

    Returns
    -------
    tuple of Tensor
        New x and mask. The background is 0; a sample whose brain would leave the tile is not moved.
    """
    draws = draw(config, seeds, channels=x.shape[1], dimensions=x.ndim - 2, mirror_axis=mirror_axis, voxel_mm=voxel_mm)
    return apply(x, mask, draws)


def draw(
    config: AugmentationConfig,
    seeds: Sequence[Sequence[int]],
    *,
    channels: int,
    dimensions: int,
    mirror_axis: int | None,
    voxel_mm: float = DEFAULT_GRID.voxel_mm,
) -> Draws:
    """The parameters of each sample; a range changes its own parameter only, never the draws of another.

    ``voxel_mm`` as in `augment`; that of the default grid if not given.
    """
    columns = zip(
        *(_draw_one(config, seed, channels, dimensions, mirror_axis, voxel_mm) for seed in seeds), strict=True
    )
    *values, slices, noise_seed = columns
    matrix, sharpness, field, amplitude, gamma, brightness, contrast, deviation = (
        torch.from_numpy(np.stack(value).astype(np.float32)) for value in values
    )
    mirrors = config.mirror and mirror_axis is not None
    moves = mirrors or config.rotation_degrees > 0 or config.scale != (1.0, 1.0)
    return Draws(
        matrix=matrix if moves else None,
        sharpness=sharpness if config.sharpness != (0.0, 0.0) else None,
        slices=slices if config.thick_slices > 0 else None,
        bias_field=field if config.bias_field > 0 else None,
        bias_amplitude=amplitude if config.bias_field > 0 else None,
        gamma=gamma if config.gamma != (1.0, 1.0) else None,
        brightness=brightness if config.brightness != (1.0, 1.0) else None,
        contrast=contrast if config.contrast != (1.0, 1.0) else None,
        noise_deviation=deviation if config.noise_variance[1] > 0 else None,
        noise_seed=noise_seed,
    )


@torch.no_grad()
def apply(x: Tensor, mask: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
    """Do to ``x (N, C, *spatial)`` and ``mask (N, 1, *spatial)`` what was drawn, in the order of the fields."""
    spatial = tuple(range(2, x.ndim))
    draws = Draws(*(part.to(x.device) if isinstance(part, Tensor) else part for part in draws))

    def spread(values: Tensor) -> Tensor:
        """``(N,)`` or ``(N, C)`` against ``(N, C, *spatial)``."""
        values = values[:, None] if values.ndim == 1 else values
        return values.reshape(*values.shape, *(1 for _ in spatial))

    if draws.matrix is not None:
        x, mask = _move(x, mask, draws.matrix)
    if draws.sharpness is not None:
        x = sharpened(x, mask, spread(draws.sharpness))
    if draws.slices is not None:
        x = torch.stack(
            [
                thickly_sliced(image, brain, axis, thickness, phase) if thickness else image
                for image, brain, (thickness, axis, phase) in zip(x, mask, draws.slices, strict=True)
            ]
        )
    if draws.bias_field is not None:
        x = x * (1 + spread(draws.bias_amplitude) * _smooth_field(draws.bias_field, x.shape[2:]))
    if draws.gamma is not None:
        low = x.masked_fill(~mask, torch.inf).amin((1, *spatial), keepdim=True)
        span = x.masked_fill(~mask, -torch.inf).amax((1, *spatial), keepdim=True) - low
        x = ((x - low) / (span + 1e-7)).clamp(0, 1) ** spread(draws.gamma) * span + low  # the clamp is for outside
    if draws.brightness is not None:
        x = x * spread(draws.brightness)
    if draws.contrast is not None:
        mean = (x * mask).sum(spatial, keepdim=True) / mask.sum(spatial, keepdim=True)
        x = (x - mean) * spread(draws.contrast) + mean
    if draws.noise_deviation is not None:
        x = x + spread(draws.noise_deviation) * _noise(x, draws.noise_seed)
    return x.masked_fill(~mask, 0), mask


def _draw_one(
    config: AugmentationConfig,
    seed: Sequence[int],
    channels: int,
    dimensions: int,
    mirror_axis: int | None,
    voxel_mm: float,
) -> tuple[np.ndarray | float | int | tuple, ...]:
    rng = np.random.default_rng(tuple(seed))
    largest = np.deg2rad(config.rotation_degrees)
    angles = rng.uniform(-largest, largest, 3)[: 1 if dimensions == 2 else 3]
    scale = _around_one(rng, config.scale)
    mirrored = rng.random() < 0.5 and config.mirror
    matrix = _source_matrix(angles, scale, mirror_axis if mirrored else None)
    amplitude = rng.uniform(0, config.bias_field)
    gamma = _around_one(rng, config.gamma)
    deviation = np.sqrt(rng.uniform(*config.noise_variance))
    noise_seed = int(rng.integers(2**63))
    field = rng.uniform(-1, 1, (CONTROL_POINTS,) * dimensions)
    brightness = rng.uniform(*config.brightness, channels)
    contrast = np.array([_around_one(rng, config.contrast) for _ in range(channels)])
    sharpness = rng.uniform(*config.sharpness)  # drawn late: older seeds keep their other numbers
    slices = draw_slices(rng, config.thick_slices, config.slice_mm, voxel_mm, dimensions)
    return matrix, sharpness, field, amplitude, gamma, brightness, contrast, deviation, slices, noise_seed


def _around_one(rng: np.random.Generator, limits: tuple[float, float]) -> float:
    """A factor below 1 as often as above, as batchgenerators draws it."""
    low, high = limits
    below, share = rng.random() < 0.5, rng.random()
    return low + share * (1 - low) if below and low < 1 else 1 + share * (high - 1)


def _source_matrix(angles: np.ndarray, scale: float, mirror_axis: int | None) -> np.ndarray:
    """From a voxel of the result to its source, from the centre: turned, scaled and then mirrored.

    One angle turns axis 0 towards axis 1; three are ``R_x R_y R_z``; in radians.
    """
    cosine, sine = np.cos(angles), np.sin(angles)
    planes = [(0, 1)] if len(angles) == 1 else [(1, 2), (2, 0), (0, 1)]
    size = 2 if len(angles) == 1 else 3
    rotation = np.eye(size)
    for (i, j), c, s in zip(planes, cosine, sine, strict=True):
        turn = np.eye(size)
        turn[[i, j], [i, j]] = c
        turn[i, j], turn[j, i] = -s, s
        rotation = rotation @ turn
    matrix = rotation.T * scale
    if mirror_axis is not None:
        matrix[:, mirror_axis] *= -1
    return matrix


def _move(x: Tensor, mask: Tensor, matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Sample image (linear) and mask (nearest) where ``matrix (N, D, D)`` points to; 0 comes from outside."""
    grid = _source_grid(matrix, x.shape[2:])
    moved = functional.grid_sample(x, grid, mode="bilinear", align_corners=False)
    moved_mask = functional.grid_sample(mask.to(x.dtype), grid, mode="nearest", align_corners=False) > 0.5
    found = moved_mask.flatten(1).any(1).reshape(-1, *(1 for _ in x.shape[1:]))
    return torch.where(found, moved, x), torch.where(found, moved_mask, mask)


def _source_grid(matrix: Tensor, shape: Sequence[int]) -> Tensor:
    """``(N, *shape, D)``, where each voxel comes from, as ``grid_sample`` counts: −1 to 1 and the last axis first.

    What ``affine_grid`` returns. Summed axis by axis it took a fifth of the time (3D, one CPU core), and, unlike a
    product of matrices, it rounds the same in every batch.
    """
    dimensions = len(shape)
    grid = matrix.new_empty(len(matrix), *shape, dimensions)
    for target, size in enumerate(shape):
        total = torch.zeros((), device=matrix.device)
        for axis, length in enumerate(shape):
            steps = torch.arange(length, device=matrix.device) - (length - 1) / 2
            along = [1] * (1 + dimensions)
            along[1 + axis] = length
            weight = matrix[:, target, axis] * (2 / size)
            total = total + weight.reshape(-1, *[1] * dimensions) * steps.reshape(along)
        grid[..., dimensions - 1 - target] = total
    return grid


def _smooth_field(control: Tensor, shape: Sequence[int]) -> Tensor:
    """``(N, 1, *shape)`` from control points ``(N, points, ...)``, each scaled to a largest magnitude of 1."""
    for length in shape:
        weights = torch.from_numpy(spline_weights(length).astype(np.float32)).to(control.device)
        control = torch.tensordot(control, weights, dims=([1], [1]))  # the axis done moves to the end
    largest = control.abs().flatten(1).amax(1)
    return (control / largest.reshape(-1, *(1 for _ in shape)))[:, None]


def _noise(x: Tensor, seeds: Sequence[int]) -> Tensor:
    """Standard normal noise of the shape of ``x``, each sample's from its own seed."""
    generator = torch.Generator(x.device)
    noise = torch.empty_like(x)
    for sample, seed in zip(noise, seeds, strict=True):
        sample.normal_(generator=generator.manual_seed(seed))
    return noise
