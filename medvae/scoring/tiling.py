"""From tiles to a volume: score every slice of a volume and put the map together."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from medvae.config import Plane
from medvae.networks.vae import ConvVAE
from medvae.sampling.slices import slices_of, volume_of

TileScore = Callable[[ConvVAE, Tensor, Tensor], Tensor]
"""``(network, tile (N, C, *spatial), mask (N, 1, *spatial)) -> (N, *spatial)``."""


def score_slices(
    network: ConvVAE, score: TileScore, image: np.ndarray, mask: np.ndarray, plane: Plane, *, batch_size: int = 64
) -> np.ndarray:
    """Score all slices that hold brain.

    Parameters
    ----------
    network, score
        The network and a function of network, tiles and masks.
    image, mask
        ``(C, X, Y, Z)`` float32 and ``(X, Y, Z)`` bool.
    plane
        The slices' orientation, that the network was trained on.
    batch_size
        Slices at once; the result does not depend on it.

    Returns
    -------
    ndarray
        ``(X, Y, Z)`` float32, 0 outside the mask.
    """
    device = next(network.parameters()).device
    stack, masks = slices_of(image, plane), slices_of(mask, plane)
    result = np.zeros(masks.shape, dtype=np.float32)
    filled = np.flatnonzero(masks.any(axis=(1, 2)))
    for start in range(0, len(filled), batch_size):
        chosen = filled[start : start + batch_size]
        x = torch.from_numpy(np.ascontiguousarray(stack[chosen])).to(device)
        m = torch.from_numpy(masks[chosen][:, None]).to(device)
        result[chosen] = score(network, x, m).float().cpu().numpy()
    return np.ascontiguousarray(volume_of(result, plane)) * mask
