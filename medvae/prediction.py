"""Scans in, overlays out: anomaly maps and lesion masks on each scan's own grid, named as BIDS derivatives.

``OUT/ID_desc-anomaly_probseg.nii.gz``   float32 in [0, 1], 0 outside the brain
``OUT/ID_label-lesion_mask.nii.gz``      uint8, 1 where the map lies above the threshold, post-processed if asked for
``OUT/ID_desc-spread_probseg.nii.gz``    float32 in [0, 0.5], SD of the maps of an ensemble's members
each with a JSON sidecar, and ``OUT/dataset_description.json``.
"""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from medvae import __version__
from medvae.derivatives import MAP_SUFFIX, MASK_SUFFIX, SPREAD_SUFFIX, read_mask_sidecar
from medvae.detection.base import Calibrated, Maps
from medvae.detection.by_sequence import choose_detector, is_auto
from medvae.detection.ensemble import load_detector
from medvae.detection.operating_points import OperatingPoint
from medvae.detection.scan import Scan, scan_of, scans_of_files, scans_of_manifest
from medvae.errors import MedvaeError
from medvae.files import write_json
from medvae.imaging.volume import write_volume
from medvae.locks import locked
from medvae.prediction_folder import (
    open_folder,
    record_failures,
    remove_case,
    require_own_name,
    sidecar_path,
    source_checksums,
)
from medvae.preparation.prepared import PreparedVolume
from medvae.progress import Progress
from medvae.schema import read_object

__all__ = ["Prediction", "Scan", "predict", "predict_one", "predict_scan", "scans_of_files", "scans_of_manifest"]


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
    case_p_value: float | None = None
    """How unusual the scan is among the healthy validation subjects; None if the detector does not store them."""
    notes: tuple[str, ...] = ()
    """What a person should know before trusting the maps, e.g. that the scan looks like another sequence."""


def predict(
    detector: Calibrated,
    scans: Sequence[Scan],
    out: Path | str,
    *,
    rate: float | None = None,
    at: str | None = None,
    cache: Path | None = None,
    overwrite: bool = False,
    device: str | None = None,
    quiet: bool = False,
) -> tuple[list[Prediction], dict[str, str]]:
    """Write anomaly map, lesion mask and sidecars of every scan; a scan that fails does not stop the others.

    A scan that this very detector has already predicted into ``out`` is not computed again unless it has changed. One
    of a name under which ``out`` holds the prediction of another scan, by content and place, fails. Several processes
    may predict into one folder at the same time.

    Parameters
    ----------
    detector
        A calibrated detector or ensemble, loaded from a folder.
    scans
        The scans to predict.
    out
        The folder of the derivatives.
    rate
        False-positive rate of the operating point that the lesion mask uses; the config's by default.
    at
        Name of the operating point instead, such as ``fwer_0.2`` or ``fpv_5ml``; see `medvae.detection.guarantees`.
    cache
        Folder of prepared scans: those it holds are reused, new ones are added.
    overwrite
        Remove the predictions of another detector, or of this one at another operating point, from ``out``: those of
        all scans, but no file that medvae did not write. Also replace the prediction of another scan of the same name.
    device
        Device, as in `medvae.devices.find_device`; the detector's present one by default.
    quiet
        No progress display.

    Returns
    -------
    predictions, failures
        What was written, and the error message of each scan that failed.

    Raises
    ------
    MedvaeError
        If ``out`` holds the predictions of another detector, there is no such operating point, it has too few healthy
        subjects for it, or there is no such device.
    """
    out = Path(out)
    mask_at = at if at is not None else rate if rate is not None else detector.config.calibration.mask_at
    if device is not None:
        detector = detector.on(device)
    open_folder(out, detector, detector.point(mask_at), overwrite=overwrite)
    predictions, failures = [], {}
    with Progress("Predicting", len(scans), quiet=quiet) as progress:
        for done, scan in enumerate(scans, start=1):
            try:
                chosen = scan.for_detector(detector)
                made = _finished(out, chosen) or predict_scan(
                    detector, chosen, out, mask_at, cache=cache, overwrite=overwrite
                )
                predictions.append(made)
            except MedvaeError as error:
                failures[scan.id] = str(error)
            progress.update(done, scan=scan.id)
    record_failures(out, [item.id for item in predictions], failures)
    return predictions, failures


