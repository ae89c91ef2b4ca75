"""What a detector stores of its healthy validation subjects, and the operating points they can guarantee.

Names: ``fwer_0.2`` (family-wise error), ``cluster_fwer_0.2`` (the same above a finding size), ``fpv_5ml`` (expected
false-positive volume), ``fdr_0.1`` (false discovery rate of voxels, approximate). ``docs/CALIBRATION.md`` says what
each guarantees and what it does not.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import save as save_arrays

from medvae.config import CalibrationConfig
from medvae.detection import conformal
from medvae.detection.operating_points import OperatingPoint
from medvae.detection.raised import lower_quartile
from medvae.errors import MedvaeError
from medvae.files import write_bytes
from medvae.imaging.morphology import erode, finding_volumes_ml
from medvae.preparation.prepared import PreparedVolume
from medvae.tensors import read_arrays

FILE = "healthy.safetensors"
NAMES = re.compile(r"(?P<kind>fwer|cluster_fwer|fdr|fpv)_(?P<level>\d+(\.\d+)?(e-?\d+)?)(?P<unit>ml)?")
THRESHOLDS = 400
"""Thresholds at which false-positive volumes are stored, evenly spaced in the log of the voxels above."""

ASSUMPTION = (
    "This assumes that the scan's subject is exchangeable with the healthy validation subjects, and holds on average "
    "over the choice of them; a scanner, site, age or preparation that is not among them breaks it."
)
APPROXIMATE = (
    "Approximate: the p-values pool the voxels of all places and healthy subjects, which are neither alike nor "
    "independent. It promises nothing for a subject."
)


@dataclass(frozen=True)
class HealthySubjects:
    """Statistics of the n healthy validation subjects that guarantees need; of several scans the worst one counts."""

    maximum: np.ndarray
    """``(n,)`` largest score."""
    percentile: np.ndarray
    """``(n,)`` 99.9th percentile of the score."""
    thresholds: np.ndarray
    """``(K,)`` rising scores."""
    at_or_above: np.ndarray
    """``(K,)`` pooled brain voxels of the standard grid at or above each threshold."""
    voxels: int
    """Pooled brain voxels."""
    volumes_ml: np.ndarray
    """``(n, K)`` volume of the map above each threshold, on the scan's own grid, in ml."""
    largest_cluster_ml: np.ndarray | None = None
    """``(n,)`` largest finding above ``calibration.cluster_above``, on the scan's own grid, in ml."""
    lower_quartile: np.ndarray | None = None
    """``(n,)`` lower quartile of the score; None for a detector of an earlier version."""

    @property
    def count(self) -> int:
        """n, the number of subjects."""
        return len(self.maximum)

    def threshold_of(self, rate: float) -> float:
        """The lowest stored score that at most a share ``rate`` of the pooled voxels reaches or exceeds."""
        rare = np.flatnonzero(self.at_or_above <= rate * self.voxels)
        return float(self.thresholds[rare[0] if len(rare) else -1])

    def save(self, folder: Path) -> None:
        """Write ``folder/healthy.safetensors``."""
        arrays = {key: np.ascontiguousarray(value) for key, value in asdict(self).items() if value is not None}
        write_bytes(folder / FILE, save_arrays(arrays))

    @classmethod
    def load(cls, folder: Path) -> HealthySubjects | None:
        """Read what `save` wrote; None for a detector of an earlier version, which did not write it."""
        if not (folder / FILE).is_file():
            return None
        vectors = {name: (None,) for name in ("maximum", "percentile", "thresholds", "at_or_above")}
        shapes = vectors | {"voxels": (1,), "volumes_ml": (None, None)}
        arrays = read_arrays(folder / FILE, shapes, {"largest_cluster_ml": (None,), "lower_quartile": (None,)})
        people, levels = arrays["volumes_ml"].shape
        if (len(arrays["maximum"]), len(arrays["percentile"])) != (people, people) or levels != len(
            arrays["thresholds"]
        ):
            raise MedvaeError(f"{folder / FILE}: its arrays do not fit each other. Copy the folder again.")
        return cls(
            maximum=arrays["maximum"],
            percentile=arrays["percentile"],
            thresholds=arrays["thresholds"],
            at_or_above=arrays["at_or_above"],
            voxels=int(arrays["voxels"].item()),
            volumes_ml=arrays["volumes_ml"],
            largest_cluster_ml=arrays.get("largest_cluster_ml"),
            lower_quartile=arrays.get("lower_quartile"),
        )


