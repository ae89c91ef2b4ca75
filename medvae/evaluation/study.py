"""A folder of anomaly maps, of medvae or of any other tool, against the truth of a manifest.

Conventions: AP, AUROC and Dice are taken over the brain voxels of cases with a lesion label, pooled, and per case; the
realised false-positive rate over the brain voxels of healthy cases. The brain is the manifest's mask, or the nonzero
region of the skull-stripped scan. Everything is measured on the scan's own grid. A lesion case without a map counts as
a scan in which nothing was found: a method is not rewarded for the scans it fails on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from medvae.derivatives import MAP_SUFFIX
from medvae.errors import MedvaeError
from medvae.evaluation.bootstrap import FEW_SUBJECTS, RESAMPLES, Interval, paired_difference
from medvae.evaluation.case import MASK, CaseResult, measure_case
from medvae.evaluation.curves import SparseCounts
from medvae.evaluation.free_response import free_response as free_response_of
from medvae.evaluation.free_response import thresholds_of
from medvae.evaluation.lesions import OVERLAP, SMALLEST_ML
from medvae.evaluation.maps import CaseVoxels, find_maps, lesion_regions, lesion_truth, read_case
from medvae.evaluation.points import (
    Point,
    PointResult,
    given_points,
    own_masks,
    point_result,
    recorded_points,
    validation_points,
)
from medvae.evaluation.pooling import (
    all_voxel_numbers,
    brats_numbers,
    per_case_summary,
    pooled_intervals,
    pooled_numbers,
    protocol_numbers,
    scan_numbers,
    subjects,
)
from medvae.evaluation.protocols import as_measured, named_protocol
from medvae.evaluation.writing import write_study
from medvae.manifest import Case, Manifest
from medvae.progress import Progress

__all__ = ["PointResult", "Study", "difference", "evaluate", "lesion_truth", "write_study"]

PATTERN = f"{{id}}{MAP_SUFFIX}"
"""Name of a case's map, as medvae writes it."""


@dataclass(frozen=True)
class Study:
    """The numbers of one method on one cohort."""

    method: str
    cohort: str
    pooled: dict[str, float]
    """Over the voxels of the cases that the protocol pools, with the numbers of cases and subjects."""
    operating_points: list[PointResult]
    per_case: list[dict[str, Any]]
    missing: list[str] = field(default_factory=list)
    """Cases without a prediction: failures of the method."""
    intervals: dict[str, Interval] = field(default_factory=dict)
    """95 % over subjects, of the pooled numbers and of each operating point's."""
    per_case_summary: dict[str, dict[str, float]] = field(default_factory=dict)
    """Mean, SD and number over the lesion cases in which the number exists."""
    case_level: dict[str, Any] = field(default_factory=dict)
    """Lesion scans against healthy scans, one score per scan."""
    all_voxels: dict[str, float] = field(default_factory=dict)
    """AP and AUROC over the brain voxels of all cases, healthy ones too, as the MOOD challenge pools them."""
    brats: list[dict[str, Any]] = field(default_factory=list)
    """Lesion-wise Dice and HD95 of each region at each operating point, where the protocol asks for them."""
    free_response: dict[str, Any] = field(default_factory=dict)
    """Lesions found at numbers of false findings per scan, where it was asked for."""
    notes: list[str] = field(default_factory=list)
    """What a reader of the numbers should know."""
    settings: dict[str, Any] = field(default_factory=dict)
    """How it was measured."""
    counts: list[tuple[str, str, SparseCounts]] = field(default_factory=list, repr=False)
    """Case, subject and voxel counts of each case that is pooled, to compare methods; not written to disk."""