def predict_scan(
    detector: Calibrated,
    scan: Scan,
    out: Path,
    at: float | str,
    *,
    cache: Path | None = None,
    overwrite: bool = False,
) -> Prediction:
    """Predict one scan and write its files; the sidecar of the mask is written last and marks the scan done.

    ``at`` is a false-positive rate or the name of an operating point; ``overwrite`` replaces the prediction of another
    scan of the same name, which is refused without.
    """
    scan = scan.for_detector(detector)
    if not overwrite:
        require_own_name(out, scan)
    volume = scan.prepare(detector, cache=cache)
    maps = detector.native_maps(volume, detector.point(at))
    return _write(detector, scan, volume, maps, out, overwrite=overwrite)


def predict_one(
    scan: Path | str | Mapping[str, Path | str],
    detector: Calibrated | Path | str = "t1-2mm",
    out: Path | str | None = None,
    *,
    mask: Path | str | None = None,
    at: float | str | None = None,
    cache: Path | None = None,
) -> Maps:
    """Find lesions in one scan and return the maps, on the scan's own grid. It is imported as `medvae.predict`.

    Parameters
    ----------
    scan
        A file, or the file of each sequence by its name: ``{"T1": "t1.nii.gz", "FLAIR": "flair.nii.gz"}``.
    detector
        A detector, its folder, a run folder, the name of a detector that comes with medvae, or "auto": the one of
        these that is for the scan's sequence.
    out
        A folder to which maps and sidecars are also written, as `predict` does; nothing is written without it.
    mask
        The file of the brain mask; the brain is found without it.
    at
        Operating point of the lesion mask, by its false-positive rate or its name; the config's by default.
    cache
        Folder of prepared scans, as in `predict`.

    Raises
    ------
    MedvaeError
        If the scan cannot be read or prepared, is declared to be of another sequence (its file's name says so), or
        ``out`` holds the prediction of another scan of the same name; for "auto", if its sequence cannot be told.
    """
    given = scan_of(scan, mask)
    if not isinstance(detector, Calibrated):
        detector = load_detector(choose_detector([given]).name if is_auto(detector) else detector)
    wanted = given.for_detector(detector)
    point = detector.point(detector.config.calibration.mask_at if at is None else at)
    if out is not None:
        open_folder(Path(out), detector, point, overwrite=False)
        require_own_name(Path(out), wanted)
    volume = wanted.prepare(detector, cache=cache)
    maps = detector.native_maps(volume, point)
    if out is not None:
        _write(detector, wanted, volume, maps, Path(out), overwrite=False)
    return maps


def _write(
    detector: Calibrated, scan: Scan, volume: PreparedVolume, maps: Maps, out: Path, *, overwrite: bool
) -> Prediction:
    """Write maps and sidecars of a scan; what there was of another content is removed first."""
    with locked(out):  # the same name may come from another scan in another process, at this moment
        if not overwrite:
            require_own_name(out, scan)
        done = sidecar_path(out / f"{scan.id}{MASK_SUFFIX}")
        changed = done.exists() and read_object(done).get("SourcesSha256") != source_checksums(scan)
        if changed:  # and nothing of the old maps may look like what belongs to the new ones
            remove_case(out, scan.id)
        files = _write_files(detector, scan, volume, maps, out)
    return replace(files, notes=(*files.notes, _AGAIN)) if changed else files


_AGAIN = "the folder held its prediction from other files, or from files that have changed since; it was replaced."


