"""Operating points: thresholds set without lesions, from sidecars or healthy validation maps, or given."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medvae.derivatives import MAP_SUFFIX, MASK_SUFFIX
from medvae.errors import MedvaeError
from medvae.evaluation.curves import SparseCounts
from medvae.evaluation.maps import find_maps, map_of, read_case, sidecar_of
from medvae.evaluation.result import GIVEN
from medvae.manifest import Manifest

RATES = (0.01, 0.05)
"""False-positive rates of the operating points set here, on healthy validation scans."""


@dataclass(frozen=True)
class Point:
    """A threshold; voxels above it are flagged."""

    name: str
    asked_fpr: float
    """NaN for a threshold given directly, or one that is a rank within the scan."""
    threshold: float
    """NaN for the method's own mask, which is not a threshold on the map."""


def recorded_points(file: Path) -> tuple[list[Point], str | None, str | None]:
    """Operating points, the model's name and its fingerprint from a map's sidecar; empty if medvae did not write it."""
    content = sidecar_of(file)
    try:
        points = content.get("OperatingPoints", {})
        found = [Point(name, _rate(p["FalsePositiveRate"]), float(p["Threshold"])) for name, p in points.items()]
        return found, content.get("Model"), content.get("ModelFingerprint")
    except (AttributeError, KeyError, TypeError, ValueError):  # another tool's sidecar, with other content under a name
        return [], None, None


def _rate(recorded: Any) -> float:
    return math.nan if recorded is None else float(recorded)


def own_masks(files: Mapping[str, Path | None]) -> dict[str, Path]:
    """The lesion masks next to medvae's maps, by case, if they are not just the map above one of its thresholds.

    That is so if findings were post-processed or each scan has its own threshold. Empty unless every map has such a
    mask from the same detector.
    """
    found = {}
    for case, file in files.items():
        if file is None:
            continue
        mask = file.with_name(file.name.removesuffix(MAP_SUFFIX) + MASK_SUFFIX)
        if not file.name.endswith(MAP_SUFFIX) or not mask.exists():
            return {}
        of_map, of_mask = sidecar_of(file), sidecar_of(mask)
        more = "Postprocessing" in of_mask or of_mask.get("OperatingPoint") not in of_map.get("OperatingPoints", {})
        if not more or of_map.get("ModelFingerprint") != of_mask.get("ModelFingerprint", 0):
            return {}
        found[case] = mask
    return found


def validation_points(folder: Path, manifest: Manifest, pattern: str, *, resampled: bool) -> list[Point]:
    """Thresholds at `RATES` from the maps of healthy validation cases in the folder; empty if there are none.

    Raises
    ------
    MedvaeError
        If such a map exists but cannot be used.
    """
    cases = [c for c in manifest.of_split("validation", healthy=True) if map_of(folder, pattern, c.id).exists()]
    if not cases:
        return []
    files = find_maps(folder, manifest, cases, pattern, resampled=resampled)
    read = (read_case(manifest, case, files[case.id], resampled=resampled) for case in cases)
    pooled = SparseCounts.merged(SparseCounts.of(one.scores[one.brain], one.truth[one.brain]) for one in read)
    return [Point(f"fpr_{rate:g}", rate, pooled.threshold(rate)) for rate in RATES]


def given_points(thresholds: Sequence[float]) -> list[Point]:
    """Thresholds given by the user.

    Raises
    ------
    MedvaeError
        If one is not a finite number.
    """
    if not all(math.isfinite(t) for t in thresholds):
        raise MedvaeError(f"--threshold: finite numbers were expected, found {', '.join(map(str, thresholds))}.")
    return [Point(f"{GIVEN}{t:g}", math.nan, float(t)) for t in dict.fromkeys(thresholds)]
