"""Old infarcts: cavities filled with fluid, gliosis around and within them, and tissue drawn towards them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from medvae.config.patients import PatientConfig
from medvae.lesions.patients.deformation import Swelling, ventricles
from medvae.lesions.patients.scene import Scene, radius_mm

REAL = 0.67
"""Fraction of the infarcts of a territory with the outline of a real one, where outlines are at hand."""

SHIFT_MM = 8.0
"""Largest shift of a real outline along each axis."""

LACUNE_MM = (2.0, 6.5)
"""Smallest and largest radius of a lacune."""


@dataclass(frozen=True)
class Infarct:
    """Where an infarct lies, and how large it is."""

    centre: Sequence[int]
    volume_ml: float
    lacune: bool
    swellings: Sequence[Swelling]
    """Shrunken tissue, and the ventricle of its side, widened."""
    outline: Tensor | None = None
    """``(X, Y, Z)`` bool: that of a real infarct."""

    @classmethod
    def draw(cls, scene: Scene, options: PatientConfig) -> Infarct:
        """One of a territory, or a lacune deep in the brain."""
        if scene.chance(0.25):
            volume = 4.19e-3 * scene.octaves(*LACUNE_MM) ** 3
            return cls(scene.place(scene.white if scene.chance(0.5) else None), volume, True, ())
        outline = _real_outline(scene)
        if outline is None:
            volume, centre = scene.octaves(*options.infarct_ml), scene.place()
        else:
            volume = float(outline.sum()) * scene.voxel_mm**3 / 1000 * math.exp(scene.uniform(-0.4, 0.3))
            centre = tuple(int(n) for n in outline.nonzero().float().mean(0).round())
        moved = []
        if scene.chance(0.5):
            moved.append(Swelling(centre, 1.5 * radius_mm(volume), -scene.uniform(0, 0.3)))
        if scene.chance(0.4):
            moved += ventricles(scene, side=int(centre[0] > scene.mask.shape[0] / 2))
        return cls(centre, volume, False, moved, outline)

    def insert(self, scene: Scene) -> None:
        """Put it into the scan."""
        radius, count = radius_mm(self.volume_ml), scene.voxels(self.volume_ml)
        rough = 0.1 if self.lacune else scene.uniform(0.15, 0.6)
        if self.outline is not None:
            rough = rough / 3
            distance = _depth(self.outline, radius / scene.voxel_mm)
        else:
            distance = scene.distance(self.centre, radius, 0.3 if self.lacune else 0.6)
        distance = distance * torch.exp(rough * scene.noise(24) + 0.4 * rough * scene.noise(9))
        edge = scene.lowest(distance, count)
        width = scene.uniform(0.8, 3.5) / radius
        depth = torch.sigmoid((edge - distance) / (width / 4)) * (distance < edge + 2 * width)
        gliosis = scene.lesion(scene.uniform(0.05, 0.45))
        spared = torch.sigmoid((scene.noise(scene.uniform(5, 14)) + scene.uniform(-1.5, 0.8)) / 0.3)
        strength = scene.uniform(0.35, 1.0)
        scene.put(gliosis, depth * strength * (1 - scene.uniform(0.2, 1) * spared))
        if self.lacune or scene.chance(0.85):
            within = distance / edge * torch.exp(scene.uniform(0.1, 0.4) * scene.noise(12))
            hollow = scene.uniform(0.4, 1.1)
            cavity = torch.sigmoid((hollow - within) / 0.06) * depth
            noise = (scene.level(1) - scene.level(0)) * 0.02 * scene.noise(2)
            scene.put(scene.lesion(scene.uniform(-0.12, 0.15)) + noise, cavity * scene.uniform(0.75, 1))
        scene.truth |= (distance <= edge) & scene.mask


def _real_outline(scene: Scene) -> Tensor | None:
    """One of the outlines, moved a little, on either side; None without, or if none of it lies in the brain."""
    if scene.outlines is None or not scene.chance(REAL):
        return None
    index, mirrored = int(scene.rng.integers(len(scene.outlines))), scene.chance(0.5)
    shift = np.round(scene.rng.uniform(-SHIFT_MM, SHIFT_MM, 3) / scene.voxel_mm).astype(int)
    corner = [c - s for c, s in zip(scene.corner, shift.tolist(), strict=True)]
    outline = torch.from_numpy(scene.outlines.placed(index, corner, scene.mask.shape, mirrored=mirrored)) & scene.mask
    return outline if outline.any() else None


def _depth(outline: Tensor, radius: float) -> Tensor:
    """``(X, Y, Z)``: 1 at the outline, less within it and more around it, by 1 for ``radius`` voxels; at least 0.05."""
    inside = outline.numpy()
    distance = ndimage.distance_transform_edt(~inside) - ndimage.distance_transform_edt(inside)
    return torch.from_numpy((1 + distance / radius).clip(0.05).astype(np.float32))
