"""What detectors and ensembles share: a calibrated score, its operating points and the anomaly map."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple, Self, TypedDict

import numpy as np

from medvae import __version__
from medvae.config import Config, dump_config, read_config
from medvae.detection.bounded import bounded
from medvae.detection.guarantees import HealthySubjects, guaranteed_point, measure_healthy
from medvae.detection.masks import Findings, find_lesions
from medvae.detection.operating_points import OperatingPoint, named_rank, operating_points, rank_point
from medvae.detection.raised import raised_scores
from medvae.detection.stored import CALIBRATION, StoredCalibration, read_calibration, stored_modalities
from medvae.errors import MedvaeError
from medvae.files import sha256, whole_folder, write_json, write_text
from medvae.imaging.readers import placement_notes
from medvae.preparation.doubts import doubts
from medvae.preparation.landmarks import LandmarkScale
from medvae.preparation.prepare import prepare_array
from medvae.preparation.prepared import PreparedVolume
from medvae.schema import parse, read_document

SCALE = "intensity_scale.json"
_UNCALIBRATED = (
    "No healthy scan was used for it, so it knows no false-positive rate and guarantees nothing: set thresholds on "
    "healthy scans of your own with medvae calibrate."
)


class StandardMaps(NamedTuple):
    """Maps of a scan on the standard grid, ``(X, Y, Z)`` float32 each, 0 outside the brain."""

    anomaly: np.ndarray
    """In [0, 1]; 0.5 is the threshold of the first operating point."""
    spread: np.ndarray | None = None
    """SD of the anomaly maps of an ensemble's members, at most 0.5: high where they disagree."""


@dataclass(frozen=True)
class Maps:
    """What a detector finds in a scan, on the scan's own grid: arrays ``(X, Y, Z)``, 0 outside the brain."""

    anomaly: np.ndarray
    """Anomaly map, float32 in [0, 1]; 0.5 is the threshold of the first operating point."""
    spread: np.ndarray | None
    """SD of the anomaly maps of an ensemble's members, float32 in [0, 0.5]; None for a single detector."""
    brain_mask: np.ndarray
    """Bool: the voxels that were searched."""
    point: OperatingPoint
    """The operating point of the lesion mask."""
    findings: Findings
    """The lesion mask with its threshold, its guarantee and the p-value of the scan."""
    lesion_volume_ml: float
    """Volume of the lesion mask, rounded to 0.1 microlitres."""
    notes: tuple[str, ...] = ()
    """Warnings to read before trusting the maps, for instance that the scan looks like another sequence."""

    @property
    def lesion_mask(self) -> np.ndarray:
        """Uint8, 1 where the map lies above the operating point's threshold, post-processed as the config says."""
        return self.findings.mask

    @property
    def threshold(self) -> float:
        """Value of the anomaly map above which the lesion mask is 1."""
        return self.findings.threshold

    @property
    def case_p_value(self) -> float | None:
        """How unusual the scan is among the healthy validation subjects; None if the detector does not store them."""
        return self.findings.case_p_value


