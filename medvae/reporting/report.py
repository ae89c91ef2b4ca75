"""A folder of predictions as pages to look at: one report, and a page with a viewer for each case.

``OUT/report.html``          one file that needs no other to be read, nor a network
``OUT/cases/ID.html, ID.js`` a case's page and its volumes; ``OUT/cases/niivue.umd.js`` is the viewer, once for all

The pages open from a disk: they load what lies beside them with ``script`` elements and nothing else.
"""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
import numpy as np
from PIL import Image

from medvae import __version__
from medvae.ensemble import load_detector
from medvae.errors import MedvaeError
from medvae.evaluation.bootstrap import Interval
from medvae.evaluation.study import Study, evaluate
from medvae.files import write_bytes, write_text
from medvae.manifest import Manifest
from medvae.progress import Progress
from medvae.reporting import tables
from medvae.reporting.report_cases import (
    VIEWER,
    CaseRow,
    Predicted,
    Source,
    case_writer,
    find_predictions,
    find_scans,
    make_case,
    page_names,
)
from medvae.reporting.report_curves import VoxelsAbove, accuracy_curves, calibration_curve, training_curves
from medvae.reporting.report_folder import check_report_folder, replaced_cases
from medvae.reporting.report_pictures import data_uri, webp
from medvae.reporting.report_study import read_study
from medvae.run_folder import CONFIG
from medvae.schema import read_document

REPORT = "report.html"
CASES = "cases"
INLINE_CASES = 500
"""With more cases the small pictures lie beside the report, not in it: it would take a browser long to open."""


@dataclass(frozen=True)
class Report:
    """What was written."""

    path: Path
    cases: int
    notes: list[str]
    """What is not as a reader would expect; also said in the report."""
    problems: dict[str, str]
    """Cases without a viewer, or of which something could not be read, and why."""


