"""Lesions found against false findings per scan, the most certain findings first: the free-response curve.

A reader is given findings with a confidence each, and looks at them from the top (Bunch et al. 1977,
doi:10.1117/12.955926; the numbers of false findings per scan are those of LUNA16, Setio et al. 2017,
doi:10.1016/j.media.2017.06.015). Here a finding is a component of the map above the detector's first operating
point, and its confidence is its highest value. So a lesion is one finding, as large as in the mask, however certain one
has to be; a map without an operating point is cut at each confidence instead, and a lesion's peak is a speck then.

How certain one has to be for so many false findings is read off the scans that are measured, so this compares methods;
it does not say what a detector with a fixed threshold finds.
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
"""Smaller lesions are not asked for; finding one is no mistake either."""
FLAGGED = (1e-5, 0.1)
"""Share of the voxels above the highest and the lowest threshold."""
THRESHOLDS = 40


@dataclass(frozen=True)
class FreeResponseStep:
    """A point of the curve."""

    threshold: float
    """Of the confidence."""
    false_per_scan: float
    sensitivity: float


@dataclass(frozen=True)
class FreeResponse:
    """The curve over some scans."""

    lesions: int
    """Of `SMALLEST_LESION_ML` or more."""
    scans: int
    findings_above: float | None
    """What lies above it is a finding; None where the confidence itself cuts the findings out."""
    sensitivity: Mapping[float, float]
    """By number of false findings per scan (`FALSE_PER_SCAN`); NaN without a lesion."""
    curve: tuple[FreeResponseStep, ...]
    """The most certain findings first."""


def thresholds_of(counts: SparseCounts) -> list[float]:
    """Thresholds above which about 0.001 % to 10 % of the voxels lie, evenly in the logarithm, highest first."""
    above = np.cumsum((counts.lesion + counts.healthy)[::-1])
    wanted = np.geomspace(*FLAGGED, THRESHOLDS) * above[-1] if len(above) else []
    places = np.minimum(np.searchsorted(above, wanted), len(above) - 1)
    found = (bin_floor(int(counts.bins[::-1][place])) for place in places)
    return sorted({value for value in found if math.isfinite(value)}, reverse=True)


def free_response(
    cases: Iterable[CaseVoxels],
    thresholds: Sequence[float],
    *,
    overlap: float,
    smallest_ml: float,
    findings_above: float = math.inf,
) -> FreeResponse:
    """The curve over some scans, and the sensitivity at given numbers of false findings per scan.

    Below a threshold where there were too many false findings no sensitivity counts: lower still, findings flow
    together and become few again.

    Parameters
    ----------
    cases
        Scans with and without lesions; false findings are counted in both.
    thresholds
        Of the confidence, highest first.
    overlap, smallest_ml
        Of `medvae.evaluation.lesions.match_lesions`.
    findings_above
        What lies above it is a finding. A threshold that is lower is taken for both.
    """
    found, false = np.zeros(len(thresholds)), np.zeros(len(thresholds))
    lesions = scans = 0
    for case in cases:
        scans += 1
        truth, voxel_ml = components(case.truth), case.geometry.voxel_volume_ml
        scores = np.where(case.brain, case.scores, -np.inf)
        findings, sizes = components(scores > np.float32(findings_above))
        confidence = np.append(-np.inf, ndimage.maximum(scores, findings, np.arange(1, len(sizes) + 1)))
        for index, threshold in enumerate(map(np.float32, thresholds)):
            flagged = (confidence > threshold)[findings] if threshold > findings_above else scores > threshold
            match = match_components(flagged, truth, voxel_ml, overlap=overlap, smallest_ml=smallest_ml)
            large = match.sizes_ml >= SMALLEST_LESION_ML
            found[index] += np.count_nonzero(match.found & large)
            false[index] += np.count_nonzero(~match.right)
            lesions += int(large.sum()) if index == 0 else 0
    per_scan = false / max(scans, 1)
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
    return FreeResponse(lesions, scans, findings_above if math.isfinite(findings_above) else None, at, curve)