def case_statistic(kind: str, values: np.ndarray) -> float:
    """The largest or the 99.9th percentile of ``(V,)`` voxels: observed values, which any increasing map preserves."""
    return float(values.max() if kind == "maximum" else np.quantile(values, 0.999, method="inverted_cdf"))


def measure_healthy(
    volumes: Sequence[PreparedVolume],
    scores: Sequence[np.ndarray],
    subjects: Sequence[str],
    to_map: Callable[[np.ndarray], np.ndarray],
    config: CalibrationConfig,
    erosion_mm: float,
) -> HealthySubjects:
    """Measure the healthy validation scans.

    The largest score and the percentile are taken on the standard grid: maps on a scan's own grid are interpolated
    from it and never exceed its values. Volumes are those of the maps as written.

    Parameters
    ----------
    volumes, scores, subjects
        Prepared scans, their calibrated scores ``(X, Y, Z)`` and their subjects.
    to_map
        From score to anomaly map, voxelwise and increasing.
    config, erosion_mm
        ``cluster_above``; how far the brain is eroded before anything is flagged.
    """
    regions = [erode(volume.mask, volume.grid.spacing_mm, erosion_mm) for volume in volumes]
    pooled = np.sort(np.concatenate([score[region] for score, region in zip(scores, regions, strict=True)]))
    ranks = np.unique(np.geomspace(1, len(pooled), THRESHOLDS).astype(np.int64))
    thresholds = np.unique(pooled[len(pooled) - ranks])
    levels = to_map(thresholds)
    cluster_level = None if config.cluster_above is None else to_map(np.array(config.cluster_above, np.float32))
    flagged_ml, clusters = [], []
    for volume, score, region in zip(volumes, scores, regions, strict=True):
        native = volume.restore(np.where(region, to_map(score), 0))
        voxel_ml = volume.source.geometry.voxel_volume_ml
        brain = np.sort(native[volume.source_mask])
        flagged_ml.append((len(brain) - np.searchsorted(brain, levels, side="right")) * voxel_ml)
        if cluster_level is not None:
            clusters.append(max(finding_volumes_ml(native > cluster_level, voxel_ml), default=0.0))
    maximum, percentile = (
        [case_statistic(kind, score[region]) for score, region in zip(scores, regions, strict=True)]
        for kind in ("maximum", "percentile")
    )
    return HealthySubjects(
        maximum=conformal.worst_of_subjects(maximum, subjects),
        percentile=conformal.worst_of_subjects(percentile, subjects),
        thresholds=thresholds,
        at_or_above=len(pooled) - np.searchsorted(pooled, thresholds, side="left"),
        voxels=len(pooled),
        volumes_ml=conformal.worst_of_subjects(flagged_ml, subjects),
        largest_cluster_ml=conformal.worst_of_subjects(clusters, subjects) if clusters else None,
        lower_quartile=conformal.worst_of_subjects(
            [lower_quartile(score[volume.mask]) for volume, score in zip(volumes, scores, strict=True)], subjects
        ),
    )


