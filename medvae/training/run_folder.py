"""The folder of a run: its config, its cohort, and the rule that it is never overwritten."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from medvae.config import Config, dump_config, read_config
from medvae.errors import MedvaeError
from medvae.files import is_empty, remove_leftovers, sha256, write_json, write_text
from medvae.locks import locked
from medvae.manifest import Manifest
from medvae.modality import UNKNOWN, same_modalities
from medvae.schema import read_object

CONFIG = "config.yaml"
COHORT = "cohort.json"
METRICS = "metrics.jsonl"
MEMBERS = "members"


def first_process() -> bool:
    """Whether this is the process that writes, where ``torchrun`` or ``accelerate launch`` started several."""
    return int(os.environ.get("RANK", "0")) == 0


@contextmanager
def one_at_a_time(out: Path) -> Iterator[None]:
    """Keep a folder, in which a detector is made, for this command; what a killed one left in it is removed.

    Of several processes of one command only the first does so.

    Raises
    ------
    MedvaeError
        If another command is at work in it.
    """
    if not first_process():
        yield
        return
    busy = (
        f"{out}: another command is at work in this folder ({{owner}}). Wait until it has finished, or choose another "
        f"--out folder; nothing was overwritten."
    )
    with locked(out, busy=busy):
        remove_leftovers(out, deep=True)
        yield


def check_run(out: Path | str, config: Config, *, resume: bool) -> Path:
    """Check that ``out`` may become, or go on being, the folder of this run; nothing is written.

    Of several processes only the first looks: the others might see what it is writing just then.

    Raises
    ------
    MedvaeError
        If the folder holds something and ``resume`` is False, or another config.
    """
    out = Path(out)
    if not first_process():
        return out
    existing = out / CONFIG
    if existing.exists():
        if not resume:
            raise MedvaeError(
                f"{out}: already holds a run. Continue it with --resume, replace it with --overwrite, or choose "
                f"another --out folder; nothing was overwritten."
            )
        if read_config(existing) != config:  # not its text: a later version adds options, at their defaults
            raise MedvaeError(
                f"{out}: was started with another config than the one given now (compare with {existing}). "
                f"Resume with the config it was started with, or choose another --out folder."
            )
    elif not is_empty(out) and not existing.exists():
        raise MedvaeError(f"{out}: is not empty and not a run of medvae. Choose another --out folder.")
    return out


def open_run(out: Path | str, config: Config, *, resume: bool) -> Path:
    """`check_run`, then write the resolved config, which marks the folder as this run's: the first process does."""
    out = check_run(out, config, resume=resume)
    if first_process() and not (out / CONFIG).exists():
        write_text(out / CONFIG, dump_config(config))
    return out


def record_cohort(
    out: Path, manifest: Manifest, *, checksum: Callable[[Path], str] = sha256, before: Sequence[Path] = ()
) -> None:
    """Write which healthy scans the run learns from, by content, or check that they are the same as when it began.

    Those that finished detectors, whose training it goes on with, have learned from ``before`` are counted among them.
    ``checksum`` gives the SHA-256 of a file; that of a cache need not read files it knows. Of several processes the
    first does this alone.

    Raises
    ------
    MedvaeError
        If the run was started with other scans: resuming would mix two cohorts.
    """
    if not first_process():
        return
    healthy = {
        split: {c.id: [checksum(file) for file in manifest.images(c)] for c in manifest.of_split(split, healthy=True)}
        for split in ("train", "validation")
    }
    if before:
        healthy["train"] = _joined(
            [*(_record_of(folder)["healthy_scans"]["train"] for folder in before), healthy["train"]]
        )
    record = {
        "manifest": manifest.name,
        "licence": manifest.licence,
        "modalities": manifest.modalities,
        "healthy_scans": healthy,
    }
    path = out / COHORT
    if not path.exists():
        write_json(path, record)
    elif (found := _read_record(path))["healthy_scans"] != healthy:
        changed = [
            case
            for split, scans in healthy.items()
            for case in sorted(scans.keys() | found["healthy_scans"][split].keys())
            if scans.get(case) != found["healthy_scans"][split].get(case)
        ]
        raise MedvaeError(
            f"{out}: was started with other healthy scans than those of {manifest.path} now (first difference: case "
            f'"{changed[0]}"; compare with {path}). Choose another --out folder for the new cohort.'
        )
    elif not same_modalities(found.get("modalities", (UNKNOWN,) * len(manifest.modalities)), manifest.modalities):
        raise MedvaeError(
            f"{out}: was started with {', '.join(found['modalities'])}, and {manifest.path} calls the same scans "
            f"{', '.join(manifest.modalities)} now. Put the names back, or choose another --out folder."
        )


