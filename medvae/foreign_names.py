"""Names that other packages export, read from their source: to import them takes seconds, and runs their code."""

from __future__ import annotations

import ast
import difflib
import importlib.util
from collections.abc import Iterator
from pathlib import Path


def exported_classes(package: str) -> list[str]:
    """Dotted names of what ``__init__.py`` of a package imports and what begins with a capital, as classes do.

    Raises
    ------
    ValueError
        If the package is not installed.
    """
    folder = package_folder(package.partition(".")[0]).joinpath(*package.split(".")[1:])
    imported = [alias for node in statements(folder / "__init__.py") if isinstance(node, ast.ImportFrom)
                for alias in node.names]  # fmt: skip
    names = (alias.asname or alias.name for alias in imported)
    return [f"{package}.{name}" for name in names if name[:1].isupper()]


def statements(file: Path) -> Iterator[ast.stmt]:
    """The statements of a module, at its top level."""
    yield from ast.parse(file.read_text(encoding="utf-8")).body


def nearest(name: str, names: list[str]) -> str | None:
    """The name most like it by its last part, whatever its case and its module."""
    by_class = {known.rpartition(".")[2].lower(): known for known in reversed(names)}  # of aliases the first
    near = difflib.get_close_matches(name.rpartition(".")[2].lower(), by_class, n=1)
    return by_class[near[0]] if near else None


def package_folder(package: str) -> Path:
    """Where a package lies, without importing it.

    Raises
    ------
    ValueError
        If it is not installed.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(f"{package} is not installed: install it, or leave out what names it.")
    return Path(spec.submodule_search_locations[0])
