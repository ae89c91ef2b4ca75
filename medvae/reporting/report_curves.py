"""The curves of a report as SVG with the colours of the page, light or dark."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from medvae.errors import MedvaeError
from medvae.evaluation.result import Quantity, Study
from medvae.parsing import read_json_lines
from medvae.reporting.report_volumes import STEPS
from medvae.reporting.tables import point_name
from medvae.training.metrics import TIMES

# Placeholder colours: each stands for one of the page's style sheet.
INK, LINE, FIRST, SECOND, THIRD = "#010203", "#040506", "#070809", "#0a0b0c", "#0d0e0f"
_VARIABLES = {INK: "--ink", LINE: "--line", FIRST: "--first", SECOND: "--second", THIRD: "--third"}
_STYLE: Any = {  # a parameter of matplotlib by its name: its type of these names differs between versions
    "svg.fonttype": "none", "font.size": 9, "axes.edgecolor": INK, "axes.labelcolor": INK, "text.color": INK,
    "xtick.color": INK, "ytick.color": INK, "grid.color": LINE, "axes.grid": True, "grid.linewidth": 0.6,
    "axes.linewidth": 0.6, "axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": 10,
    "legend.frameon": False, "legend.fontsize": 8, "axes.unicode_minus": False, "mathtext.default": "regular",
}  # fmt: skip
SMALLEST_RATE = 1e-4
"""Lower limit of the false-positive rate axes."""
MOST_DOTS = 500
"""Healthy scans whose own rate is a dot; of more, every second or so in the order of the rates."""


@dataclass(frozen=True)
class VoxelsAbove:
    """Pooled voxels above each of ``STEPS + 1`` thresholds of the map, from 0 to 1, ``(STEPS + 1,)`` each."""

    lesion: np.ndarray
    other: np.ndarray
    """Brain voxels without lesion, in the same scans."""
    lesion_total: int
    other_total: int

    def __add__(self, more: VoxelsAbove) -> VoxelsAbove:
        return VoxelsAbove(
            self.lesion + more.lesion, self.other + more.other,
            self.lesion_total + more.lesion_total, self.other_total + more.other_total,
        )  # fmt: skip

    @classmethod
    def none(cls) -> VoxelsAbove:
        """Zero counts."""
        return cls(np.zeros(STEPS + 1, np.int64), np.zeros(STEPS + 1, np.int64), 0, 0)


def accuracy_curves(pooled: VoxelsAbove, study: Study | None) -> str:
    """Precision against sensitivity, ROC, and Dice against the threshold, with the operating points on them."""
    true, false = pooled.lesion.astype(float), pooled.other.astype(float)
    sensitivity, rate = true / pooled.lesion_total, false / max(1, pooled.other_total)
    flagged = true + false
    precision = np.divide(true, flagged, out=np.full_like(true, math.nan), where=flagged > 0)
    dice = 2 * true / (pooled.lesion_total + flagged)
    prevalence = pooled.lesion_total / (pooled.lesion_total + pooled.other_total)
    numbers = study.pooled if study else {}
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(9.6, 3.1), layout="constrained")
        left, middle, right = figure.subplots(1, 3)
        left.plot(sensitivity, precision, color=FIRST, linewidth=1.6, label=_named("AP", numbers.get("ap")))
        left.axhline(prevalence, color=THIRD, linewidth=1, linestyle="--", label=f"chance {prevalence:.3f}")
        left.set(ylim=(-0.03, 1.25), yticks=np.linspace(0, 1, 6))  # room for the legend
        _axes(left, "Precision and sensitivity", "sensitivity (recall)", "precision")
        x, y = np.append(1.0, rate), np.append(1.0, sensitivity)  # everything is flagged
        middle.plot(x, y, color=FIRST, linewidth=1.6, label=_named("AUROC", numbers.get("auroc")))
        middle.plot(np.geomspace(SMALLEST_RATE, 1), np.geomspace(SMALLEST_RATE, 1), color=THIRD, linewidth=1,
                    linestyle="--", label="chance")  # fmt: skip
        middle.set_xscale("log")
        _axes(middle, "ROC", "false-positive rate", "sensitivity")
        middle.set(xlim=(SMALLEST_RATE, 1), ylim=(-0.03, 1.25), yticks=np.linspace(0, 1, 6))
        middle.xaxis.set_major_formatter(FuncFormatter(_percent))
        right.plot(np.linspace(0, 1, STEPS + 1), dice, color=FIRST, linewidth=1.6,
                   label=_named("best, oracle", numbers.get("oracle_dice")))  # fmt: skip
        _axes(right, "Dice at each threshold", "threshold on the map", "Dice")
        right.set_ylim(0, max(0.05, 1.5 * float(dice.max())))
        on_the_map = [point for point in (study.operating_points if study else []) if math.isfinite(point.threshold)]
        for number, point in enumerate(on_the_map):
            step = round(min(max(point.threshold, 0), 1) * STEPS)
            marker = {"marker": "os^Dv"[number % 5], "color": SECOND, "linestyle": "none", "markersize": 5}
            left.plot(sensitivity[step], precision[step], **marker)
            middle.plot(max(rate[step], SMALLEST_RATE), sensitivity[step], **marker)
            right.plot(point.threshold, dice[step], **marker, label=point_name(point.name))
        for axes in (axes for axes in (left, middle, right) if axes.get_legend_handles_labels()[0]):
            axes.legend(loc="upper left" if axes is middle else "upper right")
    told = ", ".join(
        f"{name} {numbers[key]:.3f}"
        for name, key in (("average precision", "ap"), ("AUROC", "auroc"), ("best Dice", "oracle_dice"))
        if math.isfinite(numbers.get(key, math.nan))
    )
    what = "precision against sensitivity, ROC, and Dice against the threshold"
    return as_svg(figure, f"Curves over the voxels of scans with a lesion: {what}. {told}".strip(), "accuracy")


def calibration_curve(
    study: Study | None, healthy: VoxelsAbove, asked: tuple[np.ndarray, np.ndarray] | None
) -> str | None:
    """Nominal against realised false-positive rate on healthy scans; None if neither is known.

    Parameters
    ----------
    study
        Its operating points and their intervals, and each healthy scan's own rate.
    healthy
        Voxels of the healthy scans.
    asked
        From the detector: ascending thresholds on the map, and the share of healthy validation voxels at or above each.
    """
    points = [
        p
        for p in (study.operating_points if study else [])
        if math.isfinite(p.asked_fpr) and math.isfinite(p["fpr"]) and p.asked_fpr > 0
    ]
    if not points and (asked is None or not healthy.other_total):
        return None
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(4.6, 3.6), layout="constrained")
        axes = figure.subplots()
        axes.plot([SMALLEST_RATE, 1], [SMALLEST_RATE, 1], color=THIRD, linewidth=1, linestyle="--", label="as asked")
        if asked is not None and healthy.other_total:
            thresholds, rates = asked
            steps = np.rint(np.clip(thresholds, 0, 1) * STEPS).astype(int)
            axes.plot(rates, healthy.other[steps] / healthy.other_total, color=FIRST, linewidth=1.6, label="realised")
        for number, point in enumerate(points):
            own = sorted(
                case.number("flagged", at=point.name) / case.number("voxels")
                for case in (study.per_case if study else [])
                if case.healthy and case.number("voxels") > 0 and Quantity("flagged", point.name) in case.numbers
            )
            every = math.ceil(len(own) / MOST_DOTS) or 1
            own = own[every // 2 :: every]
            dots = None if number else "each healthy scan" if every == 1 else f"every {every}th healthy scan"
            axes.plot([point.asked_fpr] * len(own), np.maximum(own, SMALLEST_RATE), "o", markersize=3, color=FIRST,
                      alpha=0.45, label=dots)  # fmt: skip
            found = study.interval("fpr", point.name) if study else None
            if found and not found.means_little:
                axes.plot([point.asked_fpr] * 2, np.maximum([found.low, found.high], SMALLEST_RATE), color=SECOND,
                          linewidth=1.5)  # fmt: skip
            axes.plot(point.asked_fpr, max(point["fpr"], SMALLEST_RATE), marker="D", markersize=6, color=SECOND,
                      linestyle="none", label="all, with 95 % interval" if number == 0 else None)  # fmt: skip
        axes.set(xscale="log", yscale="log", xlim=(SMALLEST_RATE, 1), ylim=(SMALLEST_RATE, 1))
        _axes(axes, "", "asked false-positive rate", "realised on healthy scans")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(FuncFormatter(_percent))
        axes.legend(loc="upper left")
    told = "; ".join(f"asked {p.asked_fpr:.3g}, realised {p['fpr']:.3g}" for p in points)
    return as_svg(figure, f"Asked against realised false-positive rate on healthy scans. {told}".strip(), "calibration")


def training_curves(metrics: Path) -> str | None:
    """Loss terms over steps from ``metrics.jsonl``; None if it is empty.

    Raises
    ------
    MedvaeError
        If a line is not JSON, as in a truncated file.
    """
    try:
        lines = read_json_lines(metrics)
    except MedvaeError as error:
        raise MedvaeError(f"{error} So there are no training curves.") from None
    lines = [{name: value for name, value in line.items() if isinstance(value, int | float)} for line in lines]
    if not all("step" in line for line in lines):
        raise MedvaeError(f'{metrics}: a line of it has no number as its "step". So there are no training curves.')
    names = [name for name in dict.fromkeys(n for line in lines for n in line) if name not in ("step", *TIMES)]
    groups = {
        "Likelihood term": [n for n in names if n.removeprefix("validation_") in ("reconstruction", "context")],
        "KL divergence": [n for n in names if n.removeprefix("validation_") == "kl"],
    }
    grouped = {name for group in groups.values() for name in group}
    groups["Other terms"] = [n for n in names if n not in grouped and n.removeprefix("validation_") not in ("total",)]
    groups = {title: group for title, group in groups.items() if group}
    if not groups:
        return None
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(3.3 * len(groups) + 0.6, 3.0), layout="constrained")
        for axes, (title, group) in zip(figure.subplots(1, len(groups), squeeze=False)[0], groups.items(), strict=True):
            colours = dict(zip(dict.fromkeys(n.removeprefix("validation_") for n in group), [FIRST, SECOND, THIRD] * 9))  # noqa: B905
            for name in group:
                drawn = [(line["step"], line[name]) for line in lines if isinstance(line.get(name), int | float)]
                held_out = name.startswith("validation_")
                axes.plot(*zip(*drawn, strict=True), color=colours[name.removeprefix("validation_")],
                          linewidth=1 if held_out else 1.4, marker="o" if held_out else None, markersize=3,
                          linestyle="--" if held_out else "-", label=name.replace("_", " "))  # fmt: skip
            _axes(axes, title, "step", "nats per brain voxel" if title != "Other terms" else "")
            axes.margins(y=0.18)
            axes.legend(loc="best")
    last = max(line["step"] for line in lines)
    return as_svg(figure, f"Loss terms over {last} training steps: {', '.join(names).replace('_', ' ')}.", "training")


def as_svg(figure: Figure, told: str, salt: str) -> str:
    """A figure as an ``svg`` element: scales with the page, with a text for screen readers."""
    buffer = io.StringIO()
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": salt}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None},
                       transparent=True)  # fmt: skip
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    width, height = (float(n) for n in re.findall(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', text)[0])
    head = f'<svg role="img" aria-label="{escape(told)}" viewBox="0 0 {width:g} {height:g}" class="figure">'
    text = head + text[text.index(">") + 1 :]
    text = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font-size: \1", text)
    text = re.sub(r"font-family: [^;\"]*;?", "", text)
    text = text.replace("xlink:href", "href")
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    return text


def _axes(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set(title=title, xlabel=x, ylabel=y)
    axes.set_axisbelow(True)
    axes.minorticks_off()


def _named(name: str, value: float | None) -> str | None:
    return f"{name} {value:.3f}" if value is not None and math.isfinite(value) else None


def _percent(value: float, _: Sequence[float] | None = None) -> str:
    return f"{100 * value:g} %"
