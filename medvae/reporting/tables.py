"""Tables of results, for the terminal and for Markdown, from one list of rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:  # the first imports torch, which a table of counts does not need
    from medvae.evaluation.study import Study
    from medvae.preparation.cohort_check import CohortCheck

ABSENT = "–"
COLUMNS = ("method", "AP", "prevalence", "AUROC", "⌈Dice⌉ oracle")


def study_rows(studies: Sequence[Study]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table of several methods on one cohort.

    A number that does not exist is "–"; a column without any number is left out.
    """
    names = list(dict.fromkeys(p.name for study in studies for p in study.operating_points))
    asked = {p.name: p.asked_fpr for study in studies for p in study.operating_points}
    header = list(COLUMNS)
    for name in names:
        if name.startswith("fpr_"):
            header += [f"Dice @ {asked[name]:.0%} FPR", f"realised FPR @ {asked[name]:.0%}"]
        else:  # a point with a promise: nobody asked for its false-positive rate
            header += [f"Dice @ {name}", f"realised FPR @ {name}"]
    rows = []
    for study in studies:
        pooled = study.pooled
        row = [study.method]
        row += [_number(pooled.get(key), 3) for key in ("ap", "prevalence", "auroc", "oracle_dice")]
        points = {p.name: p for p in study.operating_points}
        for name in names:
            point = points.get(name)
            row += [_number(point and point.dice, 3), _percent(point and point.fpr)]
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


def _number(value: float | None, digits: int) -> str:
    return ABSENT if value is None or math.isnan(value) else f"{value:.{digits}f}"


def _percent(value: float | None) -> str:
    return ABSENT if value is None or math.isnan(value) else f"{100 * value:.1f} %"
