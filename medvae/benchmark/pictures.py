"""Pictures of a study: curves of all methods, per-scan numbers, and average ranks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from medvae.benchmark.board import Board, Leaderboard, Line, Outcome
from medvae.benchmark.statistics import ALPHA, Ranks, alike
from medvae.benchmark.study import BASELINES, POSTPROCESSED
from medvae.drawing import save_figure
from medvae.evaluation.curves import SparseCounts, bin_floor

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Distinct for any colour vision (Okabe and Ito 2008), without yellow, which is invisible on white."""
DASHES = ("-", (0, (5, 2)), (0, (1, 1.2)))
MOST = 12
"""Maximum curves in one picture, for legibility. The reference and the baselines are always shown."""
POINTS = 1500
"""Points of a curve."""


def draw_board(board: Board, out: Path | str) -> list[Path]:
    """Draw ``TARGET_curves.png``, ``TARGET_cases.png`` and, with enough subjects, ``TARGET_ranks.png``."""
    written = []
    for one in board.leaderboards:
        outcomes = board.of(one.target)
        lines = shown(one)
        if lines:
            folder = Path(out)
            written.append(draw_curves(one, lines, outcomes, folder / f"{one.target}_curves.png"))
            written.append(draw_cases(one, lines, outcomes, folder / f"{one.target}_cases.png"))
        if one.ranks:
            written.append(draw_ranks(one.ranks, Path(out) / f"{one.target}_ranks.png", title=one.title))
    return written


def shown(one: Leaderboard) -> list[Line]:
    """The rows that are drawn, best first: at most 12. Post-processing changes no map, so its rows are omitted."""
    ranked = [line for line in one.lines if line.rank and not line.row.endswith(POSTPROCESSED)]
    always = [line for line in ranked if line.row in (*BASELINES, one.reference)]
    others = [line for line in ranked if line not in always]
    chosen = [*always, *others[: max(0, MOST - len(always))]]
    return [line for line in ranked if line in chosen]


