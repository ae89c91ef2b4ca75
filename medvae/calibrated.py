"""What a detector and an ensemble of them share: a score with operating points, brought to an anomaly map."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from medvae import __version__
from medvae.calibration import OperatingPoint
from medvae.config import Config, dump_config, read_config
from medvae.errors import MedvaeError
from medvae.files import sha256, whole_folder, write_json, write_text
from medvae.preparation.landmarks import LandmarkScale
from medvae.preparation.prepare import PreparedVolume
from medvae.schema import parse, read_document

CALIBRATION = "calibration.json"
SCALE = "intensity_scale.json"


class Maps(NamedTuple):
    """What is written for a scan, on the standard grid, ``(X, Y, Z)`` float32 each, 0 outside the brain."""

    anomaly: np.ndarray
    """In [0, 1]; 0.5 is the threshold of the first operating point."""
    spread: np.ndarray | None = None
    """SD of the anomaly maps of an ensemble's members, at most 0.5: where they disagree."""


@dataclass(frozen=True, kw_only=True)
class Calibrated(ABC):
    """A score of prepared volumes with thresholds from healthy validation scans."""

    config: Config
    channels: int
    """Modalities."""
    calibrated_on: dict[str, int]
    """Number of healthy scans: ``{"training": …, "validation": …}``."""
    points: tuple[OperatingPoint, ...] = ()
    healthy_median: float = 0.0
    """Median score of the healthy validation scans' brain voxels."""
    scale: LandmarkScale | None = None
    """The intensity scale of the training scans: what `prepare_scan` needs for intensities by landmarks."""
    fingerprint: str = ""
    """SHA-256 of the saved files; two detectors with one fingerprint give the same maps."""

    @abstractmethod
    def score(self, volume: PreparedVolume) -> np.ndarray:
        """The calibrated score on the standard grid, ``(X, Y, Z)`` float32: higher is more anomalous, 0 outside."""

    def maps(self, volume: PreparedVolume) -> Maps:
        """Everything that is written for a scan."""
        return Maps(self.anomaly_map(volume))

    def anomaly_map(self, volume: PreparedVolume) -> np.ndarray:
        """The score brought to [0, 1], ``(X, Y, Z)`` float32, comparable between patients.

        A strictly increasing function of the score, so that AP and AUROC are the score's own: 0.5 is the threshold
        of the first operating point, and the distance from the median healthy score to that threshold is the unit.
        """
        return self.bounded(self.score(volume), volume.mask)

    def bounded(self, score: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """A score ``(X, Y, Z)`` on the scale of `anomaly_map`."""
        return np.where(mask, self._bounded(score), 0).astype(np.float32)

    def map_threshold(self, point: OperatingPoint) -> float:
        """An operating point's threshold on the scale of `anomaly_map`."""
        return float(np.float32(self._bounded(np.float32(point.threshold))))

    def point(self, rate: float) -> OperatingPoint:
        """The operating point of a false-positive rate.

        Raises
        ------
        MedvaeError
            If the detector has none for it; those it has are named.
        """
        for point in self.points:
            if point.false_positive_rate == rate:
                return point
        known = ", ".join(f"{point.false_positive_rate:g}" for point in self.points)
        raise MedvaeError(f"This detector has no operating point at a false-positive rate of {rate:g}; it has {known}.")

    def _bounded(self, score: np.ndarray) -> np.ndarray:
        threshold = self.points[0].threshold
        unit = max(threshold - self.healthy_median, 1e-6)
        distance = (np.asarray(score, dtype=np.float64) - threshold) / unit
        return 0.5 + 0.5 * distance / (1 + np.abs(distance))

    @contextmanager
    def _saved(self, folder: Path | str, **more: object) -> Iterator[Path]:
        """A temporary folder with config and calibration that takes its name when the block ends."""
        with whole_folder(folder) as temporary:
            write_text(temporary / "config.yaml", dump_config(self.config))
            content = {
                "medvae": __version__,
                "channels": self.channels,
                "calibrated_on_healthy_scans": self.calibrated_on,
                "healthy_median": self.healthy_median,
                "operating_points": [asdict(point) for point in self.points],
            }
            write_json(temporary / CALIBRATION, content | more)
            if self.scale is not None:
                write_json(temporary / SCALE, self.scale.model_dump(mode="json"))
            yield temporary


def read_calibrated(folder: Path) -> tuple[dict[str, object], dict[str, object]]:
    """The shared arguments of a saved folder, and the whole content of its calibration file."""
    content = read_document(folder / CALIBRATION)
    config, scale = read_config(folder / "config.yaml"), folder / SCALE
    learned = config.preparation.intensity == "landmarks"
    shared = {
        "config": config,
        "scale": parse(LandmarkScale, read_document(scale), scale) if learned else None,
        "channels": content["channels"],
        "calibrated_on": content["calibrated_on_healthy_scans"],
        "points": tuple(OperatingPoint(**point) for point in content["operating_points"]),
        "healthy_median": content["healthy_median"],
        "fingerprint": _digest(folder),
    }
    return shared, content


def _digest(folder: Path) -> str:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    listing = [(path.relative_to(folder).as_posix(), sha256(path)) for path in files]
    return hashlib.sha256(json.dumps(listing).encode()).hexdigest()
