"""What ``--overwrite`` may replace: a run, or a detector made from others. Never a file that medvae did not write."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from medvae.config import Config, dump_config, read_config
from medvae.detection.base import SCALE
from medvae.detection.detector import FOLDER, find_detector
from medvae.detection.stored import CALIBRATION
from medvae.errors import MedvaeError
from medvae.files import LOCK, is_empty, told, write_text
from medvae.schema import read_object
from medvae.training import tensorboard
from medvae.training.checkpoints import CHECKPOINT
from medvae.training.loop import WEIGHTS
from medvae.training.run_folder import COHORT, CONFIG

RUN_FILES = (SCALE, "metrics.jsonl", WEIGHTS, "loss.png", "reconstructions.png")
RUN_FOLDERS = (FOLDER, Path(CHECKPOINT).parts[0], tensorboard.FOLDER)
"""What `medvae.fitting.fit` writes into a run folder, next to the config and the cohort that mark it as one."""


def check_replaceable_run(out: Path | str, sources: Sequence[Path | str] = ()) -> Path:
    """Check that ``out`` may become the folder of a new run: it is empty, or holds a run that may be replaced.

    Parameters
    ----------
    out
        The run folder.
    sources
        Runs that the new one needs, such as a prior's: they are never overwritten.

    Raises
    ------
    MedvaeError
        If it holds something else, or is written by several processes, which could read what the first removes.
    """
    out = Path(out)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise MedvaeError(
            f"{out}: several processes cannot replace a run. Remove the folder yourself, without --overwrite."
        )
    if is_empty(out):
        return out
    record = out / COHORT
    begun = record.is_file() and "healthy_scans" in read_object(record)
    if not (out / CONFIG).is_file() or not (begun or _only(out, CONFIG)):
        raise MedvaeError(f"{out}: is not empty and not a run of medvae, so --overwrite leaves it as it is. {_OTHER}")
    read_config(out / CONFIG)  # a foreign config.yaml is reported as such
    _keep(sources, out)
    return out


def restart_run(out: Path, config: Config) -> None:
    """Remove the files of a run and write the config of the new one.

    The files that mark the folder as a run go last, so that the rest can still be replaced after a Ctrl-C.
    """
    with told(out):
        for name in RUN_FOLDERS:
            if (out / name).is_dir():
                shutil.rmtree(out / name)
        for name in (*RUN_FILES, COHORT):
            (out / name).unlink(missing_ok=True)
    write_text(out / CONFIG, dump_config(config))


def check_new(out: Path | str, sources: Sequence[Path | str], *, overwrite: bool = False) -> Path:
    """Check that ``out`` may become the folder of a detector that is made from others; nothing is written.

    Parameters
    ----------
    out
        A new or empty folder. With ``overwrite`` also one that holds a detector made from others, and nothing else.
    sources
        The runs or detectors that it is made from: they are never overwritten.

    Raises
    ------
    MedvaeError
        If it holds something else.
    """
    out = Path(out)
    if is_empty(out):
        return out
    if not overwrite:
        raise MedvaeError(
            f"{out}: is not empty. Choose another --out folder, or replace a detector that ensemble or calibrate made "
            f"with --overwrite; nothing was overwritten."
        )
    if not (out / FOLDER / CALIBRATION).is_file() or not _only(out, FOLDER, COHORT):
        raise MedvaeError(
            f"{out}: holds more than a detector that medvae ensemble or calibrate made, so --overwrite leaves it as it "
            f"is. {_OTHER}"
        )
    _keep(sources, out)
    return out


_OTHER = "Choose another --out folder; nothing was overwritten."


def _keep(sources: Sequence[Path | str], out: Path) -> None:
    for source in sources:
        if find_detector(source).resolve().is_relative_to(out.resolve()):
            raise MedvaeError(f"{out}: would overwrite {source}, which the new detector is made from. {_OTHER}")


def _only(folder: Path, *names: str) -> bool:
    return {path.name for path in folder.iterdir()} <= {LOCK, *names}
