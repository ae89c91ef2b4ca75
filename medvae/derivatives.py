"""Names and places of what `medvae predict` writes: BIDS derivatives.

The files of a scan lie in the folder of the predictions; in one that was begun with more than `TOGETHER` scans, in a
folder for each scan, ``OUT/ID``. `case_folder` knows which, for whoever writes or reads them.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from medvae.errors import MedvaeError
from medvae.files import file_stamp
from medvae.schema import parse, read_document, read_object

MAP_SUFFIX = "_desc-anomaly_probseg.nii.gz"
MASK_SUFFIX = "_label-lesion_mask.nii.gz"
SPREAD_SUFFIX = "_desc-spread_probseg.nii.gz"
MASK_SIDECAR = MASK_SUFFIX.removesuffix(".nii.gz") + ".json"
"""End of the name of a mask's sidecar, which is written last: what it belongs to is whole."""
ROI_SUFFIX = "_label-lesion_roi.nii.gz"
"""A lesion mask under the name by which fMRIPrep finds it beside a T1w image."""
DICOM_SUFFIX = "_label-lesion_mask.dcm"
"""A lesion mask as a DICOM segmentation."""
CONVERTED = "converted"
"""Folder of the scans that were given as DICOM, as NIfTI: overlays lie on them."""
DESCRIPTION = "dataset_description.json"
VIEWERS = "viewers"
"""Folder of additional files for viewers, apart from those that a person opens."""
LESIONS_TABLE, FINDINGS_TABLE = "lesions.tsv", "findings.tsv"
TOGETHER = 1000
"""So many scans may lie in one folder; with more at once, it is begun with a folder for each. That is up to nine files
for a scan: few people want to open a folder of more than ten thousand."""
SCAN_FOLDERS = "ScanFolders"
"""Key of `DESCRIPTION` in a folder of predictions that was begun with a folder for each scan."""
FAILURES = "failures.json"
"""Errors of the scans on which the last `predict` failed; absent if there were none."""


class _Finding(BaseModel):
    """A finding of a lesion mask; without a place if the scan was not registered."""

    model_config = ConfigDict(allow_inf_nan=False)

    VolumeMl: float
    CentreMm: tuple[float, float, float]
    Peak: float
    Mean: float
    CentreMNI152Mm: tuple[float, float, float] | None = None
    Hemisphere: str | None = None
    Region: str | None = None
    RegionShare: float | None = None
    Tissue: str | None = None
    Location: str | None = None


class _MaskSidecar(BaseModel):
    """What is read again of the sidecar of a lesion mask; earlier versions wrote less, later ones may write more."""

    model_config = ConfigDict(allow_inf_nan=False)

    Threshold: float | None = Field(None, ge=0, le=1)
    LesionVolumeMl: float | None = None
    Sources: list[str] = Field(["of this case"], min_length=1)
    SourcesSha256: list[str] = []
    SpatialReference: str = ""
    Model: str = ""
    ModelFingerprint: str = ""
    OperatingPoint: str = ""
    OperatingPoints: dict[str, dict[str, float | None]] | None = None
    HealthyScans: dict[str, int] | None = None
    CasePValue: float | None = None
    BrainVolumeMl: float | None = None
    RegistrationQuality: dict[str, Any] | None = None
    Notes: list[str] = []
    Findings: list[_Finding] | None = None
    FindingsWithoutRegion: str = ""


def read_mask_sidecar(path: Path) -> dict[str, Any]:
    """The sidecar of a lesion mask, as it is.

    Raises
    ------
    MedvaeError
        If it is not what `medvae predict` writes.
    """
    content = read_document(path)
    parse(_MaskSidecar, content, path)
    return content


def case_folder(out: Path, name: str) -> Path:
    """The folder in which the files of a scan lie, or will lie: ``out``, or one of its own in it.

    A scan called ``..`` or ``.`` has none of its own, as these are folders already.
    """
    return out / name if has_scan_folders(out) and name.strip(".") else out


def has_scan_folders(out: Path) -> bool:
    """Whether a folder of predictions was begun with a folder for each scan."""
    marker = os.path.abspath(out / DESCRIPTION)
    try:
        return _says_scan_folders(marker, file_stamp(marker))
    except (MedvaeError, OSError):  # there is none, or it is another program's
        return False


@functools.lru_cache(maxsize=256)
def _says_scan_folders(marker: str, stamp: tuple[int, ...]) -> bool:
    return read_object(Path(marker)).get(SCAN_FOLDERS) is True


def case_folders(out: Path) -> Sequence[Path]:
    """Every folder in which scans' files may lie."""
    if not has_scan_folders(out):
        return (out,)
    with os.scandir(out) as entries:
        return (out, *sorted(out / entry.name for entry in entries if entry.is_dir()))


def finished(out: Path) -> dict[str, Path]:
    """The sidecars of the masks of all finished scans of a folder by the scans' names, sorted by these."""
    found = {path.name.removesuffix(MASK_SIDECAR): path for path in out.glob(f"*{MASK_SIDECAR}")}
    for folder in case_folders(out)[1:]:
        path = folder / f"{folder.name}{MASK_SIDECAR}"
        if path.is_file():
            found[folder.name] = path
    return dict(sorted(found.items()))


def made_by(marker: Path) -> dict[str, Any]:
    """The program that made a data set, as its ``dataset_description.json`` says; empty if it does not."""
    makers = read_object(marker).get("GeneratedBy")
    first = makers[0] if isinstance(makers, list) and makers else {}
    return first if isinstance(first, dict) else {}
