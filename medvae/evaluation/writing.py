"""The numbers of a study on disk: one JSON file with everything, to be read back, two CSV files for a spreadsheet."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from medvae.errors import MedvaeError
from medvae.evaluation.bootstrap import Interval
from medvae.evaluation.points import PointResult
from medvae.files import write_json, write_text
from medvae.schema import read_document

if TYPE_CHECKING:
    from medvae.evaluation.study import Study

RESULTS = "results.json"
Found = TypeVar("Found")


def write_study(study: Study, out: Path | str, *, differences: dict[str, dict[str, Interval]] | None = None) -> Path:
    """Write ``results.json``, ``summary.csv`` and ``per_case.csv`` into ``out``; what is not finite becomes null.

    Parameters
    ----------
    study
        What was measured.
    out
        The folder.
    differences
        Paired differences to other methods, by their name.
    """
    out = Path(out)
    content = {f.name: getattr(study, f.name) for f in fields(study) if f.name != "counts"}
    if differences:
        content["differences"] = differences
    path = write_json(out / RESULTS, plain(content))
    write_text(out / "per_case.csv", csv_text(study.per_case))
    write_text(out / "summary.csv", csv_text(summary_rows(study)))
    return path


def read_study(path: Path | str) -> tuple[Study, dict[str, dict[str, Interval]]]:
    """A study that `write_study` wrote, without its voxel counts, and its paired differences to other methods.

    Parameters
    ----------
    path
        ``results.json``, or the folder that holds it.

    Raises
    ------
    MedvaeError
        If there is none, or the file holds something else.
    """
    from medvae.evaluation.study import Study  # which imports this file

    path = Path(path)
    path = path / RESULTS if path.is_dir() else path
    content = _numbers(read_document(path))
    try:
        content["operating_points"] = [_made(PointResult, point) for point in content["operating_points"]]
        content["intervals"] = {name: _made(Interval, found) for name, found in content["intervals"].items()}
        differences = {
            other: {name: _made(Interval, found) for name, found in numbers.items()}
            for other, numbers in content.get("differences", {}).items()
        }
        return _made(Study, content), differences
    except (AttributeError, KeyError, TypeError) as error:
        raise MedvaeError(
            f"{path}: is not what medvae evaluate writes ({type(error).__name__}: {error}). Give the folder that was "
            f"its --out."
        ) from None


def summary_rows(study: Study) -> list[dict[str, Any]]:
    """Every single number of a study with its interval, if it has one: ``number, value, low, high, subjects``."""
    values = dict(study.pooled)
    for point in study.operating_points:
        named = {f.name: getattr(point, f.name) for f in fields(point) if f.name not in ("name", "by_size")}
        values |= {f"{key}_{point.name}": value for key, value in named.items()}
    for name, numbers in study.per_case_summary.items():
        values |= {f"per_case_{key}_{name}": value for key, value in numbers.items()}
    rows = [{"number": name, "value": value, **_ends(study.intervals.get(name))} for name, value in values.items()]
    for score, numbers in study.case_level.items():
        if isinstance(numbers, dict):
            rows += [
                {"number": f"case_{key}_{score}", "value": found["value"], "low": found["low"], "high": found["high"],
                 "subjects": found["n_subjects"]}
                for key, found in numbers.items()
            ]  # fmt: skip
    return rows


def _ends(interval: Interval | None) -> dict[str, float]:
    if interval is None:
        return {}
    return {"low": interval.low, "high": interval.high, "subjects": interval.n_subjects}


def csv_text(rows: Sequence[dict[str, Any]]) -> str:
    """Rows as CSV with the columns of all of them; what is absent or not finite is empty."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names)
    writer.writeheader()
    writer.writerows({name: "" if _absent(value) else value for name, value in row.items()} for row in rows)
    return text.getvalue()


def plain(value: Any) -> Any:
    """Dictionaries, lists and numbers, as JSON knows them; what is not finite becomes None."""
    if hasattr(value, "__dataclass_fields__"):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    return None if _absent(value) else value


def _absent(value: Any) -> bool:
    return value is None or (isinstance(value, float) and not math.isfinite(value))


def _numbers(value: Any) -> Any:
    """What `plain` made, with null as NaN again: a number that does not exist."""
    if isinstance(value, dict):
        return {key: _numbers(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_numbers(inner) for inner in value]
    return math.nan if value is None else value


def _made(kind: type[Found], content: dict[str, Any]) -> Found:
    known = {field.name for field in fields(kind)}
    return kind(**{name: value for name, value in content.items() if name in known})
