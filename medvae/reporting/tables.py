"""Tables of results, for terminal and Markdown from the same rows."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.table import Table as Printed
from rich.text import Text

from medvae.evaluation.metrics import (
    CohortMetric,
    Column,
    Metric,
    PointMetric,
    RegionMetric,
    ScanMetric,
    Table,
    VoxelMetric,
    columns,
    registered,
)
from medvae.evaluation.result import MASK, PointResult, Quantity
from medvae.terminal import plain_console, printable

if TYPE_CHECKING:  # some of these import torch, which a table of counts does not need
    from medvae.evaluation.bootstrap import Interval
    from medvae.evaluation.result import Study
    from medvae.preparation.cohort_check import CohortCheck

ABSENT = "–"


def study_rows(studies: Sequence[Study]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table of several methods on one cohort.

    "0.31 [0.22, 0.40]" is a number with its 95 % interval over subjects, omitted if there are too few of them. An
    undefined number is "–"; a column without any number is omitted.
    """
    named = {point.name: point for study in studies for point in study.operating_points}
    of_voxels, of_points = columns(Table.METHODS, VoxelMetric), columns(Table.METHODS, PointMetric)
    header = ["method", "subjects", *(column.title for _, column in of_voxels)]
    header += [_at_point(column.title, point) for point in named.values() for _, column in of_points]
    rows = []
    for study in studies:
        row = [study.method, str(study.pooled["n_subjects"]) if study.pooled.get("n_subjects") else ABSENT]
        row += [cell(study.pooled.get(m.name), column, study.interval(m.name)) for m, column in of_voxels]
        points = {point.name: point for point in study.operating_points}
        for name in named:
            point = points.get(name)
            row += [
                cell(None if point is None else point[metric.name], column, study.interval(metric.name, name))
                for metric, column in of_points
            ]
        rows.append(row)
    kept = [i for i in range(len(header)) if i == 0 or any(row[i] != ABSENT for row in rows)]
    return [header[i] for i in kept], [[row[i] for i in kept] for row in rows]


def check_rows(check: CohortCheck) -> tuple[list[str], list[list[str | Text]]]:
    """Header and rows of the table of a checked cohort: one row per case."""
    header = ["case", "split", "kind", "shape", "spacing mm", "axes", "brain ml", "lesion ml", "state"]
    rows: list[list[str | Text]] = []
    for case in check.cases:
        errors, warned = (
            sum(f.severity == severity and f.case == case.id for f in check.findings)
            for severity in ("error", "warning")
        )
        states = [Text(f"{errors} error(s)", "red")] * (errors > 0) + [Text(f"{warned} warning(s)", "yellow")] * (
            warned > 0
        )
        shape = "×".join(map(str, case.shape)) if case.shape else ABSENT
        spacing = "×".join(f"{round(s, 2):g}" for s in case.spacing_mm) if case.spacing_mm else ABSENT
        rows.append(
            [case.id, case.split, case.kind, shape, spacing, case.orientation or ABSENT,
             _number(case.brain_ml, 0), _number(case.lesion_ml, 2), Text(", ").join(states) if states else "ok"]
        )  # fmt: skip
    return header, rows


def point_rows(studies: Sequence[Study]) -> tuple[list[str], list[list[str]]]:
    """Header and rows by threshold and method: lesions found, false findings, surface distances."""
    shown = columns(Table.THRESHOLDS, PointMetric)
    rows = [
        [
            study.method,
            point_name(MASK)
            if point.name == MASK
            else f"{point.threshold:.4g}" + ("" if point.given else f" ({point_name(point.name)})"),
            *(cell(point[m.name], column, study.interval(m.name, point.name)) for m, column in shown),
        ]
        for study in studies
        for point in study.operating_points
    ]
    return ["method", "threshold", *(column.title for _, column in shown)], rows


def lesion_rows(study: Study) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the lesions found per volume class, at each operating point."""
    points = [point for point in study.operating_points if point["lesions"]]
    header = [
        "lesion ml",
        "lesions",
        *(f"found @ {point_name(point.name)}" if point.name != MASK else "found in masks" for point in points),
    ]
    sizes = zip(*(point.by_size for point in points), strict=True)
    rows = []
    for same in sizes:
        if same[0].lesions:
            found = [f"{one.found} ({percent(one.sensitivity)})" for one in same]
            rows.append([same[0].size_ml, str(same[0].lesions), *found])
    return header, rows


def free_response_rows(studies: Sequence[Study]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the lesion sensitivity at given numbers of false findings per scan."""
    measured = [(study.method, study.free_response) for study in studies if study.free_response is not None]
    numbers = list(measured[0][1].sensitivity) if measured else []
    header = ["method", "lesions from 0.3 ml", *(f"{number:g} per scan" for number in numbers)]
    rows = [
        [method, str(found.lesions), *(_number(value, 2) for value in found.sensitivity.values())]
        for method, found in measured
    ]
    return header, rows


