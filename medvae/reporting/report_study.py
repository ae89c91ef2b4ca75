"""The numbers of `medvae evaluate` read back from disk, for those who show them."""

from __future__ import annotations

import math
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from medvae.errors import MedvaeError
from medvae.evaluation.bootstrap import Interval
from medvae.evaluation.points import PointResult
from medvae.evaluation.study import Study
from medvae.schema import read_document

Found = TypeVar("Found")


def read_study(path: Path | str) -> tuple[Study, dict[str, dict[str, Interval]]]:
    """A study that `medvae.evaluation.writing.write_study` wrote, and its paired differences to other methods.

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
    path = path / "results.json" if path.is_dir() else path
    content = read_document(path)
    try:
        content = content | {
            "operating_points": [
                _made(PointResult, point | {"by_size": [_numbers(row) for row in point.get("by_size", [])]})
                for point in content["operating_points"]
            ],
            "intervals": {name: _made(Interval, found) for name, found in content["intervals"].items()},
            "per_case": [_numbers(row) for row in content["per_case"]],
            "pooled": _numbers(content["pooled"]),
            "case_level": {
                score: {key: _numbers(found) for key, found in value.items()} if isinstance(value, dict) else value
                for score, value in content["case_level"].items()
            },
        }
        differences = {
            other: {name: _made(Interval, found) for name, found in numbers.items()}
            for other, numbers in content.get("differences", {}).items()
        }
        known = {field.name for field in fields(Study)} - {"counts"}
        return Study(**{name: value for name, value in content.items() if name in known}), differences
    except (AttributeError, KeyError, TypeError) as error:
        raise MedvaeError(
            f"{path}: is not what medvae evaluate writes ({type(error).__name__}: {error}). Give the folder that was "
            f"its --out."
        ) from None


def _made(kind: type[Found], content: dict[str, Any]) -> Found:
    known = {field.name for field in fields(kind)}
    return kind(**{name: value for name, value in _numbers(content).items() if name in known})


def _numbers(content: dict[str, Any]) -> dict[str, Any]:
    """JSON has no NaN: what is null there is a number that does not exist."""
    return {name: math.nan if value is None else value for name, value in content.items()}
