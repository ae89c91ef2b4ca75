"""Lesions of many kinds made on batches of tiles, on the device that trains: what a detector learns discrepancies from.

Nothing here imitates a disease. A network that has only to tell what was put into a healthy scan must be shown as many
kinds of foreign things as possible, so that a lesion it has never seen is one of them (foreign patches: Tan et al.
2020, arXiv 2011.04197; random anomalies and a discriminator: Zavrtanik et al. 2021, arXiv 2108.07610).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from medvae.config import LesionConfig
from medvae.imaging.grid import DEFAULT_GRID
from medvae.lesions.fields import ellipsoid, smooth_noise

VISIBLE = 0.02
"""Mean absolute change of normalised intensity below which a lesion is taken back: nobody could learn to see it."""

BORDER_CELL_MM, TEXTURE_CELLS_MM = 10.0, (2.0, 4.0, 6.0)
"""Between two nodes of the smooth noise that roughens borders, and of that which makes texture; one voxel at least."""

WIDE = ("oedema", "warp")
"""Kinds whose edge is half as wide as the lesion."""

SMALLEST_WITH_CORE_MM = 6.0
"""Radius from which a lesion may have a core of another kind."""

LARGEST_IN_WHITE_MATTER_MM = 16.0
"""Radius below which a share of the lesions is placed in white matter."""

SMOOTHING_WINDOW = 5
"""Voxels along an edge of the cube over which "smooth" takes means, twice: 10 mm on the grid of 2 mm that it was tuned
on."""


def insert_lesions(
    x: Tensor, mask: Tensor, options: LesionConfig, seed: Sequence[int], voxel_mm: float = DEFAULT_GRID.voxel_mm
) -> tuple[Tensor, Tensor]:
    """Put random lesions into healthy tiles.

    Each lesion is an ellipsoid with a noisy border and a soft edge. Its content is one of ``options.kinds``; see
    `KINDS`.

    Parameters
    ----------
    x, mask
        Tiles ``(N, C, *spatial)`` in normalised intensity and brain masks ``(N, 1, *spatial)``, 2D or 3D; each mask
        holds at least one voxel.
    options
        How many, how large, of which kinds.
    seed
        Non-negative integers from which every random number is drawn.
    voxel_mm
        Edge of a voxel, in mm; that of the default grid if not given.

    Returns
    -------
    corrupted, truth
        ``(N, C, *spatial)`` and ``(N, 1, *spatial)`` bool; ``x`` is left as it is. A sample may be left healthy.
    """
    rng = np.random.default_rng(tuple(seed))
    generator = torch.Generator(x.device).manual_seed(int(rng.integers(2**63)))
    corrupted, truth = x.clone(), torch.zeros_like(mask)
    cells = [max(1.0, cell_mm / voxel_mm) for cell_mm in (BORDER_CELL_MM, *TEXTURE_CELLS_MM)]
    border, *textures = (smooth_noise(x.shape[2:], cell, generator, x.device) for cell in cells)
    for index in range(len(x)):
        other, brain = x[int(rng.integers(len(x)))], mask[index].flatten().nonzero()[:, 0]
        into = corrupted[index], truth[index, 0], mask[index, 0]
        for _ in range(int(rng.integers(options.count[0], options.count[1] + 1))):
            _insert_one(*into, brain, other, border, textures, options, rng, voxel_mm)
    return corrupted, truth


def _insert_one(
    image: Tensor,
    truth: Tensor,
    mask: Tensor,
    brain: Tensor,
    other: Tensor,
    border: Tensor,
    textures: Sequence[Tensor],
    options: LesionConfig,
    rng: np.random.Generator,
    voxel_mm: float,
) -> None:
    """Change ``image (C, *spatial)``, ``truth (*spatial)`` where they are; ``brain (V,)``: the voxels of the mask."""
    low, high = (radius_mm / voxel_mm for radius_mm in options.radius_mm)
    radius = low * (high / low) ** (rng.random() ** options.smallness)
    in_white_matter = options.white_matter if radius * voxel_mm < LARGEST_IN_WHITE_MATTER_MM else 0.0
    centre = _place(image[0], brain, in_white_matter, rng)
    box = tuple(
        slice(max(0, c - math.ceil(2 * radius) - 1), min(n, c + math.ceil(2 * radius) + 2))
        for c, n in zip(centre, mask.shape, strict=True)
    )
    inside = mask[box]
    coarse = _crop(border, inside.shape, rng)
    fine = _crop(textures[int(rng.integers(len(textures)))], inside.shape, rng)
    distance = ellipsoid(box, centre, radius, rng, image.device) * torch.exp(rng.uniform(0, 0.4) * coarse)
    kind = options.kinds[int(rng.integers(len(options.kinds)))]
    edge = rng.uniform(0.5, 0.8) if kind in WIDE else rng.uniform(0.3, 1.2) / radius  # a part of a voxel, on any grid
    depth = torch.sigmoid((1 - distance) / max(edge / 2, 0.05)) * inside
    before = image[(slice(None), *box)]
    if options.follows_tissue and rng.random() < options.follows_tissue:
        depth = depth * _bright_tissue(image[0], mask, rng)[box]
    foreign = _crop(other, inside.shape, rng)
    spot = _Spot(before, depth, distance, fine, foreign, rng, options.faintness)
    after = KINDS[kind](spot)
    if options.cores and radius * voxel_mm >= SMALLEST_WITH_CORE_MM and rng.random() < options.cores:
        kind = options.kinds[int(rng.integers(len(options.kinds)))]
        core = depth * torch.sigmoid((rng.uniform(0.4, 0.8) - distance) * radius / rng.uniform(0.2, 0.8))
        after = KINDS[kind](spot._replace(before=after, depth=core))
    after = torch.where(depth > 0.01, after, before)
    region = depth > 0.5
    if not region.any() or float((after - before).abs()[:, region].mean()) < VISIBLE:
        return
    before.copy_(after)
    truth[box] |= region


def _bright_tissue(image: Tensor, mask: Tensor, rng: np.random.Generator) -> Tensor:
    """Weight ``(*spatial)`` of the tissue above some intensity: without fluid at least, white matter only at most."""
    values = image[mask]
    cut = values.kthvalue(max(1, int(rng.uniform(0.2, 0.6) * len(values)))).values
    return torch.sigmoid((image - cut) / 0.03)


def _place(image: Tensor, brain: Tensor, white_matter: float, rng: np.random.Generator) -> tuple[int, ...]:
    """One of the voxels ``brain (V,)``; with probability ``white_matter`` of the brighter half, on T1 white matter."""
    places = brain
    if rng.random() < white_matter:
        values = image.flatten()[brain]
        bright = values > values.median()
        places = brain[bright] if bright.any() else brain
    chosen = int(places[int(rng.integers(len(places)))])
    return tuple(int(i) for i in np.unravel_index(chosen, image.shape))


def _crop(array: Tensor, shape: Sequence[int], rng: np.random.Generator) -> Tensor:
    """A random part ``(..., *shape)`` of an array at least as large."""
    for axis, size in enumerate(shape, start=array.ndim - len(shape)):
        corner = int(rng.integers(array.shape[axis] - size + 1))
        array = array.narrow(axis, corner, size)
    return array


class _Spot(NamedTuple):
    """A box of the scan that a lesion lies in, and what the lesion may be made of."""

    before: Tensor
    """``(C, *box)``, the tissue."""
    depth: Tensor
    """``(*box)``, how strongly each voxel is lesion, 0 to 1."""
    distance: Tensor
    """``(*box)`` from the centre, in units of the radius."""
    noise: Tensor
    """``(*box)`` of unit spread and about zero mean."""
    other: Tensor
    """``(C, *box)``, tissue from elsewhere."""
    rng: np.random.Generator
    """What the kind draws its numbers from."""
    faintness: float
    """As in `LesionConfig`."""

    def strength(self, low: float, high: float) -> float:
        """Between ``low`` and ``high``, the nearer to ``low`` the larger ``faintness``; uniform with 1."""
        return low + (high - low) * self.rng.random() ** self.faintness


def _dark(at: _Spot) -> Tensor:
    return at.before * (1 - at.strength(0.08, 0.7) * at.depth)


def _bright(at: _Spot) -> Tensor:
    return at.before * (1 + at.strength(0.08, 0.6) * at.depth)


def _grey(at: _Spot) -> Tensor:
    grey = at.rng.uniform(0, 1) + at.rng.uniform(0, 0.1) * at.noise
    return at.before + (grey - at.before) * (at.strength(0.3, 1) * at.depth)


def _foreign(at: _Spot) -> Tensor:
    return at.before + (at.other - at.before) * (at.strength(0.4, 1) * at.depth)


def _texture(at: _Spot) -> Tensor:
    return at.before * (1 + at.strength(0.08, 0.4) * at.noise * at.depth)


def _smooth(at: _Spot) -> Tensor:
    mean, there = at.before, (at.before != 0).to(at.before.dtype)
    pool, edge = (functional.avg_pool3d if at.depth.ndim == 3 else functional.avg_pool2d), SMOOTHING_WINDOW
    for _ in range(2):
        mean, there = (pool(part, edge, stride=1, padding=edge // 2, count_include_pad=False) for part in (mean, there))
    return at.before + (mean / there.clamp(min=0.1) - at.before) * (at.rng.uniform(0.5, 1) * at.depth)


def _warp(at: _Spot) -> Tensor:
    """Pushed outwards (mostly) or drawn inwards, farthest where the distance is 0.9, not at all from 2 on.

    Without folding: t − share · t (1 − t²/4)² rises everywhere for a share below 1. Benchmark lesions
    (`medvae.lesions.displacement`) push by another profile.
    """
    before, depth, distance = at.before, at.depth, at.distance
    if min(depth.shape) < 3:
        return before
    slopes = torch.stack(torch.gradient(distance))
    steepness = slopes.norm(dim=0)
    radius = 1 / steepness.median().clamp(min=0.02)
    share = at.rng.uniform(0.4, 0.9) * (1 if at.rng.random() < 0.7 else -1)
    moved = share * radius * distance * (1 - distance.square() / 4).clamp(min=0).square()
    places = torch.stack(torch.meshgrid(*(torch.arange(n, device=depth.device) for n in depth.shape), indexing="ij"))
    places = places - moved * slopes / steepness.clamp(min=1e-3)
    grid = torch.stack([2 * p / (n - 1) - 1 for p, n in zip(places, depth.shape, strict=True)][::-1], dim=-1)
    pulled = functional.grid_sample(before[None], grid[None], align_corners=True, padding_mode="border")[0]
    pulled = torch.where((pulled > 0) & (before > 0), pulled, before)
    return pulled * (1 - at.rng.uniform(0, 0.25) * torch.sigmoid((0.5 - distance) / 0.1) * depth)


def _ring(at: _Spot) -> Tensor:
    rim = torch.exp(-((at.distance - 0.85) / 0.2).square() / 2)
    core = torch.sigmoid((0.65 - at.distance) / 0.1)
    return at.before * (1 + at.depth * (at.strength(0, 0.5) * rim - at.strength(0.2, 0.8) * core))


KINDS: dict[str, Callable[[_Spot], Tensor]] = {
    "dark": _dark, "bright": _bright, "grey": _grey, "foreign": _foreign, "texture": _texture, "ring": _ring,
    "oedema": _dark, "smooth": _smooth, "warp": _warp,
}  # fmt: skip
"""What a lesion does to the tissue it lies in: darken or brighten it by a factor, replace it by a grey or by tissue
from elsewhere, mottle it without changing its mean, a bright ring around a dark core, or darken with a long soft edge
(oedema), take its detail, or push it
outwards."""
