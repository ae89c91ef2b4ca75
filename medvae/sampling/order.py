"""The endless, repeatable order in which tiles are drawn."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler


class Keyed(Protocol):
    """A data set whose items have a key ``(epoch, index)``."""

    def __len__(self) -> int: ...

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, ...]: ...


class WithKey(Dataset[tuple[Tensor, ...]]):
    """Items of a data set, followed by their key ``(epoch, index)`` as an int64 tensor."""

    def __init__(self, dataset: Keyed) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, ...]:
        return *self.dataset[key], torch.tensor(key)


class EpochOrder(Sampler[tuple[int, int]]):
    """Positions ``start`` to ``stop`` of an endless sequence of shuffled epochs, as ``(epoch, index)``.

    Each epoch is a permutation drawn from (seed, epoch), so a run that is resumed at any position goes on exactly
    as if it had never stopped.
    """

    def __init__(self, length: int, *, seed: int, start: int, stop: int) -> None:
        self.length, self.seed, self.start, self.stop = length, seed, start, stop

    def __len__(self) -> int:
        return self.stop - self.start

    def __iter__(self) -> Iterator[tuple[int, int]]:
        position = self.start
        while position < self.stop:
            epoch = position // self.length
            order = np.random.default_rng((self.seed, epoch)).permutation(self.length)
            last = min(self.stop, (epoch + 1) * self.length)
            yield from ((epoch, int(order[p % self.length])) for p in range(position, last))
            position = last
