"""The free-response curve: lesion sensitivity against false findings per scan.

A reader reviews findings in order of decreasing confidence (Bunch et al. 1977,
doi:10.1117/12.955926; the false-finding rates are those of LUNA16, Setio et al. 2017,
doi:10.1016/j.media.2017.06.015). Here a finding is a component of the map above the detector's first operating
point, and its confidence is its highest value. So a lesion is one finding, with the extent of the mask, at every
confidence. A map without an operating point is thresholded at each confidence instead; at a high confidence only the
peak of a lesion then remains.

The confidence for a given number of false findings is taken from the evaluated scans, so this compares methods; it does
not give the sensitivity of a detector with a fixed threshold.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from medvae.evaluation.curves import SparseCounts, bin_floor
from medvae.evaluation.lesions import match_components
from medvae.evaluation.maps import CaseVoxels
from medvae.imaging.components import components

FALSE_PER_SCAN = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
SMALLEST_LESION_ML = 0.3
"""Smaller lesions are ignored: neither required nor counted as false findings."""
FLAGGED = (1e-5, 0.1)
"""Share of the voxels above the highest and the lowest threshold."""
THRESHOLDS = 40


@dataclass(frozen=True)
class FreeResponseStep:
    """A point of the curve."""

    threshold: float
    """Threshold on the confidence."""
    false_per_scan: float
    sensitivity: float


@dataclass(frozen=True)
class FreeResponse:
    """The curve over some scans."""

    lesions: int
    """Lesions of `SMALLEST_LESION_ML` or more."""
    scans: int
    findings_above: float | None
    """Findings are components above this value; None if each confidence defines its own findings."""
    sensitivity: Mapping[float, float]
    """Sensitivity by number of false findings per scan (`FALSE_PER_SCAN`); NaN without a lesion."""
    curve: tuple[FreeResponseStep, ...]
    """In order of decreasing confidence."""


def thresholds_of(counts: SparseCounts) -> list[float]:
    """Thresholds above which about 0.001 % to 10 % of the voxels lie, evenly in the logarithm, highest first."""
    above = np.cumsum((counts.lesion + counts.healthy)[::-1])
    wanted = np.geomspace(*FLAGGED, THRESHOLDS) * above[-1] if len(above) else []
    places = np.minimum(np.searchsorted(above, wanted), len(above) - 1)
    found = (bin_floor(int(counts.bins[::-1][place])) for place in places)
    return sorted({value for value in found if math.isfinite(value)}, reverse=True)


@dataclass(frozen=True)
class FindingRules:
    """What counts as a finding, and at which confidences findings are counted."""

    thresholds: Sequence[float]
    """On the confidence, highest first."""
    overlap: float
    """Of `medvae.evaluation.lesions.match_lesions`, as the next."""
    smallest_ml: float
    findings_above: float = math.inf
    """Findings are components above this value. A lower threshold replaces it."""


@dataclass(frozen=True)
class CaseFindings:
    """Lesions and findings of a scan; the arrays have one number for each threshold."""

    found: np.ndarray
    """Lesions found."""
    false: np.ndarray
    """False findings."""
    lesions: int

    @classmethod
    def of(cls, case: CaseVoxels, rules: FindingRules) -> CaseFindings:
        """Count those of a scan with or without lesions."""
        thresholds = rules.thresholds
        found, false = np.zeros(len(thresholds)), np.zeros(len(thresholds))
        lesions = 0
        truth, voxel_ml = components(case.truth), case.geometry.voxel_volume_ml
        scores = np.where(case.brain, case.scores, -np.inf)
        findings, sizes = components(scores > np.float32(rules.findings_above))
        confidence = np.append(-np.inf, ndimage.maximum(scores, findings, np.arange(1, len(sizes) + 1)))
        for index, threshold in enumerate(map(np.float32, thresholds)):
            flagged = (confidence > threshold)[findings] if threshold > rules.findings_above else scores > threshold
            match = match_components(flagged, truth, voxel_ml, overlap=rules.overlap, smallest_ml=rules.smallest_ml)
            large = match.sizes_ml >= SMALLEST_LESION_ML
            found[index] = np.count_nonzero(match.found & large)
            false[index] = np.count_nonzero(~match.right)
            lesions = int(large.sum()) if index == 0 else lesions
        return cls(found, false, lesions)


def free_response(
    cases: Iterable[CaseVoxels],
    thresholds: Sequence[float],
    *,
    overlap: float,
    smallest_ml: float,
    findings_above: float = math.inf,
) -> FreeResponse:
    """`free_response_of` some scans with and without lesions; false findings are counted in both.

    The options are those of `FindingRules`.
    """
    rules = FindingRules(thresholds, overlap, smallest_ml, findings_above)
    return free_response_of([CaseFindings.of(case, rules) for case in cases], rules)


def free_response_of(cases: Sequence[CaseFindings], rules: FindingRules) -> FreeResponse:
    """The curve over some scans, and the sensitivity at given numbers of false findings per scan.

    Thresholds below the first with too many false findings do not count: there, findings merge and become few again.
    """
    thresholds, scans = rules.thresholds, len(cases)
    nothing = np.zeros(len(thresholds))
    found = sum((case.found for case in cases), nothing)
    lesions = sum(case.lesions for case in cases)
    per_scan = sum((case.false for case in cases), nothing) / max(scans, 1)
    sensitivity = found / lesions if lesions else np.full(len(thresholds), math.nan)
    at = {}
    for asked in FALSE_PER_SCAN:
        too_many = np.flatnonzero(per_scan > asked)
        usable = sensitivity[: too_many[0] if len(too_many) else None]
        at[asked] = float(usable.max()) if len(usable) else (0.0 if lesions else math.nan)
    curve = tuple(
        FreeResponseStep(float(t), float(f), float(s))
        for t, f, s in zip(thresholds, per_scan, sensitivity, strict=True)
    )
    above = rules.findings_above
    return FreeResponse(lesions, scans, above if math.isfinite(above) else None, at, curve)
