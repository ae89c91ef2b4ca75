"""Write a leaderboard: JSON with everything, CSV for spreadsheets, Markdown and LaTeX for readers, and pictures."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from medvae import __version__
from medvae.benchmark.board import Board, Leaderboard, Line
from medvae.benchmark.pictures import draw_board
from medvae.benchmark.statistics import ALPHA, Summary
from medvae.benchmark.study import POSTPROCESSED
from medvae.evaluation.bootstrap import FEW_SUBJECTS, LEVEL, Interval
from medvae.evaluation.metrics import Column, Metric, PointMetric, ScanMetric, Table, columns
from medvae.evaluation.metrics.of_scans import LEADING_SCORE
from medvae.evaluation.result import Quantity
from medvae.evaluation.writing import csv_text, plain
from medvae.files import write_json, write_text
from medvae.reporting.tables import ABSENT, markdown_table, point_name

Bold = Callable[[str], str]
LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "±": r"$\pm$", "–": "--", "−": "$-$", "≥": r"$\geq$", "×": r"$\times$", "⌈": r"$\lceil$", "⌉": r"$\rceil$",
    "β": r"$\beta$", "λ": r"$\lambda$", "…": r"\ldots{}",
}  # fmt: skip


def write_board(board: Board, out: Path | str, *, pictures: bool = True) -> list[Path]:
    """Write ``results.json``, ``leaderboard.csv``, ``.md`` and ``.tex``, ``timing.csv`` and the pictures into ``out``.

    Timings have their own file, so the other files are identical, byte for byte, for the same numbers.
    """
    out = Path(out)
    written = [
        write_json(out / "results.json", plain(_content(board))),
        write_text(out / "leaderboard.csv", csv_text([row for one in board.leaderboards for row in _csv_rows(one)])),
        write_text(out / "leaderboard.md", markdown(board)),
        write_text(out / "leaderboard.tex", latex(board)),
        write_text(out / "timing.csv", csv_text(_timings(board))),
    ]
    if pictures:
        written += draw_board(board, out / "pictures")
    return written


def markdown(board: Board) -> str:
    """All tables of a study."""
    parts = [f"# {board.study.name}\n"]
    for one in board.leaderboards:
        parts.append(f"## {one.title}\n\n{about(one)}\n")
        parts.append(markdown_table(*board_rows(one, lambda text: f"**{text}**")))
        header, rows = point_rows(one, lambda text: f"**{text}**")
        if rows:
            parts.append(f"At thresholds fixed on healthy validation scans:\n\n{markdown_table(header, rows)}")
        header, rows = difference_rows(one)
        if rows:
            parts.append(
                f"Minus {one.reference}, on the same people (not corrected for the number of comparisons):\n\n"
                f"{markdown_table(header, rows)}"
            )
        parts.append(f"{ranks_told(one)}\n")
        if one.notes:
            parts.append("\n".join(f"- {note}" for note in one.notes) + "\n")
    if board.left_out:
        parts.append("Left out, as method and score do not go together:\n")
        parts.append("\n".join(f"- {_line(text)}" for text in board.left_out.values()) + "\n")
    if board.failed:
        parts.append("Failed:\n")
        parts.append("\n".join(f"- {_line(text)}" for text in board.failed) + "\n")
    return "\n".join(parts)


def latex(board: Board) -> str:
    """The leaderboards as tables for a paper; needs the packages booktabs and graphicx."""
    parts = ["% \\usepackage{booktabs,graphicx}"]
    for one in board.leaderboards:
        header, rows = board_rows(one, lambda text: f"\\textbf{{{text}}}", escape)
        cells = " \\\\\n".join(" & ".join(row) for row in rows)
        parts.append(
            "\\begin{table}\n\\centering\n"
            f"\\caption{{{escape(f'{board.study.name}: {one.title}. {about(one)}')}}}\n"
            f"\\resizebox{{\\textwidth}}{{!}}{{%\n\\begin{{tabular}}{{l{'r' * (len(header) - 2)}l}}\n\\toprule\n"
            f"{' & '.join(escape(name) for name in header)} \\\\\n\\midrule\n{cells} \\\\\n\\bottomrule\n"
            "\\end{tabular}}\n\\end{table}"
        )
    return "\n\n".join(parts) + "\n"


def escape(text: str) -> str:
    """Text escaped for LaTeX."""
    return "".join(LATEX.get(letter, letter) for letter in text)


def about(one: Leaderboard) -> str:
    """What was measured, in two sentences."""
    if not one.counts:
        return "Every row failed."
    people, scans = int(one.counts["n_subjects"]), int(one.counts["n_cases"])
    return (
        f"{scans} scans of {people} people with lesions, {int(one.counts['n_healthy'])} healthy scans; prevalence "
        f"{one.counts.get('prevalence', math.nan):.4f}. Mean ± SD over seeds [{100 * LEVEL:.0f} % interval over people"
        + (f", left out as they are fewer than {FEW_SUBJECTS}]." if people < FEW_SUBJECTS else "].")
    )


def board_rows(one: Leaderboard, bold: Bold, escaped: Bold = str) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a leaderboard; the best of a column is bold, with ties as printed."""
    shown = _at_first_point(one, Table.LEADERBOARD)
    shown = [
        (metric, quantity, column)
        for metric, quantity, column in shown
        if not isinstance(metric, ScanMetric) or any(math.isfinite(line.value_of(quantity)) for line in one.lines)
    ]
    rows = []
    for line in one.lines:
        cells = []
        for metric, quantity, column in shown:
            text = escaped(cell(line.numbers.get(quantity), column.digits))
            is_best = line.rank and _is_best(one.lines, line, metric, quantity, column.digits)
            cells.append(bold(text) if is_best else text)
        remark = "; ".join(line.remarks) if line.numbers else f"failed: {_line(line.problems[0])}"
        seeds = str(line.seeds) if line.kind == "method" and line.numbers else ABSENT
        rank = escaped(str(line.rank or ABSENT))
        rows.append([escaped(line.row), rank, escaped(seeds), *cells, escaped(remark)])
    return ["method", "rank", "seeds", *_titles(shown), "remark"], rows


