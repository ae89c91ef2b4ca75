"""The log of a run: means of loss terms, one line of ``metrics.jsonl`` per interval, each step in it once."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import torch
from torch import Tensor

from medvae.errors import MedvaeError
from medvae.files import told, write_text
from medvae.parsing import parse_json

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

Batch = TypeVar("Batch")

TIMES = ("seconds", "waiting")
"""What a line says of time: it differs between two runs of the same config."""


class RunningMeans:
    """Sums of the loss terms since the last line of the log.

    A checkpoint keeps them, so that a run that was stopped between two lines writes the line it would have written.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor | float] = {}
        self._count = 0

    def add(self, terms: Mapping[str, Tensor | None]) -> None:
        """Take the terms of one step; they stay on their device until the means are taken."""
        for name, term in terms.items():
            if term is not None:
                self._sums[name] = self._sums.get(name, 0.0) + term.detach()
        self._count += 1

    def take(self) -> dict[str, float]:
        """The means of the steps since they were last taken, and begin anew."""
        means = {name: float(total) / self._count for name, total in self._sums.items()}
        self._sums, self._count = {}, 0
        return means

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"count": self._count, "sums": {name: float(total) for name, total in self._sums.items()}}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`, to the last bit: terms are float32, which JSON's numbers hold without loss."""
        self._count = state["count"]
        self._sums = {name: torch.tensor(total, dtype=torch.float32) for name, total in state["sums"].items()}


class Metrics:
    """Appends lines to ``metrics.jsonl``; a silent one writes nothing.

    With a ``board`` (see `medvae.training.tensorboard`) the numbers go there too, under the same names.
    """

    def __init__(self, path: Path, *, silent: bool = False, board: SummaryWriter | None = None) -> None:
        self._path, self._silent, self._board = path, silent, board
        self._started = self._last = time.monotonic()

    def write(self, step: int, means: Mapping[str, float], waited: float) -> float:
        """Append the means of the training steps up to ``step``, and of their time: the seconds since this process
        began to train, and the share since the last line for which training waited for its tiles, which is returned."""
        now = time.monotonic()
        share = round(min(1.0, waited / max(now - self._last, 1e-9)), 3)
        self._last = now
        self.line({"step": step, "seconds": round(now - self._started, 2), "waiting": share, **means})
        return share

    def line(self, content: Mapping[str, float]) -> None:
        """Append one line."""
        if self._silent:
            return
        with told(self._path), open(self._path, "a", encoding="utf-8") as stream:
            stream.write(json.dumps(dict(content)) + "\n")
        if self._board is not None:
            for name in content.keys() - {"step", *TIMES}:
                self._board.add_scalar(name, content[name], int(content["step"]))
            self._board.flush()


def forget_after(metrics: Path, step: int) -> None:
    """Drop the lines of steps that a resumed run is about to repeat, and what a killed process left half-written."""
    if metrics.exists():
        lines = [line for line in metrics.read_text().splitlines() if _is_known(line, step)]
        write_text(metrics, "".join(line + "\n" for line in lines))


def _is_known(line: str, step: int) -> bool:
    try:
        return parse_json(line, "", finite=False)["step"] <= step
    except (MedvaeError, TypeError, KeyError):
        return False


class TimedBatches(Generic[Batch]):
    """Batches, and how long one waited for them."""

    def __init__(self, batches: Iterable[Batch]) -> None:
        self._batches = iter(batches)
        self._waited = 0.0

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        begun = time.monotonic()
        try:
            return next(self._batches)
        finally:
            self._waited += time.monotonic() - begun

    def take(self) -> float:
        """Seconds of waiting since they were last taken."""
        waited, self._waited = self._waited, 0.0
        return waited
