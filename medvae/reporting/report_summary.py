"""Text and numbers of a report, from sidecars, a study and the rows of its cases."""

from __future__ import annotations

import datetime
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medvae.evaluation.bootstrap import Interval
from medvae.evaluation.metrics import Metric, Table, columns
from medvae.evaluation.result import MASK, Quantity, Study
from medvae.manifest import Manifest
from medvae.reporting import tables as made
from medvae.reporting.cases import PredictedCase
from medvae.reporting.report_cases import CaseRow


def facts(predicted: Sequence[PredictedCase], manifest: Manifest | None, study: Study | None) -> list[tuple[str, str]]:
    """Method and data of the predictions, from the sidecars: names and values."""
    first = predicted[0].sidecar
    healthy, quality = first.get("HealthyScans") or {}, [p.sidecar.get("RegistrationQuality") for p in predicted]
    dice = [q["TemplateDice"] for q in quality if isinstance(q, dict) and "TemplateDice" in q]
    days = sorted({datetime.date.fromtimestamp(item.map.stat().st_mtime) for item in predicted if item.map.exists()})
    told = {
        "Method": first.get("Model"),
        "Cohort": study.cohort if study else manifest.name if manifest else None,
        "Licence": manifest.licence if manifest else None,
        "Scans": len(predicted),
        "Detector": str(first.get("ModelFingerprint", ""))[:12],
        "Calibrated on": f"{healthy['training']} healthy training and {healthy['validation']} healthy validation scans"
        if {"training", "validation"} <= healthy.keys()
        else None,
        "Lesion mask": f"{first.get('OperatingPoint')}: {first.get('ThresholdSource')}",
        "Promise": first.get("Guarantee"),
        "Brain from": _counted(item.sidecar.get("BrainMaskFrom") for item in predicted),
        "Registered here": _counted("yes" if i.sidecar.get("RegisteredToMNI152") else "no" for i in predicted),
        "Overlap with the template brain": f"Dice {min(dice):.3f} to {max(dice):.3f}" if dice else None,
        "Maps written": " to ".join(dict.fromkeys(day.isoformat() for day in (days[0], days[-1]))) if days else None,
        "Software": ", ".join(f"{name} {version}" for name, version in (first.get("Software") or {}).items()),
    }
    return [(name, str(value)) for name, value in told.items() if value not in (None, "")]


def headline(rows: Sequence[CaseRow], study: Study | None, point: str, missing: int) -> list[dict[str, str]]:
    """The key numbers at the top: ``name``, ``value``, the text below it, and ``bad`` if it is bad news."""
    kinds = Counter(row.kind for row in rows if row.kind)
    told = [f"{count} with a lesion" if kind == "lesion" else f"{count} {kind}" for kind, count in kinds.items()]
    tiles = [{"name": "scans", "value": str(len(rows)), "more": ", ".join(told)}]
    if study:
        tiles += _measured(study, point)
    else:
        volumes = [row.volume_ml for row in rows if math.isfinite(row.volume_ml)]
        if volumes:
            spread = f"{min(volumes):.1f} to {max(volumes):.1f} ml"
            tiles.append({"name": "median flagged", "value": f"{np.median(volumes):.1f} ml", "more": spread})
    failed = missing + sum(bool(row.problem) for row in rows)
    if failed:
        tiles.append({"name": "failures", "value": str(failed), "more": "listed below", "bad": "yes"})
    return tiles


