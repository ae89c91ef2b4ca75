"""Transforms of MONAI and batchgenerators that a config names; none of them is imported to read it."""

from __future__ import annotations

import ast
from typing import Any

from pydantic import ConfigDict, field_validator, model_validator

from medvae.foreign_names import exported_classes, nearest, package_folder, statements
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
        names = exported_classes(MONAI) if package == MONAI else _batchgenerators_names()
        if name not in names:
            near = nearest(name, names)
            hint = f'Did you mean "{near}"?' if near else f"Look one up in the documentation of {package}."
            raise ValueError(f'there is no "{name}" in the installed {package.partition(".")[0]}. {hint}')
        return name


def _frozen(value: Any) -> Any:
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value


def _batchgenerators_names() -> list[str]:
    """The classes of ``batchgenerators.transforms``, by module, read from its source."""
    names = []
    for file in sorted((package_folder("batchgenerators") / "transforms").glob("*.py")):
        classes = (node for node in statements(file) if isinstance(node, ast.ClassDef))
        names += [f"{BATCHGENERATORS}.{file.stem}.{node.name}" for node in classes]
    return names
