"""Results of an evaluation: typed numbers, each with its metric, operating point and unit."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from medvae.evaluation.bootstrap import RESAMPLES, Interval
from medvae.evaluation.case_level import CaseLevel
from medvae.evaluation.curves import PackedCounts
from medvae.evaluation.free_response import FreeResponse
from medvae.evaluation.lesions import OVERLAP, SMALLEST_ML, SizeClass
from medvae.evaluation.metrics import Metric, PointMetric, RegionMetric, ScanMetric, named_metric, registered
from medvae.evaluation.protocols import PROTOCOLS, Protocol
from medvae.evaluation.summaries import MeanSd

GIVEN = "threshold_"
"""The names of thresholds that the user gave begin so."""
MASK = "mask"
"""Name of the operating point that is the method's own post-processed mask instead of a threshold."""


@dataclass(frozen=True)
class Quantity:
    """What a number measures."""

    name: str
    """Name of the metric."""
    point: str | None = None
    """Name of the operating point; None for a number without a threshold."""
    part: str | None = None
    """One of several parts: a region of the truth, or a scan-level score."""

    @property
    def metric(self) -> Metric:
        """Its metric, with unit and better direction."""
        return named_metric(self.name)

    @property
    def column(self) -> str:
        """Its name in files, such as ``dice_fpr_0.01`` or ``brats_dice_whole_fpr_0.01``."""
        return "_".join(word for word in (self.name, self.part, self.point) if word is not None)

    def __str__(self) -> str:
        return self.column

    def at(self, point: str | None) -> Quantity:
        """The same quantity at another operating point."""
        return replace(self, point=point)


def quantities(points: Iterable[str], regions: Iterable[str] = ()) -> dict[str, Quantity]:
    """All quantities of the registered metrics by column name.

    Parameters
    ----------
    points
        Names of the operating points.
    regions
        Names of the regions that a protocol measures.
    """
    points, regions = list(points), list(regions)
    found: list[Quantity] = []
    for metric in registered(Metric):
        if isinstance(metric, RegionMetric):
            found += [Quantity(metric.name, point, region) for region in regions for point in points]
        elif isinstance(metric, PointMetric):
            found += [Quantity(metric.name, point) for point in points]
        else:
            found += [Quantity(metric.name, part=part) for part in metric.parts or (None,)]
    return {quantity.column: quantity for quantity in found}


@dataclass(frozen=True)
class CaseResult:
    """The numbers of one case."""

    id: str
    subject: str
    healthy: bool
    missing: bool
    """The method gave no map."""
    numbers: Mapping[Quantity, float]
    """In the column order of ``per_case.csv``."""

    def number(self, metric: str, at: str | None = None, part: str | None = None) -> float:
        """A number by its metric and operating point; NaN if the case does not have it.

        Raises
        ------
        KeyError
            If there is no such metric.
        """
        quantity = Quantity(metric, at, part)
        return self.numbers[quantity] if quantity in self.numbers else _absent(metric)

    @property
    def ill(self) -> bool:
        """Whether it counts as a lesion case: labelled, with a lesion voxel in the brain."""
        return not self.healthy and self.number("lesion_voxels") > 0

    @property
    def is_ranked(self) -> bool:
        """Whether it enters scan-level ranking: declared healthy, or a lesion case."""
        return self.healthy or self.ill


@dataclass(frozen=True)
class PointResult:
    """Results of an operating point."""

    name: str
    asked_fpr: float
    """NaN for a threshold given directly, or one that is a rank within the scan."""
    threshold: float
    """Voxels above it are flagged; NaN for `MASK`, which is not a threshold on the map."""
    numbers: Mapping[str, float]
    """By metric: pooled over lesion cases unless the metric says otherwise; NaN if undefined."""
    by_size: list[SizeClass] = field(default_factory=list)
    """Lesions and how many were found, per volume class."""

    @property
    def given(self) -> bool:
        """Whether the user gave the threshold, which is its only name."""
        return self.name.startswith(GIVEN)

    def __getitem__(self, metric: str) -> float:
        """A number by its metric; NaN if not measured, KeyError if there is no such metric."""
        return self.numbers[metric] if metric in self.numbers else _absent(metric)


