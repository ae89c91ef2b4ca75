"""The lesion mask of a scan at an operating point, its guarantee, and the p-value of the scan."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypedDict

import numpy as np

from medvae.config import Config
from medvae.config.maps import RandomWalkerConfig
from medvae.detection import conformal
from medvae.detection.bounded import distance
from medvae.detection.guarantees import ASSUMPTION, HealthySubjects, case_statistic
from medvae.detection.operating_points import OperatingPoint
from medvae.detection.outlines import outlined
from medvae.errors import MedvaeError
from medvae.imaging.morphology import erode, finding_volumes_ml, grow, remove_small
from medvae.preparation.prepared import PreparedVolume


class Thresholds(Protocol):
    """What a lesion mask needs of a detector (`medvae.detection.base.Calibrated`)."""

    @property
    def config(self) -> Config:
        """Says how to post-process."""
        ...

    @property
    def healthy(self) -> HealthySubjects | None:
        """Basis of guarantees and p-values."""
        ...

    def point(self, at: float | str) -> OperatingPoint:
        """The operating point of a rate or a name."""
        ...

    def map_threshold(self, point: OperatingPoint) -> float:
        """Its threshold on the scale of the anomaly map."""
        ...

    def map_values(self, score: np.ndarray) -> np.ndarray:
        """Scores on the scale of the anomaly map."""
        ...


class CaseFields(TypedDict, total=False):
    """Sidecar fields of the p-value."""

    CasePValue: float
    CaseStatistic: str
    CasePValueMeaning: str


@dataclass(frozen=True)
class Findings:
    """The lesion mask of a scan and its sidecar fields."""

    mask: np.ndarray
    """``(X, Y, Z)`` uint8 on the scan's own grid."""
    threshold: float
    """Value of the map above which a voxel is flagged."""
    guarantee: str
    """What the operating point guarantees after post-processing."""
    postprocessing: dict[str, object]
    """Sidecar fields of post-processing; empty if the mask is the thresholded map."""
    case: CaseFields
    """Empty for a detector that stores no healthy subjects."""

    @property
    def case_p_value(self) -> float | None:
        """The p-value of the scan."""
        return self.case.get("CasePValue")


def find_lesions(
    detector: Thresholds, point: OperatingPoint, volume: PreparedVolume, anomaly: np.ndarray, native: np.ndarray
) -> Findings:
    """Flag the voxels above an operating point's threshold.

    Parameters
    ----------
    detector
        The detector that made the map; its config sets the post-processing.
    point
        Threshold and, for "family_wise_cluster", minimum size of a finding.
    volume
        The prepared scan.
    anomaly, native
        Its anomaly map on the standard grid and on the scan's own.
    """
    options, voxel_ml = detector.config.postprocessing, volume.source.geometry.voxel_volume_ml
    region = erode(volume.mask, volume.grid.spacing_mm, options.erosion_mm)
    inner = native if options.erosion_mm <= 0 else volume.restore(np.where(region, anomaly, 0))
    if point.kind == "false_discovery" and point.false_positive_rate is not None:
        threshold = _false_discovery_threshold(detector, point.false_positive_rate, anomaly[region])
    else:
        threshold = detector.map_threshold(point)
    low, grown_to = threshold, None
    if options.grow_to is not None:
        lower = detector.point(options.grow_to)
        if (reached := detector.map_threshold(lower)) < threshold:
            low, grown_to = reached, lower.name
    peak = _peak(detector, point, threshold)
    walker = options.random_walker
    if walker is None:
        mask = grow(inner, peak, low)
    else:
        mask = _outlined(walker, volume, np.where(region, anomaly, 0), peak, low)
    minimum_ml = max(options.minimum_lesion_ml, point.minimum_lesion_ml)
    mask = remove_small(mask, voxel_ml, minimum_ml)

    fields: dict[str, object] = {}
    if (grown_to or walker) is not None or max(options.erosion_mm, minimum_ml, peak - threshold) > 0:
        applied: dict[str, object] = {
            "ErosionMm": options.erosion_mm,
            "GrownTo": grown_to,
            "PeakAbove": peak if peak > threshold else None,
            "MinimumLesionMl": minimum_ml,
        }
        if walker is not None:
            applied["RandomWalker"] = {
                "SeedsAbove": walker.seeds_above,
                "BackgroundBelow": walker.background_below,
                "ReachMm": walker.reach_mm,
            }
        fields["Postprocessing"] = applied
        fields["LesionVolumeMlWithoutPostprocessing"] = round(float((native > threshold).sum() * voxel_ml), 4)
    guarantee = point.guarantee or "None: a share of pooled healthy voxels, which promises nothing for a single scan."
    if grown_to is not None and point.kind in ("false_positive_volume", "family_wise_cluster"):
        guarantee = f"None: findings were grown down to {grown_to}, beyond what {point.name} was measured for."
    elif walker is not None and point.kind in ("false_positive_volume", "family_wise_cluster"):
        guarantee = f"None: findings were outlined anew, and {point.name} was measured without that."
    case = _case_fields(detector, anomaly[region], inner, voxel_ml)
    return Findings(mask.astype(np.uint8), threshold, guarantee, fields, case)