def point_rows(one: Leaderboard, bold: Bold, escaped: Bold = str) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the results of each operating point."""
    shown = columns(Table.LEADERBOARD_THRESHOLDS, PointMetric)
    rows = []
    for point in one.points:
        for line in one.lines:
            if any(quantity.point == point for quantity in line.numbers):
                cells = []
                for metric, column in shown:
                    quantity = Quantity(metric.name, point)
                    text = escaped(cell(line.numbers.get(quantity), column.digits))
                    is_best = _is_best(one.lines, line, metric, quantity, column.digits)
                    cells.append(bold(text) if is_best else text)
                rows.append([escaped(line.row), point_name(point), *cells])
    return ["method", "threshold", *(column.title for _, column in shown)], rows


def difference_rows(one: Leaderboard) -> tuple[list[str], list[list[str]]]:
    """Header and rows of paired differences to the reference."""
    shown, by = _at_first_point(one, Table.LEADERBOARD_DIFFERENCES), Quantity("ap")
    rows = [
        [line.row, *(_signed(line.differences.get(q), c.digits) for _, q, c in shown), verdict(line.differences[by])]
        for line in one.lines
        if line.differences and by in line.differences
    ]
    return ["method", *_titles(shown), "by AP"], rows


def verdict(apart: Interval) -> str:
    """Interpretation of the interval of a difference."""
    if apart.means_little or math.isnan(apart.low):
        return "too few people to tell"
    return "ahead" if apart.low > 0 else "behind" if apart.high < 0 else "not told apart"


def ranks_told(one: Leaderboard) -> str:
    """The average ranks in words."""
    if one.ranks is None:
        return one.no_ranks
    ranks = one.ranks
    listed = ", ".join(f"{name} {value:.2f}" for name, value in zip(ranks.methods, ranks.average, strict=True))
    return (
        f"Average ranks of AP over {ranks.people} people: {listed}. Friedman χ² {ranks.statistic:.2f}, p "
        f"{ranks.p_value:.2g}; ranks {ranks.critical_difference:.2f} apart differ at {100 * ALPHA:.0f} % (Nemenyi)."
    )


def cell(found: Summary | None, digits: int = 3) -> str:
    """A number as "0.189 ± 0.003 [0.150, 0.230]", if there are enough seeds and subjects."""
    if found is None or math.isnan(found.mean):
        return ABSENT
    text = f"{found.mean:.{digits}f}"
    if math.isfinite(found.sd):
        text += f" ± {found.sd:.{digits}f}"
    around = found.interval
    if around is None or around.means_little or math.isnan(around.low):
        return text
    return f"{text} [{around.low:.{digits}f}, {around.high:.{digits}f}]"


def _signed(apart: Interval | None, digits: int) -> str:
    if apart is None or math.isnan(apart.value):
        return ABSENT
    text = f"{apart.value:+.{digits}f}"
    return text if apart.means_little else f"{text} [{apart.low:+.{digits}f}, {apart.high:+.{digits}f}]"


def _at_first_point(one: Leaderboard, table: Table) -> list[tuple[Metric, Quantity, Column]]:
    """Columns of a table: point metrics at the first operating point, scan metrics of the leading score."""
    shown: list[tuple[Metric, Quantity, Column]] = []
    for metric, column in columns(table, Metric):
        if isinstance(metric, PointMetric):
            shown += [(metric, Quantity(metric.name, point), column) for point in one.points[:1]]
        else:
            part = LEADING_SCORE if isinstance(metric, ScanMetric) else None
            shown.append((metric, Quantity(metric.name, part=part), column))
    return shown


def _titles(shown: Sequence[tuple[Metric, Quantity, Column]]) -> list[str]:
    return [
        f"{column.title} @ {point_name(quantity.point)}" if quantity.point else column.title
        for _, quantity, column in shown
    ]


def _is_best(lines: Sequence[Line], line: Line, metric: Metric, quantity: Quantity, digits: int) -> bool:
    """Whether no ranked row is better, as printed."""
    if metric.higher_is_better is None:
        return False
    values = [one.value_of(quantity) for one in lines if one.rank and math.isfinite(one.value_of(quantity))]
    best = (max if metric.higher_is_better else min)(values, default=math.nan)
    return bool(values) and f"{line.value_of(quantity):.{digits}f}" == f"{best:.{digits}f}"


def _line(text: str) -> str:
    """Text on one line, without characters that end a Markdown table cell."""
    return " ".join(text.split()).replace("|", "/")


def _content(board: Board) -> dict[str, Any]:
    return {
        "medvae": __version__,
        "study": board.study.model_dump(mode="json"),
        "targets": {one.target: {f.name: getattr(one, f.name) for f in fields(one)} for one in board.leaderboards},
        "left_out": board.left_out,
        "failed": board.failed,
    }


def _csv_rows(one: Leaderboard) -> list[dict[str, Any]]:
    rows = []
    for line in one.lines:
        row: dict[str, Any] = {"target": one.target, "rank": line.rank, "row": line.row, "kind": line.kind}
        row |= {"seeds": line.seeds, "remark": "; ".join(line.remarks), "failed": " / ".join(line.problems)}
        row |= {"subjects": one.counts.get("n_subjects"), "prevalence": one.counts.get("prevalence")}
        for quantity, found in line.numbers.items():
            name = quantity.column
            row |= {name: found.mean, f"{name}_sd": found.sd}
            if found.interval:
                row |= {f"{name}_low": found.interval.low, f"{name}_high": found.interval.high}
        for quantity, apart in (line.differences or {}).items():
            ends = {"": apart.value, "_low": apart.low, "_high": apart.high}
            row |= {f"{quantity.column}_minus_reference{end}": value for end, value in ends.items()}
        rows.append(row)
    return rows


def _timings(board: Board) -> list[dict[str, Any]]:
    first = next(iter(board.titles))
    return [
        {"row": row, "detector": label, "seconds_per_prepared_scan": one.seconds_per_scan}
        for row, outcome in board.of(first).items()
        if not row.endswith(POSTPROCESSED)
        for label, one in zip(outcome.labels, outcome.measured, strict=True)
    ]
