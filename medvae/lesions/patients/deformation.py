"""Tissue that lies elsewhere: another anatomy, wider ventricles, mass effect. None of it is a lesion by itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from medvae.config.patients import PatientConfig
from medvae.lesions.patients.scene import Scene

STEP = 4
"""Voxels between two nodes of a displacement field; all of them are smooth."""

NODE_MM = 32.0
"""Between two nodes of the random anatomy."""


class Swelling(NamedTuple):
    """Tissue magnified around a place, as by a growing mass; shrunken where the strength is negative.

    The tissue at ``p`` comes from ``c + (p − c) (1 − strength · exp(−|p − c|² / 2 s²))``, which does not fold for a
    strength between −1 and 1.
    """

    centre: Sequence[float]
    """In voxels."""
    sigma_mm: float
    strength: float


def deform(scene: Scene, options: PatientConfig, swellings: Sequence[Swelling]) -> None:
    """Deform scan and mask where they are: a random anatomy, and swellings within it.

    The skull does not give way: swellings move tissue inside the brain and leave its outline. Where tissue shrinks away
    from it, fluid takes its place.
    """
    shape = scene.mask.shape
    nodes = [torch.linspace(0, n - 1, max(2, math.ceil(n / STEP) + 1)) for n in shape]
    places = torch.stack(torch.meshgrid(*nodes, indexing="ij"))
    moved = _turned(places, scene, options)
    if options.deformation_mm:
        spread = options.deformation_mm / scene.voxel_mm
        cell = max(1.0, NODE_MM / scene.voxel_mm / STEP)
        low = [max(3, math.ceil(n / cell) + 1) for n in places.shape[1:]]
        noise = torch.randn(1, 3, *low, generator=scene.generator)
        moved = moved + spread * functional.interpolate(noise, size=places.shape[1:], mode="trilinear")[0]
    fluid, inside = scene.level(0), scene.mask[None].float()
    stack = torch.cat([scene.image * inside, inside])
    pulled = _pulled(stack, moved)
    scene.mask = pulled[-1] >= 0.5
    if swellings:
        for swelling in swellings:
            centre = torch.tensor(swelling.centre, dtype=torch.float32).reshape(3, 1, 1, 1)
            offset = moved - centre
            falloff = torch.exp(-(offset * scene.voxel_mm).square().sum(0) / (2 * swelling.sigma_mm**2))
            moved = moved - swelling.strength * falloff * offset
        pulled = _pulled(stack, moved)
    tissue = pulled[:-1] / pulled[-1:].clamp(min=0.5) * scene.mask
    scene.image = torch.where(scene.mask & (pulled[-1] < 0.5), fluid, tissue)
    scene.truth = torch.zeros_like(scene.mask)


def _pulled(stack: Tensor, places: Tensor) -> Tensor:
    """``(C, X, Y, Z)`` at the places that the nodes ``(3, …)`` of a coarse grid say, in voxels."""
    shape = stack.shape[1:]
    dense = functional.interpolate(places[None], size=shape, mode="trilinear", align_corners=True)[0]
    scale = torch.tensor([n - 1 for n in shape]).reshape(3, 1, 1, 1)
    grid = (2 * dense / scale - 1).flip(0).permute(1, 2, 3, 0)[None]
    return functional.grid_sample(stack[None], grid, align_corners=True)[0]


def _turned(places: Tensor, scene: Scene, options: PatientConfig) -> Tensor:
    """The places turned and scaled about the middle."""
    angles = np.deg2rad(scene.rng.uniform(-1, 1, 3) * options.rotation_degrees)
    matrix = np.diag(1 + scene.rng.uniform(-1, 1, 3) * options.scale)
    for axis, angle in enumerate(angles):
        turn = np.eye(3)
        first, second = [a for a in range(3) if a != axis]
        turn[[first, first, second, second], [first, second, first, second]] = [
            math.cos(angle), -math.sin(angle), math.sin(angle), math.cos(angle)
        ]  # fmt: skip
        matrix = matrix @ turn
    middle = torch.tensor([(n - 1) / 2 for n in scene.mask.shape], dtype=torch.float32).reshape(3, 1, 1, 1)
    return torch.einsum("ij,jxyz->ixyz", torch.tensor(matrix, dtype=torch.float32), places - middle) + middle


def ventricles(scene: Scene, side: int | None = None) -> list[Swelling]:
    """Lateral ventricles that are wider, or a little narrower, each by itself; ``side`` 0 or 1 (low or high x) only.

    They lie 15 mm beside the midline, where the brain of a standard grid has its middle.
    """
    found = []
    middle = [float(np.mean([v.min(), v.max()])) for v in np.nonzero(scene.mask.numpy())]
    both = scene.uniform(-0.2, 0.5)
    for index, sign in enumerate((-1, 1)):
        strength = both + scene.uniform(-0.15, 0.15)
        if side is None or side == index:
            offset = np.array([sign * scene.uniform(10, 18), scene.uniform(-14, 10), scene.uniform(0, 12)])
            centre = np.array(middle) + offset / scene.voxel_mm
            found.append(Swelling(centre.tolist(), scene.uniform(12, 24), strength))
    return found
