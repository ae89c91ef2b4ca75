"""Run a study: train, calibrate, predict, measure; finished work is kept and skipped the next time.

``OUT/prepared/``                    the scans on the standard grid, as ``medvae prepare`` keeps them
``OUT/runs/NAME-seedN-KEY/``         a training, as ``medvae train`` writes it; shared by all scores of the method
``OUT/detectors/NAME-seedN-KEY/``    a calibrated detector: ``medvae predict`` takes it
``OUT/maps/NAME-seedN-KEY/``         overlays; removed once measured, unless ``keep_maps``
``OUT/measured/TARGET/NAME-seedN-KEY/``   its numbers, as ``medvae evaluate`` writes them
``OUT/inserted/``, ``inserted_FAMILY/``  the scans with inserted lesions
"""

from __future__ import annotations

import math
import shutil
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from medvae.benchmark.board import Board, Outcome
from medvae.benchmark.cohorts import combine
from medvae.benchmark.plan import Plan, Target, Training, Unit, make_plan
from medvae.benchmark.statistics import Measured
from medvae.benchmark.store import keep, recall
from medvae.benchmark.study import POSTPROCESSED, StudyConfig
from medvae.config import read_config
from medvae.detection.base import Calibrated
from medvae.detection.detector import Detector
from medvae.detection.ensemble import Ensemble, load_detector
from medvae.detection.stored import CALIBRATION
from medvae.devices import AUTO, find_device
from medvae.errors import MedvaeError
from medvae.evaluation.options import EvaluationOptions
from medvae.evaluation.result import MASK, Quantity, Study
from medvae.evaluation.study import evaluate
from medvae.files import sha256, write_json, write_text
from medvae.fitting import fit
from medvae.jobs import Workers, WorkersLost
from medvae.lesions import insert_cohort, read_shapes
from medvae.manifest import Manifest, read_manifest
from medvae.prediction import Scan, predict, scans_of_manifest
from medvae.preparation.cache import known_sha256, open_cache
from medvae.preparation.prepare import prepare_healthy, prepare_scan, prepare_training
from medvae.schema import read_document
from medvae.terminal import plain_console, printable
from medvae.training.loop import WEIGHTS
from medvae.training.run_folder import CONFIG, one_at_a_time

Number = TypeVar("Number")


@dataclass(frozen=True)
class Bench:
    """The workspace of a study."""

    study: StudyConfig
    plan: Plan
    out: Path
    cache: Path
    quiet: bool
    device: str = AUTO
    jobs: int | Workers = 1
    """Scans that are predicted or measured at a time, or who does that."""
    targets: dict[str, Manifest] = field(default_factory=dict)

    def folder(self, room: str, label: str, key: str) -> Path:
        """The folder of a key in a subfolder, under whatever label it was made."""
        known = sorted((self.out / room).glob(f"*-{key}"))
        return known[0] if known else self.out / room / f"{label}-{key}"

    def measured(self, target: Target, unit: Unit, *, postprocessed: bool = False) -> Path:
        """Folder of the numbers of a detector."""
        key = f"{unit.key}-{target.key}" + "-post" * postprocessed
        return self.folder(f"measured/{target.name}", unit.label, key)

    def done(self, target: Target, unit: Unit) -> bool:
        """Whether a detector was measured on a target, including its masks if they are post-processed."""
        wanted = [self.measured(target, unit)]
        if unit.postprocessed:
            wanted.append(self.measured(target, unit, postprocessed=True))
        return all(folder.is_dir() for folder in wanted)

    def todo(self) -> str:
        """Summary of the total and the finished work."""
        units, trainings = self.plan.units, self.plan.trainings
        measured = sum(self.done(target, unit) for unit in units for target in self.plan.targets)
        return (
            f"{len(trainings)} trainings ({sum(map(self.trained, trainings))} done), {len(units)} detectors on "
            f"{len(self.plan.targets)} target(s) ({measured} of {len(units) * len(self.plan.targets)} measured)"
        )

    def run(self, training: Training) -> Path:
        """The folder of a training."""
        return self.folder("runs", training.label, training.key)

    def trained(self, training: Training) -> bool:
        """Whether a network is finished."""
        return (self.run(training) / WEIGHTS).is_file()

    def begun(self, training: Training) -> bool:
        """Whether a training was interrupted."""
        return (self.run(training) / CONFIG).is_file() and not self.trained(training)


