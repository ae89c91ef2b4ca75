"""What the timings side by side share: ways that take turns, and tables for the terminal or for a page."""

from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from medvae.reporting.tables import markdown_table, print_table

Show = Callable[[str, Sequence[str], Sequence[Sequence[str]]], None]


def medians(
    ways: Mapping[str, Callable[[], object]], repeats: int, clock: Callable[[], float] = time.process_time
) -> dict[str, float]:
    """Median seconds of each way.

    They take turns, so that a busy machine is busy for all of them, and each round begins with another one; a first
    round does not count.
    """
    names = list(ways)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for repeat in range(repeats + 1):
        first = repeat % len(names)
        for name in names[first:] + names[:first]:
            start = clock()
            ways[name]()
            seconds[name].append(clock() - start)
    return {name: statistics.median(values[1:]) for name, values in seconds.items()}


def peak_mb() -> float:
    """The most memory this process has held, in MB; on Linux without what the one that started it held."""
    status = Path("/proc/self/status")
    if status.exists():
        held = [line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
        return float(held[0]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def shower(markdown: bool) -> Show:
    """How tables are shown: as Markdown, or as the commands print them."""
    return _show_markdown if markdown else print_table


def _show_markdown(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    print(f"{title}\n\n{markdown_table(header, rows)}")
