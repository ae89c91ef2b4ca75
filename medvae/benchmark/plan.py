"""The plan of a study: rows, trainings and targets, each with a key made of everything that determines it.

A key is a SHA-256 of contents (options, and the bytes of the scans), never of names or paths. So a result found under a
key is the one requested, a changed study redoes only what has changed, and rows that need the same network share it.
The version of medvae is not part of a training's key.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from medvae import __version__
from medvae.benchmark.study import BASELINES, Method, StudyConfig, baseline_config, polarity_of
from medvae.config import Config, PostprocessingConfig, read_config
from medvae.detection.base import read_calibrated
from medvae.detection.detector import find_detector
from medvae.errors import MedvaeError
from medvae.evaluation.lesions import OVERLAP, SMALLEST_ML
from medvae.files import sha256
from medvae.lesions.families import Family
from medvae.manifest import Case, Manifest, read_manifest
from medvae.schema import parse

Checksum = Callable[[Path], str]
AFTER_TRAINING = {"name", "score", "calibration", "postprocessing"}
"""Parts of a config that do not change the network."""


@dataclass(frozen=True)
class Training:
    """A network to train."""

    method: str
    config: Config
    key: str

    @property
    def label(self) -> str:
        """Prefix of the name of its folder."""
        return f"{self.method}-seed{self.config.seed}"


@dataclass(frozen=True)
class Unit:
    """One detector, or ensemble, to calibrate and measure."""

    row: str
    seed: int | None
    """None if nothing is random, or seeds are averaged."""
    config: Config
    key: str
    training: Training | None = None
    detector: Path | None = None
    """Its path, if it was not made by the study."""
    members: tuple[Unit, ...] = ()

    @property
    def label(self) -> str:
        """Prefix of the names of its folders."""
        return self.row if self.seed is None else f"{self.row}-seed{self.seed}"

    @property
    def postprocessed(self) -> bool:
        """Whether its masks are to be measured as well as its maps."""
        return self.config.postprocessing != PostprocessingConfig()


@dataclass(frozen=True)
class Row:
    """A line of the leaderboard: one score of one method over its seeds."""

    name: str
    kind: Literal["method", "baseline", "ensemble"]
    units: tuple[Unit, ...] = ()
    problem: str = ""
    """Why there are no units."""


@dataclass(frozen=True)
class Target:
    """Lesions to find: those of the manifest, or inserted ones."""

    name: str
    """"patients", "inserted" (the family ms) or "inserted_FAMILY"."""
    key: str
    family: Family | None = None
    """Family of inserted lesions."""


@dataclass(frozen=True)
class Plan:
    """All the work of a study."""

    cohort: Manifest
    rows: tuple[Row, ...]
    targets: tuple[Target, ...]
    reference: str
    left_out: dict[str, str] = field(default_factory=dict)
    """Incompatible pairs of method and score, and why."""

    @property
    def units(self) -> list[Unit]:
        """Units to measure, each once, members before their ensembles."""
        return list({unit.key: unit for row in self.rows for unit in row.units}.values())

    @property
    def trainings(self) -> list[Training]:
        """Networks to train, each once."""
        needed = [unit.training for unit in self.units if unit.training]
        return list({training.key: training for training in needed}.values())


def make_plan(study: StudyConfig, *, checksum: Checksum = sha256) -> Plan:
    """Plan the work of a study; nothing is written.

    Parameters
    ----------
    study
        As read from its file.
    checksum
        The SHA-256 of a file; a cached one need not read known files.

    Raises
    ------
    MedvaeError
        If the manifest cannot be used, rows share a name, or an ensemble or the reference names no row. An unreadable
        config becomes a row with its problem.
    """
    cohort = read_manifest(study.resolve(study.manifest))
    for split in ("train", "validation"):
        if not cohort.of_split(split, healthy=True):
            raise MedvaeError(f"{cohort.path}: has no healthy {split} scan; a benchmark needs both kinds.")
    healthy = [
        _scan_key(cohort, case, checksum) for s in ("train", "validation") for case in cohort.of_split(s, healthy=True)
    ]
    scans = _digest(healthy)

    rows: list[Row] = []
    left_out: dict[str, str] = {}
    first: Config | None = None
    for method in study.methods:
        found, config = _method_rows(study, method, scans, left_out)
        first = first or config
        rows += found
    _every_score_is_of_use(study, rows, left_out)
    rows += _baseline_rows(study, cohort, first, scans, {row.name for row in rows})
    rows += _ensemble_rows(study, rows)
    names = [row.name for row in rows]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise MedvaeError(f'{study.path}: two rows are called "{twice}". Give one of the methods another name.')
    reference = study.reference or ("normative_baseline" if "normative_baseline" in names else names[0])
    if reference not in names:
        raise MedvaeError(f'{study.path}: reference "{reference}" is no row; there are {", ".join(names)}.')
    return Plan(cohort, tuple(rows), tuple(_targets(study, cohort, checksum)), reference, left_out)


def _method_rows(
    study: StudyConfig, method: Method, scans: str, left_out: dict[str, str]
) -> tuple[list[Row], Config | None]:
    if method.detector is not None:
        return _detector_rows(study, method, method.detector)
    name = method.label
    try:
        config = read_config(study.resolve(method.source), list(method.overrides))
    except MedvaeError as error:
        return [Row(name, "method", problem=str(error))], None
    name = method.name or config.name
    variants = [(s.label, s.changes) for s in study.scores if method.scores is None or s.label in method.scores]
    rows = []
    for label, changes in variants or [("", {})]:
        row = f"{name}-{label}" if label else name
        content = config.model_dump() | {"name": row}
        content["score"] = config.score.model_dump() | changes
        if study.postprocessing is not None:
            content["postprocessing"] = study.postprocessing.model_dump()
        try:
            made = parse(Config, content, f"{study.path}: {row}")
        except MedvaeError as error:
            left_out[row] = str(error)
            continue
        seeds = (method.seeds or study.seeds) if config.network else (config.seed,)
        rows.append(Row(row, "method", tuple(_unit(row, name, made, seed, scans) for seed in seeds)))
    return rows, config


def _detector_rows(study: StudyConfig, method: Method, detector: str) -> tuple[list[Row], Config | None]:
    path = study.resolve(detector)
    try:
        folder = find_detector(path if path.exists() else detector)
        shared, _ = read_calibrated(folder)
    except MedvaeError as error:
        return [Row(method.label, "method", problem=str(error))], None
    config = Config.model_validate(shared["config"])
    name = method.name or config.name
    key = _digest({"detector": shared["fingerprint"]})
    return [Row(name, "method", (Unit(name, None, config, key, detector=folder),))], config


def _every_score_is_of_use(study: StudyConfig, rows: list[Row], left_out: dict[str, str]) -> None:
    """Refuse a study with a score that no method can compute: that is a mistake, not a choice."""
    for label in (score.label for score in study.scores):
        reasons = [reason for row, reason in left_out.items() if row.endswith(f"-{label}")]
        if reasons and not any(row.name.endswith(f"-{label}") for row in rows):
            raise MedvaeError(f'{study.path}: no method can make the score "{label}":\n{reasons[0]}')


def _unit(row: str, method: str, config: Config, seed: int, scans: str) -> Unit:
    seeded = config.model_copy(update={"seed": seed})
    later = seeded.model_dump(mode="json", include=AFTER_TRAINING - {"name"})
    if config.network is None:
        made_of = {"scans": scans, "preparation": config.preparation.model_dump(mode="json"), **later}
        return Unit(row, None, seeded, _digest(made_of))
    key = _digest({"scans": scans, "config": seeded.model_dump(mode="json", exclude=AFTER_TRAINING)})
    return Unit(row, seed, seeded, _digest({"training": key, **later}), Training(method, seeded, key))


def _baseline_rows(
    study: StudyConfig, cohort: Manifest, first: Config | None, scans: str, there: set[str]
) -> list[Row]:
    if study.baselines is False:
        return []
    polarity = polarity_of(list(cohort.modality.values())) if study.baselines is True else study.baselines
    rows = []
    for name in BASELINES:
        if name not in there:
            config = baseline_config(name, polarity, first)
            if study.postprocessing is not None:
                config = config.model_copy(update={"postprocessing": study.postprocessing})
            rows.append(Row(name, "baseline", (_unit(name, name, config, config.seed, scans),)))
    return rows


def _ensemble_rows(study: StudyConfig, rows: list[Row]) -> list[Row]:
    named = {row.name: row for row in rows}
    wanted = study.ensembles.seeds
    if not isinstance(wanted, tuple):
        wanted = tuple(row.name for row in rows if len(row.units) > 1) if wanted else ()
    found = []
    for name in wanted:
        row, ensemble = _row(named, name, study), f"{name}-seeds"
        if len(row.units) < 2:
            problem = row.problem or f"{name} has {len(row.units)} seed: there is nothing to average."
            found.append(Row(ensemble, "ensemble", problem=problem))
        else:
            found.append(Row(ensemble, "ensemble", (_mean(ensemble, None, row.units),)))
    for ensemble, names in study.ensembles.methods.items():
        members = [_row(named, name, study) for name in names]
        broken = next((row for row in members if not row.units), None)
        if broken is not None:
            found.append(Row(ensemble, "ensemble", problem=f"{broken.name} is not there: {broken.problem}"))
            continue
        seeds = [{unit.seed for unit in row.units if unit.seed is not None} for row in members]
        seeds = [numbers for numbers in seeds if numbers]
        common: list[int | None] = [*sorted(set.intersection(*seeds))] if seeds else [None]
        units = [
            _mean(ensemble, seed, tuple(next(u for u in row.units if u.seed in (seed, None)) for row in members))
            for seed in common
        ]
        problem = "" if units else f"{', '.join(names)} have no seed in common."
        found.append(Row(ensemble, "ensemble", tuple(units), problem))
    return found


def _row(named: dict[str, Row], name: str, study: StudyConfig) -> Row:
    if name not in named:
        raise MedvaeError(f'{study.path}: ensembles: "{name}" is no row; there are {", ".join(named)}.')
    return named[name]


def _mean(row: str, seed: int | None, members: tuple[Unit, ...]) -> Unit:
    config = members[0].config.model_copy(update={"name": row})
    return Unit(row, seed, config, _digest({"mean of": [unit.key for unit in members]}), members=members)


def _targets(study: StudyConfig, cohort: Manifest, checksum: Checksum) -> Iterable[Target]:
    cases = [case for case in cohort.of_split(study.split) if not case.unlabelled]
    rule = {"resamples": study.resamples, "overlap": OVERLAP, "smallest_ml": SMALLEST_ML, "split": study.split}
    scans = [[case.id, case.subject_id, *_scan_key(cohort, case, checksum)] for case in cases]
    ill = study.split == "test" and any(not case.healthy for case in cases)
    if ill:
        regions = [*(cohort.label_values or {}).values()][:1]
        yield Target("patients", _digest({"scans": scans, "lesion": regions, **rule}))
    if study.inserted:
        options = study.inserted.model_dump(exclude={"families", "shapes", "sizes"}) | {"medvae": __version__}
        healthy = [scan for scan, case in zip(scans, cases, strict=True) if case.healthy]
        if not healthy:
            raise MedvaeError(f"{cohort.path}: has no healthy {study.split} scan to insert lesions into.")
        for family in study.inserted.families:
            made: dict[str, object]
            if family == "ms":
                name, made = "inserted", {"shapes": _library(study, study.inserted.shapes or "", checksum)}
            else:
                name, made = f"inserted_{family}", {"family": family, "sizes": study.inserted.sizes}
            yield Target(name, _digest({"healthy": healthy, "inserted": options | made, **rule}), family)
    elif not ill:
        raise MedvaeError(
            f"{cohort.path}: has no test scan with a lesion label, so there is nothing to find. Add some, or insert "
            f"lesions into the healthy ones with inserted: in {study.path}."
        )


def _library(study: StudyConfig, file: str, checksum: Checksum) -> str:
    shapes = study.resolve(file)
    if not shapes.is_file():
        raise MedvaeError(f"{study.path}: inserted.shapes: {shapes} does not exist. Paths are relative to the study.")
    return checksum(shapes)


def _scan_key(cohort: Manifest, case: Case, checksum: Checksum) -> list[str]:
    files = [*cohort.images(case), *(cohort.resolve(f) for f in (case.mask, case.label) if f)]
    return [case.id, *(checksum(file) for file in files)]


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]
