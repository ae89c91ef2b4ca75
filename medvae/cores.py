"""The cores and the memory that this process may use, and that its libraries start no more threads than cores."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS")
"""What numerical libraries read, once, when they are imported."""


def available_cores(root: Path = Path("/")) -> int:
    """The cores given to this process: those it is bound to, and no more than its control groups allow, at least 1.

    A container or a cluster job sees all cores of the machine, however few it may use: threads on the others wait for
    each other. ``root`` is the root of the file system, for tests.
    """
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(bound, _allowed(root))))


def limit_threads() -> None:
    """Let numerical libraries start as many threads as there are cores, unless the environment says otherwise."""
    cores = str(available_cores())
    for name in THREADS:
        os.environ.setdefault(name, cores)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Numerical libraries of a process that is started in this block have one thread."""
    before = {name: os.environ.get(name) for name in THREADS}
    os.environ.update(dict.fromkeys(THREADS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def available_memory(root: Path = Path("/")) -> float:
    """Bytes that this process and those it starts may still take: what is free, and no more than its control groups
    allow; infinite where the system does not say. ``root`` is the root of the file system, for tests.
    """
    found = math.inf
    try:
        for line in (root / "proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                found = float(line.split()[1]) * 1024
    except (OSError, ValueError, LookupError):  # not Linux
        pass
    return min([found, *map(_memory_left, _groups(root, "memory"))])


def _allowed(root: Path) -> float:
    """The cores that the control groups of this process allow; infinite where they do not limit it."""
    return min(map(_quota, _groups(root, "cpu")), default=math.inf)


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """The control groups of this process that may limit something, innermost first."""
    groups = root / "sys/fs/cgroup"
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        _, controllers, place = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        base = groups / controller if controllers else groups
        folder = base / place.strip("/")
        for group in (folder, *folder.parents):
            yield group
            if group == base:
                break


def _quota(group: Path) -> float:
    """The cores that one group allows, as version 2 of control groups writes them, or version 1."""
    for files in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        try:
            quota, period = " ".join((group / file).read_text() for file in files).split()
            if quota != "max" and int(quota) > 0:
                return int(quota) / int(period)
        except (OSError, ValueError, ZeroDivisionError):
            continue
    return math.inf


def _memory_left(group: Path) -> float:
    """The bytes that one group allows and its processes do not hold; what is kept of files can be given up."""
    for limit, used in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
        try:
            most, held = int((group / limit).read_text()), int((group / used).read_text())
            kept = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
            return max(0, most - held + int(kept.get("total_inactive_file", kept.get("inactive_file", 0))))
        except (OSError, ValueError):  # as "max"
            continue
    return math.inf
