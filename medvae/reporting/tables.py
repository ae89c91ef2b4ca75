"""Tables of results, for the terminal and for Markdown, from one list of rows."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from medvae.evaluation.case import MASK

if TYPE_CHECKING:  # some of these import torch, which a table of counts does not need
    from medvae.evaluation.bootstrap import Interval
    from medvae.evaluation.study import Study
    from medvae.preparation.cohort_check import CohortCheck

ABSENT = "–"
COLUMNS = ("method", "subjects", "AP", "prevalence", "AUROC", "⌈Dice⌉ oracle", "⌈Dice⌉ without small components")


def study_rows(studies: Sequence[Study]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table of several methods on one cohort.

    "0.31 [0.22, 0.40]" is a number with its 95 % interval over subjects, left out where there are too few of them. A
    number that does not exist is "–"; a column without any number is left out.
    """
    named = {point.name: point for study in studies for point in study.operating_points}
    header = list(COLUMNS)
    for point in named.values():
        if point.name == MASK:
            header += ["Dice of masks", "realised FPR of masks"]
        elif math.isnan(point.asked_fpr):
            header += [f"Dice above {point.threshold:g}", f"realised FPR above {point.threshold:g}"]
        else:
            said = point_name(point.name)
            header += [f"Dice @ {said}", f"realised FPR @ {said.removesuffix(' FPR')}"]
    rows = []
    for study in studies:
        row = [study.method, str(study.pooled["n_subjects"]) if study.pooled.get("n_subjects") else ABSENT]
        row += [_cell(study, key) for key in ("ap", "prevalence", "auroc", "oracle_dice", "oracle_dice_components")]
        points = {point.name: point for point in study.operating_points}
        for name in named:
            point = points.get(name)
            row += [_with_interval(point and point.dice, study.intervals.get(f"dice_{name}"))]
            row += [percent(point and point.fpr)]
        rows.append(row)
    kept = [i for i in range(len(header)) if i == 0 or any(row[i] != ABSENT for row in rows)]
    return [header[i] for i in kept], [[row[i] for i in kept] for row in rows]


def check_rows(check: CohortCheck) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table of a checked cohort: one row per case."""
    header = ["case", "split", "kind", "shape", "spacing mm", "axes", "brain ml", "lesion ml", "state"]
    rows = []
    for case in check.cases:
        errors, warned = (
            sum(f.severity == severity and f.case == case.id for f in check.findings)
            for severity in ("error", "warning")
        )
        states = [f"[red]{errors} error(s)[/]"] * (errors > 0) + [f"[yellow]{warned} warning(s)[/]"] * (warned > 0)
        shape = "×".join(map(str, case.shape)) if case.shape else ABSENT
        spacing = "×".join(f"{round(s, 2):g}" for s in case.spacing_mm) if case.spacing_mm else ABSENT
        rows.append(
            [escape(case.id), case.split, case.kind, shape, spacing, case.orientation or ABSENT,
             _number(case.brain_ml, 0), _number(case.lesion_ml, 2), ", ".join(states) or "ok"]
        )  # fmt: skip
    return header, rows


def point_rows(studies: Sequence[Study]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of what each threshold of each method finds: lesions, false findings, distances of surfaces."""
    header = ["method", "threshold", "Dice, mean of cases", "lesions found", "lesion F1", "false findings per scan"]
    header += ["in a healthy scan", "slices with false alarm", "HD95 mm", "ASSD mm"]
    rows = [
        [
            study.method,
            point_name(MASK)
            if point.name == MASK
            else f"{point.threshold:.4g}" + ("" if math.isnan(point.asked_fpr) else f" ({point_name(point.name)})"),
            _number(point.mean_dice, 3),
            percent(point.lesion_sensitivity),
            _number(point.lesion_f1, 3),
            _number(point.false_positives_per_scan, 1),
            _number(point.false_positives_per_healthy_scan, 1),
            percent(point.false_alarm_slices),
            _number(point.hd95_mm, 1),
            _number(point.assd_mm, 1),
        ]
        for study in studies
        for point in study.operating_points
    ]
    return header, rows


