"""The kinds of metrics, and the register of them that files, tables, reports and leaderboards follow."""

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
    """Shares in percent; ``digits`` do not count then."""
    interval: bool = True
    """With the interval, where the number has one."""
    place: int = 100
    """Columns stand in rising order of it; those with the same in the order of registration."""
    after: str = ""
    """Said after the number."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Metric:
    """A number that is measured, and how it is to be read."""

    name: str
    """As in files; see `medvae.evaluation.result.Quantity` for the names of columns."""
    meaning: str
    """In a sentence, for documents."""
    unit: str = ""
    """Empty for a share or a score."""
    higher_is_better: bool | None = None
    """None where it is neither: a count, or a rate that should be what was asked for."""
    parts: tuple[str, ...] = ()
    """Where one metric has several numbers: their names."""
    summarised: bool = True
    """Mean and SD over lesion cases are given, where it is a number of a case."""
    tables: Mapping[Table, Column] = field(default_factory=dict)
    """Where it is shown; it is in every file anyway."""


@dataclass(frozen=True, kw_only=True, eq=False)
class CaseMetric(Metric):
    """A number that needs neither truth nor threshold: of every case, healthy ones too."""


@dataclass(frozen=True, kw_only=True, eq=False)
class CohortMetric(Metric):
    """How many cases or people there are."""


@dataclass(frozen=True, kw_only=True, eq=False)
class VoxelMetric(Metric):
    """A number of scores and truth without a threshold, of the pooled voxels or of each lesion case."""

    of_pool: Callable[[CurveSummary], float] | None = None
    """From the pooled voxels. With neither function it is measured where a protocol asks for it."""
    of_case: Callable[[CurveSummary, float], float] | None = None
    """From the voxels of one case, and the volume of a voxel in ml."""
    compared: bool = False
    """It is told of each row of a benchmark."""


@dataclass(frozen=True)
class OfSums:
    """A number made of sums over cases, so that people can be drawn again for an interval."""

    terms: tuple[str, ...]
    """Names of the numbers of a case that are added: of this operating point, or of the case itself."""
    number: Callable[..., np.ndarray]
    """From the sums of each term, ``(R,)`` for R resamples, to the number, ``(R,)``."""
    healthy: bool = False
    """Over healthy cases; else over those with a lesion label."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PointMetric(Metric):
    """A number of what an operating point flags: of each case, of all of them, or both."""

    of_case: Callable[[Flagged], float] | None = None
    """From one case; a column of ``per_case.csv`` for each operating point."""
    in_healthy: bool = False
    """Healthy cases have it too."""
    of_cases: Callable[[CasesAtPoint], float] | None = None
    """From all cases; NaN where there is nothing to measure."""
    of_sums: OfSums | None = None
    """How people are drawn again for the interval of ``of_cases``; without it there is none."""
    compared: bool = True
    """If it is a number of all cases, it is told of each row of a benchmark."""


@dataclass(frozen=True, kw_only=True, eq=False)
class RegionMetric(Metric):
    """A lesion-wise number of a region of the truth at an operating point, where a protocol asks for it."""

    key: str
    """Its name among the numbers of a region."""
    of_case: Callable[[LesionWise], float]
    mean: bool
    """The mean over lesion cases, with an interval over subjects; else their sum."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ScanMetric(Metric):
    """How well one score per scan, for each score in ``parts``, tells lesion scans from healthy ones."""

    key: str
    """Its name among the numbers of a score; see `medvae.evaluation.case_level.case_numbers`."""


Kind = TypeVar("Kind", bound=Metric)
_METRICS: dict[str, Metric] = {}


def register(metric: Kind) -> Kind:
    """Add a metric; files list metrics in the order in which they were registered.

    Raises
    ------
    ValueError
        If there is one of this name.
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
