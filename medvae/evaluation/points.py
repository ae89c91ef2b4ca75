"""Operating points: thresholds that saw no lesion, and what they give on cases with and without one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from medvae.derivatives import MAP_SUFFIX, MASK_SUFFIX
from medvae.errors import MedvaeError
from medvae.evaluation.case import CaseResult, voxel_dice
from medvae.evaluation.curves import SparseCounts
from medvae.evaluation.lesions import lesion_numbers, sensitivity_by_size
from medvae.evaluation.maps import find_maps, read_case
from medvae.manifest import Manifest
from medvae.schema import read_document

RATES = (0.01, 0.05)
"""False-positive rates of the operating points that are set here, on healthy validation scans."""


@dataclass(frozen=True)
class Point:
    """A threshold; voxels above it are flagged."""

    name: str
    asked_fpr: float
    """NaN for a threshold that was given as such."""
    threshold: float
    """NaN for `MASK`, which no threshold on the map tells."""


@dataclass(frozen=True)
class PointResult:
    """What a threshold gives. Pooled over lesion cases unless said otherwise; NaN where there is nothing to measure."""

    name: str
    asked_fpr: float
    threshold: float
    dice: float
    mean_dice: float
    """Mean over lesion cases."""
    sensitivity: float
    precision: float
    fpr: float
    """Share of brain voxels above the threshold in healthy cases."""
    lesions: int
    lesion_sensitivity: float
    """Share of the lesions that were found."""
    lesion_precision: float
    """Share of the findings that lie on a lesion."""
    lesion_f1: float
    false_positives_per_scan: float
    """Findings without a lesion, in lesion cases."""
    false_positives_per_healthy_scan: float
    false_alarm_slices: float
    """Share of the axial brain slices without a lesion, of all cases, with a flagged voxel."""
    false_area_mm2: float
    """Flagged area on such a slice, mean over them."""
    hd95_mm: float
    """Mean over the lesion cases in which it exists."""
    assd_mm: float
    """Average symmetric surface distance, likewise."""
    no_surface: int
    """Lesion cases without a surface distance: nothing was flagged, or there is no lesion."""
    by_size: list[dict[str, float | str]] = field(default_factory=list)
    """Lesions and how many were found, per class of volume."""


def recorded_points(file: Path) -> tuple[list[Point], str | None]:
    """Operating points and the model's name from the sidecar of a map; nothing if medvae did not write it."""
    content = _sidecar(file)
    try:
        points = content.get("OperatingPoints", {})
        found = [Point(name, float(p["FalsePositiveRate"]), float(p["Threshold"])) for name, p in points.items()]
        return found, content.get("Model")
    except (AttributeError, KeyError, TypeError, ValueError):  # another tool's sidecar, with other things under a name
        return [], None


def own_masks(files: Mapping[str, Path | None]) -> dict[str, Path]:
    """The lesion masks beside medvae's maps, by case, where they are more than the map above one of its thresholds.

    They are where findings were post-processed, and where each scan has a threshold of its own. Empty unless every
    map has such a mask, of the same detector.
    """
    found = {}
    for case, file in files.items():
        if file is None:
            continue
        mask = file.with_name(file.name.removesuffix(MAP_SUFFIX) + MASK_SUFFIX)
        if not file.name.endswith(MAP_SUFFIX) or not mask.exists():
            return {}
        of_map, of_mask = _sidecar(file), _sidecar(mask)
        more = "Postprocessing" in of_mask or of_mask.get("OperatingPoint") not in of_map.get("OperatingPoints", {})
        if not more or of_map.get("ModelFingerprint") != of_mask.get("ModelFingerprint", 0):
            return {}
        found[case] = mask
    return found


def _sidecar(file: Path) -> dict[str, Any]:
    path = file.with_name(file.name.removesuffix(".gz").removesuffix(".nii") + ".json")
    return read_document(path) if path.exists() else {}