def middle_seed(outcome: Outcome) -> SparseCounts:
    """Voxel counts of the seed with the median AP (of two, the lower)."""
    ordered = sorted(outcome.measured, key=lambda one: one.study.pooled["ap"])
    return SparseCounts.merged([counts for _, _, counts in ordered[(len(ordered) - 1) // 2].study.counts])


def draw_curves(one: Leaderboard, lines: Sequence[Line], outcomes: dict[str, Outcome], path: Path) -> Path:
    """Precision over recall, sensitivity over false positives, and Dice over the threshold of the map."""
    figure = Figure(figsize=(13, 4.6 + 0.2 * ((len(lines) + 3) // 3)), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    prevalence = one.counts["prevalence"]
    for index, line in enumerate(lines):
        curve = _curve(middle_seed(outcomes[line.row]))
        style = {"color": COLOURS[index % len(COLOURS)], "linestyle": DASHES[index // len(COLOURS) % len(DASHES)]}
        left.plot(curve["recall"], curve["precision"], linewidth=1.5, label=line.row, **style)
        middle.plot(curve["fpr"], curve["recall"], linewidth=1.5, **style)
        right.plot(curve["threshold"], curve["dice"], linewidth=1.5, **style)
    chance = {"color": "0.55", "linewidth": 1, "linestyle": (0, (4, 3))}
    left.axhline(prevalence, label="chance", **chance)
    rates = np.geomspace(1e-5, 1, 200)
    middle.plot(rates, rates, **chance)
    right.axhline(2 * prevalence / (1 + prevalence), **chance)
    right.axvline(0.5, color="0.8", linewidth=1, zorder=0)
    left.set(xlabel="recall (sensitivity)", ylabel="precision", xlim=(0, 1), ylim=(0, 1), title="Precision and recall")
    middle.set(xlabel="false-positive rate (logarithmic)", ylabel="sensitivity", xscale="log", xlim=(1e-4, 1),
               ylim=(0, 1), title="ROC")  # fmt: skip
    right.set(xlabel="threshold of the map (0.5: first operating point)", ylabel="Dice", xlim=(0, 1), ylim=(0, None),
              title="Dice; its peak needs the truth")  # fmt: skip
    for axes in (left, middle, right):
        axes.spines[["top", "right"]].set_visible(False)
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    figure.suptitle(f"{one.title}: {_how_many(one, lines)}", fontsize=11, x=0.01, ha="left")
    return save_figure(figure, path)


def draw_cases(one: Leaderboard, lines: Sequence[Line], outcomes: dict[str, Outcome], path: Path) -> Path:
    """AP of each scan for each method (mean over seeds), and their median; thin lines join a scan's dots."""
    values = [_per_case(outcomes[line.row]) for line in lines]
    figure = Figure(figsize=(8.5, 1.3 + 0.34 * len(lines)), layout="constrained")
    axes: Axes = figure.subplots()
    rows = np.arange(len(lines))
    for case in values[0]:
        axes.plot([found.get(case, np.nan) for found in values], rows, color="0.88", linewidth=0.6, zorder=0)
    for row, (line, found) in enumerate(zip(lines, values, strict=True)):
        dots = np.array(sorted(found.values()))
        colour = COLOURS[row % len(COLOURS)]
        axes.scatter(dots, np.full(len(dots), row), s=16, color=colour, alpha=0.65, linewidths=0)
        axes.plot([np.nanmedian(dots)] * 2, [row - 0.33, row + 0.33], color=colour, linewidth=2.2)
        axes.text(1.01, row, f"{line.value('ap'):.3f}", va="center", fontsize=8, transform=axes.get_yaxis_transform())
    axes.text(1.01, -0.9, "pooled AP", fontsize=8, transform=axes.get_yaxis_transform())
    axes.set_yticks(rows, [line.row for line in lines], fontsize=9)
    axes.set(ylim=(len(lines) - 0.4, -0.6), xlabel="AP of each scan; bar: median", xlim=(0, None))
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    figure.suptitle(f"{one.title}: {_how_many(one, lines)}", fontsize=10, x=0.01, ha="left")
    return save_figure(figure, path)


def draw_ranks(ranks: Ranks, path: Path, *, title: str = "") -> Path:
    """Demšar's critical-difference diagram: average ranks, with a bar over methods that do not differ significantly."""
    count, groups = len(ranks.methods), alike(ranks)
    half = (count + 1) // 2
    step, top = 0.3, 0.5 + 0.16 * len(groups)
    beside = 0.5 + 0.078 * max(len(name) + 6 for name in ranks.methods)  # inches for the names on either side
    unit = 4.6 / (count - 1)  # inches of one rank
    height, above = top + step * half + 1.05, 0.95
    figure = Figure(figsize=(max(8.5, 4.6 + 2 * beside), height))
    axes: Axes = figure.add_axes((0.02, 0.02, 0.96, 0.96))
    margin = (figure.get_figwidth() * 0.96 - 4.6) / 2 / unit
    axes.set(xlim=(1 - margin, count + margin), ylim=(height * 0.96 - above, -above))  # y in inches from the axis down
    axes.axis("off")
    axes.plot([1, count], [0, 0], color="black", linewidth=1.2)
    for tick in range(1, count + 1):
        axes.plot([tick, tick], [-0.08, 0], color="black", linewidth=1)
        axes.text(tick, -0.13, str(tick), ha="center", va="bottom", fontsize=9)
    axes.plot([1, 1 + ranks.critical_difference], [-0.48, -0.48], color="black", linewidth=2.5)
    axes.text(1 + ranks.critical_difference / 2, -0.53, f"critical difference {ranks.critical_difference:.2f}",
              ha="center", va="bottom", fontsize=9)  # fmt: skip
    for index, (name, value) in enumerate(zip(ranks.methods, ranks.average, strict=True)):
        on_left = index < half
        depth = top + step * (index if on_left else count - 1 - index)
        edge = 1 - 0.15 / unit if on_left else count + 0.15 / unit
        axes.plot([value, value, edge], [0, depth, depth], color="0.35", linewidth=0.9)
        axes.text(edge, depth, f" {name}  {value:.2f} ", ha="right" if on_left else "left", va="center", fontsize=9)
    for row, (first, last) in enumerate(groups):
        ends = [ranks.average[first] - 0.03 / unit, ranks.average[last] + 0.03 / unit]
        axes.plot(ends, [0.22 + 0.16 * row] * 2, color=COLOURS[0], linewidth=3.5, solid_capstyle="round")
    told = (
        f"{title}: average ranks of AP over {ranks.people} people (1 is best), Friedman p {ranks.p_value:.2g}; joined "
        f"methods are not told apart at {100 * ALPHA:.0f} % (Nemenyi)"
    )
    axes.text(0, 1, told, transform=axes.transAxes, ha="left", va="top", fontsize=9)
    return save_figure(figure, path)


def _curve(counts: SparseCounts) -> dict[str, np.ndarray]:
    """Points of the curves, the highest threshold first."""
    hits, alarms = (np.cumsum(part[::-1], dtype=np.float64) for part in (counts.lesion, counts.healthy))
    bins = counts.bins[::-1]
    if len(bins) > POINTS:  # half evenly spaced in recall, half in the log of the number flagged
        flagged = hits + alarms
        of_recall = np.searchsorted(hits, np.linspace(0, hits[-1], POINTS // 2))
        of_size = np.searchsorted(flagged, np.geomspace(1, flagged[-1], POINTS // 2))
        chosen = np.unique(np.clip(np.concatenate([of_recall, of_size, [0, len(bins) - 1]]), 0, len(bins) - 1))
        hits, alarms, bins = hits[chosen], alarms[chosen], bins[chosen]
    lesion, healthy = counts.lesion.sum(), counts.healthy.sum()
    return {
        "recall": hits / lesion,
        "precision": hits / (hits + alarms),
        "fpr": alarms / healthy,
        "dice": 2 * hits / (lesion + hits + alarms),
        "threshold": np.array([bin_floor(int(key)) for key in bins]),
    }


def _per_case(outcome: Outcome) -> dict[str, float]:
    found: dict[str, list[float]] = {}
    for one in outcome.measured:
        for case in one.study.per_case:
            if case.ill:
                found.setdefault(case.id, []).append(case.number("ap"))
    return {name: float(np.mean(values)) for name, values in found.items()}


def _how_many(one: Leaderboard, lines: Sequence[Line]) -> str:
    rows = sum(line.rank is not None and not line.row.endswith(POSTPROCESSED) for line in one.lines)
    scans = int(one.counts["n_cases"])
    return f"{scans} scans with lesions, " + (f"{len(lines)} of {rows} rows" if len(lines) < rows else f"{rows} rows")