def write_report(
    predictions: Path | str,
    out: Path | str,
    *,
    manifest: Manifest | None = None,
    scans: Sequence[Path | str] = (),
    evaluations: Sequence[Path | str] = (),
    run: Path | str | None = None,
    quiet: bool = False,
) -> Report:
    """Write the report of a folder of predictions; only the report and its folder of pages are overwritten.

    Parameters
    ----------
    predictions
        Folder that `medvae.prediction.predict` wrote.
    out
        Where ``report.html`` and ``cases/`` go.
    manifest
        Tells where the scans, their brain masks and their truth are. Without ``evaluations`` the predictions are
        measured against it.
    scans
        Folders to look for scans that no manifest names; a scan is known by its name and content.
    evaluations
        Folders that ``medvae evaluate`` wrote: of these predictions, and of other methods on the same cases for the
        table.
    run
        Run folder of the detector: its config, training curves and calibration are shown.
    quiet
        No progress display.

    Raises
    ------
    MedvaeError
        If there is no prediction, a given folder is not what it should be, or ``out`` holds pages that are not a
        report's. A case that cannot be read is a problem that is told, not an error.
    """
    predictions, out = Path(predictions), Path(out)
    predicted = find_predictions(predictions)
    check_report_folder(out / REPORT, out / CASES)
    plain = partial(_plain, folders=[predictions, out, *map(Path, scans), *([manifest.path.parent] if manifest else [])])
    named = {case.id: case for case in manifest.cases} if manifest else {}
    found = find_scans(predicted, [Path(folder) for folder in scans])
    sources = {
        item.id: Source(manifest.images(case)[0], manifest, case)
        if (case := named.get(item.id))
        else Source(found.get(item.id))
        for item in predicted
    }
    ids = [item.id for item in predicted]
    studies, differences, notes = _studies(predicted, predictions, manifest, evaluations, quiet)
    study = studies[0] if studies and studies[0].method == predicted[0].sidecar.get("Model") else None
    numbers = {row["id"]: row for row in study.per_case} if study else {}

    pages, environment = page_names(ids), _environment()
    template = environment.get_template("case.html")
    rows: list[CaseRow] = []
    pooled = {"lesion": VoxelsAbove.none(), "healthy": VoxelsAbove.none()}
    with replaced_cases(out / CASES) as folder, Progress("Writing pages", len(predicted), quiet=quiet) as progress:
        for index, item in enumerate(predicted):
            around = [
                (ids[i], quote(pages[ids[i]]) + ".html") if 0 <= i < len(ids) else None for i in (index - 1, index + 1)
            ]
            shared = {"around": around, "number": index + 1, "count": len(ids), "version": __version__}
            write = case_writer(template, folder, item, numbers.get(item.id, {}), shared)
            row, voxels = make_case(
                item, sources[item.id], numbers.get(item.id, {}), pages[item.id], write, plain
            )
            rows.append(row)
            if voxels is not None:
                pooled[row.kind] += voxels
            if row.picture and len(ids) > INLINE_CASES:
                write_bytes(folder / f"{row.page}.webp", row.picture)
            progress.update(index + 1, case=item.id)
        with resources.as_file(resources.files("medvae.reporting") / "viewer") as viewer:
            for file in (VIEWER, "LICENCES.txt"):
                write_bytes(folder / file, (viewer / file).read_bytes())

    learned, more = _run(run, predicted)
    missing = _missing(predictions, predicted, manifest, study)
    notes = [plain(note) for note in dict.fromkeys([*notes, *more])]
    lesions = pooled["lesion"]
    unread = sum(row.kind == "lesion" for row in rows) - sum(1 for row in rows if row.kind == "lesion" and not row.problem)
    if unread and lesions.lesion_total:
        notes.append(f"The curves leave out {unread} scans with a lesion that could not be read.")
    html = environment.get_template("report.html").render(
        title=str(predicted[0].sidecar.get("Model", "anomaly maps")),
        cohort=study.cohort if study else manifest.name if manifest else None,
        version=__version__,
        research="medvae is a research tool. It is not a medical device and not for clinical use.",
        facts=_facts(predicted, manifest, study),
        headline=_headline(rows, study, predicted[0].point, len(missing)),
        tables=_tables(studies, differences),
        accuracy=accuracy_curves(lesions, study) if lesions.lesion_total else None,
        calibration=calibration_curve(study, pooled["healthy"], learned.pop("asked", None)),
        **{"training": None, "reconstructions": None, "config": None} | learned,
        notes=notes,
        shown=_shown(rows),
        rows=[(row, _picture(row, len(ids))) for row in rows],
        columns=_columns(rows, predicted[0].point),
        missing={name: plain(reason) for name, reason in missing.items()},
        measured=study is not None,
        single=len(studies) < 2,
        point=predicted[0].point,
    )
    path = write_text(out / REPORT, html)
    return Report(path, len(rows), notes, {row.id: row.problem for row in rows if row.problem})


def _studies(
    predicted: Sequence[Predicted],
    folder: Path,
    manifest: Manifest | None,
    evaluations: Sequence[Path | str],
    quiet: bool,
) -> tuple[list[Study], dict[str, dict[str, Interval]], list[str]]:
    """The study of these predictions first, then those of other methods on its cohort; and notes."""
    ids, model = {item.id for item in predicted}, predicted[0].sidecar.get("Model")
    if evaluations:
        read = [read_study(path) for path in evaluations]
        own = next((s for s in read if s[0].method == model and ids & {row["id"] for row in s[0].per_case}), None)
        if own is None:
            told = ", ".join(f'"{study.method}" on "{study.cohort}"' for study, _ in read)
            raise MedvaeError(
                f"{folder}: holds maps of {model}, and none of the evaluations is of them (they are of {told}). Give "
                f"the folder that medvae evaluate wrote for this one."
            )
        cases = {row["id"] for row in own[0].per_case}
        others = [s for s in read if s is not own and {row["id"] for row in s[0].per_case} == cases]
        notes = [
            f'The evaluation of "{study.method}" on "{study.cohort}" is of other cases and is left out.'
            for study, _ in read
            if study is not own[0] and all(study is not other[0] for other in others)
        ]
        return [own[0], *(study for study, _ in others)], own[1], [*own[0].notes, *notes]
    splits = [] if manifest is None else list(dict.fromkeys(c.split for c in manifest.cases if c.id in ids))
    if not splits:
        return [], {}, [] if manifest is None else ["The manifest names none of these cases."]
    if all(case.unlabelled for case in manifest.cases if case.id in ids):
        return [], {}, ["No case is labelled or said to be healthy, so nothing is measured."]
    try:
        study = evaluate(folder, manifest, splits=splits, quiet=quiet)
    except MedvaeError as error:
        return [], {}, [f"The predictions could not be measured: {error}"]
    return [study], {}, study.notes


