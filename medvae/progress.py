"""Progress of long work: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from types import TracebackType

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from medvae.terminal import plain_console, printable

PLAIN_INTERVAL_S = 15.0
"""Seconds between two plain lines when the output is not a terminal."""


class Progress:
    """Shows how far ``total`` steps have come, with the numbers given to `update` and the time left."""

    def __init__(self, what: str, total: int, *, start: int = 0, quiet: bool = False) -> None:
        self._what, self._total, self._start, self._quiet = what, total, start, quiet
        self._console = plain_console(stderr=True)
        self._live: RichProgress | None = None

    def __enter__(self) -> Progress:
        self._began = self._spoke = time.monotonic()
        if self._console.is_terminal and not self._quiet:
            columns = [
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
            ]
            left = [TextColumn("left"), TimeRemainingColumn(), TextColumn("{task.fields[values]}", markup=False)]
            self._live = RichProgress(*columns, *left, console=self._console)
            self._task = self._live.add_task(self._what, total=self._total, completed=self._start, values="")
            self._live.start()
        return self

    def update(self, done: int, **values: float | str) -> None:
        """Report that ``done`` of the steps are done; ``values`` are shown with it."""
        shown = "  ".join(f"{k} {v:.3f}" if isinstance(v, float) else f"{k} {printable(v)}" for k, v in values.items())
        if self._live:
            self._live.update(self._task, completed=done, values=shown)
        elif not self._quiet:
            now = time.monotonic()
            if now - self._spoke >= PLAIN_INTERVAL_S or done >= self._total:
                self._spoke = now
                left = (now - self._began) / max(1, done - self._start) * (self._total - done)
                self._console.print(f"{self._what} {done}/{self._total}, {left:.0f} s left  {shown}", soft_wrap=True)

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._live:
            self._live.stop()
