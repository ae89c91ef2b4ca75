"""Scans in, overlays out: anomaly maps and lesion masks on each scan's own grid, named as BIDS derivatives.

``OUT/ID_desc-anomaly_probseg.nii.gz``   float32 in [0, 1], 0 outside the brain
``OUT/ID_label-lesion_mask.nii.gz``      uint8, 1 where the map lies above the threshold
``OUT/ID_desc-spread_probseg.nii.gz``    float32 in [0, 0.5], SD of the maps of an ensemble's members
each with a JSON sidecar, and ``OUT/dataset_description.json``.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medvae import __version__
from medvae.calibrated import Calibrated
from medvae.errors import MedvaeError
from medvae.files import sha256, write_json
from medvae.formats import scan_name
from medvae.manifest import Manifest
from medvae.preparation.prepare import PreparedVolume, prepare_scan
from medvae.progress import Progress
from medvae.schema import read_document
from medvae.volume import write_volume

MAP_SUFFIX = "_desc-anomaly_probseg.nii.gz"
MASK_SUFFIX = "_label-lesion_mask.nii.gz"
SPREAD_SUFFIX = "_desc-spread_probseg.nii.gz"
DESCRIPTION = "dataset_description.json"


@dataclass(frozen=True)
class Scan:
    """A scan to predict: its name, its images (one per modality) and its brain mask, if there is one."""

    id: str
    images: tuple[Path, ...]
    mask: Path | None = None


@dataclass(frozen=True)
class Prediction:
    """What was written for one scan."""

    id: str
    scan: Path
    map: Path
    mask: Path
    lesion_volume_ml: float
    threshold: float
    """Value of the map above which the mask is 1."""


def scans_of_files(paths: Sequence[Path | str]) -> list[Scan]:
    """One-modality scans, named after their files.

    Raises
    ------
    MedvaeError
        If two files would give outputs of one name.
    """
    scans: dict[str, Scan] = {}
    for path in map(Path, paths):
        name = scan_name(path).replace(" ", "_")
        if name in scans:
            raise MedvaeError(
                f'{path} and {scans[name].images[0]} would both be written as "{name}". Predict them into two folders, '
                f"or list them in a manifest with an id each."
            )
        scans[name] = Scan(name, (path,))
    return list(scans.values())


def scans_of_manifest(manifest: Manifest, splits: Sequence[str] = ("test",)) -> list[Scan]:
    """The cases of some splits of a manifest, as scans."""
    return [
        Scan(case.id, tuple(manifest.images(case)), manifest.resolve(case.mask) if case.mask else None)
        for case in manifest.cases
        if case.split in splits
    ]


def predict(
    detector: Calibrated,
    scans: Sequence[Scan],
    out: Path | str,
    *,
    rate: float | None = None,
    cache: Path | None = None,
    quiet: bool = False,
) -> tuple[list[Prediction], dict[str, str]]:
    """Write anomaly map, lesion mask and sidecars of every scan; a scan that fails does not stop the others.

    A scan that this very detector has already predicted into ``out``, and that has not changed since, is not computed
    again.

    Parameters
    ----------
    detector
        A calibrated detector or ensemble, loaded from a folder.
    scans
        What to predict.
    out
        The folder of the derivatives.
    rate
        False-positive rate of the operating point that the lesion mask uses; the config's by default.
    cache
        Folder of prepared scans: those it holds are not prepared again, the others are added to it.
    quiet
        No progress display.

    Returns
    -------
    predictions, failures
        What was written, and the error message of each scan that failed.

    Raises
    ------
    MedvaeError
        If ``out`` holds the predictions of another detector, or there is no such operating point.
    """
    out = Path(out)
    point = detector.point(rate if rate is not None else detector.config.calibration.mask_at)
    _open_folder(out, detector, point.false_positive_rate)
    predictions, failures = [], {}
    with Progress("Predicting", len(scans), quiet=quiet) as progress:
        for done, scan in enumerate(scans, start=1):
            try:
                if len(scan.images) != detector.channels:
                    raise MedvaeError(
                        f'scan "{scan.id}" has {len(scan.images)} modalities, the detector was trained on '
                        f"{detector.channels}. Give them in a manifest, one image per modality."
                    )
                predictions.append(
                    _finished(out, scan) or predict_scan(detector, scan, out, point.false_positive_rate, cache=cache)
                )
            except MedvaeError as error:
                failures[scan.id] = str(error)
            progress.update(done, scan=scan.id)
    return predictions, failures


def predict_scan(detector: Calibrated, scan: Scan, out: Path, rate: float, *, cache: Path | None = None) -> Prediction:
    """Predict one scan and write its files; the sidecar of the mask is written last and marks the scan done."""
    volume = prepare_scan(scan.images, detector.config.preparation, mask=scan.mask, scale=detector.scale, cache=cache)
    maps = detector.maps(volume)
    native = volume.restore(maps.anomaly)
    point = detector.point(rate)
    threshold = detector.map_threshold(point)
    lesions = (native > threshold).astype(np.uint8)
    volume_ml = round(float(lesions.sum() * volume.source.geometry.voxel_volume_ml), 4)

    files = _files(out, scan, volume_ml, threshold)
    write_volume(files.map, native, volume.source, intent="anomaly map")
    write_volume(files.mask, lesions, volume.source, intent="lesion mask")
    common = _common_fields(detector, scan, volume)
    if maps.spread is not None:
        spread = out / f"{scan.id}{SPREAD_SUFFIX}"
        write_volume(spread, volume.restore(maps.spread), volume.source, intent="spread of maps")
        meaning = "Standard deviation of the anomaly maps of the ensemble's members: high where they disagree."
        write_json(_sidecar(spread), {"Description": meaning, "Range": [0, 0.5], **common})
    write_json(
        _sidecar(files.map),
        {
            "Description": "Anomaly map: 0.5 is the threshold of the first operating point, 1 the far end of the tail.",
            "Range": [0, 1],
            **common,
        },
    )
    write_json(
        _sidecar(files.mask),
        {
            "Description": "Voxels of the anomaly map above the threshold.",
            "Type": "Lesion",
            "Threshold": threshold,
            "ThresholdSource": f"{point.false_positive_rate:g} of the brain voxels of "
            f"{detector.calibrated_on['validation']} healthy validation scans lie above it",
            "LesionVolumeMl": volume_ml,
            "BrainVolumeMl": round(float(volume.source_mask.sum() * volume.source.geometry.voxel_volume_ml), 2),
            **common,
        },
    )
    return files


def _common_fields(detector: Calibrated, scan: Scan, volume: PreparedVolume) -> dict[str, object]:
    return {
        "Sources": [image.name for image in scan.images],
        "SourcesSha256": _checksums(scan),
        "SkullStripped": True,
        "SpatialReference": scan.images[0].name,
        "Model": detector.config.name,
        "ModelFingerprint": detector.fingerprint,
        "OperatingPoints": {
            point.name: {"FalsePositiveRate": point.false_positive_rate, "Threshold": detector.map_threshold(point)}
            for point in detector.points
        },
        "HealthyScans": detector.calibrated_on,
        "BrainMaskFrom": volume.brain_from,
        "RegisteredToMNI152": volume.registered,
        "RegistrationQuality": _quality(volume),
        "Software": {
            "medvae": __version__,
            **{name: _version(name) for name in ("torch", "numpy", "nibabel", "scipy")},
            **({"deepbet": _version("deepbet")} if volume.brain_from == "deepbet" else {}),
        },
    }


def _quality(volume: PreparedVolume) -> dict[str, object] | None:
    if (quality := volume.quality) is None:
        return None
    return {
        "TemplateDice": round(quality.dice, 4),
        "MutualInformationNats": round(quality.mutual_information, 4),
        "Scales": [round(scale, 4) for scale in quality.scales],
        "Shear": round(quality.shear, 4),
    }


def _open_folder(out: Path, detector: Calibrated, rate: float) -> None:
    marker = out / DESCRIPTION
    identity = {"model": detector.config.name, "fingerprint": detector.fingerprint, "mask_false_positive_rate": rate}
    if marker.exists():
        found = (read_document(marker).get("GeneratedBy") or [{}])[0].get("Parameters")
        if found != identity:
            raise MedvaeError(
                f"{out}: already holds predictions of another detector or operating point ({found}). Choose another "
                f"--out folder; nothing was overwritten."
            )
        return
    if out.is_dir() and any(out.iterdir()):
        raise MedvaeError(f"{out}: is not empty and holds no predictions of medvae. Choose another --out folder.")
    write_json(
        marker,
        {
            "Name": "medvae anomaly maps and lesion masks",
            "BIDSVersion": "1.9.0",
            "DatasetType": "derivative",
            "GeneratedBy": [{"Name": "medvae", "Version": __version__, "Parameters": identity}],
        },
    )


def _files(out: Path, scan: Scan, volume_ml: float, threshold: float) -> Prediction:
    names = (out / f"{scan.id}{suffix}" for suffix in (MAP_SUFFIX, MASK_SUFFIX))
    return Prediction(scan.id, scan.images[0], *names, volume_ml, threshold)


def _finished(out: Path, scan: Scan) -> Prediction | None:
    files = _files(out, scan, 0.0, 0.0)
    if not (_sidecar(files.mask).exists() and files.mask.exists() and files.map.exists()):
        return None
    sidecar = read_document(_sidecar(files.mask))
    if sidecar.get("SourcesSha256") != _checksums(scan):  # the scan, or its mask, has changed since
        return None
    return _files(out, scan, sidecar["LesionVolumeMl"], sidecar["Threshold"])


def _checksums(scan: Scan) -> list[str]:
    files = [*scan.images, *([scan.mask] if scan.mask else [])]
    return [sha256(file) for file in files if file.is_file()]


def _sidecar(path: Path) -> Path:
    return path.with_name(path.name.removesuffix(".nii.gz") + ".json")


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
