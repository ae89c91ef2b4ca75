"""Small lesions of white matter, dark on T1 and bright elsewhere: those of multiple sclerosis and of small vessels."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from medvae.config.patients import PatientConfig
from medvae.lesions.fields import ellipsoid
from medvae.lesions.patients.deformation import Swelling
from medvae.lesions.patients.scene import Scene, neighbourhood

NEAR_FLUID_MM = 6.0
"""From fluid, at most, of a place that is called periventricular."""


@dataclass(frozen=True)
class Spots:
    """How many spots, and of what radius."""

    radii_mm: tuple[float, ...]
    swellings: tuple[Swelling, ...] = ()

    @classmethod
    def draw(cls, scene: Scene, options: PatientConfig) -> Spots:
        """One to thirty; few large ones."""
        count = round(scene.octaves(1, 30))
        low, high = options.spot_mm
        return cls(tuple(low * (high / low) ** scene.rng.random() ** 1.7 for _ in range(count)))

    def insert(self, scene: Scene) -> None:
        """Put them into the scan."""
        near = scene.towards_fluid(0.25)
        for _ in range(round(NEAR_FLUID_MM / scene.voxel_mm)):
            near = neighbourhood(near)
        periventricular = scene.white * near
        for radius in self.radii_mm:
            weight = periventricular if scene.chance(0.4) else scene.white if scene.chance(0.85) else None
            self._insert_one(scene, scene.place(weight), radius)

    @staticmethod
    def _insert_one(scene: Scene, centre: tuple[int, ...], radius_mm: float) -> None:
        reach = math.ceil(2.5 * radius_mm / scene.voxel_mm) + 1
        box = tuple(
            slice(max(0, c - reach), min(n, c + reach + 1)) for c, n in zip(centre, scene.mask.shape, strict=True)
        )
        jitter = np.array(centre) + scene.rng.uniform(-0.5, 0.5, 3)
        distance = ellipsoid(box, jitter.tolist(), radius_mm / scene.voxel_mm, scene.rng, scene.mask.device, 0.4)
        width = scene.uniform(1.0, 3.0) / radius_mm
        depth = torch.sigmoid((1 - distance) / (width / 4)) * scene.mask[box]
        target = scene.lesion(scene.uniform(0.1, 0.6))
        further = torch.minimum if scene.sequence == "T1" else torch.maximum
        before = scene.image[(slice(None), *box)]
        after = before + (further(target, before) - before) * depth * scene.uniform(0.3, 1)
        region = (depth >= 0.5) & ((before - after)[0].abs() > 0.02)
        before.copy_(after)
        scene.truth[box] |= region
