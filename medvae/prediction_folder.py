"""The folder of `medvae.prediction`: whose it is, which scan each name stands for, and what may be replaced in it."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medvae import __version__
from medvae.derivatives import (
    CONVERTED,
    DESCRIPTION,
    DICOM_SUFFIX,
    FAILURES,
    MAP_SUFFIX,
    MASK_SIDECAR,
    MASK_SUFFIX,
    ROI_SUFFIX,
    SCAN_FOLDERS,
    SPREAD_SUFFIX,
    TOGETHER,
    VIEWERS,
    case_folder,
    case_folders,
    has_scan_folders,
    made_by,
)
from medvae.detection.base import Calibrated
from medvae.detection.operating_points import OperatingPoint
from medvae.detection.scan import Scan
from medvae.errors import MedvaeError
from medvae.files import LOCK, is_empty, remove_leftovers, told, write_json, write_json_once
from medvae.locks import locked
from medvae.prediction_tables import table_files
from medvae.schema import read_object
from medvae.sources import Content, Source, other_source


def record_failures(out: Path, done: Sequence[str], failures: Mapping[str, str]) -> None:
    """Keep the errors of failed scans, next to those of other processes and earlier calls, until they are predicted."""
    path = out / FAILURES
    if not failures and not path.exists() and not (out / LOCK).exists():
        return
    with locked(out):
        known = read_object(path) if path.exists() else {}
        good = set(done)
        known = {name: why for name, why in known.items() if name not in good} | dict(failures)
        if known:
            write_json(path, known)
        else:
            path.unlink(missing_ok=True)


def open_folder(
    out: Path,
    detector: Calibrated,
    point: OperatingPoint,
    *,
    overwrite: bool,
    scans: int = 1,
    scan_folders: bool | None = None,
) -> None:
    """Make a folder one of a detector's predictions at an operating point, or check that it is.

    A new one gets a folder for each scan if ``scan_folders`` says so or, by default, if it is begun with more than
    `medvae.derivatives.TOGETHER` scans. One that was begun stays as it is.

    Raises
    ------
    MedvaeError
        If it holds something else, and is no folder of predictions that ``overwrite`` may replace; or it was begun in
        another way than ``scan_folders`` says.
    """
    marker = out / DESCRIPTION
    voxel_rate = point.kind == "voxel_rate"  # under this key since the first version: its folders can be continued
    mask_at = {"mask_false_positive_rate": point.false_positive_rate} if voxel_rate else {"mask_at": point.name}
    identity = {"model": detector.config.name, "fingerprint": detector.fingerprint, **mask_at}
    content: dict[str, Any] = {
        "Name": "medvae anomaly maps and lesion masks",
        "BIDSVersion": "1.9.0",
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "medvae", "Version": __version__, "Parameters": identity}],
    }
    if scans > TOGETHER if scan_folders is None else scan_folders:
        content[SCAN_FOLDERS] = True
    if not marker.exists() and not is_empty(out) and not marker.exists():  # another process may just have opened it
        raise MedvaeError(f"{out}: is not empty and holds no predictions of medvae. Choose another --out folder.")
    if not write_json_once(marker, content) and made_by(marker).get("Parameters") != identity:
        with locked(out):  # of several processes that replace what is there, one does
            if (made := made_by(marker)).get("Parameters") != identity:
                if not overwrite or made.get("Name") != "medvae":
                    raise MedvaeError(
                        f"{out}: already holds predictions of another detector or operating point "
                        f"({made.get('Parameters')}). Choose another --out folder, or replace medvae's with "
                        f"--overwrite; nothing was overwritten."
                    )
                _remove_predictions(out)
                write_json(marker, content)
    if scan_folders is not None and scan_folders != has_scan_folders(out):
        begun = "all files together" if scan_folders else "a folder for each scan"
        raise MedvaeError(
            f"{out}: was begun with {begun}, and goes on so. Leave out --{'' if scan_folders else 'no-'}scan-folders, "
            f"or choose another --out folder."
        )
    remove_abandoned(out)


def remove_abandoned(out: Path) -> None:
    """Remove the temporary files that killed processes have left in a folder of predictions."""
    remove_leftovers(out, deep=has_scan_folders(out))
    remove_leftovers(out / VIEWERS)


def require_own_name(out: Path, scan: Scan) -> None:
    """Refuse a scan if the folder holds the prediction of another one under its name."""
    folder = case_folder(out, scan.id)
    for suffix in (MASK_SUFFIX, MAP_SUFFIX):
        path = sidecar_path(folder / f"{scan.id}{suffix}")
        sidecar = read_object(path) if path.is_file() else {}
        source = Source.of(sidecar, folder)
        if source is None or source.lay_at(scan.images[0]):  # that scan, even if its file has changed since
            continue
        if other := other_source(f'"{scan.id}" in {out}', sidecar, folder, scan.images):
            raise MedvaeError(
                f"{other}. Name scans by their folders (--name-by parent), give each an id of its own in a manifest "
                f'(medvae manifest folder --image "{{subject}}/…"), choose another --out folder, or replace the one '
                f"that is there with --overwrite; nothing was overwritten."
            )


def _remove_predictions(out: Path) -> None:
    """Remove every file that medvae wrote for the scans of a folder; what marks the folder as medvae's stays."""
    for folder in (*case_folders(out), *out.glob("sub-*/anat"), *out.glob("sub-*/ses-*/anat")):  # as BIDS has it
        names = {path.name.removesuffix(end) for end in (MAP_SUFFIX, MASK_SIDECAR) for path in folder.glob(f"*{end}")}
        for name in names:
            remove_case(folder, name)
            _remove_converted(out / CONVERTED, name)
        if names and folder != out and folder.parent == out:
            (folder / VIEWERS / "itksnap_labels.txt").unlink(missing_ok=True)
            for own in (folder / VIEWERS, folder):
                with contextlib.suppress(OSError):  # something else lies there, and stays
                    own.rmdir()
    with told(out):
        for path in (out / FAILURES, *table_files(out)):
            path.unlink(missing_ok=True)


