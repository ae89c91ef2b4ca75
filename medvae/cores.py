"""How many processor cores this process may use, and that its libraries start no more threads than that."""

from __future__ import annotations

import math
import os
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


def _allowed(root: Path) -> float:
    """The cores that the control groups of this process allow; infinite where they do not limit it."""
    groups = root / "sys/fs/cgroup"
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:  # not Linux
        return math.inf
    found = math.inf
    for line in lines:
        _, controllers, place = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        base = groups / "cpu" if controllers else groups
        folder = base / place.strip("/")
        for group in (folder, *folder.parents):
            found = min(found, _quota(group))
            if group == base:
                break
    return found


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
