"""From a config and a manifest to a detector: prepare, train, calibrate, save; and from detectors to an ensemble."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from medvae.config import Config
from medvae.detection.base import SCALE
from medvae.detection.detector import FOLDER, Detector, find_detector
from medvae.detection.ensemble import Ensemble, agreeing, common_modalities, member_names
from medvae.detection.guarantees import check_levels
from medvae.detection.reconstructor import with_reconstructor
from medvae.detection.start import starting_detector
from medvae.devices import AUTO, find_device
from medvae.errors import MedvaeError
from medvae.files import LOCK, sha256, write_json
from medvae.manifest import Manifest
from medvae.networks.build import require_backbone
from medvae.networks.interface import Network
from medvae.normative.inputs import NetworkInputs
from medvae.overwriting import check_new, check_replaceable_run, restart_run
from medvae.preparation.cache import known_sha256
from medvae.preparation.prepare import prepare_healthy, prepare_training
from medvae.sampling.tiles import require_named
from medvae.training.accelerator import require_packages
from medvae.training.loop import train
from medvae.training.run_folder import (
    check_run,
    first_process,
    one_at_a_time,
    open_run,
    record_cohort,
    record_thresholds,
    refuse_learned,
)
from medvae.training.tensorboard import require_tensorboard


def fit(
    config: Config,
    manifest: Manifest,
    out: Path | str,
    *,
    cache: Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    device: str = AUTO,
    quiet: bool = False,
) -> Detector:
    """Make a detector from the healthy scans of a cohort.

    The network, if the config has one, is trained on the healthy training scans; the operating points are set on the
    healthy validation scans. Cases with a label, unlabelled cases and the test split are never touched.

    Parameters
    ----------
    config, manifest
        The method and the cohort.
    out
        The run folder; the detector is saved in ``out/detector``.
    cache
        Folder of prepared scans: those it holds are reused, new ones are added.
    resume
        Continue a run that was stopped.
    overwrite
        Replace a run that ``out`` holds, whatever its config; files that are not a run's stay.
    device
        Device for training and calibration, as in `medvae.devices.find_device`.
    quiet
        No progress display.

    Raises
    ------
    MedvaeError
        If a scan cannot be prepared, a split has no healthy scan, ``out`` holds another run or another process is
        training into it, or there is no such device.
    KeyboardInterrupt
        After Ctrl-C, when the checkpoint is written.
    """
    find_device(device)
    reconstructor = None
    read: list[str] = []
    if config.network is not None and config.network.reconstructor:
        read.append(config.network.reconstructor.run)
        config, reconstructor = with_reconstructor(config, manifest)
    out = check_replaceable_run(out, read) if overwrite else check_run(out, config, resume=resume)
    if (out / FOLDER).is_dir() and not overwrite and not (out / LOCK).exists():
        return Detector.load(out, device=device)
    with one_at_a_time(out):
        if not overwrite:  # another command may have been at work between the two looks
            check_run(out, config, resume=True)
        if (out / FOLDER).is_dir() and not overwrite:
            return Detector.load(out, device=device)
        return _fit(config, manifest, out, reconstructor, cache, overwrite=overwrite, device=device, quiet=quiet)


def _fit(
    config: Config,
    manifest: Manifest,
    out: Path,
    reconstructor: Network | None,
    cache: Path | None,
    *,
    overwrite: bool,
    device: str,
    quiet: bool,
) -> Detector:
    """As `fit`, in a folder that may become or go on being the run's."""
    require_tensorboard(config)
    if config.network is not None:
        require_packages()
    require_named(config)
    require_backbone(config, len(manifest.modalities))
    start = starting_detector(config, manifest) if config.training.start_from else None
    training, scale = prepare_training(
        manifest, config.preparation, scale=start.scale if start else None, cache=cache, quiet=quiet
    )
    validation = prepare_healthy(manifest, "validation", config.preparation, scale=scale, cache=cache, quiet=quiet)
    if not training or not validation:
        raise MedvaeError(
            f"{manifest.path}: has {len(training)} healthy training scans and {len(validation)} healthy validation "
            f'scans; at least one of each was expected. Set "split" of cases without lesions to "train" and '
            f'"validation".'
        )
    people = _validation_subjects(manifest, config)
    if overwrite:
        restart_run(out, config)
    open_run(out, config, resume=True)
    checksum = partial(known_sha256, cache=cache) if cache is not None else sha256
    before = [find_detector(config.training.start_from)] if config.training.start_from else []
    record_cohort(out, manifest, checksum=checksum, before=before)
    if scale is not None and first_process():
        write_json(out / SCALE, scale.model_dump(mode="json"))
    network = atlas = bias_field = None
    if config.network is not None:
        if start is not None:
            atlas, bias_field = start.atlas, start.bias_field
        inputs = NetworkInputs.fit(config.network, len(training[0].image), training, atlas=atlas, bias_field=bias_field)
        network = train(
            config, training, validation, out, resume=True, quiet=quiet, inputs=inputs, reconstructor=reconstructor,
            start=start.network if start else None, device=device,
        )  # fmt: skip
        atlas, bias_field = inputs.atlas, inputs.bias_field
    detector = Detector.calibrate(
        config,
        network,
        training,
        validation,
        scale=scale,
        subjects=people,
        sites=sites_of(manifest),
        atlas=atlas,
        bias_field=bias_field,
        device=device,
        modalities=manifest.modalities,
    )
    return detector.save(out / FOLDER) if first_process() else detector


