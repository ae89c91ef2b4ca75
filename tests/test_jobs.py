"""Processes that share the work on many scans: all of it is done, whatever happens to one of them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import pytest

from medvae.cores import THREADS
from medvae.errors import MedvaeError, MedvaeWarning
from medvae.files import written_together
from medvae.jobs import default_jobs, shared_out

needs_signals = pytest.mark.skipif(os.name != "posix", reason="needs signals")


@dataclass
class Square:
    """A task that leaves a mark each time it is unpacked."""

    folder: Path

    def __setstate__(self, state):
        self.__dict__.update(state)
        (self.folder / f"unpacked by {os.getpid()} at {time.monotonic_ns()}").touch()

    def __call__(self, number):
        warnings.warn(f"{number} is odd" if number % 2 else "even", MedvaeWarning, stacklevel=1)
        return number**2, os.getpid(), {name: os.environ.get(name) for name in THREADS}


def all_of(work, task, jobs, **options):
    with shared_out(work, task, jobs, **options) as results:
        return dict(results)


def test_every_item_is_done_once_by_processes_of_one_thread_that_get_the_task_once(tmp_path, monkeypatch):
    monkeypatch.setenv(THREADS[0], "7")
    before = dict(os.environ)
    with pytest.warns(MedvaeWarning) as told:
        found = all_of(range(9), Square(tmp_path), 2)
    assert {number: result[0] for number, result in found.items()} == {n: n**2 for n in range(9)}
    workers = {result[1] for result in found.values()}
    assert len(workers) <= 2
    assert os.getpid() not in workers
    assert len(list(tmp_path.iterdir())) == len(workers)
    assert all(set(result[2].values()) == {"1"} for result in found.values())
    assert dict(os.environ) == before
    assert {str(one.message) for one in told} == {"even", *(f"{n} is odd" for n in range(1, 9, 2))}


def test_a_single_job_is_done_here_or_in_a_process_of_its_own(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert all_of([3], Square(tmp_path), 1)[3][1] == os.getpid()
        assert not list(tmp_path.iterdir())
        assert all_of([3], Square(tmp_path), 1, isolated=True)[3][1] != os.getpid()


def test_nothing_to_do_starts_nothing(tmp_path):
    assert all_of([], Square(tmp_path), 8) == {}
    assert not multiprocessing.active_children()


def too_much(number):
    if number == 1:
        raise MemoryError
    if number == 2:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes")
    return number


@pytest.mark.parametrize("jobs", [1, 2])
def test_what_had_not_enough_memory_is_told_and_the_rest_is_done(jobs):
    found = all_of(range(4), too_much, jobs)
    assert (found[0], found[3]) == (0, 3)
    for number in (1, 2):
        assert isinstance(found[number], MedvaeError)
        assert "fewer --jobs" in str(found[number])


def broken(number):
    return 1 / number


@pytest.mark.parametrize("jobs", [1, 2])
def test_an_error_of_the_task_is_raised_and_ends_the_processes(jobs):
    with pytest.raises(ZeroDivisionError):
        all_of([1, 0, 2, 3], broken, jobs)
    assert not multiprocessing.active_children()


@dataclass
class Deadly:
    """Kills its process at the third item, once or always, as the system does when memory runs out."""

    marker: Path
    always: bool

    def __call__(self, number):
        if number == 3 and (self.always or not self.marker.exists()):
            self.marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return number


@needs_signals
def test_a_process_that_is_killed_costs_nothing_and_says_what_to_lower(tmp_path):
    with pytest.warns(MedvaeWarning, match=r"killed, probably because memory ran out.*1 at a time.*fewer --jobs"):
        assert all_of(range(8), Deadly(tmp_path / "died", False), 2) == {n: n for n in range(8)}


@needs_signals
def test_an_item_that_always_kills_its_process_is_told_and_the_others_are_done(tmp_path):
    found = all_of(range(8), Deadly(tmp_path / "died", True), 2)
    assert "died twice" in str(found.pop(3))
    assert found == {n: n for n in range(8) if n != 3}


def half_written(folder):
    with written_together({folder / "a.json": b"{}", folder / "b.json": b"{}"}) as give_names:
        (folder / f"begun-{os.getpid()}").touch()
        while True:
            time.sleep(0.01)
    give_names()


@needs_signals
def test_ctrl_c_ends_the_processes_and_leaves_nothing_half_written(tmp_path):
    def work():
        yield tmp_path
        yield tmp_path
        while len(list(tmp_path.glob("begun-*"))) < 2:
            time.sleep(0.01)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        all_of(work(), half_written, 3)
    assert not multiprocessing.active_children()
    assert all(path.name.startswith("begun-") for path in tmp_path.iterdir())


def test_by_default_the_cores_are_used_and_no_process_is_idle(monkeypatch):
    monkeypatch.setattr("medvae.jobs.available_cores", lambda: 6)
    assert [default_jobs(count) for count in (0, 1, 4, 100)] == [1, 1, 4, 6]
    assert [default_jobs(count, each=4) for count in (0, 1, 4, 5, 100)] == [1, 1, 1, 2, 6]
    monkeypatch.setattr("medvae.jobs.available_memory", lambda: 7e9)
    assert [default_jobs(100, memory_gb=gigabytes) for gigabytes in (0.5, 2, 8)] == [6, 3, 1]
