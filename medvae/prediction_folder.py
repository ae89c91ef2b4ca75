"""The folder of `medvae.prediction`: whose it is, which scan each name stands for, and what may be replaced in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

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
    SPREAD_SUFFIX,
    VIEWERS,
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
        known = {name: why for name, why in known.items() if name not in done} | dict(failures)
        if known:
            write_json(path, known)
        else:
            path.unlink(missing_ok=True)


def open_folder(out: Path, detector: Calibrated, point: OperatingPoint, *, overwrite: bool) -> None:
    """Make a folder one of a detector's predictions at an operating point, or check that it is.

    Raises
    ------
    MedvaeError
        If it holds something else, and is no folder of predictions that ``overwrite`` may replace.
    """
    marker = out / DESCRIPTION
    voxel_rate = point.kind == "voxel_rate"  # under this key since the first version: its folders can be continued
    mask_at = {"mask_false_positive_rate": point.false_positive_rate} if voxel_rate else {"mask_at": point.name}
    identity = {"model": detector.config.name, "fingerprint": detector.fingerprint, **mask_at}
    content = {
        "Name": "medvae anomaly maps and lesion masks",
        "BIDSVersion": "1.9.0",
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "medvae", "Version": __version__, "Parameters": identity}],
    }
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
    for folder in (out, out / VIEWERS):
        remove_leftovers(folder)


def require_own_name(out: Path, scan: Scan) -> None:
    """Refuse a scan if the folder holds the prediction of another one under its name."""
    for suffix in (MASK_SUFFIX, MAP_SUFFIX):
        path = sidecar_path(out / f"{scan.id}{suffix}")
        sidecar = read_object(path) if path.is_file() else {}
        source = Source.of(sidecar, out)
        if source is None or source.lay_at(scan.images[0]):  # that scan, even if its file has changed since
            continue
        if other := other_source(f'"{scan.id}" in {out}', sidecar, out, scan.images):
            raise MedvaeError(
                f"{other}. Name scans by their folders (--name-by parent), give each an id of its own in a manifest "
                f'(medvae manifest folder --image "{{subject}}/…"), choose another --out folder, or replace the one '
                f"that is there with --overwrite; nothing was overwritten."
            )


def _remove_predictions(out: Path) -> None:
    """Remove every file that medvae wrote for the scans of a folder; what marks the folder as medvae's stays."""
    for folder in (out, *out.glob("sub-*/anat"), *out.glob("sub-*/ses-*/anat")):  # or in the folders of BIDS
        names = {path.name.removesuffix(end) for end in (MAP_SUFFIX, MASK_SIDECAR) for path in folder.glob(f"*{end}")}
        for name in names:
            remove_case(folder, name)
            _remove_converted(folder / CONVERTED, name)
    with told(out):
        for path in (out / FAILURES, *table_files(out)):
            path.unlink(missing_ok=True)


def remove_case(out: Path, name: str) -> None:
    """Remove every file that medvae wrote for a scan; first the sidecar that marks it done."""
    with told(out):
        for suffix in (MASK_SUFFIX, MAP_SUFFIX, SPREAD_SUFFIX):
            sidecar_path(out / f"{name}{suffix}").unlink(missing_ok=True)
            (out / f"{name}{suffix}").unlink(missing_ok=True)
        for suffix in (ROI_SUFFIX, DICOM_SUFFIX):
            (out / f"{name}{suffix}").unlink(missing_ok=True)
        for drawn in (f"{name}.png", f"{name}.itksnap", f"{name}.seg.nrrd"):
            (out / drawn).unlink(missing_ok=True)
        for ending in (".txt", "_truth.nii.gz", "_scan.nii.gz"):
            (out / VIEWERS / f"{name}{ending}").unlink(missing_ok=True)


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
