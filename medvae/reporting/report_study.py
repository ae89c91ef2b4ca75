"""The numbers of a report: measured against a manifest, or those that `medvae evaluate` wrote."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from medvae.errors import MedvaeError
from medvae.evaluation.bootstrap import Interval
from medvae.evaluation.maps import find_maps, map_of, read_case
from medvae.evaluation.options import PATTERN, EvaluationOptions
from medvae.evaluation.result import Quantity, Study
from medvae.evaluation.study import evaluate
from medvae.evaluation.writing import read_study
from medvae.manifest import Manifest
from medvae.reporting.cases import PredictedCase


@dataclass(frozen=True)
class Measured:
    """The measured numbers of the predictions."""

    studies: list[Study] = field(default_factory=list)
    """Study of these predictions first, then of other methods on the same cases; empty if nothing is measured."""
    differences: dict[str, dict[Quantity, Interval]] = field(default_factory=dict)
    """Paired differences of the first to other methods."""
    notes: list[str] = field(default_factory=list)
    unmeasured: dict[str, str] = field(default_factory=dict)
    """Cases that could not be measured, and why."""


def read_evaluations(predicted: Sequence[PredictedCase], evaluations: Sequence[Path | str]) -> Measured:
    """Numbers from folders of `medvae evaluate`.

    Raises
    ------
    MedvaeError
        If none of them is of these predictions, it was made of other maps under these names, or one cannot be read.
    """
    ids, model = {item.id for item in predicted}, predicted[0].sidecar.get("Model")
    read = [read_study(path) for path in evaluations]
    own = next((s for s in read if s[0].method == model and ids & {case.id for case in s[0].per_case}), None)
    if own is None:
        told = ", ".join(f'"{study.method}" on "{study.cohort}"' for study, _ in read)
        raise MedvaeError(
            f"{predicted[0].predictions}: holds maps of {model}, and none of the evaluations is of them (they are of "
            f"{told}). Give the folder that medvae evaluate wrote for this one."
        )
    _require_same_maps(predicted, own[0])
    cases = {case.id for case in own[0].per_case}
    others = [study for study, _ in read if study is not own[0] and {case.id for case in study.per_case} == cases]
    notes = [
        f'The evaluation of "{study.method}" on "{study.cohort}" is of other cases and is left out.'
        for study, _ in read
        if study is not own[0] and all(study is not other for other in others)
    ]
    return Measured([own[0], *others], own[1], [*own[0].notes, *notes])


def _require_same_maps(predicted: Sequence[PredictedCase], study: Study) -> None:
    """Refuse numbers of the maps of other scans, or of another detector of the same name."""
    for item in predicted:
        known, maker = study.sources.get(item.id), item.sidecar.get("ModelFingerprint")
        other_scan = known and item.source and known != item.source.images[0]
        if other_scan or (study.maker and maker and study.maker != maker):
            of = "of another scan" if other_scan else "of another detector"
            raise MedvaeError(
                f'{item.folder}: the evaluation measured another map of "{item.id}" than the one that is there: {of}. '
                f"Run medvae evaluate on this folder again."
            )


def measure(predicted: Sequence[PredictedCase], manifest: Manifest, *, jobs: int = 1, quiet: bool) -> Measured:
    """Measure the predictions against a manifest; cases that cannot be read do not stop the others."""
    folder, known = predicted[0].predictions, [item.case for item in predicted if item.case is not None]
    if not known:
        return Measured(notes=["The manifest names none of these cases."])
    if all(case.unlabelled for case in known):
        return Measured(notes=["No case is labelled or said to be healthy, so nothing is measured."])
    options = EvaluationOptions(splits=list(dict.fromkeys(case.split for case in known)))
    unmeasured: dict[str, str] = {}
    try:
        study = evaluate(folder, manifest, options, jobs=jobs, quiet=quiet)
    except MedvaeError as error:
        unmeasured = _unreadable(folder, manifest, options.splits)
        readable = [case for case in manifest.cases if case.id not in unmeasured]
        if not any(case.split in options.splits and not case.unlabelled for case in readable):
            return Measured(notes=["No case could be measured, for the reason given at each."], unmeasured=unmeasured)
        try:
            if not unmeasured:
                raise
            study = evaluate(folder, manifest.model_copy(update={"cases": readable}), options, jobs=jobs, quiet=quiet)
        except MedvaeError as again:
            why = error if not unmeasured else again
            return Measured(notes=[f"The predictions could not be measured: {why}"], unmeasured=unmeasured)
    notes = [f"Not measured, for the reason given at each: {', '.join(unmeasured)}."] if unmeasured else []
    return Measured([study], {}, [*notes, *study.notes], unmeasured)


def _unreadable(folder: Path, manifest: Manifest, splits: Sequence[str]) -> dict[str, str]:
    """The cases that `evaluate` would refuse, and why."""
    found = {}
    for case in manifest.cases:
        map_ = map_of(folder, PATTERN, case.id)
        if case.split not in splits or case.unlabelled or (case.healthy and not map_.exists()):
            continue
        try:
            if map_.exists():
                find_maps(folder, manifest, [case], PATTERN, resampled=False)
            read_case(manifest, case, map_ if map_.exists() else None)
        except MedvaeError as error:
            found[case.id] = f"It is not measured: {error}"
    return found
