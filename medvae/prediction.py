"""Scans in, overlays out: anomaly maps and lesion masks on each scan's own grid, named as BIDS derivatives.

``OUT/ID_desc-anomaly_probseg.nii.gz``   float32 in [0, 1], 0 outside the brain
``OUT/ID_label-lesion_mask.nii.gz``      uint8, 1 where the map lies above the threshold, post-processed if asked for
``OUT/ID_desc-spread_probseg.nii.gz``    float32 in [0, 0.5], SD of the maps of an ensemble's members
each with a JSON sidecar, and ``OUT/dataset_description.json``; of all scans, the tables of `medvae.prediction_tables`.
With many scans the files of each lie in ``OUT/ID`` (`medvae.derivatives.case_folder`).
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from medvae import __version__
from medvae.derivatives import MAP_SUFFIX, MASK_SUFFIX, SPREAD_SUFFIX, case_folder, read_mask_sidecar
from medvae.detection.base import Calibrated, Maps
from medvae.detection.by_sequence import choose_detector, is_auto, is_joint, joint_detector
from medvae.detection.ensemble import load_detector
from medvae.detection.joined import Joined
from medvae.detection.operating_points import OperatingPoint
from medvae.detection.scan import Scan, scan_of, scans_of_files, scans_of_manifest
from medvae.errors import MedvaeError
from medvae.files import json_bytes, written_together
from medvae.imaging.volume import volume_bytes
from medvae.jobs import Workers, shared_out
from medvae.locks import locked
from medvae.prediction_folder import (
    content_of,
    open_folder,
    record_failures,
    remove_abandoned,
    remove_case,
    require_own_name,
    sidecar_path,
)
from medvae.prediction_tables import write_tables
from medvae.preparation.prepared import PreparedVolume
from medvae.progress import Progress
from medvae.regions.findings import measure_findings
from medvae.schema import read_object
from medvae.sources import Content

__all__ = ["Prediction", "Scan", "predict", "predict_one", "predict_scan", "scans_of_files", "scans_of_manifest"]

Stage = Literal["preparing", "scoring", "writing"]
"""What is done with a scan, in this order."""
TABLES_EVERY_S = 30.0
"""Time after which the tables are written again while scans are predicted: they may take days."""
TABLES_SHARE = 0.05
"""Share of the time that writing them may take: those of many scans are written less often."""


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
    look: tuple[str, ...] = ()
    """Commands that open it in viewers, if files were written for them."""


def predict(
    detector: Calibrated,
    scans: Sequence[Scan],
    out: Path | str,
    *,
    rate: float | None = None,
    at: str | None = None,
    cache: Path | None = None,
    overwrite: bool = False,
    scan_folders: bool | None = None,
    device: str | None = None,
    jobs: int | Workers = 1,
    then: Callable[[Prediction], Prediction] | None = None,
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
    scan_folders
        Whether a new ``out`` gets a folder for each scan; by default if there are more than
        `medvae.derivatives.TOGETHER`. One that was begun goes on as it was.
    device
        Device, as in `medvae.devices.find_device`; the detector's present one by default.
    jobs
        Scans at a time: with more than one, each in a process of one thread that holds the detector and one scan with
        its intermediate results. The files are the same, up to the last bit of a map where one process has several
        threads. Or workers elsewhere.
    then
        Called with each prediction, in the process that made it or found it done, for instance to draw it; its result
        is listed. A `MedvaeError` that it raises is a failure of the scan. With several jobs it must be picklable.
    quiet
        No progress display.

    Returns
    -------
    predictions, failures
        What was written, and the error message of each scan that failed, both in the order of the scans.

    Raises
    ------
    MedvaeError
        If ``out`` holds the predictions of another detector, there is no such operating point, it has too few healthy
        subjects for it, or there is no such device.
    """
    out = Path(out)
    mask_at = _mask_at(detector, rate, at)
    if device is not None:
        detector = detector.on(device)
    open_predictions(detector, out, rate=rate, at=at, overwrite=overwrite, scans=len(scans), scan_folders=scan_folders)
    found: dict[int, Prediction | MedvaeError] = {}
    failed, tables_due = 0, time.monotonic() + TABLES_EVERY_S
    try:
        with (
            Progress("Predicting", len(scans), quiet=quiet) as progress,
            shared_out(enumerate(scans), _Task(detector, out, mask_at, cache, overwrite, then), jobs) as results,
        ):
            for (index, scan), result in results:
                found[index] = result
                failed += isinstance(result, MedvaeError)
                progress.update(len(found), scan=scan.id, failed=str(failed))
                if (begun := time.monotonic()) > tables_due:
                    with contextlib.suppress(MedvaeError):  # open in a spreadsheet, say: the last one tells
                        write_tables(out)
                    took = time.monotonic() - begun
                    tables_due = time.monotonic() + max(TABLES_EVERY_S, took / TABLES_SHARE)
    finally:  # after Ctrl-C too
        ordered = sorted(found.items())
        predictions = [one for _, one in ordered if isinstance(one, Prediction)]
        failures = {scans[index].id: str(one) for index, one in ordered if isinstance(one, MedvaeError)}
        remove_abandoned(out)  # of a process that had to be ended by force
        record_failures(out, [item.id for item in predictions], failures)
        write_tables(out)
    return predictions, failures


