"""Strict documents: JSON and YAML files read into pydantic models, with errors a person can act on.

An unknown key is an error that names the file, the key and the nearest valid one; nothing is silently ignored.
"""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from medvae.errors import MedvaeError
from medvae.parsing import parse_json, parse_yaml, read_text

MOST_PROBLEMS = 20
"""Problems of a document that an error tells one by one."""
_LONGEST = 400  # characters of one of them

Model = TypeVar("Model", bound=BaseModel)


class Strict(BaseModel):
    """A frozen model that refuses unknown keys; the docstring under each field is its description."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)

    RENAMED: ClassVar[dict[str, str]] = {}
    """Keys that earlier versions wrote, and their present names: both are read."""
    REMOVED: ClassVar[dict[str, object]] = {}
    """Keys that earlier versions wrote, and the value at which they had no effect: with it they are ignored."""

    @model_validator(mode="before")
    @classmethod
    def _present_names(cls, content: Any) -> Any:
        if not isinstance(content, dict):
            return content
        return {
            key if cls.RENAMED.get(key) in content else cls.RENAMED.get(key, key): value
            for key, value in content.items()
            if not (key in cls.REMOVED and cls.REMOVED[key] == value)
        }


def read_document(path: Path | str) -> Any:
    """Parse a ``.json``, ``.yaml`` or ``.yml`` file.

    Raises
    ------
    MedvaeError
        If the file is missing, unreadable or not valid JSON / YAML, as `medvae.parsing` says.
    """
    path = Path(path)
    text = read_text(path)
    if not text.strip():
        raise MedvaeError(f"{path}: is empty; a JSON or YAML document was expected. Copy or make it again.")
    return parse_json(text, path) if path.suffix.lower() == ".json" else parse_yaml(text, path)


def read_object(path: Path | str) -> dict[str, Any]:
    """`read_document` of a file that holds an object with named keys.

    Raises
    ------
    MedvaeError
        As `read_document`, and if it holds something else.
    """
    content = read_document(path)
    if not isinstance(content, dict):
        raise MedvaeError(f"{path}: holds {type(content).__name__}, an object with named keys was expected.")
    return content


def parse(model: type[Model], content: Any, source: Path | str) -> Model:
    """Check ``content`` against ``model``; ``source`` is the file (or command line) that the errors name.

    Raises
    ------
    MedvaeError
        With one line for each problem: the key, what was found and what was expected.
    """
    if not isinstance(content, dict):
        raise MedvaeError(f"{source}: holds {type(content).__name__}, an object with named keys was expected.")
    try:
        return model.model_validate(content)
    except ValidationError as error:
        problems = [_describe(model, problem) for problem in _causes(error.errors())]
        problems = list(dict.fromkeys(problems))
        if len(problems) > MOST_PROBLEMS:
            problems[MOST_PROBLEMS:] = [f"and {len(problems) - MOST_PROBLEMS} more problems."]
        raise MedvaeError(f"{source}: " + "\n".join(map(_short, problems))) from None


def _short(problem: str) -> str:
    """A problem in one line of readable length, whatever key or value it quotes."""
    line = " ".join(problem.split())
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST // 2]} … {line[-_LONGEST // 2 :]}"


def _causes(problems: Sequence[Any]) -> list[Any]:
    """Without the lists that are too short only because pydantic does not count their wrong items."""
    with_wrong_items = {problem["loc"][:-1] for problem in problems}
    return [p for p in problems if p["type"] != "too_short" or p["loc"] not in with_wrong_items]


def _describe(model: type[BaseModel], problem: Any) -> str:
    location = [str(part) for part in problem["loc"]]
    key = ".".join(location)
    if problem["type"] == "extra_forbidden":
        owner = _model_at(model, problem["loc"][:-1])
        valid = list(owner.model_fields) if owner else []
        near = difflib.get_close_matches(location[-1], valid, n=1, cutoff=0.4)
        hint = f'did you mean "{near[0]}"?' if near else "valid keys are " + ", ".join(valid) + "."
        return f'unknown key "{key}": {hint}'
    if problem["type"] == "missing":
        return f'the key "{key}" is missing.'
    if problem["type"] == "value_error":
        message = str(problem["ctx"]["error"])
        return f'"{key}": {message}' if key else message
    found = problem["input"]
    found = f" (found {found!r})" if isinstance(found, str | int | float | bool | None) else ""
    return f'"{key}": {problem["msg"]}{found}.'


def _model_at(model: type[BaseModel], location: tuple[Any, ...]) -> type[BaseModel] | None:
    """The model that owns the keys at ``location``, following nested models, lists and optional values."""
    for part in location:
        if isinstance(part, int):
            continue
        field = model.model_fields.get(part)
        nested = _nested_model(field.annotation) if field else None
        if nested is None:
            return None
        model = nested
    return model


def _nested_model(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        return annotation if issubclass(annotation, BaseModel) else None
    for argument in typing.get_args(annotation):
        nested = _nested_model(argument)
        if nested:
            return nested
    return None
