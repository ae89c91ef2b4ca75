"""From a config and a manifest to a detector: prepare, train, calibrate, save."""

from __future__ import annotations

from pathlib import Path

from medvae.config import Config
from medvae.detector import FOLDER, Detector
from medvae.errors import MedvaeError
from medvae.files import write_json
from medvae.manifest import Manifest
from medvae.preparation.landmarks import FILE as SCALE_FILE
from medvae.preparation.prepare import prepare_healthy, prepare_training
from medvae.run_folder import check_run, open_run, record_cohort
from medvae.training import train


def fit(config: Config, manifest: Manifest, out: Path | str, *, resume: bool = False, quiet: bool = False) -> Detector:
    """Make a detector from the healthy scans of a cohort.

    The network, if the config has one, is trained on the healthy training scans; the operating points are set on the
    healthy validation scans. Cases with a label, unlabelled cases and the test split are never touched.

    Parameters
    ----------
    config, manifest
        The method and the cohort.
    out
        The run folder; the detector is saved in ``out/detector``.
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
    out = check_run(out, config, resume=resume)
    if (out / FOLDER).is_dir():
        return Detector.load(out)
    training, scale = prepare_training(manifest, config.preparation, quiet=quiet)
    validation = prepare_healthy(manifest, "validation", config.preparation, scale=scale, quiet=quiet)
    if not training or not validation:
        raise MedvaeError(
            f"{manifest.path}: has {len(training)} healthy training scans and {len(validation)} healthy validation "
            f'scans; at least one of each was expected. Set "split" of cases without lesions to "train" and '
            f'"validation".'
        )
    open_run(out, config, resume=True)
    record_cohort(out, manifest)
    if scale is not None:
        write_json(out / SCALE_FILE, scale.model_dump(mode="json"))
    network = train(config, training, validation, out, resume=True, quiet=quiet) if config.network else None
    return Detector.calibrate(config, network, training, validation, scale=scale).save(out / FOLDER)
