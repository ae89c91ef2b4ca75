"""Learned discrepancy: the logit of a network that was trained to find what was inserted into healthy scans."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import Tensor

from medvae.networks.segmenter import Segmenter
from medvae.scoring.registry import Scored, score
from medvae.scoring.tiling import score_tiles


@torch.no_grad()
def discrepancy(network: Segmenter, tile: Tensor, mask: Tensor, *, flipped: bool = False) -> Tensor:
    """The logit of every voxel, ``(N, *spatial)`` float32; 0 outside the mask.

    Parameters
    ----------
    network
        In evaluation mode.
    tile, mask
        ``(N, C, *spatial)`` float and ``(N, 1, *spatial)`` bool.
    flipped
        Average with the logit of the tile mirrored along its first axis, left to right.
    """
    logits = network(tile).logits.float()
    if flipped:
        logits = (logits + network(tile.flip(2)).logits.float().flip(2)) / 2
    return (logits * mask)[:, 0]


@score("discrepancy")
def _discrepancy(scan: Scored) -> np.ndarray:
    sampling = scan.config.sampling
    two_sided = sampling.kind == "patch" or sampling.plane != "sagittal"  # a sagittal slice is one side
    return score_tiles(scan, partial(discrepancy, flipped=scan.config.score.flipped and two_sided))
