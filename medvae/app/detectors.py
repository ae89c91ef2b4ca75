"""The detectors that the page offers, and their operating points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

AUTO = "auto"


@dataclass(frozen=True)
class Point:
    """An operating point of a detector."""

    name: str
    shown: str
    """As tables show it: "1 % FPR"."""
    meaning: str


@dataclass(frozen=True)
class Choice:
    """A detector that may be chosen."""

    key: str
    """Its name, or the path of its folder: what an entry of the history remembers."""
    name: str
    takes: str
    """The sequences that it takes."""
    points: tuple[Point, ...] = ()
    own: str = ""
    """As its own operating point is shown, which is taken unless another is chosen."""


def offered(runs: Sequence[str]) -> list[Choice]:
    """The detectors of folders that the user has named, then the choice by sequence, then those that come with medvae.

    It takes seconds, as it imports what reads a detector, and so belongs into the process that predicts.

    Raises
    ------
    MedvaeError
        If a folder holds no detector.
    """
    from medvae.detection.detector import pretrained

    named = [_choice(run) for run in runs]
    auto = Choice(AUTO, "by the scan's sequence (auto)", "T1, FLAIR or T2", own="the detector's own")
    return [*named, auto, *(_choice(name) for name in pretrained() if name not in runs)]


def _choice(run: str) -> Choice:
    from medvae.config import read_config
    from medvae.detection.detector import find_detector
    from medvae.detection.stored import read_calibration, stored_modalities
    from medvae.reporting.tables import point_name

    folder = find_detector(run)
    stored, config = read_calibration(folder), read_config(folder / "config.yaml")
    mask_at = config.calibration.mask_at
    own = next((p.name for p in stored.operating_points if mask_at in (p.name, p.false_positive_rate)), str(mask_at))
    points = tuple(
        Point(point.name, point_name(point.name), point.guarantee or "share of healthy brain that is flagged")
        for point in stored.operating_points
    )
    key = str(Path(run).resolve()) if Path(run).exists() else run
    takes = ", ".join(stored_modalities(folder, stored))
    return Choice(key, config.name if key == run else f"{config.name} ({run})", takes, points, point_name(own))
