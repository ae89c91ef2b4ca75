"""The outline of findings by a random walker, which stops where the scan changes.

A smoothed score spreads beyond a small, strong lesion and thins out in the faint part of a large one; a threshold
follows neither border. Here the strongest voxels of a finding are seeds, what lies well below the threshold around it
is background, and each voxel between them belongs to the side that a random walk from it most likely reaches first
(Grady 2006, https://doi.org/10.1109/TPAMI.2006.233). Steps across an edge of the scan are rare.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from medvae.config.maps import RandomWalkerConfig
from medvae.imaging.components import TOUCHING, components

EDGES = 60
"""How much rarer a step across an edge is than one along it: beta of scikit-image."""
SCORE_BESIDE_SCAN = 0.7
"""The score as a further channel, in SDs of the brain's intensity for each multiple of the threshold."""
_LARGEST = 3
"""Multiples of the threshold beyond which scores are no more unlike each other."""
_STRONGEST = 0.2
"""Share of a finding that is its seeds where nothing of it is strong enough."""


def outlined(
    findings: np.ndarray,
    strength: np.ndarray,
    image: np.ndarray,
    brain: np.ndarray,
    options: RandomWalkerConfig,
    voxel_mm: float,
) -> np.ndarray:
    """How likely each voxel belongs to a finding, by random walks.

    Parameters
    ----------
    findings
        ``(X, Y, Z)`` bool: what is flagged.
    strength
        ``(X, Y, Z)``: score as a multiple of the threshold, both counted from the healthy median.
    image
        ``(C, X, Y, Z)``: the scan.
    brain
        ``(X, Y, Z)`` bool; nothing outside is reached.
    options
        What is a seed, what background, and how far from a finding its outline may lie.
    voxel_mm
        Side of a voxel.

    Returns
    -------
    ndarray
        ``(X, Y, Z)`` float32 in [0, 1]; the outlined findings lie above one half.
    """
    likely = np.zeros(findings.shape, np.float32)
    if not findings.any():
        return likely
    steps = max(1, round(options.reach_mm / voxel_mm))
    reached = ndimage.binary_dilation(findings, iterations=steps, mask=brain | findings)
    spread = image[:, brain].std(axis=1).clip(1e-6)
    channels = np.concatenate([image / spread[:, None, None, None],
                               SCORE_BESIDE_SCAN * strength.clip(0, _LARGEST)[None]])  # fmt: skip
    labels, _ = components(reached)
    for number, box in enumerate(ndimage.find_objects(labels), start=1):
        here = labels[box] == number
        seeds = _seeds(findings[box] & here, strength[box], options.seeds_above)
        background = here & ~seeds & (strength[box] < options.background_below)
        likely[box][here] = _walk(seeds, background, here, channels[(slice(None), *box)])[here]
    return likely


def _seeds(findings: np.ndarray, strength: np.ndarray, above: float) -> np.ndarray:
    """Voxels above ``above``, and the strongest of each finding that has none."""
    seeds = findings & (strength > above)
    labels, count = ndimage.label(findings, TOUCHING)
    for number in set(range(1, count + 1)) - set(np.unique(labels[seeds])):
        weak = labels == number
        seeds |= weak & (strength >= np.quantile(strength[weak], 1 - _STRONGEST))
    return seeds


def _walk(seeds: np.ndarray, background: np.ndarray, region: np.ndarray, channels: np.ndarray) -> np.ndarray:
    """Chance of a random walk within the region to reach a seed before background, ``(X, Y, Z)``."""
    from skimage.segmentation import random_walker  # 0.1 s, which only detectors that outline need

    marks = np.select([~region, seeds, background], [-1, 1, 2], 0)
    if not (marks == 0).any() or not (marks == 2).any():
        return (marks >= 0) & (marks != 2)
    chance = random_walker(
        np.moveaxis(channels, 0, -1), marks, beta=EDGES, mode="cg_j", tol=1e-3, prob_tol=1,
        channel_axis=-1, return_full_prob=True,
    )[0]  # fmt: skip
    return np.asarray(np.nan_to_num(chance))
