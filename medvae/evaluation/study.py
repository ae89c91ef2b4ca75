"""Evaluate a folder of anomaly maps, from medvae or any other tool, against the truth of a manifest.

Conventions: AP, AUROC and Dice are taken over the brain voxels of cases with a lesion label, pooled, and per case; the
realised false-positive rate over the brain voxels of healthy cases. The brain is the manifest's mask, or the nonzero
region of the skull-stripped scan. Everything is measured on the scan's own grid. A lesion case without a map counts as
a scan with no findings: a method is not rewarded for the scans it fails on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medvae.errors import MedvaeError
from medvae.evaluation.bootstrap import FEW_SUBJECTS, RESAMPLES, Interval, paired_difference
from medvae.evaluation.case import MeasuredCase, measure_case
from medvae.evaluation.conventions import as_measured
from medvae.evaluation.free_response import (
    CaseFindings,
    FindingRules,
    FreeResponse,
    free_response_of,
    thresholds_of,
)
from medvae.evaluation.maps import CaseVoxels, find_maps, lesion_regions, read_case, sidecar_of
from medvae.evaluation.options import EvaluationOptions
from medvae.evaluation.points import Point, given_points, own_masks, recorded_points, validation_points
from medvae.evaluation.pooling import (
    MeasuredCases,
    all_voxel_numbers,
    per_case_summary,
    point_result,
    pooled_intervals,
    pooled_numbers,
    protocol_numbers,
    region_results,
    scan_numbers,
    subjects,
)
from medvae.evaluation.protocols import Protocol, named_protocol
from medvae.evaluation.result import MASK, Quantity, Settings, Study
from medvae.jobs import Workers, shared_out
from medvae.manifest import Case, Manifest
from medvae.progress import Progress
from medvae.sources import Source


def evaluate(
    predictions: Path | str,
    manifest: Manifest,
    options: EvaluationOptions | None = None,
    *,
    method: str | None = None,
    jobs: int | Workers = 1,
    quiet: bool = True,
) -> Study:
    """Measure the anomaly maps of a folder against a manifest's labels.

    Parameters
    ----------
    predictions
        Folder of maps, any real-valued score, higher where it is more abnormal. Operating points are read from the
        sidecars of medvae; without them they are set at FPR 1 % and 5 % on the maps of the manifest's healthy
        validation cases, if the folder holds any.
    manifest
        Cases with labels are lesion cases, cases without are healthy; cases declared unlabelled are excluded.
    options
        What is measured and by which rules; by default those of `EvaluationOptions`.
    method
        Name in tables; by default from the sidecars or the folder.
    jobs
        Cases at a time; with more than one, each in a process of one thread. The numbers are the same. Or workers
        elsewhere.
    quiet
        No progress display.

    Raises
    ------
    MedvaeError
        If there is no such protocol or no prediction; and for maps on another grid than their scan, maps that are not
        finite in the brain, and labels that the manifest does not define (each is named).
    """
    job = _set_up(Path(predictions), manifest, options or EvaluationOptions(), quiet=quiet)
    cases, notes = _measure(job, jobs=jobs, quiet=quiet)
    pooled = pooled_numbers(cases, job.missing)
    if pooled.get("oracle_dice", math.nan) > 0:
        by_id = {case.id: case for case in job.cases}
        pooled |= protocol_numbers(job.rules, cases, lambda name: job.read(by_id[name]))
    regions, region_intervals = region_results(cases.ill, job.points, job.options.resamples)
    return Study(
        method=method or job.method or job.folder.name,
        cohort=manifest.name,
        pooled=pooled,
        operating_points=[point_result(point, cases) for point in job.points],
        per_case=[case.result for case in cases.every],
        missing=job.missing,
        intervals=pooled_intervals(cases, job.points, job.options.resamples) | region_intervals,
        per_case_summary=per_case_summary(cases.ill),
        case_level=scan_numbers([case.result for case in cases.every], job.options.resamples),
        all_voxels=all_voxel_numbers(cases),
        brats=regions,
        free_response=_free_response(job, cases, jobs=jobs) if job.options.free_response else None,
        notes=[*notes, *_cohort_notes(cases)],
        settings=job.settings,
        sources=_sources(job.files),
        maker=next((maker for file in job.files.values() if file and (maker := recorded_points(file)[2])), ""),
        counts=[(case.result.id, case.result.subject, case.counts) for case in cases.pool],
    )


def difference(study: Study, other: Study, *, resamples: int = RESAMPLES) -> dict[Quantity, Interval]:
    """Pooled numbers of one method minus those of another on the same cases, with paired intervals over subjects.

    Raises
    ------
    MedvaeError
        If the two were not measured on the same lesion cases, or on none.
    """
    if [case[:2] for case in study.counts] != [case[:2] for case in other.counts] or not study.counts:
        raise MedvaeError(
            f'"{study.method}" and "{other.method}" were not measured on the same lesion cases, so there is no paired '
            f"difference. Measure both against one manifest, with the same --split."
        )
    a, b = ([(subject, counts) for _, subject, counts in one.counts] for one in (study, other))
    return {Quantity(name): found for name, found in paired_difference(a, b, resamples=resamples).items()}


@dataclass(frozen=True)
class _Job:
    """What to measure: everything known before a map is read."""

    folder: Path
    manifest: Manifest
    options: EvaluationOptions
    rules: Protocol
    cases: Sequence[Case]
    files: Mapping[str, Path | None]
    """The map of each case by id."""
    masks: Mapping[str, Path]
    """The method's own masks by id, if they are measured."""
    points: Sequence[Point]
    method: str | None
    """Its name in the sidecars."""
    notes: Sequence[str]

    @property
    def missing(self) -> list[str]:
        """Cases without a map."""
        return [case.id for case in self.cases if self.files[case.id] is None]

    @property
    def measured(self) -> list[Case]:
        """The cases that count: a healthy scan without a map does not, as no findings there would be a reward."""
        return [
            case
            for case in self.cases
            if self.files[case.id] is not None or not case.healthy or self.rules.zeros_for_failures
        ]

    @property
    def settings(self) -> Settings:
        """The options as written to files."""
        return Settings(
            tuple(self.options.splits), self.options.pattern, self.options.resampled, self.options.overlap,
            self.options.smallest_ml, self.options.resamples, self.rules,
        )  # fmt: skip

    def read(self, case: Case) -> CaseVoxels:
        """A case as the protocol evaluates it."""
        found = read_case(
            self.manifest,
            case,
            self.files[case.id],
            mask=self.masks.get(case.id),
            resampled=self.options.resampled,
            everywhere=self.rules.whole_volume,
            zeros_for_failures=self.rules.zeros_for_failures,
        )
        return as_measured(found, self.rules)