def run_study(
    study: StudyConfig,
    out: Path | str,
    *,
    cache: Path | None = None,
    device: str = AUTO,
    jobs: int | Workers = 1,
    quiet: bool = False,
) -> Board:
    """Do the remaining work of a study, and collect all its numbers.

    A failure becomes a failed row and the rest continues; it is retried the next time.

    Parameters
    ----------
    study
        As read from its file.
    out
        Folder of the study, new or to be continued.
    cache
        Folder of prepared scans; ``out/prepared`` by default.
    device
        Device of the networks, as in `medvae.devices.find_device`; not part of the keys.
    jobs
        Scans that are predicted or measured at a time, each in a process of one thread, or workers elsewhere; not
        part of the keys.
    quiet
        No progress display.

    Raises
    ------
    MedvaeError
        If the study or its cohort cannot be used at all, another process is working on it in ``out``, or there is no
        such device.
    KeyboardInterrupt
        After Ctrl-C: finished work is kept, a training leaves its checkpoint.
    """
    out = Path(out)
    find_device(device)
    with one_at_a_time(out):
        return _run(replace(open_bench(study, out, cache=cache, quiet=quiet), device=device, jobs=jobs))


def _run(bench: Bench) -> Board:
    """As `run_study`, in a folder that is kept for it."""
    out, quiet = bench.out, bench.quiet
    console = plain_console(stderr=True, quiet=quiet)
    bench.targets.update(_make_targets(bench))
    units = bench.plan.units
    failures: dict[str, str] = {}
    for number, unit in enumerate(units, start=1):
        pending = [target for target in bench.plan.targets if not bench.done(target, unit)]
        if not pending:
            continue
        console.print(f"{number} of {len(units)}: {unit.label}", soft_wrap=True)
        try:
            broken = next((member.label for member in unit.members if member.key in failures), None)
            if broken:
                raise MedvaeError(f"its member {broken} failed.")
            _measure(bench, unit, pending)
        except WorkersLost:
            raise
        except Exception as error:  # one method must not end a night's work
            failures[unit.key] = _told(error, out / "failures" / f"{unit.label}.txt")
            console.print(f"  failed: {printable(failures[unit.key])}", soft_wrap=True)
    return _gather(bench, failures)


