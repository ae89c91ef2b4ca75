"""From a config and a manifest to a detector: prepare, train, calibrate, save; and from detectors to an ensemble."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from medvae.config import Config
from medvae.detection.base import SCALE
from medvae.detection.detector import FOLDER, Detector
from medvae.detection.ensemble import Ensemble, agreeing, common_modalities, member_names
from medvae.detection.guarantees import check_levels
from medvae.detection.prior import with_prior
from medvae.errors import MedvaeError
from medvae.files import sha256, write_json
from medvae.manifest import Manifest
from medvae.normative.atlas import VolumeWithAtlas, atlas_of
from medvae.normative.bias_field import VolumeWithoutShading, fit_reference
from medvae.preparation.cache import known_sha256
from medvae.preparation.prepare import prepare_healthy, prepare_training
from medvae.training.loop import train
from medvae.training.run_folder import (
    check_run,
    first_process,
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
        Folder of prepared scans: those it holds are not prepared again, the others are added to it.
    resume
        Continue a run that was stopped.
    quiet
        No progress display.

    Raises
    ------
    MedvaeError
        If a scan cannot be prepared, a split has no healthy scan, or ``out`` holds another run.
    KeyboardInterrupt
        After Ctrl-C, when the checkpoint is written.
    """
    prior = None
    if config.network is not None and config.network.prior:
        config, prior = with_prior(config, manifest)
    out = check_run(out, config, resume=resume)
    if (out / FOLDER).is_dir():
        return Detector.load(out)
    require_tensorboard(config)
    training, scale = prepare_training(manifest, config.preparation, cache=cache, quiet=quiet)
    validation = prepare_healthy(manifest, "validation", config.preparation, scale=scale, cache=cache, quiet=quiet)
    if not training or not validation:
        raise MedvaeError(
            f"{manifest.path}: has {len(training)} healthy training scans and {len(validation)} healthy validation "
            f'scans; at least one of each was expected. Set "split" of cases without lesions to "train" and '
            f'"validation".'
        )
    people = _validation_subjects(manifest, config)
    open_run(out, config, resume=True)
    record_cohort(out, manifest, checksum=partial(known_sha256, cache=cache) if cache is not None else sha256)
    if scale is not None and first_process():
        write_json(out / SCALE, scale.model_dump(mode="json"))
    network = atlas = None
    if config.network is not None:
        shown = training, validation
        if config.network.atlas:
            atlas = atlas_of(config.network, training)
            shown = ([VolumeWithAtlas(volume, atlas, config.network.mirror) for volume in volumes] for volumes in shown)
        elif config.network.shading == "removed":
            reference = fit_reference(training)
            shown = ([VolumeWithoutShading(volume, reference) for volume in volumes] for volumes in shown)
        network = train(config, *shown, out, resume=True, quiet=quiet, prior=prior)
    detector = Detector.calibrate(
        config, network, training, validation, scale=scale, subjects=people, atlas=atlas, modalities=manifest.modalities
    )
    return detector.save(out / FOLDER) if first_process() else detector


def _validation_subjects(manifest: Manifest, config: Config) -> list[str]:
    """Whose the healthy validation scans are; refuses levels that so few people cannot promise."""
    people = [case.subject_id for case in manifest.of_split("validation", healthy=True)]
    try:
        check_levels(config.calibration.promised, len(set(people)), config.calibration)
    except MedvaeError as error:
        raise MedvaeError(f"{manifest.path}: {error}") from None
    return people


def fit_ensemble(
    runs: Sequence[Path | str],
    manifest: Manifest,
    out: Path | str,
    *,
    name: str = "ensemble",
    cache: Path | None = None,
    quiet: bool = False,
) -> Ensemble:
    """Average the detectors of some runs, with thresholds from the cohort's healthy validation scans.

    Parameters
    ----------
    runs
        Run folders, or detectors' folders.
    manifest
        The cohort whose healthy validation scans set the thresholds.
    out
        A new folder; the ensemble is saved in ``out/detector``, with copies of its members.
    name
        Of the ensemble, in tables and sidecars.
    cache
        As in `fit`.
    quiet
        No progress display.

    Raises
    ------
    MedvaeError
        If the members do not fit together, one of them was trained on a validation scan, or ``out`` is not empty.
    """
    out = Path(out)
    if out.is_dir() and any(out.iterdir()):
        raise MedvaeError(f"{out}: is not empty. Choose another --out folder; nothing was overwritten.")
    detectors = [Detector.load(run) for run in runs]
    members = dict(zip(member_names([d.config.name for d in detectors]), detectors, strict=True))
    first = agreeing(members)
    manifest = manifest.with_modalities(common_modalities(detectors))
    healthy = {case.id: manifest.images(case) for case in manifest.of_split("validation", healthy=True)}
    refuse_learned(runs, healthy, manifest.path)
    validation = prepare_healthy(
        manifest, "validation", first.config.preparation, scale=first.scale, cache=cache, quiet=quiet
    )
    people = _validation_subjects(manifest, first.config)
    ensemble = Ensemble.calibrate(name, members, validation, people)
    record_thresholds(out, [Path(run) for run in runs], healthy, modalities=ensemble.modalities, members=list(members))
    return ensemble.save(out / FOLDER)