def _write_files(detector: Calibrated, scan: Scan, volume: PreparedVolume, maps: Maps, out: Path) -> Prediction:
    """Write maps and sidecars of a scan; the sidecar of the mask is written last and marks the scan done."""
    found, point = maps.findings, maps.point
    files = _files(out, scan, maps.lesion_volume_ml, maps.threshold, maps.case_p_value, maps.notes)
    write_volume(files.map, maps.anomaly, volume.source, intent="anomaly map")
    write_volume(files.mask, maps.lesion_mask, volume.source, intent="lesion mask")
    common = _common_fields(detector, point, scan, volume) | {"SpatialReference": _way_to(scan.images[0], out)}
    if maps.notes:
        common["Notes"] = list(maps.notes)
    if maps.spread is not None:
        spread = out / f"{scan.id}{SPREAD_SUFFIX}"
        write_volume(spread, maps.spread, volume.source, intent="spread of maps")
        meaning = "Standard deviation of the anomaly maps of the ensemble's members: high where they disagree."
        write_json(sidecar_path(spread), {"Description": meaning, "Range": [0, 0.5], **common})
    write_json(
        sidecar_path(files.map),
        {
            "Description": "Anomaly map: 0.5 is the threshold of the first operating point, 1 the far end of the tail.",
            "Range": [0, 1],
            **common,
        },
    )
    brain_ml = float(maps.brain_mask.sum() * volume.source.geometry.voxel_volume_ml)
    write_json(
        sidecar_path(files.mask),
        {
            "Description": "Voxels of the anomaly map above the threshold"
            + (", post-processed." if found.postprocessing else "."),
            "Type": "Lesion",
            "OperatingPoint": point.name,
            "Threshold": found.threshold,
            "ThresholdSource": _threshold_source(detector, point),
            "Guarantee": found.guarantee,
            **found.postprocessing,
            **found.case,
            "LesionVolumeMl": maps.lesion_volume_ml,
            "BrainVolumeMl": round(brain_ml, 2),
            **common,
        },
    )
    return files


def _threshold_source(detector: Calibrated, point: OperatingPoint) -> str:
    if point.kind == "rank":
        return f"{point.name} within the scan itself; no healthy scan was used (medvae calibrate)"
    scans = f"{detector.calibrated_on['validation']} healthy validation scans"
    if point.kind == "voxel_rate":
        return f"{point.false_positive_rate:g} of the brain voxels of {scans} lie above it"
    return f"{point.name} from {scans}"


def _common_fields(
    detector: Calibrated, point: OperatingPoint, scan: Scan, volume: PreparedVolume
) -> dict[str, object]:
    # Only points that a threshold on the map defines completely: no minimum size, no threshold of a single scan.
    points = {p.name: p for p in (*detector.points, point) if not p.minimum_lesion_ml and p.kind != "false_discovery"}
    return {
        "Sources": [image.name for image in scan.images],
        "SourcesSha256": source_checksums(scan),
        "Modalities": list(scan.modalities or detector.modalities),
        "SkullStripped": True,
        "Model": detector.config.name,
        "ModelFingerprint": detector.fingerprint,
        "OperatingPoints": {
            point.name: {"FalsePositiveRate": point.false_positive_rate, "Threshold": detector.map_threshold(point)}
            for point in points.values()
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
        "MutualInformationOverTurned": round(quality.direction, 2),
    }


def _files(
    out: Path, scan: Scan, volume_ml: float, threshold: float, p_value: float | None, notes: Sequence[str] = ()
) -> Prediction:
    anomaly, mask = out / f"{scan.id}{MAP_SUFFIX}", out / f"{scan.id}{MASK_SUFFIX}"
    return Prediction(scan.id, scan.images[0], anomaly, mask, volume_ml, threshold, p_value, tuple(notes))


def _finished(out: Path, scan: Scan) -> Prediction | None:
    files = _files(out, scan, 0.0, 0.0, None)
    if not (sidecar_path(files.mask).exists() and files.mask.exists() and files.map.exists()):
        return None
    sidecar = read_mask_sidecar(sidecar_path(files.mask))
    if sidecar.get("LesionVolumeMl") is None or sidecar.get("Threshold") is None:
        return None
    if sidecar.get("SourcesSha256") != source_checksums(scan):  # the scan, or its mask, has changed since
        return None
    volume_ml, threshold, p_value = sidecar["LesionVolumeMl"], sidecar["Threshold"], sidecar.get("CasePValue")
    return _files(out, scan, volume_ml, threshold, p_value, sidecar.get("Notes", ()))


def _way_to(scan: Path, out: Path) -> str:
    """The path of the scan relative to the derivatives folder, by which viewers' files find it."""
    try:
        return (
            Path(os.path.relpath(os.path.realpath(scan.parent), os.path.realpath(out))).joinpath(scan.name).as_posix()
        )
    except ValueError:  # another drive of Windows
        return scan.name


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
