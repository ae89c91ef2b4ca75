"""Where the random numbers of an augmentation come from: never from a global generator."""

from __future__ import annotations

import functools
import itertools
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Sample:
    """One slice or patch for which numbers are drawn."""

    seed: tuple[int, ...]
    """Non-negative integers, for instance (seed, epoch, index)."""
    channels: int
    dimensions: int
    """2 for slices, 3 for patches."""
    voxel_mm: float
    """Edge of a voxel, in mm."""

    def generator(self, name: str) -> np.random.Generator:
        """The generator that the parameter ``name`` is drawn from; no other parameter moves its numbers.

        The first changes of this package were drawn one after the other from one stream. Their generators start where
        their numbers lay in it, whether the others are on or not, so that a detector can be trained again from its
        seed. A new change needs no place there: its generator is seeded with the sample's seed and its name.
        """
        start = _first_stream(self.channels, self.dimensions).get(name)
        if start is None:
            return np.random.default_rng((*self.seed, zlib.crc32(name.encode())))
        stream = np.random.PCG64(self._entropy)
        stream.advance(start)
        return np.random.Generator(stream)

    @functools.cached_property
    def _entropy(self) -> np.random.SeedSequence:
        return np.random.SeedSequence(self.seed)


@functools.lru_cache
def _first_stream(channels: int, dimensions: int) -> dict[str, int]:
    """Where in the stream the numbers of each of the first parameters begin: each number is one step of it."""
    counts = {
        "rotation": 3, "scale": 2, "mirror": 1, "bias_amplitude": 1, "gamma": 2, "noise": 2,
        "bias_field": 5**dimensions,  # its control points
        "brightness": channels, "contrast": 2 * channels, "sharpness": 1, "thick_slices": 4,
    }  # fmt: skip
    return dict(zip(counts, itertools.accumulate(counts.values(), initial=0), strict=False))


def seed_word(seed: Sequence[int]) -> int:
    """32 bits of a seed, for generators that take one number."""
    return int(np.random.SeedSequence(tuple(seed)).generate_state(1)[0])


def around_one(rng: np.random.Generator | np.random.RandomState, limits: tuple[float, float]) -> float:
    """A factor below 1 as often as above, as batchgenerators draws it: ``limits`` hold 1; takes two numbers."""
    low, high = limits
    return rng.uniform(low, 1) if rng.random() < 0.5 and low < 1 else rng.uniform(1, high)
