"""Context score: how badly each patch is foretold by its surroundings, Σ_k L_rec(x_k | x_∖k)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
from torch import Tensor

from medvae.networks.interface import Network
from medvae.scoring.registry import Scored, score
from medvae.scoring.tiling import score_tiles


@torch.no_grad()
def context_residual(
    network: Network,
    tile: Tensor,
    mask: Tensor,
    *,
    side: int = 16,
    spacing: int = 3,
    shifts: int = 2,
    fill: float = 0.5,
) -> Tensor:
    """Signed residual of every voxel against what the network restores there without having seen it.

    The tile is covered by a grid of square (cubic) patches. Patches that lie ``spacing`` sides apart are blanked
    together, so that a grid takes ``spacing ** d`` passes instead of one per patch; the grid is shifted by fractions
    of a side, and the residuals of the shifted grids are averaged.

    Parameters
    ----------
    network
        In evaluation mode, trained with context encoding.
    tile, mask
        ``(N, C, *spatial)`` float and ``(N, 1, *spatial)`` bool.
    side
        Side of a patch in voxels.
    spacing
        Distance between patches blanked at once, in sides; at least 2.
    shifts
        Shifted grids along each axis; the cost grows with ``shifts ** d``.
    fill
        Value of the blanked voxels, in normalised intensity: the middle of what training filled in.

    Returns
    -------
    Tensor
        ``(N, *spatial)`` float32; negative where the scan is darker than foretold, 0 outside the mask. It needs
        ``(spacing · shifts) ** d`` forward passes.

    References
    ----------
    The definition of the context-encoding score, Zimmerer et al. 2018, arXiv 1812.05941.
    """
    spatial = tile.shape[2:]
    total = torch.zeros(tile.shape[0], *spatial, device=tile.device)
    for blanked in _patterns(spatial, side, spacing, shifts, tile.device):
        hidden = blanked & mask
        if not hidden.any():
            continue
        restored = network(torch.where(hidden, torch.full_like(tile, fill), tile)).reconstruction
        total += ((tile.float() - restored.float()) * hidden).mean(1)
    return total / shifts ** len(spatial)


@score("context")
def _context(scan: Scored) -> np.ndarray:
    options = scan.config.score
    side, spacing, shifts = options.context_side, options.context_spacing, options.context_shifts
    return score_tiles(scan, partial(context_residual, side=side, spacing=spacing, shifts=shifts))


def _patterns(spatial: torch.Size, side: int, spacing: int, shifts: int, device: torch.device) -> Iterator[Tensor]:
    """Boolean patterns ``(*spatial)``: in each grid every voxel is blanked exactly once."""
    axes = [torch.arange(n, device=device) for n in spatial]
    steps = [round(k * side / shifts) for k in range(shifts)]
    for shift in itertools.product(steps, repeat=len(spatial)):
        patch = [(axis + s) // side % spacing for axis, s in zip(axes, shift, strict=True)]
        for chosen in itertools.product(range(spacing), repeat=len(spatial)):
            pattern = torch.ones((), dtype=torch.bool, device=device)
            for dimension, (index, wanted) in enumerate(zip(patch, chosen, strict=True)):
                shape = [1] * len(spatial)
                shape[dimension] = -1
                pattern = pattern & (index == wanted).view(shape)
            yield pattern
