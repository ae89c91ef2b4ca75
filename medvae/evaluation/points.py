"""Operating points: thresholds that saw no lesion, from sidecars, from healthy validation maps, or given."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medvae.derivatives import MAP_SUFFIX, MASK_SUFFIX
from medvae.errors import MedvaeError
from medvae.evaluation.curves import SparseCounts
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
    """NaN for the method's own mask, which no threshold on the map tells."""


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