def brats_rows(studies: Sequence[Study]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of lesion-wise Dice and HD95 as in BraTS 2023, of each region at each threshold."""
    shown = columns(Table.REGIONS, RegionMetric)
    rows = [
        [
            study.method,
            found.point,
            found.region,
            *(
                cell(found.numbers.get(metric.key), column, study.interval(metric.name, found.point, found.region))
                for metric, column in shown
            ),
        ]
        for study in studies
        for found in study.brats
    ]
    return ["method", "threshold", "region", *(column.title for _, column in shown)], rows


def case_rows(study: Study) -> tuple[list[str], list[list[str]]]:
    """Header and rows of lesion scans against healthy scans, one score per scan."""
    shown = columns(Table.SCANS, ScanMetric)
    rows = [
        [name, *(cell(getattr(found.get(m.key), "value", None), column, found.get(m.key)) for m, column in shown)]
        for name, found in study.case_level.scores.items()
    ]
    return ["score of a scan", *(column.title for _, column in shown)], rows


def difference_rows(differences: Mapping[str, Mapping[Quantity, Interval]]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of paired differences to other methods."""
    shown = [(Quantity(metric.name), column) for metric, column in columns(Table.DIFFERENCES, VoxelMetric)]
    rows = [
        [
            other,
            str(found[shown[0][0]].n_subjects),
            *(cell(found[quantity].value, column, found[quantity], sign="+") for quantity, column in shown),
        ]
        for other, found in differences.items()
    ]
    return ["minus", "subjects", *(column.title for _, column in shown)], rows


def metric_rows() -> tuple[list[str], list[list[str]]]:
    """Header and rows of all registered metrics."""
    better = {True: "higher", False: "lower", None: ABSENT}
    rows = [
        [f"`{metric.name}`", metric.meaning, metric.unit or ABSENT, better[metric.higher_is_better], _given_for(metric)]
        for metric in registered(Metric)
    ]
    return ["number", "meaning", "unit", "better", "of"], rows


def point_name(name: str) -> str:
    """Display name of an operating point: "1 % FPR", or its own name if it guarantees something else."""
    if name == MASK:
        return "masks as written"
    rate = re.fullmatch(r"fpr_(\d*\.?\d+(?:e-?\d+)?)", name)
    return f"{100 * float(rate[1]):g} % FPR" if rate else name


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str | Text]]) -> None:
    """Print the table to the terminal; if the output is not a terminal, no column is truncated.

    Strings are printed as they are, brackets too; a `Text` has its colours.
    """
    console = plain_console()
    if not console.is_terminal:
        console = plain_console(width=160)
    table = Printed(title=printable(title), title_justify="left", title_style="bold")
    for index, name in enumerate(header):
        table.add_column(name, justify="left" if index == 0 else "right", no_wrap=index == 0)
    for row in rows:
        table.add_row(*(cell if isinstance(cell, Text) else printable(cell) for cell in row))
    console.print(table)


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The table as Markdown."""
    lines = ["| " + " | ".join(header) + " |", "|---|" + "---:|" * (len(header) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"


def cell(value: float | None, column: Column, around: Interval | None = None, *, sign: str = "") -> str:
    """A number as its column shows it, with its interval unless unreliable; `ABSENT` if there is none.

    Parameters
    ----------
    value
        None or NaN if there is no number.
    column
        How it is shown.
    around
        Its interval.
    sign
        "+" writes the sign of positive numbers too.
    """
    text = (percent(value) if column.percent else _number(value, column.digits, sign)) + column.after
    if value is None or math.isnan(value):
        return ABSENT
    if around is None or around.means_little or not column.interval:
        return text
    if column.percent:
        return f"{text} [{percent(around.low)}, {percent(around.high)}]"
    return f"{text} [{around.low:{sign}.{column.digits}f}, {around.high:{sign}.{column.digits}f}]"


def percent(value: float | None) -> str:
    """A proportion as a percentage; with two decimals if one would give 0.0 %."""
    return ABSENT if value is None or math.isnan(value) else f"{100 * value:.{2 if 0 < value < 0.0005 else 1}f} %"


def _given_for(metric: Metric) -> str:
    """The level at which a metric is reported, in words."""
    if isinstance(metric, VoxelMetric):
        pooled = metric.of_pool is not None or metric.of_case is None
        kinds = ["each lesion case"] * (metric.of_case is not None) + ["pooled voxels"] * pooled
    elif isinstance(metric, PointMetric):
        case = "each case at a point" if metric.in_healthy else "each lesion case at a point"
        pooled = metric.of_cases is not None or metric.of_case is None
        kinds = [case] * (metric.of_case is not None) + ["each point"] * pooled
    elif isinstance(metric, RegionMetric):
        kinds = ["each region and point"]
    elif isinstance(metric, ScanMetric):
        kinds = [f"scans by {', '.join(metric.parts)}"]
    else:
        kinds = ["the cohort" if isinstance(metric, CohortMetric) else "each case"]
    return ", ".join(kinds)


def _at_point(title: str, point: PointResult) -> str:
    """Title of a metric's column at an operating point."""
    if point.name == MASK:
        return f"{title} of masks"
    if point.given:
        return f"{title} above {point.threshold:g}"
    said = point_name(point.name)
    return f"{title} @ {said.removesuffix(' FPR') if title.endswith('FPR') else said}"


def _number(value: float | None, digits: int, sign: str = "") -> str:
    return ABSENT if value is None or math.isnan(value) else f"{value:{sign}.{digits}f}"