def evaluate(
    predictions: Path | str,
    manifest: Manifest,
    *,
    splits: Sequence[str] = ("test",),
    method: str | None = None,
    pattern: str = PATTERN,
    thresholds: Sequence[float] = (),
    resampled: bool = False,
    overlap: float = OVERLAP,
    smallest_ml: float = SMALLEST_ML,
    resamples: int = RESAMPLES,
    protocol: str = "medvae",
    free_response: bool = False,
    masks: bool = True,
    quiet: bool = True,
) -> Study:
    """Measure the anomaly maps of a folder against a manifest's labels.

    Parameters
    ----------
    predictions
        Folder of maps, any real-valued score, higher where it is more abnormal. Operating points are read from the
        sidecars that medvae writes; without them they are set at FPR 1 % and 5 % on the maps of the manifest's healthy
        validation cases, if the folder holds any.
    manifest
        Cases with labels are lesion cases, cases without are healthy; cases said to be unlabelled are left out.
    splits
        Which splits to measure.
    method
        Name in tables; from the sidecars, or the folder, by default.
    pattern
        Name of a map in the folder; ``{id}`` stands for the case.
    thresholds
        Further operating points: voxels above such a score are flagged.
    resampled
        Bring maps on another grid onto their scan's. Otherwise they are refused.
    overlap, smallest_ml
        When a lesion counts as found, and as a lesion; see `medvae.evaluation.lesions.match_lesions`.
    resamples
        Of the bootstrap over subjects.
    protocol
        Whose conventions to follow, by name; see `medvae.evaluation.protocols`.
    free_response
        Also count lesions and false findings at 40 levels of confidence, see `medvae.evaluation.free_response`: each
        map is read twice.
    masks
        Also measure the lesion masks that medvae has written beside its maps, where they were post-processed, as the
        operating point `medvae.evaluation.case.MASK`.
    quiet
        No progress display.

    Raises
    ------
    MedvaeError
        If there is no such protocol, or no prediction; or naming each of them, for maps on another grid than their
        scan, maps that are not finite in the brain, and labels that the manifest does not know.
    """
    folder, rules = Path(predictions), named_protocol(protocol)
    cases = [case for case in manifest.cases if case.split in splits and not case.unlabelled]
    if folder.is_dir() and not cases:
        raise MedvaeError(f"{manifest.path}: has no labelled or healthy case in split {', '.join(splits)}.")
    files = find_maps(folder, manifest, cases, pattern, resampled=resampled or rules.zeros_for_failures)
    points, found_method, notes = _points(
        folder, manifest, files, pattern, thresholds, splits, resampled=resampled, set_here=rules.operating_points
    )

    flagged = own_masks(files) if masks and rules.operating_points else {}
    if flagged:
        points = [*points, Point(MASK, math.nan, math.nan)]

    def read(case: Case) -> CaseVoxels:
        reading = {"everywhere": rules.whole_volume, "zeros_for_failures": rules.zeros_for_failures}
        found = read_case(manifest, case, files[case.id], mask=flagged.get(case.id), resampled=resampled, **reading)
        return as_measured(found, rules)

    results, problems = [], []
    with Progress("Measuring", len(cases), quiet=quiet) as progress:
        for done, case in enumerate(cases, start=1):
            file = files[case.id]
            if file is not None or not case.healthy or rules.zeros_for_failures:
                try:
                    voxels = read(case)
                    regions = lesion_regions(manifest, case) if rules.brats_lesions and case.label else None
                except MedvaeError as error:
                    problems.append(str(error))
                    continue
                named = {point.name: point.threshold for point in points}
                rule = {"overlap": overlap, "smallest_ml": smallest_ml}
                results.append(measure_case(case, voxels, named, missing=file is None, regions=regions, **rule))
                notes.extend(voxels.notes)
            progress.update(done, case=case.id)
    if problems:
        raise MedvaeError("\n".join(problems))

    ill = [result for result in results if not result.row["healthy"]]
    well = [result for result in results if result.row["healthy"]]
    missing = [case.id for case in cases if files[case.id] is None]
    notes += _cohort_notes(ill, well)
    pool = results if rules.healthy_pooled else ill
    pooled = pooled_numbers(ill, well, missing, pool)
    if pooled.get("oracle_dice", math.nan) > 0:
        pooled |= protocol_numbers(rules, pool, lambda id_: read(manifest.case(id_)))
    response: dict[str, Any] = {}
    if free_response:
        with_map = [case for case in cases if files[case.id] is not None or not case.healthy]
        steps = thresholds_of(SparseCounts.merged([result.counts for result in results]))
        rule = {
            "overlap": overlap,
            "smallest_ml": smallest_ml,
            "findings_above": points[0].threshold if points else math.inf,
        }
        response = free_response_of(map(read, with_map), steps, **rule)
    brats, brats_intervals = brats_numbers(ill, points, resamples)
    return Study(
        method=method or found_method or folder.name,
        cohort=manifest.name,
        pooled=pooled,
        operating_points=[point_result(point, ill, well) for point in points],
        per_case=[result.row for result in results],
        missing=missing,
        intervals=pooled_intervals(ill, well, points, resamples, pool) | brats_intervals,
        per_case_summary=per_case_summary(ill),
        case_level=scan_numbers(results, resamples),
        all_voxels=all_voxel_numbers(results),
        brats=brats,
        free_response=response,
        notes=notes,
        settings={
            "splits": list(splits), "pattern": pattern, "resampled": resampled, "lesion_overlap": overlap,
            "smallest_lesion_ml": smallest_ml, "resamples": resamples,
            "protocol": {name: value for name, value in asdict(rules).items() if value is not None},
        },
        counts=[(result.row["id"], result.row["subject"], result.counts) for result in pool],
    )  # fmt: skip


def difference(study: Study, other: Study, *, resamples: int = RESAMPLES) -> dict[str, Interval]:
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
    return paired_difference(a, b, resamples=resamples)


def _points(
    folder: Path,
    manifest: Manifest,
    files: dict[str, Path | None],
    pattern: str,
    thresholds: Sequence[float],
    splits: Sequence[str],
    *,
    resampled: bool,
    set_here: bool,
) -> tuple[list[Point], str | None, list[str]]:
    """Operating points, the method's name if a sidecar says it, and notes; unless ``set_here``, only those given."""
    points, method, notes = None, None, []
    for file in filter(None, files.values()):
        found, name = recorded_points(file)
        if points is not None and found != points:
            raise MedvaeError(f"{file}: has other operating points than the maps before it: two detectors are mixed.")
        points, method = found, method or name
    if not set_here:
        return given_points(thresholds), method, []
    if not points:
        points = validation_points(folder, manifest, pattern, resampled=resampled)
        if points and "validation" in splits:
            notes.append("Thresholds were set on the healthy validation maps that are measured here too.")
        if not points and not thresholds:
            notes.append(
                f"No operating points: {folder} holds no map of a healthy validation case of {manifest.path} to set "
                f"them on, and test lesions must not. Predict those cases into the folder too, or give --threshold."
            )
    return [*points, *given_points(thresholds)], method, notes


def _cohort_notes(ill: Sequence[CaseResult], well: Sequence[CaseResult]) -> list[str]:
    notes = []
    n = len(subjects(ill))
    if 0 < n < FEW_SUBJECTS:
        notes.append(f"{n} subject{'s' * (n > 1)} with a lesion label: an interval over so few means little.")
    if not ill:
        notes.append("No case with a lesion label: there is no AP, AUROC or Dice.")
    if not well:
        notes.append("No healthy case: there is no realised false-positive rate and no case-level number.")
    return notes
