"""Learned discrepancy: the logit of a network that was trained to find what was inserted into healthy scans."""

from __future__ import annotations

from dataclasses import replace
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
    flipped = scan.config.score.flipped
    if scan.config.sampling.kind == "patch":
        return score_tiles(scan, partial(discrepancy, flipped=flipped))
    one_sided = partial(discrepancy, flipped=False)
    found = score_tiles(scan, one_sided)
    if flipped:  # the whole scan: a sagittal slice is one side, and mirrored it is one of the other
        mirrored = replace(scan, image=np.flip(scan.image, 1), mask=np.flip(scan.mask, 0))
        found = (found + np.flip(score_tiles(mirrored, one_sided), 0)) / 2
    return found
