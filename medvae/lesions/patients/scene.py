"""A scan that lesions are put into: its tissues, and random fields on its grid."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from medvae.lesions.fields import ellipsoid, smooth_noise
from medvae.lesions.patients.outlines import Outlines
from medvae.lesions.patients.sequences import SEQUENCES

SAMPLED = 7
"""Every so many voxels are looked at for a percentile."""


@dataclass
class Scene:
    """A scan in work; ``image`` and ``truth`` change as lesions are put in."""

    image: Tensor
    """``(C, X, Y, Z)`` float32 in normalised intensity, 0 outside the brain."""
    mask: Tensor
    """``(X, Y, Z)`` bool: the brain."""
    truth: Tensor
    """``(X, Y, Z)`` bool: lesions."""
    corner: tuple[int, ...]
    """Where the first voxel lies on the standard grid."""
    outlines: Outlines | None
    """Outlines of real infarcts."""
    rng: np.random.Generator
    generator: torch.Generator
    voxel_mm: float
    sequence: str = "T1"
    """Of the first channel."""

    @classmethod
    def of(
        cls,
        image: Tensor,
        mask: Tensor,
        seed: Sequence[int],
        voxel_mm: float,
        *,
        corner: Sequence[int] = (0, 0, 0),
        outlines: Outlines | None = None,
        sequence: str = "T1",
    ) -> Scene:
        """A healthy scan; every random number comes from ``seed``. The tensors are copied."""
        rng = np.random.default_rng(tuple(seed))
        generator = torch.Generator().manual_seed(int(rng.integers(2**63)))
        truth = torch.zeros_like(mask)
        return cls(image.clone(), mask.clone(), truth, tuple(corner), outlines, rng, generator, voxel_mm, sequence)

    @cached_property
    def levels(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Intensity of fluid, grey and white matter of each modality, ``(C,)`` each, as the scan was at first."""
        values = self.image[:, self.mask][:, ::SAMPLED].numpy()
        look = SEQUENCES[self.sequence]
        fluid, grey, white = np.percentile(values, [look.fluid, look.grey, look.white], axis=1)
        return fluid, grey, white

    @cached_property
    def white(self) -> Tensor:
        """How much of each voxel's surroundings is white matter, ``(X, Y, Z)``, 0 to 1, as the scan was at first."""
        fluid, grey, white = (float(level[0]) for level in self.levels)
        near = smoothed(self.image[0])
        width = math.copysign(max(abs(white - grey) / 6, 1e-3), white - grey)
        weight = torch.sigmoid((near - (grey + white) / 2) / width)
        if (white - fluid) * (grey - white) > 0:  # FLAIR: white matter lies between fluid and grey matter
            weight = weight * torch.sigmoid((near - (fluid + white) / 2) / ((white - fluid) / 12))
        return weight * self.mask

    def level(self, share: float) -> Tensor:
        """An intensity for each modality, ``(C, 1, 1, 1)``: 0 is fluid, 1 is white matter; beyond them too."""
        fluid, _, white = self.levels
        return torch.tensor(fluid + share * (white - fluid), dtype=torch.float32).reshape(-1, 1, 1, 1)

    @cached_property
    def _curve(self) -> tuple[list[float], list[float]]:
        return SEQUENCES[self.sequence].draw(self.rng)

    def lesion(self, share: float) -> Tensor:
        """Intensity of lesion tissue, ``(C, 1, 1, 1)``, which on T1 is `level` of ``share``."""
        on_t1, here = self._curve
        return self.level(float(np.interp(share, on_t1, here)) if on_t1 else share)

    def towards_fluid(self, share: float) -> Tensor:
        """Where the scan lies nearer to fluid than `level` of ``share``, ``(X, Y, Z)`` bool."""
        fluid, _, white = (float(level[0]) for level in self.levels)
        limit = float(self.level(share)[0])
        return (self.image[0] < limit if white > fluid else self.image[0] > limit) & self.mask

    def noise(self, cell_mm: float) -> Tensor:
        """A random field ``(X, Y, Z)`` of unit spread with a node every ``cell_mm``."""
        return smooth_noise(self.mask.shape, max(1.0, cell_mm / self.voxel_mm), self.generator, self.mask.device)

    def distance(self, centre: Sequence[float], radius_mm: float, elongation: float) -> Tensor:
        """Distance ``(X, Y, Z)`` from a voxel in units of the radius, in an ellipsoid."""
        box = [slice(0, n) for n in self.mask.shape]
        return ellipsoid(box, centre, radius_mm / self.voxel_mm, self.rng, self.mask.device, elongation)

    def place(self, weight: Tensor | None = None) -> tuple[int, ...]:
        """A random voxel of the brain, drawn by a weight ``(X, Y, Z)``."""
        where = self.mask if weight is None else (weight > self.rng.random()) & self.mask
        voxels = (where if where.any() else self.mask).flatten().nonzero()[:, 0]
        chosen = int(voxels[int(self.rng.integers(len(voxels)))])
        return tuple(int(i) for i in np.unravel_index(chosen, self.mask.shape))

    def voxels(self, volume_ml: float) -> int:
        """How many voxels have this volume; at least one, and at most a third of the brain."""
        return int(min(max(1, volume_ml * 1000 / self.voxel_mm**3), int(self.mask.sum()) // 3))

    def lowest(self, field: Tensor, count: int) -> float:
        """The value below which ``count`` voxels of the brain lie in ``field``."""
        return float(field[self.mask].kthvalue(count).values)

    def put(self, target: Tensor, depth: Tensor) -> None:
        """Replace tissue by ``target (C, X, Y, Z)``, by ``depth (X, Y, Z)`` from 0 (not at all) to 1."""
        self.image += (target - self.image) * (depth * self.mask)

    def uniform(self, low: float, high: float) -> float:
        """A number in between."""
        return float(self.rng.uniform(low, high))

    def octaves(self, low: float, high: float, power: float = 1.0) -> float:
        """A number in between, every octave equally likely; large ones more often with a ``power`` below 1."""
        return low * (high / low) ** float(self.rng.random() ** power)

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return bool(self.rng.random() < probability)


def radius_mm(volume_ml: float) -> float:
    """Of the ball of a volume."""
    return (3000 * volume_ml / (4 * math.pi)) ** (1 / 3)


def spread(x: Tensor, axis: int, join: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Each voxel joined with its two neighbours along an axis; shifts are faster than pooling on a CPU."""
    length = x.shape[axis]
    low, high = x.narrow(axis, 0, length - 1), x.narrow(axis, 1, length - 1)
    joined = x.clone()
    joined.narrow(axis, 0, length - 1).copy_(join(low, high))
    joined.narrow(axis, 1, length - 1).copy_(join(joined.narrow(axis, 1, length - 1), low))
    return joined


def neighbourhood(mask: Tensor) -> Tensor:
    """``(X, Y, Z)`` bool, with the six neighbours of each voxel."""
    return torch.stack([spread(mask, axis, torch.logical_or) for axis in range(3)]).any(0)


def smoothed(x: Tensor) -> Tensor:
    """Mean over the cube of 3 voxels, ``(X, Y, Z)``; at the ends over fewer neighbours."""
    for axis in range(3):
        x = spread(x, axis, torch.add) / 3
    return x
