"""The numbers of one case: its curves, what each threshold finds in it, and one score for the whole scan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from medvae.evaluation.brats import lesion_wise
from medvae.evaluation.case_level import case_scores
from medvae.evaluation.curves import SparseCounts
from medvae.evaluation.lesions import LesionMatch, lesion_numbers, match_lesions
from medvae.evaluation.maps import CaseVoxels
from medvae.evaluation.protocols import axial_axis
from medvae.evaluation.surfaces import surface_distances
from medvae.imaging.volume import Geometry
from medvae.manifest import Case

MASK = "mask"
"""Name of the operating point that is no threshold but the method's own mask, post-processed."""


@dataclass(frozen=True)
class SliceAlarms:
    """Axial slices of a scan with brain and no lesion: how many, how many with a flagged voxel, and its area in all."""

    lesion_free: int
    with_alarm: int
    area_mm2: float


@dataclass(frozen=True)
class CaseResult:
    """What was measured in one case: a row of the table, and what pooled numbers are made of."""

    row: dict[str, Any]
    counts: SparseCounts = field(repr=False)
    matches: dict[str, LesionMatch] = field(repr=False)
    slices: dict[str, SliceAlarms] = field(repr=False)


def measure_case(
    case: Case,
    voxels: CaseVoxels,
    thresholds: Mapping[str, float],
    *,
    overlap: float,
    smallest_ml: float,
    missing: bool = False,
    regions: Mapping[str, np.ndarray] | None = None,
) -> CaseResult:
    """Measure one case; ``thresholds`` are named, and ``missing`` says that the method gave no map.

    The threshold called `MASK` stands for the mask that the method itself has made of its map.

    With ``regions``, ``(X, Y, Z)`` bool by name, what is flagged is also compared with each as in `lesion_wise`.

    Lesion rule and smallest lesion are those of `medvae.evaluation.lesions.match_lesions`.
    """
    scores, truth = voxels.scores[voxels.brain], voxels.truth[voxels.brain]
    counts = SparseCounts.of(scores, truth)
    geometry = voxels.geometry
    row: dict[str, Any] = {"id": case.id, "subject": case.subject_id, "healthy": case.healthy, "missing": missing}
    row |= {"voxels": len(scores)}
    row |= {f"score_{name}": value for name, value in case_scores(scores).items()}
    if not case.healthy:
        summary = counts.summary()
        row |= {"ap": summary.ap, "auroc": summary.auroc, "oracle_dice": summary.oracle_dice}
        row |= {"fpr_at_95_tpr": summary.fpr_at_95_tpr, "lesion_voxels": summary.n_lesion}
        row |= {"lesion_ml": summary.n_lesion * geometry.voxel_volume_ml}
    matches, slices = {}, {}
    for name, threshold in thresholds.items():
        if name == MASK and voxels.mask is not None:
            flagged = voxels.mask
        else:
            flagged = (voxels.scores > np.float32(threshold)) & voxels.brain
        match = match_lesions(flagged, voxels.truth, geometry.voxel_volume_ml, overlap=overlap, smallest_ml=smallest_ml)
        matches[name], slices[name] = match, _slice_alarms(flagged, voxels.truth, voxels.brain, geometry)
        row |= _flagged_numbers(name, flagged, voxels.truth, match, geometry, healthy=case.healthy)
        for region, mask in (regions or {}).items():
            found = asdict(lesion_wise(flagged, mask, geometry.spacing_mm))
            row |= {f"brats_{key}_{region}_{name}": value for key, value in found.items()}
    return CaseResult(row, counts, matches, slices)


def voxel_dice(hits: float, flagged: float, lesion: float) -> float:
    """Dice from counts; 1 when both are empty, as nothing was there and nothing was flagged."""
    return 2 * hits / (flagged + lesion) if flagged + lesion else 1.0


def _flagged_numbers(
    name: str, flagged: np.ndarray, truth: np.ndarray, match: LesionMatch, geometry: Geometry, *, healthy: bool
) -> dict[str, Any]:
    n_flagged, hits, lesion = (int(np.count_nonzero(a)) for a in (flagged, flagged & truth, truth))
    row = {f"flagged_{name}": n_flagged, f"true_{name}": hits}
    numbers = lesion_numbers([match])
    row[f"false_positives_{name}"] = numbers["false_positives"]
    if healthy:
        return row
    row[f"dice_{name}"] = voxel_dice(hits, n_flagged, lesion)
    for key in ("lesions", "lesions_found", "lesion_sensitivity", "lesion_precision", "lesion_f1"):
        row[f"{key}_{name}"] = numbers[key]
    distances = surface_distances(flagged, truth, geometry.spacing_mm)
    return row | {f"hd95_mm_{name}": distances.hd95_mm, f"assd_mm_{name}": distances.assd_mm}


def _slice_alarms(flagged: np.ndarray, truth: np.ndarray, brain: np.ndarray, geometry: Geometry) -> SliceAlarms:
    axis = axial_axis(geometry)
    within = tuple(other for other in range(3) if other != axis)
    lesion_free = brain.any(axis=within) & ~truth.any(axis=within)
    voxels = np.count_nonzero(flagged, axis=within)[lesion_free]
    pixel_mm2 = float(np.prod([geometry.spacing_mm[other] for other in within]))
    return SliceAlarms(int(lesion_free.sum()), int((voxels > 0).sum()), float(voxels.sum() * pixel_mm2))