def open_predictions(
    detector: Calibrated,
    out: Path,
    *,
    rate: float | None = None,
    at: str | None = None,
    overwrite: bool = False,
    scans: int = 1,
    scan_folders: bool | None = None,
) -> None:
    """Open the folder of `predict` before it does, for files that it needs; arguments and errors are the same."""
    point = detector.point(_mask_at(detector, rate, at))
    open_folder(out, detector, point, overwrite=overwrite, scans=scans, scan_folders=scan_folders)


def _mask_at(detector: Calibrated, rate: float | None, at: str | None) -> float | str:
    """The operating point that is asked for; the config's by default."""
    return at if at is not None else rate if rate is not None else detector.config.calibration.mask_at


@dataclass(frozen=True)
class _Task:
    """What `predict` does with each scan."""

    detector: Calibrated
    out: Path
    at: float | str
    cache: Path | None
    overwrite: bool
    then: Callable[[Prediction], Prediction] | None

    def __call__(self, item: tuple[int, Scan]) -> Prediction | MedvaeError:
        try:
            scan = item[1].for_detector(self.detector)
            content = content_of(scan)
            made = _finished(self.out, scan, content)
            if made is None:
                made = _predicted(
                    self.detector, scan, content, self.out, self.at, cache=self.cache, overwrite=self.overwrite
                )
            return self.then(made) if self.then else made
        except MedvaeError as error:
            return error


def predict_scan(
    detector: Calibrated,
    scan: Scan,
    out: Path,
    at: float | str,
    *,
    cache: Path | None = None,
    overwrite: bool = False,
    stage: Callable[[Stage], None] = lambda _: None,
) -> Prediction:
    """Predict one scan and write its files; the sidecar of the mask is written last and marks the scan done.

    ``at`` is a false-positive rate or the name of an operating point; ``overwrite`` replaces the prediction of another
    scan of the same name, which is refused without; ``stage`` is called as each stage begins.
    """
    scan = scan.for_detector(detector)
    made = _predicted(detector, scan, content_of(scan), out, at, cache=cache, overwrite=overwrite, stage=stage)
    write_tables(out)
    return made


def _predicted(
    detector: Calibrated,
    scan: Scan,
    content: Content,
    out: Path,
    at: float | str,
    *,
    cache: Path | None,
    overwrite: bool,
    stage: Callable[[Stage], None] = lambda _: None,
) -> Prediction:
    if not overwrite:
        require_own_name(out, scan)
    volume, maps = _found(detector, scan, detector.point(at), cache, stage)
    stage("writing")
    return _write(detector, scan, content, volume, maps, out, overwrite=overwrite)


def _found(
    detector: Calibrated,
    scan: Scan,
    point: OperatingPoint,
    cache: Path | None,
    stage: Callable[[Stage], None] = lambda _: None,
) -> tuple[PreparedVolume, Maps]:
    """The maps of a scan, and the scan prepared; of several sequences that are joined, the first."""
    stage("preparing")
    if not isinstance(detector, Joined):
        volume = scan.prepare(detector, cache=cache)
        stage("scoring")
        return volume, detector.native_maps(volume, point)
    volumes = {
        name: replace(scan, images=(image,), modalities=(name,)).prepare(detector.members[name], cache=cache)
        for name, image in zip(detector.modalities, scan.images, strict=True)
    }
    stage("scoring")
    return next(iter(volumes.values())), detector.find(volumes)


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
        A detector, its folder, a run folder, the name of a detector that comes with medvae, "auto": the one of
        these that is for the scan's sequence, or "joint": those of all sequences of the scan, averaged.
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
        if is_joint(detector):
            detector = joint_detector([given])
        else:
            detector = load_detector(choose_detector([given]).name if is_auto(detector) else detector)
    wanted = given.for_detector(detector)
    point = detector.point(detector.config.calibration.mask_at if at is None else at)
    if out is not None:
        open_folder(Path(out), detector, point, overwrite=False)
        require_own_name(Path(out), wanted)
    content = None if out is None else content_of(wanted)
    volume, maps = _found(detector, wanted, point, cache)
    if out is not None and content is not None:
        _write(detector, wanted, content, volume, maps, Path(out), overwrite=False)
        write_tables(Path(out))
    return maps