def validation_points(folder: Path, manifest: Manifest, pattern: str, *, resampled: bool) -> list[Point]:
    """Thresholds at `RATES` from the maps of healthy validation cases in the folder; none if there is no such map.

    Raises
    ------
    MedvaeError
        If such a map is there and cannot be used.
    """
    cases = [
        c for c in manifest.of_split("validation", healthy=True) if (folder / pattern.replace("{id}", c.id)).exists()
    ]
    if not cases:
        return []
    files = find_maps(folder, manifest, cases, pattern, resampled=resampled)
    counted = []
    for case in cases:
        voxels = read_case(manifest, case, files[case.id], resampled=resampled)
        counted.append(SparseCounts.of(voxels.scores[voxels.brain], voxels.truth[voxels.brain]))
    pooled = SparseCounts.merged(counted)
    return [Point(f"fpr_{rate:g}", rate, pooled.threshold(rate)) for rate in RATES]


def given_points(thresholds: Sequence[float]) -> list[Point]:
    """Thresholds that the user gave.

    Raises
    ------
    MedvaeError
        If one is not a finite number.
    """
    if not all(math.isfinite(t) for t in thresholds):
        raise MedvaeError(f"--threshold: finite numbers were expected, found {', '.join(map(str, thresholds))}.")
    return [Point(f"threshold_{t:g}", math.nan, float(t)) for t in dict.fromkeys(thresholds)]


def point_result(point: Point, lesion_cases: Sequence[CaseResult], healthy_cases: Sequence[CaseResult]) -> PointResult:
    """What a threshold gives on measured cases."""
    name = point.name
    ill, well = ([case.row for case in cases] for cases in (lesion_cases, healthy_cases))
    hits, flagged, lesion = (_sum(ill, key) for key in (f"true_{name}", f"flagged_{name}", "lesion_voxels"))
    matches = [case.matches[name] for case in lesion_cases]
    numbers = lesion_numbers(matches)
    slices = [case.slices[name] for case in [*lesion_cases, *healthy_cases]]
    lesion_free = sum(s.lesion_free for s in slices)
    distances = {key: [row[f"{key}_{name}"] for row in ill] for key in ("hd95_mm", "assd_mm")}
    return PointResult(
        name=name,
        asked_fpr=point.asked_fpr,
        threshold=point.threshold,
        dice=voxel_dice(hits, flagged, lesion) if ill else math.nan,
        mean_dice=float(np.mean([row[f"dice_{name}"] for row in ill])) if ill else math.nan,
        sensitivity=hits / lesion if lesion else math.nan,
        precision=hits / flagged if flagged else math.nan,
        fpr=_sum(well, f"flagged_{name}") / _sum(well, "voxels") if well else math.nan,
        lesions=int(numbers["lesions"]),
        lesion_sensitivity=numbers["lesion_sensitivity"],
        lesion_precision=numbers["lesion_precision"],
        lesion_f1=numbers["lesion_f1"],
        false_positives_per_scan=numbers["false_positives_per_scan"],
        false_positives_per_healthy_scan=lesion_numbers([case.matches[name] for case in healthy_cases])[
            "false_positives_per_scan"
        ],
        false_alarm_slices=sum(s.with_alarm for s in slices) / lesion_free if lesion_free else math.nan,
        false_area_mm2=sum(s.area_mm2 for s in slices) / lesion_free if lesion_free else math.nan,
        **{key: mean_sd(values)["mean"] for key, values in distances.items()},
        no_surface=sum(math.isnan(value) for value in distances["hd95_mm"]),
        by_size=sensitivity_by_size(matches),
    )


def mean_sd(values: Sequence[float]) -> dict[str, float]:
    """Mean and sample standard deviation of the numbers that exist, and how many they are."""
    there = np.array([v for v in values if math.isfinite(v)])
    return {
        "mean": float(there.mean()) if len(there) else math.nan,
        "sd": float(there.std(ddof=1)) if len(there) > 1 else math.nan,
        "n": len(there),
    }


def _sum(rows: Sequence[dict[str, Any]], key: str) -> int:
    return sum(row[key] for row in rows)
