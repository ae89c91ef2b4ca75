"""Results of a study on disk: one JSON file with everything, which can be read back, and two CSV files."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from medvae.errors import MedvaeError
from medvae.evaluation.bootstrap import Interval
from medvae.evaluation.case_level import CaseLevel
from medvae.evaluation.free_response import FreeResponse, FreeResponseStep
from medvae.evaluation.lesions import SizeClass
from medvae.evaluation.protocols import Protocol
from medvae.evaluation.result import CaseResult, PointResult, Quantity, RegionResult, Settings, Study, quantities
from medvae.evaluation.summaries import MeanSd
from medvae.files import remove_leftovers, write_json, write_text
from medvae.schema import read_document

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

RESULTS = "results.json"
Found = TypeVar("Found", bound="DataclassInstance")
Differences = Mapping[str, Mapping[Quantity, Interval]]
"""Paired differences to other methods, by their name."""


def write_study(study: Study, out: Path | str, *, differences: Differences | None = None) -> Path:
    """Write ``results.json``, ``summary.csv`` and ``per_case.csv`` into ``out``; non-finite values become null.

    Parameters
    ----------
    study
        The results.
    out
        The folder.
    differences
        Paired differences to other methods, by their name.
    """
    out = Path(out)
    remove_leftovers(out)
    content = _content(study)
    if differences:
        content["differences"] = differences
    path = write_json(out / RESULTS, plain(content))
    write_text(out / "per_case.csv", csv_text([_case_row(case) for case in study.per_case]))
    write_text(out / "summary.csv", csv_text(summary_rows(study)))
    return path


def read_study(path: Path | str) -> tuple[Study, dict[str, dict[Quantity, Interval]]]:
    """A study that `write_study` wrote, without its voxel counts, and its paired differences to other methods.

    Numbers of metrics that are not registered are left out.

    Parameters
    ----------
    path
        ``results.json``, or the folder that holds it.

    Raises
    ------
    MedvaeError
        If there is none, or the file holds something else.
    """
    path = Path(path)
    path = path / RESULTS if path.is_dir() else path
    content = _numbers(read_document(path))
    try:
        return _study(content), {other: _intervals(found) for other, found in content.get("differences", {}).items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise MedvaeError(
            f"{path}: is not what medvae evaluate writes ({type(error).__name__}: {error}). Give the folder that was "
            f"its --out."
        ) from None


def summary_rows(study: Study) -> list[dict[str, Any]]:
    """Every number of a study with its interval, if it has one: ``number, value, low, high, subjects``."""
    rows = []
    for found in study.values():
        name = found.of.column if found.statistic == "pooled" else f"per_case_{found.statistic}_{found.of.column}"
        row: dict[str, Any] = {"number": name, "value": found.value}
        if found.interval is not None:
            row |= {"low": found.interval.low, "high": found.interval.high, "subjects": found.interval.n_subjects}
        rows.append(row)
    return rows


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as CSV with the union of their columns; absent and non-finite values are empty."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names)
    writer.writeheader()
    writer.writerows({name: "" if _absent(value) else value for name, value in row.items()} for row in rows)
    return text.getvalue()


def plain(value: Any) -> Any:
    """A value as plain JSON types; non-finite numbers become None, a quantity becomes its column name."""
    if hasattr(value, "__dataclass_fields__"):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    return None if _absent(value) else value


def _content(study: Study) -> dict[str, Any]:
    """A study in the layout of ``results.json``."""
    scans, findings, rules = study.case_level, study.free_response, study.settings.protocol
    content = {f.name: getattr(study, f.name) for f in fields(study) if f.name != "counts"}
    for name in ("sources", "maker"):  # only of maps that say it
        if not content[name]:
            del content[name]
    return content | {
        "operating_points": [
            {"name": point.name, "asked_fpr": point.asked_fpr, "threshold": point.threshold}
            | dict(point.numbers)
            | {"by_size": point.by_size}
            for point in study.operating_points
        ],
        "per_case": [_case_row(case) for case in study.per_case],
        "case_level": {"n_lesion": scans.n_lesion, "n_healthy": scans.n_healthy}
        | ({"prevalence": scans.prevalence} | scans.scores if scans.scores else {}),
        "brats": [{"region": found.region, "point": found.point} | dict(found.numbers) for found in study.brats],
        "free_response": {}
        if findings is None
        else plain(findings) | {"sensitivity": {f"{n:g}": value for n, value in findings.sensitivity.items()}},
        "settings": plain(study.settings)
        | {"protocol": {f.name: getattr(rules, f.name) for f in fields(rules) if getattr(rules, f.name) is not None}},
    }


def _case_row(case: CaseResult) -> dict[str, Any]:
    told = {"id": case.id, "subject": case.subject, "healthy": case.healthy, "missing": case.missing}
    return told | {quantity.column: value for quantity, value in case.numbers.items()}


def _study(content: dict[str, Any]) -> Study:
    points = [point["name"] for point in content["operating_points"]]
    known = quantities(points, dict.fromkeys(row["region"] for row in content.get("brats", ())))

    def of_known(numbers: dict[str, Any]) -> dict[Quantity, Any]:
        return {known[name]: value for name, value in numbers.items() if name in known}

    return Study(
        method=content["method"],
        cohort=content["cohort"],
        pooled=content["pooled"],
        operating_points=[_point(point) for point in content["operating_points"]],
        per_case=[
            CaseResult(row["id"], row["subject"], row["healthy"], row["missing"], of_known(row))
            for row in content["per_case"]
        ],
        missing=content.get("missing", []),
        intervals={name: _made(Interval, found) for name, found in of_known(content["intervals"]).items()},
        per_case_summary={
            name: _made(MeanSd, found) for name, found in of_known(content.get("per_case_summary", {})).items()
        },
        case_level=_case_level(content.get("case_level", {})),
        all_voxels=content.get("all_voxels", {}),
        brats=[_region(row) for row in content.get("brats", ())],
        free_response=_free_response(content.get("free_response", {})),
        notes=content.get("notes", []),
        settings=_settings(content.get("settings", {})),
        sources=content.get("sources", {}),
        maker=content.get("maker", ""),
    )


def _point(row: dict[str, Any]) -> PointResult:
    numbers = {name: value for name, value in row.items() if name not in ("name", "asked_fpr", "threshold", "by_size")}
    sizes = [_made(SizeClass, size) for size in row.get("by_size", ())]
    return PointResult(row["name"], row["asked_fpr"], row["threshold"], numbers, sizes)


def _region(row: dict[str, Any]) -> RegionResult:
    numbers = {name: value for name, value in row.items() if name not in ("region", "point")}
    return RegionResult(row["region"], row["point"], numbers)


def _case_level(found: dict[str, Any]) -> CaseLevel:
    scores = {
        score: {name: _made(Interval, number) for name, number in numbers.items()}
        for score, numbers in found.items()
        if isinstance(numbers, dict)
    }
    return CaseLevel(
        found.get("n_lesion", 0), found.get("n_healthy", 0), found.get("prevalence", math.nan), scores
    )  # fmt: skip


def _free_response(found: dict[str, Any]) -> FreeResponse | None:
    if not found:
        return None
    above = found["findings_above"]
    return FreeResponse(
        found["lesions"],
        found["scans"],
        None if math.isnan(above) else above,
        {float(asked): value for asked, value in found["sensitivity"].items()},
        tuple(_made(FreeResponseStep, step) for step in found["curve"]),
    )


def _settings(found: dict[str, Any]) -> Settings:
    known = dict(found)
    if "protocol" in known:
        known["protocol"] = _made(Protocol, known["protocol"])
    return _made(Settings, known | {"splits": tuple(known.get("splits", ()))})


def _intervals(found: dict[str, Any]) -> dict[Quantity, Interval]:
    known = quantities(())
    return {known[name]: _made(Interval, number) for name, number in found.items() if name in known}


def _absent(value: Any) -> bool:
    return value is None or (isinstance(value, float) and not math.isfinite(value))


def _numbers(value: Any) -> Any:
    """The inverse of `plain` for numbers: null becomes NaN, an undefined number."""
    if isinstance(value, dict):
        return {key: _numbers(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_numbers(inner) for inner in value]
    return math.nan if value is None else value


def _made(kind: type[Found], content: dict[str, Any]) -> Found:
    known = {field.name for field in fields(kind)}
    return kind(**{name: value for name, value in content.items() if name in known})