def guaranteed_point(name: str, healthy: HealthySubjects, config: CalibrationConfig) -> OperatingPoint | None:
    """The operating point of a name such as ``fwer_0.2``; None if the name is not one of these.

    Raises
    ------
    MedvaeError
        If the healthy subjects are too few for the level; says how many are needed.
    """
    parsed = _parse(name)
    if parsed is None:
        return None
    kind, level = parsed
    check_levels([name], healthy.count, config)
    n, minimum_ml = healthy.count, 0.0
    if kind == "fpv":
        cap = config.false_positive_volume_cap_ml
        threshold = float(healthy.thresholds[conformal.risk_controlled(healthy.volumes_ml, level, cap)])
        promise = (
            f"In a new healthy scan at most {level:g} ml are flagged in expectation, where a scan with more than "
            f"{cap:g} ml counts as {cap:g} ml (conformal risk control, {n} healthy subjects)."
        )
    elif kind == "fwer":
        threshold = conformal.family_wise_threshold(healthy.maximum, level)
        promise = (
            f"A new healthy scan has any voxel flagged with a probability of at most {level:g} (family-wise error, "
            f"conformal quantile of the largest scores of {n} healthy subjects)."
        )
    elif kind == "cluster_fwer":
        if config.cluster_above is None or healthy.largest_cluster_ml is None:
            raise _without_clusters(name)
        threshold = config.cluster_above
        minimum_ml = conformal.family_wise_threshold(healthy.largest_cluster_ml, level)
        promise = (
            f"A new healthy scan has any finding of more than {minimum_ml:.3g} ml above the score {threshold:g} with a "
            f"probability of at most {level:g} (family-wise error, conformal quantile of the largest findings of {n} "
            f"healthy subjects)."
        )
    else:  # the threshold is each scan's own
        return OperatingPoint(name, level, math.inf, "false_discovery", f"Voxels at a false discovery rate of "
                              f"{level:g} (Benjamini-Hochberg). {APPROXIMATE}")  # fmt: skip
    kinds = {"fpv": "false_positive_volume", "fwer": "family_wise", "cluster_fwer": "family_wise_cluster"}
    share = float(np.interp(threshold, healthy.thresholds, healthy.at_or_above)) / healthy.voxels
    return OperatingPoint(name, share, threshold, kinds[kind], f"{promise} {ASSUMPTION}", minimum_ml)


def check_levels(names: Sequence[str], subjects: int, config: CalibrationConfig) -> None:
    """Refuse operating points that ``subjects`` healthy subjects cannot guarantee, before a network is trained.

    Raises
    ------
    MedvaeError
        Naming the smallest possible level and how many subjects are needed.
    """
    for name in names:
        parsed = _parse(name)
        if parsed is None:
            continue
        kind, level = parsed
        cap = config.false_positive_volume_cap_ml
        if kind == "fpv" and level >= cap:
            raise MedvaeError(
                f"{name}: a scan counts at most {cap:g} ml (calibration.false_positive_volume_cap_ml), so {level:g} ml "
                f"is kept by any threshold and promises nothing. Ask for less, or train with a larger cap."
            )
        if kind == "cluster_fwer" and config.cluster_above is None:
            raise _without_clusters(name)
        if kind != "fpv" and not 0 < level < 1:
            raise MedvaeError(f"{name}: its level must lie between 0 and 1.")
        needed = 1 if kind == "fdr" else conformal.subjects_needed(level / cap if kind == "fpv" else level)
        if subjects < needed:
            smallest = (f"{cap / (subjects + 1):.3g} ml (a scan may count {cap:g} ml)" if kind == "fpv"
                        else f"1/{subjects + 1} = {1 / (subjects + 1):.3g}")  # fmt: skip
            raise MedvaeError(
                f"{name}: cannot be promised by {subjects} healthy validation subjects; their smallest level is "
                f"{smallest}. {needed} subjects would be needed: add healthy validation scans, or ask for a higher one."
            )


def _without_clusters(name: str) -> MedvaeError:
    return MedvaeError(f"{name}: findings are measured only if calibration.cluster_above is set in training.")


def _parse(name: str) -> tuple[str, float] | None:
    found = NAMES.fullmatch(name)
    if found is None or (found["kind"] == "fpv") != bool(found["unit"]) or float(found["level"]) <= 0:
        return None
    return found["kind"], float(found["level"])