def remove_case(folder: Path, name: str) -> None:
    """Remove every file that medvae wrote for a scan into a folder; first the sidecar that marks it done."""
    with told(folder):
        for suffix in (MASK_SUFFIX, MAP_SUFFIX, SPREAD_SUFFIX):
            sidecar_path(folder / f"{name}{suffix}").unlink(missing_ok=True)
            (folder / f"{name}{suffix}").unlink(missing_ok=True)
        for suffix in (ROI_SUFFIX, DICOM_SUFFIX):
            (folder / f"{name}{suffix}").unlink(missing_ok=True)
        for drawn in (f"{name}.png", f"{name}.itksnap", f"{name}.seg.nrrd"):
            (folder / drawn).unlink(missing_ok=True)
        for ending in (".txt", "_truth.nii.gz", "_scan.nii.gz"):
            (folder / VIEWERS / f"{name}{ending}").unlink(missing_ok=True)


def _remove_converted(folder: Path, name: str) -> None:
    """Remove the scan that was made from a DICOM series."""
    sidecar = folder / f"{name}.json"
    if sidecar.is_file() and "DicomSha256" in read_object(sidecar):
        (folder / f"{name}.nii.gz").unlink(missing_ok=True)
        sidecar.unlink(missing_ok=True)


def content_of(scan: Scan) -> Content:
    """The content of the images and of the brain mask of a scan.

    Raises
    ------
    MedvaeError
        If one of them cannot be read.
    """
    return Content.of([*scan.images, *([scan.mask] if scan.mask else [])])


def sidecar_path(path: Path) -> Path:
    """The JSON file next to an image."""
    return path.with_name(path.name.removesuffix(".nii.gz") + ".json")
