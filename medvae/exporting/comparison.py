"""Whether an exported network computes what the network computes, on tiles of a real brain."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medvae.errors import MedvaeError
from medvae.exporting.network import Member, PlainNetwork
from medvae.preparation.prepared import ImageAndMask

TOLERANCE = 1e-4
"""Largest difference of an output that is taken for rounding."""

Run = Callable[[Tensor], Sequence[np.ndarray]]
"""From a tile to the outputs of an exported network."""


@dataclass(frozen=True)
class Sizes:
    """Spatial shapes of tiles that a network is tried on."""

    trained: tuple[int, ...]
    other: tuple[int, ...] | None
    """Another one that the network takes; None if its layers fix the size."""


def sizes_of(member: Member, scan: ImageAndMask) -> Sizes:
    """The size of the network's tiles, and another that it takes."""
    trained, step = member.config.tile_shape, member.step
    if step is None:
        return Sizes(trained, None)
    first, *middle, last = trained
    other = (first - step if first >= 3 * step else first + step, *middle, last + step)
    tile = member.tiles(scan, other, count=1)[:1]
    try:
        with torch.no_grad():
            member.plain(tile)
    except (RuntimeError, ValueError, MedvaeError):  # a backbone that is made for one size
        return Sizes(trained, None)
    return Sizes(trained, other)


def largest_difference(
    member: Member, plain: PlainNetwork, run: Run, scan: ImageAndMask, sizes: Sequence[tuple[int, ...]]
) -> tuple[float, int]:
    """The largest absolute difference of any output, and the number of tiles; batches of one and of several.

    Raises
    ------
    MedvaeError
        If it is more than `TOLERANCE`.
    """
    largest, count = 0.0, 0
    for size in sizes:
        tiles = member.tiles(scan, size)
        for batch in (tiles, tiles[:1]):
            with torch.no_grad():
                wanted: Any = plain(batch)
            wanted = [wanted] if isinstance(wanted, Tensor) else wanted
            for name, found, right in zip(plain.names, run(batch), wanted, strict=True):
                right = right.numpy()
                difference = np.abs(found - right).max() if found.shape == right.shape else np.inf
                if not difference < TOLERANCE:
                    raise MedvaeError(
                        f'{member.name}: the exported network differs from PyTorch\'s by {difference:g} in "{name}" of '
                        f"tiles {tuple(batch.shape)}, more than {TOLERANCE:g}. Nothing was written; export it with "
                        f"--to monai."
                    )
                largest = max(largest, float(difference))
        count += len(tiles)
    return largest, count
