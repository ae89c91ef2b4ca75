"""A network of MONAI that a config names, checked without importing MONAI: a stranger's config must not run code."""

from __future__ import annotations

from typing import Any

from pydantic import Field, field_validator

from medvae.foreign_names import exported_classes, nearest
from medvae.schema import Strict

NETS = "monai.networks.nets"
GIVEN = ("spatial_dims", "in_channels", "out_channels")
"""Arguments that follow from the tiles, and are not options."""
MOST = 2048
"""Largest whole number of an option: a channel count beyond it is a slip, or a stranger's config that fills memory."""
_LARGEST_LIST = 64


class BackboneConfig(Strict):
    """A network of MONAI inside of kind "unet" or "segmenter", instead of their U-Net."""

    target: str
    """Its dotted name, ``monai.networks.nets.NAME``. It must give a tensor of the tile's size; a trial before training
    says so if it does not."""
    options: dict[str, Any] = Field({}, max_length=_LARGEST_LIST)
    """Its arguments, as in MONAI's documentation; ``spatial_dims``, ``in_channels`` and ``out_channels`` are given by
    medvae. Weights that it would download are refused."""

    @field_validator("target")
    @classmethod
    def _known(cls, name: str) -> str:
        if not name.startswith(f"{NETS}."):
            raise ValueError(f'"{name}" is not a network of MONAI: name one of {NETS}, for instance {NETS}.SegResNet.')
        names = exported_classes(NETS)
        if name not in names:
            near = nearest(name, names)
            hint = f'Did you mean "{near}"?' if near else "Look one up in MONAI's documentation of networks."
            raise ValueError(f'there is no "{name}" in the installed MONAI. {hint}')
        return name

    @field_validator("options")
    @classmethod
    def _plain(cls, options: dict[str, Any]) -> dict[str, Any]:
        for name, value in options.items():
            if name in GIVEN:
                raise ValueError(f'"{name}" follows from the tiles and the sequences: remove it.')
            if "pretrained" in name and value not in (False, None):
                raise ValueError(f'"{name}" would download weights, or read a file: remove it. medvae trains networks.')
            _require_small(name, value)
        return options


def _require_small(name: str, value: Any) -> None:
    if isinstance(value, dict | list | tuple):
        if len(value) > _LARGEST_LIST:
            raise ValueError(f'"{name}" has {len(value)} values; at most {_LARGEST_LIST} are taken.')
        for part in value.values() if isinstance(value, dict) else value:
            _require_small(name, part)
    elif isinstance(value, int) and abs(value) > MOST:
        raise ValueError(f'"{name}" is {value}; whole numbers of at most {MOST} are taken.')
    elif not isinstance(value, str | int | float | None):
        raise ValueError(f'"{name}" is of type {type(value).__name__}; numbers, words and lists of them are taken.')