def _run(run: Path | str | None, predicted: Sequence[Predicted]) -> tuple[dict[str, Any], list[str]]:
    """What a run folder adds to the report, and notes."""
    if run is None:
        return {}, []
    run = Path(run)
    detector = load_detector(run)
    found: dict[str, Any] = {}
    notes = []
    if predicted[0].sidecar.get("ModelFingerprint") == detector.fingerprint:
        if (healthy := detector.healthy) is not None:
            found["asked"] = (detector.map_values(healthy.thresholds), healthy.at_or_above / healthy.voxels)
    else:
        notes.append(f"The detector in {run.name} is not the one that made these maps: its calibration is left out.")
    folder = run if (run / CONFIG).is_file() else run.parent
    if (folder / CONFIG).is_file():
        found["config"] = (folder / CONFIG).read_text(encoding="utf-8")
    if (folder / "metrics.jsonl").is_file():
        try:
            found["training"] = training_curves(folder / "metrics.jsonl")
        except MedvaeError as error:
            notes.append(str(error))
    if (folder / "reconstructions.png").is_file():
        with Image.open(folder / "reconstructions.png") as image:
            found["reconstructions"] = data_uri(webp(image.convert("RGB")))
    return found, notes


def _missing(
    folder: Path, predicted: Sequence[Predicted], manifest: Manifest | None, study: Study | None
) -> dict[str, str]:
    """Cases without a finished prediction, and why as far as that is known."""
    failures = read_document(folder / "failures.json") if (folder / "failures.json").is_file() else {}
    there = {item.id for item in predicted}
    splits = {case.split for case in manifest.cases if case.id in there} if manifest else set()
    expected = [case.id for case in manifest.cases if case.split in splits] if manifest else []
    names = dict.fromkeys([*failures, *expected, *(study.missing if study else [])])
    unknown = "It was not predicted, or predict did not finish it. Run medvae predict again to see why."
    return {name: failures.get(name, unknown) for name in names if name not in there}