@dataclass(frozen=True)
class RegionResult:
    """Lesion-wise numbers of a region of the truth at an operating point."""

    region: str
    point: str
    numbers: Mapping[str, float]
    """By metric key: means over cases, and sums of counts."""


@dataclass(frozen=True)
class Settings:
    """How it was measured."""

    splits: tuple[str, ...] = ()
    pattern: str = ""
    resampled: bool = False
    lesion_overlap: float = OVERLAP
    smallest_lesion_ml: float = SMALLEST_ML
    resamples: int = RESAMPLES
    protocol: Protocol = PROTOCOLS["medvae"]


Statistic = Literal["pooled", "mean", "sd", "n"]
"""Kind of number: of the pooled cases; or mean, sample SD and count over the lesion cases that have it."""


@dataclass(frozen=True)
class Value:
    """One number of a study."""

    of: Quantity
    statistic: Statistic
    value: float
    interval: Interval | None = None
    """95 % over subjects."""


@dataclass(frozen=True)
class Study:
    """The numbers of one method on one cohort."""

    method: str
    cohort: str
    pooled: dict[str, float]
    """By metric, over the voxels of the cases that the protocol pools; with case and subject counts."""
    operating_points: list[PointResult]
    per_case: list[CaseResult]
    missing: list[str] = field(default_factory=list)
    """Cases without a prediction: failures of the method."""
    intervals: dict[Quantity, Interval] = field(default_factory=dict)
    """95 % over subjects, for the pooled numbers and those of each operating point."""
    per_case_summary: dict[Quantity, MeanSd] = field(default_factory=dict)
    """Over the lesion cases where the number is defined."""
    case_level: CaseLevel = field(default_factory=CaseLevel)
    """Lesion scans against healthy scans, one score per scan."""
    all_voxels: dict[str, float] = field(default_factory=dict)
    """AP and AUROC over the brain voxels of all cases, healthy ones too, as the MOOD challenge pools them."""
    brats: list[RegionResult] = field(default_factory=list)
    """Lesion-wise Dice and HD95 of each region at each operating point, if the protocol asks for them."""
    free_response: FreeResponse | None = None
    """Lesion sensitivity at given numbers of false findings per scan, if requested."""
    notes: list[str] = field(default_factory=list)
    """Caveats for a reader of the numbers."""
    settings: Settings = field(default_factory=Settings)
    sources: dict[str, str] = field(default_factory=dict)
    """SHA-256 of the first image that each map was made from, by case, as far as the maps' sidecars say."""
    maker: str = ""
    """Fingerprint of the detector that made the maps, if their sidecars say it."""
    counts: list[tuple[str, str, PackedCounts]] = field(default_factory=list, repr=False)
    """Case, subject and voxel counts of each pooled case, to compare methods; not written to disk."""

    def interval(self, metric: str, at: str | None = None, part: str | None = None) -> Interval | None:
        """The interval of a pooled number; None if it has none."""
        return self.intervals.get(Quantity(metric, at, part))

    def point(self, name: str) -> PointResult | None:
        """Results of an operating point, by its name."""
        return next((point for point in self.operating_points if point.name == name), None)

    def values(self) -> Iterator[Value]:
        """Every number: pooled, over cases, and scan-level."""
        pooled = {Quantity(name): value for name, value in self.pooled.items()}
        for point in self.operating_points:
            pooled |= {Quantity("asked_fpr", point.name): point.asked_fpr}
            pooled |= {Quantity("threshold", point.name): point.threshold}
            pooled |= {Quantity(name, point.name): value for name, value in point.numbers.items()}
        for quantity, value in pooled.items():
            yield Value(quantity, "pooled", value, self.intervals.get(quantity))
        for quantity, found in self.per_case_summary.items():
            yield Value(quantity, "mean", found.mean)
            yield Value(quantity, "sd", found.sd)
            yield Value(quantity, "n", found.n)
        for part, of_scans in self.case_level.scores.items():
            for metric in registered(ScanMetric):
                if metric.key in of_scans:
                    interval = of_scans[metric.key]
                    yield Value(Quantity(metric.name, part=part), "pooled", interval.value, interval)


def _absent(metric: str) -> float:
    """NaN for a registered metric; KeyError otherwise."""
    named_metric(metric)
    return math.nan
