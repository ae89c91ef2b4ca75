"""Random fields and distances on a grid of voxels, of which lesions for training are made."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional


def smooth_noise(shape: Sequence[int], cell: float, generator: torch.Generator, device: torch.device) -> Tensor:
    """Noise of unit spread and about zero mean, ``(*shape)``, with a node every ``cell`` voxels."""
    nodes = [max(3, math.ceil(n / cell) + 1) for n in shape]
    low = torch.randn(1, 1, *nodes, generator=generator, device=device)
    field = functional.interpolate(low, size=tuple(shape), mode=("bilinear", "trilinear")[len(shape) - 2])[0, 0]
    return field / field.std()


def ellipsoid(
    box: Sequence[slice],
    centre: Sequence[float],
    radius: float,
    rng: np.random.Generator,
    device: torch.device,
    elongation: float = 0.5,
) -> Tensor:
    """Distance from the centre in units of the radius, along turned axes of unequal length, in a ``box`` of voxels.

    The logarithm of an axis's length is uniform within ± ``elongation``; the volume is that of the ball.
    """
    dimensions = len(centre)
    turn, _ = np.linalg.qr(rng.normal(size=(dimensions, dimensions)))
    stretch = np.exp(rng.uniform(-elongation, elongation, dimensions))
    matrix = turn / (stretch / stretch.prod() ** (1 / dimensions))[:, None] / radius
    total = torch.zeros((), device=device)
    offsets = [torch.arange(s.start, s.stop, device=device) - c for s, c in zip(box, centre, strict=True)]
    for row in matrix:
        along = torch.zeros((), device=device)
        for axis, (offset, weight) in enumerate(zip(offsets, row, strict=True)):
            along = along + (offset * float(weight)).reshape([-1 if a == axis else 1 for a in range(dimensions)])
        total = total + along.square()
    return total.sqrt()
