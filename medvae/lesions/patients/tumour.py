"""Tumours: a core of one or two tissues, fuzzy oedema that follows white matter, and mass effect."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from medvae.config.patients import PatientConfig
from medvae.lesions.patients.deformation import Swelling
from medvae.lesions.patients.scene import Scene, radius_mm, smoothed
from medvae.lesions.patients.sequences import SEQUENCES

LARGE = 0.6
"""Exponent of the random number that sets the volume: half of the tumours exceed a sixth of the largest volume."""

KINDS, RATES = ("solid", "cyst", "mixed", "grey", "bright"), (0.34, 0.14, 0.34, 0.12, 0.06)
"""What a core is made of, and how often."""


@dataclass(frozen=True)
class Tumour:
    """Where a tumour lies, and how large it is."""

    centre: Sequence[int]
    volume_ml: float
    core: float
    """Fraction of the volume that is core; the rest is oedema."""
    push: float
    """Strength of the mass effect."""

    @classmethod
    def draw(cls, scene: Scene, options: PatientConfig) -> Tumour:
        """Mostly in white matter, of any size, large ones more often."""
        volume = scene.octaves(*options.tumour_ml, LARGE)
        core = scene.uniform(0.7, 1) if scene.chance(0.3) else scene.uniform(0.12, 0.7)
        centre = scene.place(scene.white if scene.chance(0.7) else None)
        return cls(centre, volume, core, scene.uniform(0, 0.55) if scene.chance(0.8) else 0.0)

    @property
    def swellings(self) -> list[Swelling]:
        """Its mass effect."""
        return [Swelling(self.centre, 1.3 * radius_mm(self.volume_ml * self.core), self.push)] if self.push else []

    def insert(self, scene: Scene) -> None:
        """Put it into the scan."""
        total = scene.voxels(self.volume_ml)
        core = max(1, round(total * self.core))
        radius = radius_mm(self.volume_ml * self.core)
        distance = scene.distance(self.centre, radius, scene.uniform(0.05, 0.45))
        distance = distance * torch.exp(
            scene.uniform(0.05, 0.45) * scene.noise(26) + scene.uniform(0, 0.18) * scene.noise(9)
        )
        edge = scene.lowest(distance, core)
        around = (
            distance
            * torch.exp(scene.uniform(0.1, 0.5) * scene.noise(22))
            * (1.7 - scene.uniform(0.6, 1.1) * scene.white)
        )
        around = torch.where(distance <= edge, 0, around)
        if total > core:
            self._oedema(scene, around, scene.lowest(around, total))
        width = scene.uniform(1.0, 5.0) / radius
        depth = torch.sigmoid((edge - distance) / (width / 4)) * (distance < edge + 2 * width)
        scene.put(_core(scene, distance / edge, radius), depth * scene.uniform(0.7, 1))
        scene.truth |= (distance <= edge) & scene.mask

    def _oedema(self, scene: Scene, around: Tensor, edge: float) -> None:
        width = edge * scene.uniform(0.1, 0.5)
        depth = torch.sigmoid((edge - around) / (width / 3)) * (around < edge + width)
        follows = scene.uniform(0.4, 0.9)
        depth = depth * (1 - follows + follows * scene.white)
        share = scene.uniform(0.2, 0.5)  # of the way from fluid to white matter: what oedema tends to
        low, high, power = SEQUENCES[scene.sequence].oedema
        strength = scene.uniform(low, high) ** power
        scene.put(scene.lesion(share), depth * strength)
        scene.truth |= (smoothed((around <= edge).float()) >= 0.5) & scene.mask


def _core(scene: Scene, distance: Tensor, radius: float) -> Tensor:
    """What a core is made of, ``(C, X, Y, Z)``; ``distance`` is 1 at its edge."""
    kind = KINDS[int(scene.rng.choice(len(KINDS), p=RATES))]
    if kind == "solid":
        tissue = scene.lesion(scene.uniform(0.15, 0.7)) * torch.ones_like(scene.image)
    elif kind == "cyst":
        tissue = scene.lesion(scene.uniform(-0.1, 0.2)) * torch.ones_like(scene.image)
    elif kind == "grey":
        tissue = scene.lesion(scene.uniform(0.5, 0.85)) * torch.ones_like(scene.image)
    else:
        bright = (0.9, 1.5) if kind == "bright" else (0.45, 1.05)
        share = torch.sigmoid((scene.noise(scene.uniform(6, 18)) + scene.uniform(-0.7, 0.7)) / 0.3)
        tissue = scene.lesion(scene.uniform(-0.05, 0.4)) * (1 - share) + scene.lesion(scene.uniform(*bright)) * share
    if kind in ("cyst", "mixed", "solid") and scene.chance(0.45):
        inner = 1 - scene.uniform(2, 6) / radius
        rim = torch.sigmoid((distance - inner) * radius / 0.8)
        tissue = tissue * (1 - rim) + scene.lesion(scene.uniform(0.4, 1.05)) * rim
    contrast = scene.level(1) - scene.level(0)
    return tissue + contrast * scene.uniform(0, 0.1) * scene.noise(scene.uniform(2, 7))
