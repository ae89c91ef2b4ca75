"""The kinds of metrics and their registry, which files, tables, reports and leaderboards follow."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TypeVar

import numpy as np

from medvae.evaluation.brats import LesionWise
from medvae.evaluation.curves import CurveSummary
from medvae.evaluation.flagged import CasesAtPoint, Flagged


class Table(Enum):
    """Where a metric can be shown."""

    METHODS = "several methods on one cohort"
    THRESHOLDS = "what each threshold of each method finds"
    REGIONS = "lesion-wise numbers of each region"
    SCANS = "lesion scans against healthy scans"
    DIFFERENCES = "one method minus others"
    REPORT_CASES = "the cases of a report"
    CASE_PAGE = "the page of one case"
    LEADERBOARD = "the rows of a benchmark"
    LEADERBOARD_THRESHOLDS = "the rows of a benchmark at each operating point"
    LEADERBOARD_DIFFERENCES = "the rows of a benchmark minus its reference"


@dataclass(frozen=True)
class Column:
    """How a table shows a metric."""

    title: str
    digits: int = 3
    percent: bool = False
    """Shown in percent; ``digits`` is then ignored."""
    interval: bool = True
    """Shown with its interval, if it has one."""
    place: int = 100
    """Columns are sorted by it in ascending order; ties in order of registration."""
    after: str = ""
    """Text after the number."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Metric:
    """A measured number and how to read it."""

    name: str
    """As in files; see `medvae.evaluation.result.Quantity` for the names of columns."""
    meaning: str
    """Its definition in a sentence, for documents."""
    unit: str = ""
    """Empty for a share or a score."""
    higher_is_better: bool | None = None
    """None if neither direction is better: a count, or a rate that should match its nominal value."""
    parts: tuple[str, ...] = ()
    """Names of its numbers, if it has several."""
    summarised: bool = True
    """Whether mean and SD over lesion cases are reported, for a per-case number."""
    tables: Mapping[Table, Column] = field(default_factory=dict)
    """Tables that show it; files always contain it."""


@dataclass(frozen=True, kw_only=True, eq=False)
class CaseMetric(Metric):
    """A number of every case, healthy ones too, that needs neither truth nor threshold."""


@dataclass(frozen=True, kw_only=True, eq=False)
class CohortMetric(Metric):
    """A number of cases or subjects."""


@dataclass(frozen=True, kw_only=True, eq=False)
class VoxelMetric(Metric):
    """A threshold-free number from scores and truth, of the pooled voxels or of each lesion case."""

    of_pool: Callable[[CurveSummary], float] | None = None
    """From the pooled voxels. With neither function it is measured only if a protocol asks for it."""
    of_case: Callable[[CurveSummary, float], float] | None = None
    """From the voxels of one case, and the volume of a voxel in ml."""
    compared: bool = False
    """Whether it is reported for each row of a benchmark."""


@dataclass(frozen=True)
class OfSums:
    """A number made of sums over cases, so that subjects can be resampled for an interval."""

    terms: tuple[str, ...]
    """Names of the per-case numbers that are summed: of this operating point, or of the case itself."""
    number: Callable[..., np.ndarray]
    """From the sum of each term, ``(R,)`` for R resamples, to the number, ``(R,)``."""
    healthy: bool = False
    """Summed over healthy cases; else over those with a lesion label."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PointMetric(Metric):
    """A number of the voxels flagged at an operating point: of each case, of all cases, or both."""

    of_case: Callable[[Flagged], float] | None = None
    """From one case; a column of ``per_case.csv`` for each operating point."""
    in_healthy: bool = False
    """Whether healthy cases have it too."""
    of_cases: Callable[[CasesAtPoint], float] | None = None
    """From all cases; NaN if undefined."""
    of_sums: OfSums | None = None
    """How subjects are resampled for the interval of ``of_cases``; without it there is none."""
    compared: bool = True
    """Whether it is reported for each row of a benchmark, if it is a number of all cases."""


@dataclass(frozen=True, kw_only=True, eq=False)
class RegionMetric(Metric):
    """A lesion-wise number of a region of the truth at an operating point, if a protocol asks for it."""

    key: str
    """Its name among the numbers of a region."""
    of_case: Callable[[LesionWise], float]
    mean: bool
    """The mean over lesion cases, with an interval over subjects; else their sum."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ScanMetric(Metric):
    """How well one score per scan, for each score in ``parts``, separates lesion scans from healthy ones."""

    key: str
    """Its name among the numbers of a score; see `medvae.evaluation.case_level.case_numbers`."""


Kind = TypeVar("Kind", bound=Metric)
_METRICS: dict[str, Metric] = {}


def register(metric: Kind) -> Kind:
    """Add a metric; files list metrics in the order in which they were registered.

    Raises
    ------
    ValueError
        If this name is already registered.
    """
    if metric.name in _METRICS:
        raise ValueError(f'there are two metrics called "{metric.name}"')
    _METRICS[metric.name] = metric
    return metric


def named_metric(name: str) -> Metric:
    """The metric of a name.

    Raises
    ------
    KeyError
        If there is none.
    """
    if name not in _METRICS:
        raise KeyError(f'"{name}" is no metric; there are {", ".join(_METRICS)}')
    return _METRICS[name]


def registered(kind: type[Kind]) -> list[Kind]:
    """The metrics of a kind, in the order of registration."""
    return [metric for metric in _METRICS.values() if isinstance(metric, kind)]


def columns(table: Table, kind: type[Kind]) -> list[tuple[Kind, Column]]:
    """The metrics of a kind that a table shows, from left to right."""
    found = [(metric, metric.tables[table]) for metric in registered(kind) if table in metric.tables]
    return sorted(found, key=lambda shown: shown[1].place)