def state_rows(bench: Bench) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the progress of each row."""
    header = ["row", "kind", "seeds", "trained", *(f"measured: {target.name}" for target in bench.plan.targets)]
    rows = []
    for row in bench.plan.rows:
        if row.problem:
            rows.append([row.name, row.kind, "–", "–", *("cannot be done" for _ in bench.plan.targets)])
            continue
        trainings = [unit.training for unit in row.units if unit.training]
        seeds = ", ".join(str(unit.seed) for unit in row.units if unit.seed is not None) or "–"
        begun = sum(map(bench.begun, trainings))
        trained = f"{sum(map(bench.trained, trainings))} of {len(trainings)}" if trainings else "–"
        trained += f", {begun} begun" * (begun > 0)
        done = [f"{sum(bench.done(t, unit) for unit in row.units)} of {len(row.units)}" for t in bench.plan.targets]
        rows.append([row.name, row.kind, seeds, trained, *done])
    return header, rows


def open_bench(
    study: StudyConfig, out: Path, *, cache: Path | None = None, quiet: bool = False, writing: bool = True
) -> Bench:
    """The plan of a study and its workspace; with ``writing=False`` nothing is written.

    Raises
    ------
    MedvaeError
        If the study cannot be used, or ``out`` holds other results.
    """
    results = out / "results.json"
    if results.is_file() and "study" not in read_document(results):
        raise MedvaeError(f"{results}: is of no benchmark, and would be overwritten. Choose another --out folder.")
    cache = cache or out / "prepared"
    checksum = partial(known_sha256, cache=open_cache(cache)) if writing else sha256
    return Bench(study, make_plan(study, checksum=checksum), out, cache, quiet)


def _told(error: Exception, report: Path) -> str:
    if isinstance(error, MedvaeError):
        return str(error)
    write_text(report, "".join(traceback.format_exception(error)))
    return f"{type(error).__name__}: {error} (see {report})"


def _make_targets(bench: Bench) -> dict[str, Manifest]:
    """Lesion and healthy cases of each target; missing inserted lesions are made."""
    found, cohort, study = {}, bench.plan.cohort, bench.study
    for target in bench.plan.targets:
        options, family = study.inserted, target.family
        if options is None or family is None:  # the lesions of the manifest
            found[target.name] = cohort
            continue
        folder = bench.out / target.name
        record = {"key": target.key}
        marker, manifest = folder / "made.json", folder / "with_healthy.json"
        if not (marker.is_file() and manifest.is_file() and read_document(marker) == record):
            plain_console(stderr=True, quiet=bench.quiet).print(f"Inserting lesions: {family}")
            marker.unlink(missing_ok=True)
            inserted = insert_cohort(
                cohort, folder, shapes=read_shapes(study.resolve(options.shapes)) if options.shapes else None,
                seed=options.seed, repeats=options.repeats, split=options.split, family=family,
                sizes=options.sizes,
            )  # fmt: skip
            healthy = cohort.of_split(options.split, healthy=True)
            combine(manifest, inserted.name, [(inserted, inserted.cases), (cohort, healthy)])
            write_json(marker, record)
        found[target.name] = read_manifest(manifest)
    return found


def _measure(bench: Bench, unit: Unit, targets: list[Target]) -> None:
    """Numbers of one detector on the targets that lack them."""
    detector = _detector(bench, unit)
    maps = bench.folder("maps", unit.label, unit.key)
    scans = _scans(bench, targets)
    _, failures = predict(
        detector, list(scans.values()), maps, cache=bench.cache, overwrite=True, jobs=bench.jobs, quiet=bench.quiet
    )  # of a study that was stopped and has changed since, its own maps may be left
    if failures:
        raise MedvaeError("\n".join(failures.values()))
    seconds = _time(detector, next(iter(scans.values())), bench.cache)
    for target in targets:
        options = EvaluationOptions(splits=(bench.study.split,), resamples=bench.study.resamples)
        study = evaluate(maps, bench.targets[target.name], options, method=unit.row, jobs=bench.jobs, quiet=bench.quiet)
        if unit.postprocessed:
            keep(Measured.of(of_masks(study, detector), seconds), bench.measured(target, unit, postprocessed=True))
        keep(Measured.of(of_maps(study), seconds), bench.measured(target, unit))
    if not bench.study.keep_maps:
        shutil.rmtree(maps, ignore_errors=True)


def of_maps(study: Study) -> Study:
    """A study without the numbers of post-processed masks."""
    return _at(study, {point.name: point.name for point in study.operating_points if point.name != MASK})


def of_masks(study: Study, detector: Calibrated) -> Study:
    """A study with the numbers of post-processed masks, at the operating point they were made for only.

    Threshold-free numbers (AP, AUROC, ⌈Dice⌉) stay those of the map. If post-processing changes nothing, there are no
    masks to measure, and they have the map's numbers at that operating point.
    """
    wanted = detector.point(detector.config.calibration.mask_at)
    found = _at(study, {MASK if study.point(MASK) else wanted.name: wanted.name})
    rate = wanted.false_positive_rate
    asked = rate if wanted.kind == "voxel_rate" and rate is not None else math.nan
    threshold = detector.map_threshold(wanted)
    points = [replace(point, asked_fpr=asked, threshold=threshold) for point in found.operating_points]
    return replace(found, operating_points=points, method=study.method + POSTPROCESSED)


def _at(study: Study, names: Mapping[str, str]) -> Study:
    """A study with the numbers of only some operating points, under new names."""

    def chosen(numbers: Mapping[Quantity, Number]) -> dict[Quantity, Number]:
        return {
            quantity if quantity.point is None else quantity.at(names[quantity.point]): number
            for quantity, number in numbers.items()
            if quantity.point is None or quantity.point in names
        }

    return replace(
        study,
        operating_points=[replace(p, name=names[p.name]) for p in study.operating_points if p.name in names],
        intervals=chosen(study.intervals),
        per_case=[replace(case, numbers=chosen(case.numbers)) for case in study.per_case],
        per_case_summary=chosen(study.per_case_summary),
    )


def _scans(bench: Bench, targets: list[Target]) -> dict[str, Scan]:
    """Scans of all targets by id; healthy ones, shared by targets, once."""
    split = bench.study.split
    manifests = [bench.targets[target.name] for target in targets]
    return {
        scan.id: scan
        for manifest in manifests
        for scan in scans_of_manifest(manifest, (split,))
        if not manifest.case(scan.id).unlabelled
    }


def _time(detector: Calibrated, scan: Scan, cache: Path) -> float:
    """Seconds to score one prepared scan."""
    volume = prepare_scan(scan.images, detector.config.preparation, mask=scan.mask, scale=detector.scale, cache=cache)
    started = time.perf_counter()
    detector.score(volume)
    return round(time.perf_counter() - started, 3)


def _detector(bench: Bench, unit: Unit) -> Calibrated:
    """The calibrated detector of a unit, loaded if it exists."""
    if unit.detector:
        return load_detector(unit.detector, device=bench.device)
    folder = bench.folder("detectors", unit.label, unit.key)
    if (folder / CALIBRATION).is_file():
        return load_detector(folder, device=bench.device)
    config, cohort = unit.config, bench.plan.cohort
    people = [case.subject_id for case in cohort.of_split("validation", healthy=True)]
    cache, quiet = bench.cache, bench.quiet
    if unit.members:
        members = {member.label: _member(bench, member) for member in unit.members}
        first = next(iter(members.values()))
        validation = prepare_healthy(
            cohort, "validation", config.preparation, scale=first.scale, cache=cache, quiet=quiet
        )
        return Ensemble.calibrate(config.name, members, validation, people).save(folder)
    network = None
    if unit.training:
        fitted = _fit(bench, unit.training)
        if fitted.config.model_copy(update={"name": config.name}) == config:
            return replace(fitted, config=config).save(folder)
        network = fitted.network
    training, scale = prepare_training(cohort, config.preparation, cache=cache, quiet=quiet)
    validation = prepare_healthy(cohort, "validation", config.preparation, scale=scale, cache=cache, quiet=quiet)
    return Detector.calibrate(
        config, network, training, validation, scale=scale, subjects=people, device=bench.device
    ).save(folder)


def _member(bench: Bench, unit: Unit) -> Detector:
    """The calibrated detector of a unit that an ensemble averages."""
    detector = _detector(bench, unit)
    if not isinstance(detector, Detector):
        raise MedvaeError(f"{unit.label}: is an ensemble itself; an ensemble averages single detectors. Name those.")
    return detector


def _fit(bench: Bench, training: Training) -> Detector:
    """A trained run; an interrupted one continues with its original config, whose network is the same."""
    run = bench.run(training)
    begun = run / CONFIG
    config = read_config(begun) if begun.is_file() else training.config
    return fit(config, bench.plan.cohort, run, cache=bench.cache, resume=True, device=bench.device, quiet=bench.quiet)


def _gather(bench: Bench, failures: dict[str, str]) -> Board:
    outcomes = []
    for target in bench.plan.targets:
        for row in bench.plan.rows:
            if row.problem:
                outcomes.append(Outcome(target.name, row.name, row.kind, problems=(row.problem,)))
                continue
            problems = tuple(f"{u.label}: {failures[u.key]}" for u in row.units if u.key in failures)
            good = [unit for unit in row.units if unit.key not in failures]
            for postprocessed in (False, True):
                if postprocessed and not row.units[0].postprocessed:
                    continue
                measured = tuple(recall(bench.measured(target, unit, postprocessed=postprocessed)) for unit in good)
                name = row.name + POSTPROCESSED * postprocessed
                labels = tuple(unit.label for unit in good)
                outcomes.append(Outcome(target.name, name, row.kind, measured, labels, problems))
    titles = {name: manifest.name for name, manifest in bench.targets.items()}
    return Board(bench.study, titles, tuple(outcomes), bench.plan.reference, bench.plan.left_out)
