"""Layers chosen by their name in a config."""

from __future__ import annotations

import math
from typing import Any

from torch import nn

from medvae.monai_import import import_monai


def activation(name: str) -> nn.Module:
    """``"leaky_relu"`` (slope 0.1), ``"silu"`` or ``"gelu"``."""
    return {"leaky_relu": nn.LeakyReLU(0.1), "silu": nn.SiLU(), "gelu": nn.GELU()}[name]


def normalisation(name: str, dimensions: int, channels: int) -> list[nn.Module]:
    """No layer for ``"none"``; a learned affine ``"instance"`` or ``"group"`` normalisation, of one sample each."""
    if name == "none":
        return []
    if name == "group":
        return [nn.GroupNorm(groups(channels), channels)]
    return [(nn.InstanceNorm2d, nn.InstanceNorm3d)[dimensions - 2](channels, affine=True)]


def residual_block(dimensions: int, channels: int, *, norm: str, act: str) -> nn.Module:
    """MONAI's pre-activation block, x + conv(act(norm(conv(act(norm(x)))))), k3 (He 2016, arXiv 1603.05027)."""
    block = import_monai("networks.blocks.segresnet_block").ResBlock
    return block(dimensions, channels, norm=monai_normalisation(norm, channels) or "", act=monai_activation(act))


def monai_activation(name: str) -> str | tuple[str, dict[str, Any]]:
    """MONAI's name of an activation."""
    names: dict[str, str | tuple[str, dict[str, Any]]] = {
        "leaky_relu": ("leakyrelu", {"negative_slope": 0.1}), "silu": "swish", "gelu": "gelu",
    }  # fmt: skip
    return names[name]


def monai_normalisation(name: str, *channels: int) -> tuple[str, dict[str, Any]] | None:
    """MONAI's name of a normalisation that fits layers of these numbers of channels."""
    return {
        "none": None,
        "instance": ("instance", {"affine": True}),
        "group": ("group", {"num_groups": groups(*channels)}),
    }[name]


def groups(*channels: int) -> int:
    """At most 8 groups that divide every one of these numbers of channels."""
    return math.gcd(8, *channels)
