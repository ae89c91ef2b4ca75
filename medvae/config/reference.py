"""The reference of all options, made from the config itself: ``python -m medvae.config.reference > docs/CONFIG.md``."""

from __future__ import annotations

import types
import typing
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from medvae.config.run import Config

UNITS = {"_mm": "mm", "_ml": "ml", "_degrees": "degrees", "_steps": "steps", "steps": "steps"}
"""Unit of an option, by the end of its name."""

HEAD = """# Options of a run

Every option of a config, as YAML sections. On the command line: `medvae train CONFIG … training.steps=5000`. The
resolved config, with all defaults, lies beside every output. This page is made by `python -m medvae.config.reference`.
"""


def reference() -> str:
    """The page, as Markdown."""
    own = [(name, field) for name, field in Config.model_fields.items() if _model(field.annotation) is None]
    parts = [HEAD, _table(own)]
    for name, field in Config.model_fields.items():
        if (model := _model(field.annotation)) is not None:
            parts += _section(name, model, field.description)
    return "\n".join(parts).rstrip() + "\n"


def _section(
    path: str, model: type[BaseModel], meaning: str | None, above: tuple[type[BaseModel], ...] = ()
) -> list[str]:
    told = " ".join((meaning or "").split())
    plain = [(name, field) for name, field in model.model_fields.items() if _model(field.annotation) is None]
    parts = [f"## `{path}`\n\n{told}\n", _table(plain)]
    for name, field in model.model_fields.items():
        inner = _model(field.annotation)
        if inner is not None and inner not in (*above, model):
            parts += _section(f"{path}.{name}", inner, field.description, (*above, model))
    return parts


def _table(fields: list[tuple[str, FieldInfo]]) -> str:
    lines = ["| option | type | unit | default | meaning |", "|---|---|---|---|---|"]
    for name, field in fields:
        unit = next((unit for end, unit in UNITS.items() if name.endswith(end)), "")
        meaning = " ".join((field.description or "").split()).replace("|", "\\|")
        lines.append(f"| `{name}` | {_type(field.annotation)} | {unit} | {_default(field)} | {meaning} |")
    return "\n".join(lines) + "\n"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is PydanticUndefined or (isinstance(value, tuple) and any(isinstance(item, BaseModel) for item in value)):
        return "see the text"
    return f"`{_plain(value)}`"


def _plain(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return "[" + ", ".join(map(_plain, value)) + "]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _type(annotation: Any) -> str:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _type(arguments[0])
    if origin is typing.Literal:
        return " \\| ".join(f"`{value}`" for value in arguments)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_type(argument) for argument in arguments)
    if origin is tuple:
        inner = [argument for argument in arguments if argument is not Ellipsis]
        return f"list of {_type(inner[0])}" if Ellipsis in arguments else f"{len(inner)} × {_type(inner[0])}"
    names = {int: "integer", float: "number", bool: "true \\| false", str: "text", type(None): "null"}
    return names.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _model(annotation: Any) -> type[BaseModel] | None:
    """The section that a field holds, if it holds one (or null)."""
    options = typing.get_args(annotation) if typing.get_origin(annotation) in (typing.Union, types.UnionType) else ()
    for candidate in (annotation, *options):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


if __name__ == "__main__":
    print(reference(), end="")
