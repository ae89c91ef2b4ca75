"""A process starts no more threads than the cores it was given."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from medvae.cores import THREADS, available_cores, available_memory

BOUND = 64


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file system of a machine with 64 cores."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(BOUND)), raising=False)
    (tmp_path / "proc/self").mkdir(parents=True)
    return tmp_path


def group(root: Path, line: str, files: dict[str, str]) -> None:
    (root / "proc/self/cgroup").write_text(line + "\n")
    for file, text in files.items():
        path = root / "sys/fs/cgroup" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_without_limits_it_is_the_cores_it_is_bound_to(root):
    assert available_cores(root) == BOUND
    group(root, "0::/", {"cpu.max": "max 100000"})
    assert available_cores(root) == BOUND


@pytest.mark.parametrize(("quota", "cores"), [("200000", 2), ("150000", 2), ("50000", 1), ("9900000", BOUND)])
def test_a_quota_of_a_container_is_kept(root, quota, cores):
    group(root, "0::/", {"cpu.max": f"{quota} 100000"})
    assert available_cores(root) == cores


def test_the_smallest_quota_of_all_groups_counts(root):
    group(root, "0::/slurm/job/step", {"slurm/cpu.max": "400000 100000", "slurm/job/cpu.max": "300000 100000"})
    assert available_cores(root) == 3


def test_the_first_version_of_control_groups_is_read(root):
    quota, period = "cpu/job/cpu.cfs_quota_us", "cpu/job/cpu.cfs_period_us"
    group(root, "4:cpu,cpuacct:/job", {quota: "200000", period: "100000"})
    assert available_cores(root) == 2
    group(root, "4:cpu,cpuacct:/job", {quota: "-1", period: "100000"})
    assert available_cores(root) == BOUND


def test_libraries_are_told_unless_the_user_has(monkeypatch):
    code = "import os; from medvae.cores import *; limit_threads(); print(*(os.environ[name] for name in THREADS))"
    environment = {name: value for name, value in os.environ.items() if name not in THREADS} | {THREADS[0]: "7"}
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["7", *[str(available_cores())] * (len(THREADS) - 1)]


def test_the_memory_is_what_is_free_and_what_the_groups_leave(root):
    assert available_memory(root) == math.inf
    (root / "proc/meminfo").write_text("MemTotal: 64000 kB\nMemAvailable:   32000 kB\n")
    assert available_memory(root) == 32000 * 1024
    limits = {"memory.max": "9000000", "memory.current": "5000000", "memory.stat": "anon 1\ninactive_file 1000000\n"}
    group(root, "0::/job/step", {f"job/{name}": text for name, text in limits.items()} | {"job/step/memory.max": "max"})
    assert available_memory(root) == 5_000_000  # what is kept of files can be given up


def test_the_first_version_of_control_groups_limits_memory(root):
    files = {"limit_in_bytes": "7000", "usage_in_bytes": "3000"}
    written = {f"memory/job/memory.{name}": text for name, text in files.items()}
    group(root, "9:memory:/job", written | {"memory/job/memory.stat": "total_inactive_file 500\n"})
    assert available_memory(root) == 4500
