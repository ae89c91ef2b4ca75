"""All numbers of a study, ranked: one leaderboard per target."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from medvae.benchmark.statistics import (
    FEWEST_METHODS,
    FEWEST_PEOPLE,
    Measured,
    Ranks,
    Summary,
    paired_differences,
    per_person,
    rank,
    summarise,
)
from medvae.benchmark.study import BASELINES, CHANCE, POSTPROCESSED, StudyConfig
from medvae.evaluation.bootstrap import Interval
from medvae.evaluation.result import Quantity


@dataclass(frozen=True)
class Outcome:
    """Results of a row on a target: the numbers of its seeds, and what failed."""

    target: str
    row: str
    kind: str
    measured: tuple[Measured, ...] = ()
    labels: tuple[str, ...] = ()
    """Row and seed of each measured detector."""
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class Line:
    """A row of a leaderboard."""

    rank: int | None
    """By AP to three digits; ties share it. None for chance and for failed rows."""
    row: str
    kind: str
    seeds: int
    numbers: dict[Quantity, Summary] = field(default_factory=dict)
    differences: dict[Quantity, Interval] | None = None
    """Differences to the reference; None for the reference itself, or if there is none."""
    remarks: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()

    def value(self, metric: str, at: str | None = None, part: str | None = None) -> float:
        """The mean over seeds; NaN if undefined."""
        return self.value_of(Quantity(metric, at, part))

    def value_of(self, quantity: Quantity) -> float:
        """The mean over seeds; NaN if undefined."""
        return self.numbers[quantity].mean if quantity in self.numbers else math.nan


@dataclass(frozen=True)
class Leaderboard:
    """The rows on one target, by descending AP, failed rows last."""

    target: str
    title: str
    counts: dict[str, float]
    """Scans, subjects and prevalence; empty if every row failed."""
    points: tuple[str, ...]
    """Names of the operating points."""
    lines: tuple[Line, ...]
    reference: str
    ranks: Ranks | None
    no_ranks: str
    """Why there are no ranks."""
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Board:
    """The result of a study."""

    study: StudyConfig
    titles: dict[str, str]
    """Target to the name of its cohort."""
    outcomes: tuple[Outcome, ...]
    reference: str
    left_out: dict[str, str] = field(default_factory=dict)
    """Incompatible pairs of method and score, and why."""

    @property
    def failed(self) -> list[str]:
        """Failure messages, each once."""
        return list(dict.fromkeys(f"{one.row}: {problem}" for one in self.outcomes for problem in one.problems))

    @cached_property
    def leaderboards(self) -> list[Leaderboard]:
        """One for each target."""
        return [_leaderboard(self, target) for target in self.titles]

    def of(self, target: str) -> dict[str, Outcome]:
        """The rows that were measured on a target."""
        return {one.row: one for one in self.outcomes if one.target == target and one.measured}


def _leaderboard(board: Board, target: str) -> Leaderboard:
    outcomes = [one for one in board.outcomes if one.target == target]
    good = [one for one in outcomes if one.measured]
    reference = next((one for one in good if one.row == board.reference), None)
    baselines = {one.row: summarise(one.measured)[Quantity("ap")].mean for one in good if one.row in BASELINES}
    pooled = good[0].measured[0].study.pooled if good else {}
    prevalence = pooled.get("prevalence", math.nan)
    lines = []
    for one in good:
        numbers = summarise(one.measured)
        apart = paired_differences(one.measured, reference.measured) if reference and one is not reference else None
        remarks = _remarks(one, numbers[Quantity("ap")].mean, baselines, prevalence)
        lines.append(Line(None, one.row, one.kind, len(one.measured), numbers, apart, remarks, one.problems))
    if good:
        lines.append(_chance(prevalence))
    points = tuple(dict.fromkeys(p.name for one in good for p in one.measured[0].study.operating_points))
    first = Quantity("dice", points[0]) if points else Quantity("ap")
    lines.sort(key=lambda line: (_last(line.value("ap")), _last(line.value_of(first)), line.row))
    lines = _ranked(lines)
    lines += [Line(None, one.row, one.kind, 0, problems=one.problems) for one in outcomes if not one.measured]
    ranks, why = _ranks(good)
    notes = tuple(dict.fromkeys(note for one in good for m in one.measured for note in m.study.notes))
    return Leaderboard(
        target, board.titles[target], pooled, points, tuple(lines), board.reference, ranks, why, notes
    )  # fmt: skip


def _last(value: float) -> float:
    return math.inf if math.isnan(value) else -value


def _remarks(one: Outcome, ap: float, baselines: dict[str, float], prevalence: float) -> tuple[str, ...]:
    """Remarks a reader must not overlook, at the three printed digits."""
    remarks, printed = [], round(ap, 3)
    if one.row.removesuffix(POSTPROCESSED) in BASELINES:
        remarks.append("baseline")
    else:
        lost = [name for name, theirs in baselines.items() if printed < round(theirs, 3)]
        if len(lost) == len(BASELINES):
            remarks.append("loses to both baselines")
        elif lost:
            remarks.append(f"loses to {lost[0]}")
        remarks += [f"equals {name}" for name, theirs in baselines.items() if printed == round(theirs, 3)]
    if printed <= round(prevalence, 3):
        remarks.append("no better than chance")
    if one.problems:
        remarks.append(f"{len(one.problems)} of {len(one.problems) + len(one.measured)} seeds failed")
    return tuple(remarks)


def _chance(prevalence: float) -> Line:
    """The row of a random map: AP is the prevalence, and the best Dice is that of flagging everything."""
    expected = {"ap": prevalence, "auroc": 0.5, "oracle_dice": 2 * prevalence / (1 + prevalence)}
    return Line(None, CHANCE, CHANCE, 0, {Quantity(k): Summary(v, math.nan, (v,)) for k, v in expected.items()})


def _ranked(lines: list[Line]) -> list[Line]:
    ranked, compared, place, before = [], 0, 0, ""
    for line in lines:
        if line.kind != CHANCE:
            compared += 1
            ap = f"{line.value('ap'):.3f}"
            place = place if ap == before else compared
            before = ap
            line = replace(line, rank=place)
        ranked.append(line)
    return ranked


def _ranks(good: list[Outcome]) -> tuple[Ranks | None, str]:
    """Average ranks of AP over subjects; post-processing changes no map, so its rows are omitted."""
    rows = {one.row: per_person(one.measured) for one in good if not one.row.endswith(POSTPROCESSED)}
    people = sorted({name for values in rows.values() for name, value in values.items()})
    people = [p for p in people if all(math.isfinite(values.get(p, math.nan)) for values in rows.values())]
    if len(people) < FEWEST_PEOPLE:
        return None, (
            f"No average ranks and no critical-difference diagram: {len(people)} "
            f"{'person has' if len(people) == 1 else 'people have'} lesions here, and ranks over so few mean nothing; "
            f"{FEWEST_PEOPLE} are the fewest."
        )
    if len(rows) < FEWEST_METHODS:
        return None, f"No average ranks: they compare {FEWEST_METHODS} methods or more, and there are {len(rows)}."
    table = np.array([[values[person] for values in rows.values()] for person in people])
    return rank(table, list(rows)), ""
