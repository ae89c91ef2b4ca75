"""Transforms of MONAI and batchgenerators that a config names; none of them is imported to read it."""

from __future__ import annotations

import ast
import difflib
import importlib.util
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, field_validator, model_validator

from medvae.schema import Strict

MONAI = "monai.transforms"
BATCHGENERATORS = "batchgenerators.transforms"


class ExtraTransform(Strict):
    """One transform; every other key is an argument of it."""

    model_config = ConfigDict(extra="allow")

    transform: str
    """Its dotted name: ``monai.transforms.NAME`` or ``batchgenerators.transforms.MODULE.NAME``; of MONAI's both the
    array and the dictionary transforms, of which the latter know the keys ``image`` and ``mask``."""

    @property
    def arguments(self) -> dict[str, Any]:
        """What it is made with."""
        return dict(self.model_extra or {})

    @model_validator(mode="before")
    @classmethod
    def _tuples(cls, content: Any) -> Any:
        """Lists as tuples, as one writes them in Python: batchgenerators tells the two apart."""
        return {key: _frozen(value) for key, value in content.items()} if isinstance(content, dict) else content

    @field_validator("transform")
    @classmethod
    def _known(cls, name: str) -> str:
        package = next((p for p in (MONAI, BATCHGENERATORS) if name.startswith(p + ".")), None)
        if package is None:
            raise ValueError(
                f'"{name}" is not from an allowed package: name a class of {MONAI} or of {BATCHGENERATORS}, for '
                f"instance {MONAI}.RandGibbsNoise or {BATCHGENERATORS}.noise_transforms.RicianNoiseTransform."
            )
        names = _monai_names() if package == MONAI else _batchgenerators_names()
        if name not in names:
            near = _nearest(name, names)
            hint = f'Did you mean "{near}"?' if near else f"Look one up in the documentation of {package}."
            raise ValueError(f'there is no "{name}" in the installed {package.partition(".")[0]}. {hint}')
        return name


def _frozen(value: Any) -> Any:
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value


def _nearest(name: str, names: list[str]) -> str | None:
    """The name most like it by its last part, whatever its case and its module."""
    by_class = {known.rpartition(".")[2].lower(): known for known in reversed(names)}  # of aliases the first
    near = difflib.get_close_matches(name.rpartition(".")[2].lower(), by_class, n=1)
    return by_class[near[0]] if near else None


def _monai_names() -> list[str]:
    """What ``monai.transforms`` exports, read from its source: to import it takes seconds."""
    tree = ast.parse((_folder("monai") / "transforms" / "__init__.py").read_text(encoding="utf-8"))
    imported = [alias for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names]
    names = (alias.asname or alias.name for alias in imported)
    return [f"{MONAI}.{name}" for name in names if name[:1].isupper()]


def _batchgenerators_names() -> list[str]:
    """The classes of ``batchgenerators.transforms``, by module, read from its source."""
    names = []
    for file in sorted((_folder("batchgenerators") / "transforms").glob("*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        names += [f"{BATCHGENERATORS}.{file.stem}.{node.name}" for node in tree.body if isinstance(node, ast.ClassDef)]
    return names


def _folder(package: str) -> Path:
    """Where a package lies, without importing it."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(f"{package} is not installed: install it, or leave augmentation.extra out.")
    return Path(spec.submodule_search_locations[0])
