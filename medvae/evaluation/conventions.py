"""How a protocol transforms a map before evaluation, and the numbers that only some protocols have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy import ndimage

from medvae.evaluation.curves import SparseCounts, bin_floor
from medvae.evaluation.maps import CaseVoxels
from medvae.evaluation.protocols import Protocol
from medvae.evaluation.slices import axial_axis
from medvae.imaging.morphology import remove_small
from medvae.imaging.volume import Geometry


def as_measured(voxels: CaseVoxels, protocol: Protocol) -> CaseVoxels:
    """A case with its map as the protocol evaluates it; ``brain`` holds the voxels that count."""
    scores, brain = voxels.scores, voxels.brain
    if not np.isneginf(scores[brain]).all():  # no map: nothing to filter
        kept = _without_rim(brain, voxels.geometry, protocol.rim) if protocol.rim else brain
        if protocol.zeroed_background or protocol.rim:
            scores = np.where(kept, scores, np.float32(min(0.0, float(scores[brain].min()))))
        if protocol.median:
            scores = ndimage.median_filter(scores, _in_plane(protocol.median, voxels.geometry), mode="mirror")
        if protocol.clipped:
            with np.errstate(over="ignore"):
                scores = np.clip(scores.astype(np.float16), 0, 1).astype(np.float32)
    counted = brain
    if protocol.whole_volume:
        counted = np.ones_like(brain) if voxels.ignored is None else ~voxels.ignored
    return replace(voxels, scores=scores, brain=counted)


def best_threshold(counts: SparseCounts, steps: int | None) -> tuple[float, float]:
    """The best Dice and its threshold, over all scores or over ``steps`` thresholds from the lowest to the highest.

    Voxels *above* the threshold are flagged where it is one of ``steps``, voxels at or above it where it is a score;
    the returned threshold is the largest number below all flagged voxels.
    """
    floors = np.array([bin_floor(key) for key in counts.bins.tolist()])
    hits, alarms = (np.cumsum(a[::-1])[::-1].astype(np.float64) for a in (counts.lesion, counts.healthy))
    dice = 2 * hits / (hits[0] + hits + alarms)
    if steps is None:
        best = int(np.argmax(dice))
        return float(dice[best]), float(np.nextafter(np.float32(floors[best]), np.float32(-np.inf)))
    finite = floors[np.isfinite(floors)]
    thresholds = np.linspace(finite.min(), finite.max(), steps) if len(finite) else np.zeros(1)
    first = np.searchsorted(floors, thresholds, side="right")
    of_steps = np.append(dice, 0.0)[first]
    best = int(np.argmax(of_steps))
    return float(of_steps[best]), float(thresholds[best])


def trapezoid_area(counts: SparseCounts) -> float:
    """Area under the precision-recall curve by trapezoids, from precision 1 at recall 0; NaN without a lesion."""
    hits, alarms = (np.cumsum(a[::-1]).astype(np.float64) for a in (counts.lesion, counts.healthy))
    if not len(hits) or hits[-1] == 0:
        return float("nan")
    recall, precision = np.append(0.0, hits / hits[-1]), np.append(1.0, hits / (hits + alarms))
    return float(np.trapezoid(precision, recall))


def without_small(flagged: np.ndarray, voxels: int) -> np.ndarray:
    """The 26-connected components of more than ``voxels`` voxels."""
    return remove_small(flagged, 1.0, voxels)


def _in_plane(width: int, geometry: Geometry) -> Sequence[int]:
    size = [width] * 3
    size[axial_axis(geometry)] = 1
    return tuple(size)


def _without_rim(brain: np.ndarray, geometry: Geometry, width: int) -> np.ndarray:
    share = ndimage.uniform_filter(brain.astype(np.float32), _in_plane(width, geometry), mode="constant")
    return share > 0.95