def _measured(study: Study, at: str) -> list[dict[str, str]]:
    pooled, points = study.pooled, {point.name: point for point in study.operating_points}
    found: list[tuple[str, float | None, Interval | None, Callable[[float], str], str]] = [
        (
            "average precision",
            pooled.get("ap"),
            study.interval("ap"),
            "{:.3f}".format,
            f"chance {pooled.get('prevalence', 0):.3f}",
        )
    ]
    if points:
        point = points.get(at) or next(iter(points.values()))
        asked = f"asked {100 * point.asked_fpr:g} %" if math.isfinite(point.asked_fpr) else ""
        mask = points.get(MASK, point)  # of the mask that is opened with the scan
        told = "of the masks" if mask is not point else f"at {made.point_name(point.name)}"
        found += [
            ("Dice", mask["dice"], study.interval("dice", mask.name), "{:.3f}".format, told),
            ("lesions found", mask["lesion_sensitivity"], None, made.percent, f"of {mask['lesions']:.0f}"),
            ("realised FPR", point["fpr"], study.interval("fpr", point.name), made.percent, asked),
        ]
    tiles = []
    for name, value, interval, written, more in found:
        if value is not None and math.isfinite(value):
            if interval and not interval.means_little:
                more += f"{'; ' if more else ''}{written(interval.low)} to {written(interval.high)}"
            tiles.append({"name": name, "value": written(value), "more": more})
    return tiles


def tables(studies: Sequence[Study], differences: dict[str, dict[Quantity, Interval]]) -> list[dict[str, Any]]:
    """The tables of numbers: ``title``, ``header`` and ``rows``; the first study is that of these predictions."""
    if not studies:
        return []
    parts = {
        "Over voxels": made.study_rows(studies),
        "At fixed thresholds": made.point_rows(studies),
        "Lesions found, by size": made.lesion_rows(studies[0]),
        "Is there a lesion?": made.case_rows(studies[0]),
        f"{studies[0].method} minus another method, paired": made.difference_rows(
            {Path(name).name: found for name, found in differences.items()}
        ),
    }
    return [{"title": title, "header": header, "rows": rows} for title, (header, rows) in parts.items() if rows]


def shown(rows: Sequence[CaseRow], picture: Callable[[CaseRow], str | None]) -> dict[str, Any]:
    """Best, median and worst case by AP; without truth, those with the largest, median and smallest flagged volume.

    ``picture`` gives the ``src`` of a case's picture.
    """
    measured = sorted((row for row in rows if math.isfinite(row.value("ap"))), key=lambda row: -row.value("ap"))
    by_ap = bool(measured)
    ordered = measured or sorted((r for r in rows if math.isfinite(r.volume_ml)), key=lambda row: -row.volume_ml)
    if len(ordered) < 3:
        chosen = list(zip(("Best", "Worst") if by_ap else ("Most flagged", "Least flagged"), ordered, strict=False))
    else:
        names = ("Best", "Median", "Worst") if by_ap else ("Most flagged", "Median", "Least flagged")
        chosen = list(zip(names, (ordered[0], ordered[len(ordered) // 2], ordered[-1]), strict=True))
    return {
        "by_ap": by_ap,
        "cases": [(name, row, picture(row)) for name, row in chosen],
    }


def table_data(rows: Sequence[CaseRow]) -> dict[str, Any]:
    """The table of cases for a script: ``digits`` of the columns, and for each case its name, page, kind, problem,
    whether it has a picture, and its numbers.
    """
    columns = case_columns(rows)
    numbers = [[row.value(name) for name, _, _ in columns] for row in rows]
    return {
        "digits": [digits for _, _, digits in columns],
        "rows": [
            [row.id, row.page, row.kind, row.problem, row.pictured]
            + [float(f"{value:.7g}") if math.isfinite(value) else None for value in values]
            for row, values in zip(rows, numbers, strict=True)
        ],
    }


def case_columns(rows: Sequence[CaseRow]) -> list[tuple[str, str, int]]:
    """Non-empty columns of numbers: name, title and digits."""
    known = [("volume_ml", "flagged, ml", 2), ("findings", "findings", 0), ("p_value", "p of the scan", 3)]
    known += [(metric.name, column.title, column.digits) for metric, column in columns(Table.REPORT_CASES, Metric)]
    return [column for column in known if any(math.isfinite(row.value(column[0])) for row in rows)]


def _counted(values: Iterable[object]) -> str:
    told = [str(value) for value in values]
    if len(set(told)) == 1:
        return told[0]
    return ", ".join(f"{value} ({told.count(value)})" for value in dict.fromkeys(told))