def record_thresholds(out: Path, runs: Sequence[Path], healthy: Mapping[str, Sequence[Path]], **more: object) -> None:
    """Write which scans finished runs have learned from, and which healthy ones set new thresholds, by content.

    ``healthy`` are the images of each scan, by its name; ``more`` is written beside them.
    """
    known = [_record_of(run) for run in runs]
    learned = _joined([record["healthy_scans"]["train"] for record in known])
    scans = {case: [sha256(image) for image in images] for case, images in healthy.items()}
    licences = dict.fromkeys(record["licence"] for record in known if record.get("licence"))
    content = {"licence": "; ".join(licences) or None, "healthy_scans": {"train": learned, "validation": scans}}
    write_json(out / COHORT, content | more)


def trained_on(out: Path) -> set[str]:
    """SHA-256 of the scans that a run, or the run around a detector's folder, was trained on; empty if not told."""
    return {digest for images in _record_of(out)["healthy_scans"]["train"].values() for digest in images}


def used_scans(out: Path) -> dict[str, set[str]]:
    """The healthy scans that a run, or the run around a detector's folder, learned from or set its thresholds on.

    The SHA-256 of the images by the name of the case; empty if not told.
    """
    used: dict[str, set[str]] = {}
    for scans in _record_of(out)["healthy_scans"].values():
        for case, images in scans.items():
            used.setdefault(case, set()).update(images)
    return used


def _record_of(out: Path) -> dict[str, Any]:
    if out.parent.name == MEMBERS:
        out = out.parent.parent
    for path in (out / COHORT, out.parent / COHORT):
        if path.is_file():
            return _read_record(path)
    return {"healthy_scans": {"train": {}}}


def _joined(scans: Iterable[Mapping[str, Sequence[str]]]) -> dict[str, list[str]]:
    """The images of each case, of several records."""
    joined: dict[str, list[str]] = {}
    for record in scans:
        for case, images in record.items():
            joined[case] = list(dict.fromkeys([*joined.get(case, ()), *images]))
    return joined


def _read_record(path: Path) -> dict[str, Any]:
    record = read_object(path)
    splits = record.get("healthy_scans")
    whole = isinstance(splits, dict) and {"train", "validation"} <= splits.keys()
    if not whole or not all(isinstance(scans, dict) for scans in (splits or {}).values()):
        raise MedvaeError(f'{path}: its "healthy_scans" is not what medvae writes. Copy the run\'s folder again.')
    return record


def refuse_learned(runs: Sequence[Path | str], healthy: Mapping[str, Sequence[Path]], where: Path | str) -> None:
    """Check that no run was trained on a healthy scan that is to set thresholds.

    Parameters
    ----------
    runs
        Run folders, or detectors' folders.
    healthy
        The images of each scan, by its name.
    where
        The cohort that an error names.

    Raises
    ------
    MedvaeError
        If one was, naming the case.
    """
    there = ((case, image) for case, images in healthy.items() for image in images if image.is_file())
    cases = {sha256(image): case for case, image in there}  # one that is not there is told where it is prepared
    for run in runs:
        known = trained_on(Path(run))
        learned = [case for checksum, case in cases.items() if checksum in known]
        if learned:
            raise MedvaeError(
                f'{where}: case "{learned[0]}" would set the thresholds, but {run} was trained on it, and a threshold '
                f"from a scan that was learned from is too low. Give healthy scans that {run} has not learned from."
            )
