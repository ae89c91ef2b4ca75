"""A leaderboard on disk: JSON with everything, CSV for a spreadsheet, Markdown and LaTeX for a person, and pictures."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from medvae import __version__
from medvae.benchmark.board import Board, Leaderboard, Line
from medvae.benchmark.pictures import draw_board
from medvae.benchmark.statistics import ALPHA, Summary
from medvae.benchmark.study import POSTPROCESSED
from medvae.evaluation.bootstrap import FEW_SUBJECTS, LEVEL, Interval
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

    Timings are in a file of their own: the others are the same, byte by byte, for the same numbers.
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
    """Text as LaTeX shows it."""
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
    """Header and rows of a leaderboard; the best of a column is bold, and all that equal it as printed."""
    columns = {"AP": ("ap", 3), "AUROC": ("auroc", 3), "⌈Dice⌉ oracle": ("oracle_dice", 3)}
    if one.points:
        columns[f"Dice @ {point_name(one.points[0])}"] = (f"dice_{one.points[0]}", 3)
    if any(line.value("case_auroc_p99") == line.value("case_auroc_p99") for line in one.lines):
        columns["AUROC of scans"] = ("case_auroc_p99", 3)
    best = {name: _best(one.lines, key, digits) for name, (key, digits) in columns.items()}
    rows = []
    for line in one.lines:
        cells = []
        for name, (key, digits) in columns.items():
            text = escaped(cell(line.numbers.get(key), digits))
            value = line.value(key)
            cells.append(bold(text) if line.rank and f"{value:.{digits}f}" == best[name] else text)
        remark = "; ".join(line.remarks) if line.numbers else f"failed: {_line(line.problems[0])}"
        seeds = str(line.seeds) if line.kind == "method" and line.numbers else ABSENT
        rank = escaped(str(line.rank or ABSENT))
        rows.append([escaped(line.row), rank, escaped(seeds), *cells, escaped(remark)])
    return ["method", "rank", "seeds", *columns, "remark"], rows


def point_rows(one: Leaderboard, bold: Bold, escaped: Bold = str) -> tuple[list[str], list[list[str]]]:
    """Header and rows of what each operating point flags."""
    columns = {"Dice": "dice", "sensitivity": "sensitivity", "lesion F1": "lesion_f1",
               "lesions found": "lesion_sensitivity", "realised FPR": "fpr"}  # fmt: skip
    rows = []
    for point in one.points:
        keys = {name: (f"{key}_{point}", 4 if key == "fpr" else 3) for name, key in columns.items()}
        best = {name: _best(one.lines, *found) for name, found in keys.items() if name != "realised FPR"}
        for line in one.lines:
            if f"dice_{point}" in line.numbers:
                cells = []
                for name, (key, digits) in keys.items():
                    text = escaped(cell(line.numbers[key], digits))
                    cells.append(bold(text) if best.get(name) == f"{line.value(key):.{digits}f}" else text)
                rows.append([escaped(line.row), point_name(point), *cells])
    return ["method", "threshold", *columns], rows


def difference_rows(one: Leaderboard) -> tuple[list[str], list[list[str]]]:
    """Header and rows of paired differences to the reference."""
    columns = {"AP": "ap", "⌈Dice⌉ oracle": "oracle_dice"}
    if one.points:
        columns[f"Dice @ {point_name(one.points[0])}"] = f"dice_{one.points[0]}"
    rows = [
        [line.row, *(_signed(line.differences.get(key)) for key in columns.values()), verdict(line.differences["ap"])]
        for line in one.lines
        if line.differences and "ap" in line.differences
    ]
    return ["method", *columns, "by AP"], rows


def verdict(apart: Interval) -> str:
    """What an interval of a difference says."""
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
    """A number as "0.189 ± 0.003 [0.150, 0.230]", as far as there are seeds and people."""
    if found is None or math.isnan(found.mean):
        return ABSENT
    text = f"{found.mean:.{digits}f}"
    if math.isfinite(found.sd):
        text += f" ± {found.sd:.{digits}f}"
    around = found.interval
    if around is None or around.means_little or math.isnan(around.low):
        return text
    return f"{text} [{around.low:.{digits}f}, {around.high:.{digits}f}]"


def _signed(apart: Interval | None) -> str:
    if apart is None or math.isnan(apart.value):
        return ABSENT
    text = f"{apart.value:+.3f}"
    return text if apart.means_little else f"{text} [{apart.low:+.3f}, {apart.high:+.3f}]"


def _best(lines: Sequence[Line], key: str, digits: int) -> str | None:
    values = [line.value(key) for line in lines if line.rank and math.isfinite(line.value(key))]
    return f"{max(values):.{digits}f}" if values else None


def _line(text: str) -> str:
    """In one line, and without what ends a cell of a Markdown table."""
    return " ".join(text.split()).replace("|", "/")


def _content(board: Board) -> dict[str, Any]:
    targets = {}
    for one in board.leaderboards:
        targets[one.target] = asdict(one) | {"lines": [asdict(line) for line in one.lines]}
    return {
        "medvae": __version__,
        "study": board.study.model_dump(mode="json"),
        "targets": targets,
        "left_out": board.left_out,
        "failed": board.failed,
    }


def _csv_rows(one: Leaderboard) -> list[dict[str, Any]]:
    rows = []
    for line in one.lines:
        row: dict[str, Any] = {"target": one.target, "rank": line.rank, "row": line.row, "kind": line.kind}
        row |= {"seeds": line.seeds, "remark": "; ".join(line.remarks), "failed": " / ".join(line.problems)}
        row |= {"subjects": one.counts.get("n_subjects"), "prevalence": one.counts.get("prevalence")}
        for name, found in line.numbers.items():
            row |= {name: found.mean, f"{name}_sd": found.sd}
            if found.interval:
                row |= {f"{name}_low": found.interval.low, f"{name}_high": found.interval.high}
        for name, apart in (line.differences or {}).items():
            ends = {"": apart.value, "_low": apart.low, "_high": apart.high}
            row |= {f"{name}_minus_reference{end}": value for end, value in ends.items()}
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
