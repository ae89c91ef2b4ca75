"""Reconstruction scores: how a tile differs from what the network makes of it with z = μ."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from medvae.networks.interface import Network
from medvae.scoring.registry import Scored, score
from medvae.scoring.tiling import score_tiles


@torch.no_grad()
def residual(network: Network, tile: Tensor, mask: Tensor) -> Tensor:
    """Signed residual x − x̂, averaged over modalities.

    Parameters
    ----------
    network
        In evaluation mode.
    tile, mask
        ``(N, C, *spatial)`` float and ``(N, 1, *spatial)`` bool.

    Returns
    -------
    Tensor
        ``(N, *spatial)`` float32; negative where the scan is darker than its reconstruction, 0 outside the mask.
    """
    difference = tile.float() - network(tile).reconstruction.float()
    return (difference * mask).mean(1)


@torch.no_grad()
def squared_residual(network: Network, tile: Tensor, mask: Tensor) -> Tensor:
    """(x − x̂)², averaged over modalities; arguments and result as `residual`."""
    difference = tile.float() - network(tile).reconstruction.float()
    return (difference.square() * mask).mean(1)


@torch.no_grad()
def reconstruction(network: Network, tile: Tensor, mask: Tensor) -> Tensor:
    """x̂ of the first modality, ``(N, *spatial)`` float32, 0 outside the mask; arguments as `residual`."""
    return (network(tile).reconstruction.float() * mask)[:, 0]


@score("residual")
def _residual(scan: Scored) -> np.ndarray:
    return score_tiles(scan, residual)


@score("squared_residual")
def _squared_residual(scan: Scored) -> np.ndarray:
    return score_tiles(scan, squared_residual)