def _set_up(folder: Path, manifest: Manifest, options: EvaluationOptions, *, quiet: bool) -> _Job:
    """Find cases, maps, masks and operating points; only headers and sidecars of the measured cases are read."""
    rules = named_protocol(options.protocol)
    cases = [case for case in manifest.cases if case.split in options.splits and not case.unlabelled]
    if folder.is_dir() and not cases:
        raise MedvaeError(f"{manifest.path}: has no labelled or healthy case in split {', '.join(options.splits)}.")
    resampled = options.resampled or rules.zeros_for_failures
    files = find_maps(folder, manifest, cases, options.pattern, resampled=resampled, quiet=quiet)
    points, method, notes = _points(folder, manifest, files, options, set_here=rules.operating_points)
    masks = own_masks(files) if options.masks and rules.operating_points else {}
    if masks:
        points.append(Point(MASK, math.nan, math.nan))
    return _Job(folder, manifest, options, rules, cases, files, masks, points, method, notes)


def _points(
    folder: Path, manifest: Manifest, files: Mapping[str, Path | None], options: EvaluationOptions, *, set_here: bool
) -> tuple[list[Point], str | None, list[str]]:
    """Operating points, the method's name if a sidecar has it, and notes; unless ``set_here``, only given points."""
    points, method, notes = None, None, []
    makers: dict[str, Path] = {}
    for file in filter(None, files.values()):
        found, name, maker = recorded_points(file)
        if maker is not None:
            makers.setdefault(maker, file)
        if (points is not None and found != points) or len(makers) > 1:
            raise MedvaeError(
                f"{file}: was made by another detector than the maps before it ({name or 'unknown'}, not {method}), or "
                f"has other operating points. Predict all cases with one detector into a folder of their own."
            )
        points, method = found, method or name
    if not set_here:
        return given_points(options.thresholds), method, []
    if not points:
        points = validation_points(folder, manifest, options.pattern, resampled=options.resampled)
        if points and "validation" in options.splits:
            notes.append("Thresholds were set on the healthy validation maps that are measured here too.")
        if not points and not options.thresholds:
            notes.append(
                f"No operating points: {folder} holds no map of a healthy validation case of {manifest.path} to set "
                f"them on, and test lesions must not. Predict those cases into the folder too, or give --threshold."
            )
    return [*points, *given_points(options.thresholds)], method, notes