def _write(
    detector: Calibrated,
    scan: Scan,
    content: Content,
    volume: PreparedVolume,
    maps: Maps,
    out: Path,
    *,
    overwrite: bool,
) -> Prediction:
    """Write maps and sidecars of a scan; what there was of another content is removed first.

    Other processes that write into the folder wait only while the files get their names.
    """
    content.require_unchanged()
    files = _files(out, scan, maps.lesion_volume_ml, maps.threshold, maps.case_p_value, maps.notes)
    written = _written_files(detector, scan, content, volume, maps, files)
    with written_together(written) as give_names, locked(out):
        if not overwrite:  # the same name may have come from another scan in another process meanwhile
            require_own_name(out, scan)
        done = sidecar_path(files.mask)
        changed = done.exists() and read_object(done).get("SourcesSha256") != list(content.checksums)
        if changed:  # and nothing of the old maps may look like what belongs to the new ones
            remove_case(files.mask.parent, scan.id)
        give_names()
    return replace(files, notes=(*files.notes, _AGAIN)) if changed else files


_CENTRED = (
    "The scan could not be registered to the MNI152 template, only the centre of its brain was moved there: it is not "
    "known in which regions its findings lie."
)
_AGAIN = "the folder held its prediction from other files, or from files that have changed since; it was replaced."


def _written_files(
    detector: Calibrated, scan: Scan, content: Content, volume: PreparedVolume, maps: Maps, files: Prediction
) -> dict[Path, bytes]:
    """Maps and sidecars of a scan as they are written; the sidecar of the mask, which marks the scan done, is last."""
    found, point, out = maps.findings, maps.point, files.map.parent
    common = _common_fields(detector, point, scan, content, volume)
    common |= {"SpatialReference": _way_to(scan.images[0], out)}
    if maps.notes:
        common["Notes"] = list(maps.notes)
    images = [(files.map, maps.anomaly, "anomaly map"), (files.mask, maps.lesion_mask, "lesion mask")]
    sidecars: dict[Path, dict[str, object]] = {}
    if maps.spread is not None:
        spread = out / f"{scan.id}{SPREAD_SUFFIX}"
        images.append((spread, maps.spread, "spread of maps"))
        meaning = "Standard deviation of the anomaly maps of the ensemble's members: high where they disagree."
        sidecars[spread] = {"Description": meaning, "Range": [0, 0.5]}
    sidecars[files.map] = {
        "Description": "Anomaly map: 0.5 is the threshold of the first operating point, 1 the far end of the tail.",
        "Range": [0, 1],
    }
    findings = measure_findings(maps.lesion_mask, maps.anomaly, volume.source.geometry, volume.to_template)
    brain_ml = float(maps.brain_mask.sum() * volume.source.geometry.voxel_volume_ml)
    sidecars[files.mask] = {
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
        "Findings": [finding.sidecar for finding in findings],
        **({"FindingsWithoutRegion": _CENTRED} if volume.to_template is None else {}),
    }
    written = {path: volume_bytes(path, array, volume.source, intent=intent) for path, array, intent in images}
    for image, own in sidecars.items():
        path = sidecar_path(image)
        written[path] = json_bytes(path, own | common)
    return written


def _threshold_source(detector: Calibrated, point: OperatingPoint) -> str:
    if isinstance(detector, Joined):
        return (
            f"the mean of the scores of {', '.join(detector.modalities)}, each in units of the distance from its "
            f"healthy median to its first threshold, lies above 1; no healthy scan of several sequences was used"
        )
    if point.kind == "rank":
        return f"{point.name} within the scan itself; no healthy scan was used (medvae calibrate)"
    scans = f"{detector.calibrated_on['validation']} healthy validation scans"
    if made_of := detector.config.calibration.made_of:
        scans += f", which a program made of {made_of} scans,"
    if point.kind == "voxel_rate" and (confidence := detector.config.calibration.confidence):
        return (
            f"at most {point.false_positive_rate:g} of the brain voxels of people like those of {scans} lie above it, "
            f"with {100 * confidence:g} % confidence"
        )
    if point.kind == "voxel_rate":
        return f"{point.false_positive_rate:g} of the brain voxels of {scans} lie above it"
    return f"{point.name} from {scans}"


def _common_fields(
    detector: Calibrated, point: OperatingPoint, scan: Scan, content: Content, volume: PreparedVolume
) -> dict[str, object]:
    # Only points that a threshold on the map defines completely: no minimum size, no threshold of a single scan.
    points = {p.name: p for p in (*detector.points, point) if not p.minimum_lesion_ml and p.kind != "false_discovery"}
    return {
        "Sources": [image.name for image in scan.images],
        "SourcesSha256": list(content.checksums),
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
    folder = case_folder(out, scan.id)
    anomaly, mask = folder / f"{scan.id}{MAP_SUFFIX}", folder / f"{scan.id}{MASK_SUFFIX}"
    return Prediction(scan.id, scan.images[0], anomaly, mask, volume_ml, threshold, p_value, tuple(notes))


def _finished(out: Path, scan: Scan, content: Content) -> Prediction | None:
    files = _files(out, scan, 0.0, 0.0, None)
    if not (sidecar_path(files.mask).exists() and files.mask.exists() and files.map.exists()):
        return None
    sidecar = read_mask_sidecar(sidecar_path(files.mask))
    if sidecar.get("LesionVolumeMl") is None or sidecar.get("Threshold") is None:
        return None
    if sidecar.get("SourcesSha256") != list(content.checksums):  # the scan, or its mask, has changed since
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