@dataclass(frozen=True, kw_only=True)
class Calibrated(ABC):
    """A score of prepared volumes with thresholds from healthy validation scans."""

    config: Config
    modalities: tuple[str, ...]
    """The sequences it was trained on, in the order of its input images: ``("T1",)``. "unknown" for a detector of an
    earlier version, which accepts any."""
    calibrated_on: dict[str, int]
    """Number of healthy scans: ``{"training": …, "validation": …}``."""
    points: tuple[OperatingPoint, ...] = ()
    healthy_median: float = 0.0
    """Median score of the healthy validation scans' brain voxels."""
    scale: LandmarkScale | None = None
    """The intensity scale of the training scans, which `prepare_scan` needs for landmark-based normalisation."""
    healthy: HealthySubjects | None = None
    """Basis of guarantees and p-values; None for a detector that an earlier version saved."""
    fingerprint: str = ""
    """SHA-256 of the saved files; two detectors with the same fingerprint give the same maps."""

    @property
    def channels(self) -> int:
        """Number of modalities."""
        return len(self.modalities)

    def __call__(
        self,
        array: np.ndarray,
        affine: np.ndarray,
        mask: np.ndarray | None = None,
        *,
        at: float | str | None = None,
    ) -> Maps:
        """Find lesions in a scan in memory, with the same values that `medvae.prediction.predict` writes for its file.

        Parameters
        ----------
        array
            ``(X, Y, Z)``, or ``(C, X, Y, Z)`` with one image per modality in the order of ``modalities``; of any
            voxel size and orientation.
        affine
            ``(4, 4)``, voxel index to world coordinates in mm, RAS+ (as ``nibabel.load(path).affine``).
        mask
            ``(X, Y, Z)``, the brain where above 0.5; without it the brain is found by ``config.preparation.brain``.
        at
            Operating point of the lesion mask, as a false-positive rate or a name; the config's by default.

        Raises
        ------
        MedvaeError
            For an array of another shape or with NaN, an invalid affine, a brain that cannot be found or registered,
            or an operating point that the detector does not have.
        """
        array = np.asarray(array)
        images = array[None] if array.ndim == 3 else array
        if images.ndim != 4 or len(images) != self.channels:
            names, shape = ", ".join(self.modalities), "(X, Y, Z) or (1, X, Y, Z)"
            if self.channels > 1:
                shape = f"({self.channels}, X, Y, Z)"
            raise MedvaeError(f"The array has shape {array.shape}; {shape} was expected, for {names}.")
        point = self.point(self.config.calibration.mask_at if at is None else at)  # fail before minutes of preparation
        volume = prepare_array(images, affine, self.config.preparation, mask=mask, scale=self.scale)
        return self.native_maps(volume, point)

    def native_maps(self, volume: PreparedVolume, point: OperatingPoint) -> Maps:
        """Maps of a prepared scan on the scan's own grid, with the lesion mask at an operating point."""
        maps = self.maps(volume)
        anomaly = volume.restore(maps.anomaly)
        findings = find_lesions(self, point, volume, maps.anomaly, anomaly)
        volume_ml = round(float(findings.mask.sum() * volume.source.geometry.voxel_volume_ml), 4)
        spread = None if maps.spread is None else volume.restore(maps.spread)
        notes = (*self.doubts(volume), *self._raised(maps.anomaly[volume.mask]), *placement_notes(volume.source))
        return Maps(anomaly, spread, volume.source_mask, point, findings, volume_ml, notes)

    def doubts(self, volume: PreparedVolume) -> tuple[str, ...]:
        """Warnings: what is unusual about the scan, one sentence for each cause; see `medvae.preparation.doubts`."""
        return doubts(volume, self.modalities, needs_place=self.config.preparation.registration != "if_possible")

    def _raised(self, values: np.ndarray) -> tuple[str, ...]:
        if self.healthy is None or self.healthy.lower_quartile is None:
            return ()
        told = raised_scores(values, self.map_values(self.healthy.lower_quartile))
        return () if told is None else (told,)

    @abstractmethod
    def score(self, volume: PreparedVolume) -> np.ndarray:
        """The calibrated score on the standard grid, ``(X, Y, Z)`` float32: higher is more anomalous, 0 outside."""

    @abstractmethod
    def on(self, device: str) -> Self:
        """The same detector with its networks on another device, as in `medvae.devices.find_device`."""

    @property
    @abstractmethod
    def device(self) -> str:
        """Device of its networks; ``auto`` without one."""

    def maps(self, volume: PreparedVolume) -> StandardMaps:
        """The maps of a prepared scan on the standard grid."""
        return StandardMaps(self.anomaly_map(volume))

    def anomaly_map(self, volume: PreparedVolume) -> np.ndarray:
        """The score mapped to [0, 1], ``(X, Y, Z)`` float32, comparable between patients.

        A strictly increasing function of the score, so AP and AUROC are unchanged: 0.5 is the threshold
        of the first operating point, and the distance from the median healthy score to that threshold is the unit.
        """
        return self.bounded(self.score(volume), volume.mask)

    def bounded(self, score: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """A score ``(X, Y, Z)`` on the scale of `anomaly_map`."""
        return np.where(mask, self.map_values(score), np.float32(0))

    def map_threshold(self, point: OperatingPoint) -> float:
        """An operating point's threshold on the scale of `anomaly_map`."""
        return float(self.map_values(np.array(point.threshold, np.float32)))

    def point(self, at: float | str) -> OperatingPoint:
        """The operating point of a false-positive rate or of a name such as ``fpr_0.01``, ``fwer_0.2`` or ``fpv_5ml``.

        Those with a guarantee (`medvae.detection.guarantees`) need not be listed in the config.

        Raises
        ------
        MedvaeError
            If the detector has none for it (those it has are listed), or too few healthy subjects to guarantee it.
        """
        for point in self.points:
            if at == point.name or (at == point.false_positive_rate and point.kind == "voxel_rate"):
                return point
        if isinstance(at, str):
            if self.thresholds_are_ranks and (rank := named_rank(at)) is not None:
                return rank_point(rank)
            if self.healthy is None and not self.calibrated_on["validation"]:
                hint = _UNCALIBRATED
            elif self.healthy is None:
                hint = (
                    "It was calibrated by an earlier version of medvae, which kept nothing for others: move its "
                    "detector folder away and run medvae train again with --resume; the network stays as it is."
                )
            elif promised := guaranteed_point(at, self.healthy, self.config.calibration):
                return promised
            else:
                hint = "Others are called fwer_0.2, cluster_fwer_0.2, fpv_5ml or fdr_0.1, with a level of your choice."
            known = ", ".join(point.name for point in self.points)
            raise MedvaeError(f'This detector has no operating point "{at}"; it has {known}. {hint}')
        rates = ", ".join(f"{point.false_positive_rate:g}" for point in self.points if point.kind == "voxel_rate")
        known = rates or f"{', '.join(point.name for point in self.points)}. {_UNCALIBRATED}"
        raise MedvaeError(
            f"This detector has no operating point at a false-positive rate of {at:g}; it has {known.rstrip('.')}."
        )

    @property
    def thresholds_are_ranks(self) -> bool:
        """Whether its score has an operating point for every rank, as "rank_0.9"."""
        return self.config.scores_ranks

    def recalibrated(
        self,
        healthy: Sequence[PreparedVolume],
        scores: Sequence[np.ndarray],
        subjects: Sequence[str] | None = None,
        sites: Sequence[str] | None = None,
    ) -> Self:
        """The same score with operating points from other healthy scans, for instance of another scanner.

        An ensemble's members keep theirs, which set their weights, so the score stays the same voxel by voxel. Masks
        that were made at a rank are made at the first false-positive rate.

        Parameters
        ----------
        healthy, scores, subjects
            Prepared scans that nothing was learned from, their scores by `score`, and their subjects; by default each
            scan is a subject of its own.
        sites
            Where each scan was made, as in `medvae.detection.operating_points.operating_points`.

        Raises
        ------
        MedvaeError
            Without a scan, or with too few subjects for the guarantee of an operating point of the config.
        """
        calibration = self.config.calibration.on_healthy_scans().model_copy(update={"made_of": None})
        config = self.config.model_copy(update={"calibration": calibration})
        made = replace(self, config=config, calibrated_on=self.calibrated_on | {"validation": len(healthy)})
        return made._with_points(healthy, scores, subjects, sites)

    def _with_points(
        self,
        validation: Sequence[PreparedVolume],
        scores: Sequence[np.ndarray],
        subjects: Sequence[str] | None,
        sites: Sequence[str] | None = None,
    ) -> Self:
        """With operating points from healthy validation scans; by default each scan is a subject of its own."""
        config = self.config.calibration
        masks = [volume.mask for volume in validation]
        points, median = operating_points(
            scores, masks, config.false_positive_rates, sites, subjects, config.confidence
        )
        made = replace(self, points=tuple(points), healthy_median=median)
        subjects = [str(number) for number in range(len(scores))] if subjects is None else subjects
        healthy = measure_healthy(
            validation, scores, subjects, made.map_values, config, self.config.postprocessing.erosion_mm
        )
        promised = [point for name in config.promised if (point := guaranteed_point(name, healthy, config))]
        ranks = map(rank_point, config.ranks if self.thresholds_are_ranks else ())
        return replace(made, points=(*points, *promised, *ranks), healthy=healthy)

    def map_values(self, score: np.ndarray) -> np.ndarray:
        """Scores of any shape on the scale of `anomaly_map`, float32."""
        return self._bounded(score).astype(np.float32)

    def _bounded(self, score: np.ndarray) -> np.ndarray:
        threshold = self.points[0].threshold
        unit = max(threshold - self.healthy_median, 1e-6)
        return bounded((np.asarray(score, dtype=np.float64) - threshold) / unit)

    @contextmanager
    def _saved(self, folder: Path | str, **more: object) -> Iterator[Path]:
        """A temporary folder with config and calibration, renamed to ``folder`` when the block ends."""
        with whole_folder(folder) as temporary:
            write_text(temporary / "config.yaml", dump_config(self.config))
            content = {
                "medvae": __version__,
                "modalities": self.modalities,
                "calibrated_on_healthy_scans": self.calibrated_on,
                "healthy_median": self.healthy_median,
                "operating_points": [asdict(point) for point in self.points],
            }
            write_json(temporary / CALIBRATION, content | more)
            if self.scale is not None:
                write_json(temporary / SCALE, self.scale.model_dump(mode="json"))
            if self.healthy is not None:
                self.healthy.save(temporary)
            yield temporary


class Saved(TypedDict):
    """The constructor arguments of a `Calibrated` that a saved folder holds."""

    config: Config
    modalities: tuple[str, ...]
    calibrated_on: dict[str, int]
    points: tuple[OperatingPoint, ...]
    healthy_median: float
    scale: LandmarkScale | None
    healthy: HealthySubjects | None
    fingerprint: str


def read_calibrated(folder: Path) -> tuple[Saved, StoredCalibration]:
    """The shared arguments of a saved folder, and the whole content of its calibration file.

    Raises
    ------
    MedvaeError
        If a file is missing, damaged, or not what medvae writes.
    """
    stored = read_calibration(folder)
    config, scale = read_config(folder / "config.yaml"), folder / SCALE
    learned = config.preparation.intensity == "landmarks"
    shared: Saved = {
        "config": config,
        "scale": parse(LandmarkScale, read_document(scale), scale) if learned else None,
        "modalities": stored_modalities(folder, stored),
        "calibrated_on": stored.calibrated_on_healthy_scans,
        "points": tuple(stored.operating_points),
        "healthy_median": stored.healthy_median,
        "healthy": HealthySubjects.load(folder),
        "fingerprint": _digest(folder),
    }
    return shared, stored


def _digest(folder: Path) -> str:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    listing = [(path.relative_to(folder).as_posix(), sha256(path)) for path in files]
    return hashlib.sha256(json.dumps(listing).encode()).hexdigest()