def _outlined(
    options: RandomWalkerConfig, volume: PreparedVolume, anomaly: np.ndarray, peak: float, threshold: float
) -> np.ndarray:
    """The findings of a map on the standard grid with the outline of a random walker, on the scan's own grid."""
    findings = grow(anomaly, peak, threshold)
    unit = 1 + float(distance(np.array(threshold)))  # of the first operating point, from the healthy median
    if unit <= 0 or not findings.any():
        return volume.restore(findings.astype(np.float32)) > 0.5
    strength = np.where(volume.mask, (1 + distance(anomaly)) / unit, 0)
    likely = outlined(findings, strength, volume.image, volume.mask, options, volume.grid.voxel_mm)
    return volume.restore(likely) > 0.5


def _peak(detector: Thresholds, point: OperatingPoint, threshold: float) -> float:
    """The map value that a finding's peak must exceed; at least the operating point's own threshold."""
    share = detector.config.postprocessing.peak_share
    rate = point.false_positive_rate
    if share == 1 or point.kind == "false_discovery" or rate is None:  # its rate is not defined on healthy voxels
        return threshold
    if detector.healthy is None:
        raise MedvaeError(
            "postprocessing.peak_share: this detector was calibrated by an earlier version of medvae, which kept "
            "nothing for it. Set it to 1, or calibrate anew with medvae train --resume."
        )
    rarer = detector.map_values(np.array(detector.healthy.threshold_of(share * rate), np.float32))
    return max(threshold, float(rarer))


def _false_discovery_threshold(detector: Thresholds, level: float, values: np.ndarray) -> float:
    """The map threshold that Benjamini-Hochberg gives for the voxels of a scan, ``values`` ``(V,)``."""
    healthy = detector.healthy
    if healthy is None:
        raise ValueError("a false discovery rate needs the detector's healthy subjects; found None.")
    p_values = conformal.voxel_p_values(
        values, detector.map_values(healthy.thresholds), healthy.at_or_above, healthy.voxels
    )
    found = values[conformal.benjamini_hochberg(p_values, level)]
    return float(np.nextafter(found.min(), np.float32(0))) if found.size else 1.0


def _case_fields(detector: Thresholds, values: np.ndarray, native: np.ndarray, voxel_ml: float) -> CaseFields:
    healthy, config = detector.healthy, detector.config.calibration
    if healthy is None:
        return {}
    if config.case_statistic == "largest_cluster":
        if healthy.largest_cluster_ml is None:
            raise ValueError("calibration.case_statistic: the healthy subjects' largest findings were not measured.")
        above = native > detector.map_values(np.array(config.cluster_above, np.float32))
        case, others = max(finding_volumes_ml(above, voxel_ml), default=0.0), healthy.largest_cluster_ml
    else:
        case = case_statistic(config.case_statistic, values)
        others = detector.map_values(getattr(healthy, config.case_statistic))
    return {
        "CasePValue": conformal.p_value(case, others),
        "CaseStatistic": config.case_statistic,
        "CasePValueMeaning": f"Probability of at most this for a healthy scan to be as unusual, among {healthy.count} "
        f"healthy validation subjects; never below 1/{healthy.count + 1}. {ASSUMPTION}",
    }