def _validation_subjects(manifest: Manifest, config: Config) -> list[str]:
    """Subjects of the healthy validation scans; refuses levels that so few subjects cannot guarantee."""
    people = [case.subject_id for case in manifest.of_split("validation", healthy=True)]
    try:
        check_levels(config.calibration.promised, len(set(people)), config.calibration)
    except MedvaeError as error:
        raise MedvaeError(f"{manifest.path}: {error}") from None
    return people


def sites_of(manifest: Manifest) -> list[str]:
    """Where the healthy validation scans were made; "" if the manifest does not say."""
    return [case.site or "" for case in manifest.of_split("validation", healthy=True)]


def fit_ensemble(
    runs: Sequence[Path | str],
    manifest: Manifest,
    out: Path | str,
    *,
    name: str = "ensemble",
    weights: Sequence[float] | None = None,
    cache: Path | None = None,
    overwrite: bool = False,
    device: str = AUTO,
    quiet: bool = False,
) -> Ensemble:
    """Average the detectors of several runs, with thresholds from the cohort's healthy validation scans.

    Parameters
    ----------
    runs
        Run folders, or detectors' folders.
    manifest
        The cohort whose healthy validation scans set the thresholds.
    out
        A new folder; the ensemble is saved in ``out/detector``, with copies of its members.
    name
        Name of the ensemble, in tables and sidecars.
    weights
        Of the runs' scores, above 0; equal by default.
    cache
        As in `fit`.
    overwrite
        Replace an ensemble, or a recalibrated detector, that ``out`` holds.
    device
        Where the networks work, as in `medvae.devices.find_device`.
    quiet
        No progress display.

    Raises
    ------
    MedvaeError
        If the members do not fit together, one of them was trained on a validation scan, ``out`` is not empty, or
        there is no such device.
    """
    out = check_new(out, runs, overwrite=overwrite)
    detectors = [Detector.load(run, device=device) for run in runs]
    members = dict(zip(member_names([d.config.name for d in detectors]), detectors, strict=True))
    first = agreeing(members)
    manifest = manifest.with_modalities(common_modalities(detectors))
    healthy = {case.id: manifest.images(case) for case in manifest.of_split("validation", healthy=True)}
    refuse_learned(runs, healthy, manifest.path)
    validation = prepare_healthy(
        manifest, "validation", first.config.preparation, scale=first.scale, cache=cache, quiet=quiet
    )
    people = _validation_subjects(manifest, first.config)
    ensemble = Ensemble.calibrate(name, members, validation, people, sites_of(manifest), weights=weights)
    with one_at_a_time(out):
        check_new(out, runs, overwrite=overwrite)
        record_thresholds(
            out, [Path(run) for run in runs], healthy, modalities=ensemble.modalities, members=list(members)
        )
        return ensemble.save(out / FOLDER)