def _measure(job: _Job, *, jobs: int | Workers, quiet: bool) -> tuple[MeasuredCases, list[str]]:
    """Measure each case; notes on cases follow those of the job."""
    measured = [(number, case) for number, case in enumerate(job.measured)]
    found: dict[int, tuple[MeasuredCase, tuple[str, ...]] | MedvaeError] = {}
    names: dict[Any, Any] = {}
    with (
        Progress("Measuring", len(measured), quiet=quiet) as progress,
        shared_out(measured, _MeasureCase(job), jobs) as results,
    ):
        for (number, case), result in results:
            if not isinstance(result, MedvaeError):
                result = result[0].with_names_of(names), result[1]
            found[number] = result
            progress.update(len(found), case=case.id)
    cases, notes, problems = [], list(job.notes), []
    for number, case in measured:
        result = found[number]
        if isinstance(result, MedvaeError):
            problems.append(_naming(case, result))
        else:
            cases.append(result[0])
            notes.extend(result[1])
    if problems:
        raise MedvaeError("\n".join(problems))
    return MeasuredCases(cases, job.rules.healthy_pooled), notes


@dataclass(frozen=True)
class _MeasureCase:
    """What is done with each case, wherever: its numbers and the notes on it."""

    job: _Job

    def __call__(self, item: tuple[int, Case]) -> tuple[MeasuredCase, tuple[str, ...]] | MedvaeError:
        job, case = self.job, item[1]
        try:
            voxels = job.read(case)
            wise = job.rules.brats_lesions and case.label
            regions = lesion_regions(job.manifest, case) if wise else None
        except MedvaeError as error:
            return error
        measured = measure_case(
            case, voxels, job.points, overlap=job.options.overlap, smallest_ml=job.options.smallest_ml,
            missing=job.files[case.id] is None, regions=regions,
        )  # fmt: skip
        return measured, voxels.notes


def _naming(case: Case, error: MedvaeError) -> str:
    """What is wrong with a case, with its name."""
    return str(error) if f'"{case.id}"' in str(error) else f'case "{case.id}": {error}'


def _sources(files: Mapping[str, Path | None]) -> dict[str, str]:
    known = {case: Source.of(sidecar_of(file), file.parent) for case, file in files.items() if file is not None}
    return {case: source.images[0] for case, source in known.items() if source is not None}


def _free_response(job: _Job, cases: MeasuredCases, *, jobs: int | Workers) -> FreeResponse:
    """Read each map again, at confidence levels set from all maps together."""
    counted = {case.result.id for case in cases.every if case.result.healthy or case.result.ill}
    with_map = [c for c in job.cases if c.id in counted and (job.files[c.id] is not None or not c.healthy)]
    rules = FindingRules(
        thresholds_of(cases.all_counts),
        job.options.overlap,
        job.options.smallest_ml,
        job.points[0].threshold if job.points else math.inf,
    )
    found = []
    with shared_out(with_map, _CountFindings(job, rules), jobs) as results:
        for case, result in results:
            if isinstance(result, MedvaeError):
                raise MedvaeError(_naming(case, result))
            found.append(result)
    return free_response_of(found, rules)


@dataclass(frozen=True)
class _CountFindings:
    job: _Job
    rules: FindingRules

    def __call__(self, case: Case) -> CaseFindings:
        return CaseFindings.of(self.job.read(case), self.rules)


def _cohort_notes(cases: MeasuredCases) -> list[str]:
    notes = []
    n = len(subjects(cases.ill))
    if 0 < n < FEW_SUBJECTS:
        notes.append(f"{n} subject{'s' * (n > 1)} with a lesion label: an interval over so few means little.")
    if not cases.ill:
        notes.append("No case with a lesion label: there is no AP, AUROC or Dice.")
    if not cases.well:
        notes.append("No healthy case: there is no realised false-positive rate and no case-level number.")
    return notes