def lesion_rows(study: Study) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the lesions found per class of volume, at each operating point."""
    points = [point for point in study.operating_points if point.lesions]
    header = [
        "lesion ml",
        "lesions",
        *(f"found @ {point_name(point.name)}" if point.name != MASK else "found in masks" for point in points),
    ]
    sizes = zip(*(point.by_size for point in points), strict=True)
    rows = []
    for bins in sizes:
        if bins[0]["lesions"]:
            found = [f"{one['found']} ({percent(one['sensitivity'])})" for one in bins]
            rows.append([str(bins[0]["size_ml"]), str(bins[0]["lesions"]), *found])
    return header, rows


def free_response_rows(studies: Sequence[Study]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the share of lesions found at numbers of false findings per scan."""
    measured = [study for study in studies if study.free_response]
    numbers = list(measured[0].free_response["sensitivity"]) if measured else []
    header = ["method", "lesions from 0.3 ml", *(f"{number} per scan" for number in numbers)]
    rows = [
        [study.method, str(study.free_response["lesions"]),
         *(_number(value, 2) for value in study.free_response["sensitivity"].values())]
        for study in measured
    ]  # fmt: skip
    return header, rows


def brats_rows(studies: Sequence[Study]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of lesion-wise Dice and HD95 as in BraTS 2023, of each region at each threshold."""
    header = ["method", "threshold", "region", "lesion-wise Dice", "lesion-wise HD95 mm", "lesions", "missed", "false"]
    rows = [
        [
            study.method,
            row["point"],
            row["region"],
            _with_interval(row["dice"], study.intervals[f"brats_dice_{row['region']}_{row['point']}"]),
            _number(row["hd95_mm"], 1),
            *(str(row[key]) for key in ("lesions", "missed", "false")),
        ]
        for study in studies
        for row in study.brats
    ]
    return header, rows


def case_rows(study: Study) -> tuple[list[str], list[list[str]]]:
    """Header and rows of lesion scans against healthy scans, one score per scan."""
    rows = [
        [name, *(_with_interval(found[key]["value"], found[key]) for key in ("auroc", "ap"))]
        for name, found in study.case_level.items()
        if isinstance(found, dict)
    ]
    return ["score of a scan", "AUROC", "AP"], rows


def difference_rows(differences: dict[str, dict[str, Interval]]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of paired differences to other methods."""
    names = {"ap": "AP", "auroc": "AUROC", "oracle_dice": "⌈Dice⌉ oracle"}
    rows = [
        [other, str(found["ap"].n_subjects), *(_with_interval(found[key].value, found[key], sign="+") for key in names)]
        for other, found in differences.items()
    ]
    return ["minus", "subjects", *names.values()], rows


def point_name(name: str) -> str:
    """What an operating point is called: "1 % FPR", or its own name where it promises something else."""
    if name == MASK:
        return "masks as written"
    rate = re.fullmatch(r"fpr_(\d*\.?\d+(?:e-?\d+)?)", name)
    return f"{100 * float(rate[1]):g} % FPR" if rate else name


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print the table to the terminal; where the output is not a terminal, no column is squeezed."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=160)
    table = Table(title=title, title_justify="left", title_style="bold")
    for index, name in enumerate(header):
        table.add_column(name, justify="left" if index == 0 else "right", no_wrap=index == 0)
    for row in rows:
        table.add_row(*row)
    console.print(table)


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The table as Markdown."""
    lines = ["| " + " | ".join(header) + " |", "|---|" + "---:|" * (len(header) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"


def _cell(study: Study, key: str) -> str:
    return _with_interval(study.pooled.get(key), study.intervals.get(key))


def _with_interval(value: float | None, found: Interval | dict[str, Any] | None, *, sign: str = "") -> str:
    """A number and its interval, unless the interval means little."""
    text = _number(value, 3, sign)
    if isinstance(found, dict):
        low, high, little = found["low"], found["high"], found["means_little"]
    else:
        low, high, little = (found.low, found.high, found.means_little) if found else (0, 0, True)
    return text if text == ABSENT or little else f"{text} [{low:{sign}.3f}, {high:{sign}.3f}]"


def _number(value: float | None, digits: int, sign: str = "") -> str:
    return ABSENT if value is None or math.isnan(value) else f"{value:{sign}.{digits}f}"


def percent(value: float | None) -> str:
    """A share as a percentage; with two decimals where one would say 0.0 %."""
    return ABSENT if value is None or math.isnan(value) else f"{100 * value:.{2 if 0 < value < 0.0005 else 1}f} %"