def _facts(predicted: Sequence[Predicted], manifest: Manifest | None, study: Study | None) -> list[tuple[str, str]]:
    first = predicted[0].sidecar
    healthy, quality = first.get("HealthyScans") or {}, [p.sidecar.get("RegistrationQuality") for p in predicted]
    dice = [q["TemplateDice"] for q in quality if isinstance(q, dict) and "TemplateDice" in q]
    days = sorted({datetime.date.fromtimestamp(item.map.stat().st_mtime) for item in predicted if item.map.exists()})
    facts = {
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
    return [(name, str(value)) for name, value in facts.items() if value not in (None, "")]


def _headline(rows: Sequence[CaseRow], study: Study | None, point: str, missing: int) -> list[dict[str, str]]:
    """The few numbers at the top."""
    kinds = [f"{n} with a lesion" if k == "lesion" else f"{n} {k}" for k, n in _kinds(rows).items() if k]
    tiles = [{"name": "scans", "value": str(len(rows)), "more": ", ".join(kinds)}]
    if study:
        results = {p.name: p for p in study.operating_points}
        chosen = results.get(point) or next(iter(results.values()), None)
        for name, value, key, more in (
            ("average precision", study.pooled.get("ap"), "ap", f"chance {study.pooled.get('prevalence', 0):.3f}"),
            ("Dice", chosen and chosen.dice, f"dice_{chosen and chosen.name}", f"at {chosen and chosen.name}"),
            ("lesions found", chosen and chosen.lesion_sensitivity, "", f"of {chosen and chosen.lesions}"),
            ("realised FPR", chosen and chosen.fpr, f"fpr_{chosen and chosen.name}",
             f"asked {chosen.asked_fpr:.2%}" if chosen and math.isfinite(chosen.asked_fpr) else ""),
        ):  # fmt: skip
            if value is None or not math.isfinite(value):
                continue
            percent = name in ("lesions found", "realised FPR")
            text = f"{value:.1%}" if percent else f"{value:.3f}"
            interval = study.intervals.get(key)
            if interval and not interval.means_little:
                ends = [f"{end:.1%}" if percent else f"{end:.3f}" for end in (interval.low, interval.high)]
                more = f"{more}; 95 % {ends[0]} to {ends[1]}"
            tiles.append({"name": name, "value": text, "more": more})
    else:
        volumes = [row.volume_ml for row in rows if math.isfinite(row.volume_ml)]
        if volumes:
            tiles.append({"name": "median flagged", "value": f"{np.median(volumes):.1f} ml",
                          "more": f"{min(volumes):.1f} to {max(volumes):.1f} ml"})  # fmt: skip
    problems = sum(bool(row.problem) for row in rows)
    if missing or problems:
        tiles.append({"name": "failures", "value": str(missing + problems), "more": "listed below", "bad": "yes"})
    return tiles


def _tables(studies: Sequence[Study], differences: dict[str, dict[str, Interval]]) -> list[dict[str, Any]]:
    if not studies:
        return []
    parts = {
        "Over voxels": tables.study_rows(studies),
        "At fixed thresholds": tables.point_rows(studies),
        "Lesions found, by size": tables.lesion_rows(studies[0]),
        "Is there a lesion?": tables.case_rows(studies[0]),
        f"{studies[0].method} minus another method, paired": tables.difference_rows(
            {Path(name).name: found for name, found in differences.items()}
        ),
    }
    return [{"title": title, "header": header, "rows": rows} for title, (header, rows) in parts.items() if rows]


def _shown(rows: Sequence[CaseRow]) -> dict[str, Any]:
    """Best, median and worst case by AP; without truth, those with most, median and least flagged."""
    measured = sorted((row for row in rows if math.isfinite(row.ap)), key=lambda row: -row.ap)
    by_ap = bool(measured)
    ordered = measured or sorted((r for r in rows if math.isfinite(r.volume_ml)), key=lambda row: -row.volume_ml)
    if len(ordered) < 3:
        chosen = list(zip(("Best", "Worst") if by_ap else ("Most flagged", "Least flagged"), ordered, strict=False))
    else:
        names = ("Best", "Median", "Worst") if by_ap else ("Most flagged", "Median", "Least flagged")
        chosen = list(zip(names, (ordered[0], ordered[len(ordered) // 2], ordered[-1]), strict=True))
    return {
        "by_ap": by_ap,
        "cases": [(name, row, data_uri(row.picture) if row.picture else None) for name, row in chosen],
    }


def _columns(rows: Sequence[CaseRow], point: str) -> list[tuple[str, str, int]]:
    """Columns of numbers that have one: attribute, title and digits."""
    known = [
        ("volume_ml", "flagged, ml", 2), ("findings", "findings", 0), ("p_value", "p of the scan", 3),
        ("lesion_ml", "lesion, ml", 2), ("ap", "AP", 3), ("dice", f"Dice at {point}", 3),
    ]  # fmt: skip
    return [column for column in known if any(math.isfinite(getattr(row, column[0])) for row in rows)]


def _picture(row: CaseRow, count: int) -> str | None:
    if row.picture is None:
        return None
    return data_uri(row.picture) if count <= INLINE_CASES else f"{CASES}/{quote(row.page)}.webp"


def _kinds(rows: Sequence[CaseRow]) -> dict[str, int]:
    return {kind: sum(row.kind == kind for row in rows) for kind in dict.fromkeys(row.kind for row in rows)}


def _counted(values: Any) -> str:
    values = [str(value) for value in values]
    if len(set(values)) == 1:
        return values[0]
    return ", ".join(f"{value} ({values.count(value)})" for value in dict.fromkeys(values))


def _plain(text: str, folders: Sequence[Path]) -> str:
    """A message without the folders of this machine, which are nobody's business who is given the report."""
    for folder in sorted({str(f) for path in folders for f in (path, path.resolve())}, key=len, reverse=True):
        if folder not in (".", "/"):
            text = text.replace(f"{folder}/", "")
    return re.sub(r"(?<![\w.])/(?:[^\s/:\"',;()]+/)+", "", text)


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("medvae.reporting", "templates"), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["number"] = _shown_number
    environment.filters["address"] = quote
    return environment


def _shown_number(value: Any, digits: int = 3) -> str:
    return f"{value:.{digits}f}" if isinstance(value, int | float) and math.isfinite(value) else tables.ABSENT
