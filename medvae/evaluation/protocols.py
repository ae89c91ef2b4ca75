"""Named protocols: how others measured, so that numbers can stand beside theirs.

A protocol says which voxels count, what is done to a map before it is measured, which scans are pooled, and how the
best Dice is searched. The code that measures is the same for all of them. What each one reproduces, and what it leaves
open, is in docs/EVALUATION.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from medvae.errors import MedvaeError
from medvae.evaluation.curves import SparseCounts, bin_floor
from medvae.evaluation.maps import CaseVoxels
from medvae.imaging.morphology import remove_small
from medvae.imaging.volume import Geometry


@dataclass(frozen=True)
class Protocol:
    """Conventions of measuring; the defaults are medvae's own."""

    name: str
    source: str
    """Where the conventions are from."""
    whole_volume: bool = False
    """Count every voxel of the file, and lesion outside the brain too; else the voxels of the brain."""
    zeroed_background: bool = False
    """Outside the brain a map gets 0, or its lowest value if that is below 0: the rank that nothing goes below."""
    rim: int = 0
    """Width in voxels of the square in the axial plane that erodes the brain; what it takes away gets the same value.
    A voxel stays if more than 95 % of the square lies in the brain. 0: no erosion."""
    median: int = 0
    """Width in voxels of a median filter in the axial plane. 0: none."""
    clipped: bool = False
    """Scores are rounded to half precision and clipped to [0, 1]."""
    zeros_for_failures: bool = False
    """A map that is missing, unreadable or of another shape counts as 0 everywhere, of a healthy scan too; positions
    in headers are not compared."""
    healthy_pooled: bool = False
    """Healthy scans are pooled with those that hold a lesion."""
    smallest_component: int = 0
    """At the threshold of the best Dice, components of so many voxels or fewer are removed, and Dice is taken again."""
    dice_steps: int | None = None
    """The best Dice is that of so many thresholds, evenly from the lowest to the highest score; None: of all."""
    trapezoid: bool = False
    """Also give the area under the precision-recall curve by trapezoids."""
    operating_points: bool = True
    """Thresholds are taken from sidecars or healthy validation maps; else there are none but those that are given."""
    brats_lesions: bool = False
    """Also give lesion-wise Dice and HD95, see `medvae.evaluation.brats`."""


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol("medvae", "docs/EVALUATION.md"),
        Protocol(
            "mood",
            "Zimmerer et al. 2022, doi:10.1109/TMI.2022.3170077; scripts/evalresults.py of MIC-DKFZ/mood",
            whole_volume=True, clipped=True, zeros_for_failures=True, healthy_pooled=True, operating_points=False,
        ),
        Protocol(
            "meissen",
            "Meissen et al. 2021, arXiv 2109.06023; utils/evaluation.py of FeliMe/brain_sas_baseline",
            whole_volume=True, zeroed_background=True, smallest_component=20, dice_steps=100, trapezoid=True,
            operating_points=False,
        ),
        Protocol(
            "dae",
            "Kascenas et al. 2022, openreview Bm8-t_ggzPD; src/evaluate.py of AntanasKascenas/DenoisingAE",
            whole_volume=True, zeroed_background=True, rim=5, median=5, smallest_component=20, operating_points=False,
        ),
        Protocol(
            "brats2023",
            "BraTS 2023, rachitsaluja/BraTS-2023-Metrics",
            brats_lesions=True,
        ),
    )
}  # fmt: skip
"""By name."""


def named_protocol(name: str) -> Protocol:
    """The protocol of a name.

    Raises
    ------
    MedvaeError
        If there is none.
    """
    if name not in PROTOCOLS:
        raise MedvaeError(f'--protocol: "{name}" is none of {", ".join(PROTOCOLS)}.')
    return PROTOCOLS[name]


def as_measured(voxels: CaseVoxels, protocol: Protocol) -> CaseVoxels:
    """A case with its map as the protocol measures it, and the voxels that count under ``brain``."""
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
    counted = np.ones_like(brain) if protocol.whole_volume else brain
    return replace(voxels, scores=scores, brain=counted)


def best_threshold(counts: SparseCounts, steps: int | None) -> tuple[float, float]:
    """The best Dice and its threshold, over all scores or over ``steps`` thresholds from the lowest to the highest.

    Voxels *above* the threshold are flagged where it is one of ``steps``, voxels at or above it where it is a score;
    what is returned is the largest number that no flagged voxel is at or below.
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


def axial_axis(geometry: Geometry) -> int:
    """The array axis nearest to head-foot."""
    return int(np.argmax(np.abs(geometry.affine[2, :3]) / geometry.spacing_mm))


def _in_plane(width: int, geometry: Geometry) -> Sequence[int]:
    size = [width] * 3
    size[axial_axis(geometry)] = 1
    return tuple(size)


def _without_rim(brain: np.ndarray, geometry: Geometry, width: int) -> np.ndarray:
    share = ndimage.uniform_filter(brain.astype(np.float32), _in_plane(width, geometry), mode="constant")
    return share > 0.95
