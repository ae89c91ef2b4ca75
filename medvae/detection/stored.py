"""What ``calibration.json`` of a detector's folder holds, checked when it is read: the folder may be a stranger's."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from medvae.detection.operating_points import OperatingPoint
from medvae.errors import MedvaeError
from medvae.modality import UNKNOWN
from medvae.schema import parse, read_document

CALIBRATION = "calibration.json"

_Name = Annotated[str, Field(pattern=r"^[^/\\]*[^/\\.][^/\\]*$", max_length=180)]
"""Of a member, which is a folder within the detector's: neither a path nor ``..``."""


class StoredCalibration(BaseModel):
    """The content of ``calibration.json``; what later versions add is ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)

    calibrated_on_healthy_scans: dict[str, int]
    healthy_median: float
    operating_points: list[OperatingPoint] = Field(min_length=1)
    modalities: list[str] | None = Field(None, min_length=1, max_length=64)
    channels: int = Field(1, ge=1, le=64)
    """Of earlier versions, which did not name the modalities."""
    part_scales: list[float] = []
    """Of a detector."""
    members: list[_Name] | None = Field(None, min_length=2)
    """Of an ensemble."""
    weights: list[Annotated[float, Field(gt=0)]] | None = None
    """Of its members; None for equal ones."""


def read_calibration(folder: Path) -> StoredCalibration:
    """The calibration of a detector's folder.

    Raises
    ------
    MedvaeError
        If it is missing or not what medvae writes.
    """
    path = folder / CALIBRATION
    stored = parse(StoredCalibration, read_document(path), path)
    if "validation" not in stored.calibrated_on_healthy_scans:
        raise MedvaeError(f'{path}: "calibrated_on_healthy_scans" has no "validation". Copy the folder again.')
    return stored


def stored_modalities(folder: Path, stored: StoredCalibration) -> tuple[str, ...]:
    """Modalities of a calibration; for older ones, of a file next to the folder, which keeps the fingerprint."""
    if stored.modalities is not None:
        return tuple(stored.modalities)
    beside = folder.with_name(f"{folder.name}.json")
    told: Any = read_document(beside) if beside.is_file() else {}
    names = told.get("modalities") if isinstance(told, dict) else None
    if isinstance(names, list) and names and all(isinstance(name, str) for name in names):
        return tuple(names)
    return (UNKNOWN,) * stored.channels
