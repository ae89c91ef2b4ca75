"""Damaged, strange and hostile files: each is read, or refused in words; and the fuzzer notices when one is not."""

import multiprocessing
import os
import signal
import sys
import time
from multiprocessing.context import ForkContext
from pathlib import Path

import pytest

PIPELINES = Path(__file__).parents[1] / "pipelines"
sys.path.append(str(PIPELINES))  # for good: processes that the fuzzer starts import it, too

import fuzz  # noqa: E402
from fuzz_files import changed_tree  # noqa: E402

QUICK = ("NIfTI-1", "NIfTI-2", "MGH", "NRRD", "MetaImage", "table", "dataset.json", "sidecar")
SLOW = ("NIfTI, gzip", "label", "manifest", "config", "calibration", "intensity scale", "weights", "log")


@pytest.mark.parametrize("kind", fuzz.KINDS)
def test_a_whole_file_is_read(tmp_path, kind):
    assert fuzz.read_case(kind, 0, tmp_path) == ("read", "")


@pytest.mark.parametrize(("kinds", "cases"), [(QUICK, 30), (SLOW[:4], 8), (SLOW[4:], 5)])
def test_changed_files_are_read_or_refused_in_words(kinds, cases):
    tallies = fuzz.fuzz(kinds, cases=cases)
    assert [defect for tally in tallies.values() for defect in tally.defects] == []
    assert all(sum(tally.counts.values()) == cases for tally in tallies.values())
    assert all(tally.peak_mb < 4096 for tally in tallies.values())


FOUND = {
    "manifest": [6],  # a key of 100,000 characters was quoted in full
    "intensity scale": [19],
    "sidecar": [18],  # "Sources" was a number
    "MGH": [39, 49, 71, 75, 104, 110, 111, 162, 179, 201, 212],  # a type that there is not, or no voxels
    "log": [55],  # a step that was a word
    "NRRD": [115, 157, 162, 225],  # ITK writes beyond its memory when a line of the header is long
}
"""Cases on which something once failed."""


@pytest.mark.parametrize(("kind", "number"), [(kind, number) for kind, numbers in FOUND.items() for number in numbers])
def test_what_once_failed_is_told_in_words(tmp_path, kind, number):
    outcome, told = fuzz.read_case(kind, number, tmp_path)
    assert outcome in ("read", "refused"), told


def test_a_case_is_the_same_every_time():
    for kind in fuzz.KINDS:
        assert fuzz.case_bytes(kind, 3) == fuzz.case_bytes(kind, 3)
    assert fuzz.case_bytes("manifest", 3) != fuzz.case_bytes("manifest", 4)
    assert changed_tree({"a": 1}, None) == {"a": 1}


def _read(path):
    number = int(path.read_bytes())
    if number == 1:
        raise ZeroDivisionError
    if number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    if number == 3:
        raise MemoryError
    if number == 4:
        time.sleep(60)


def test_defects_are_noticed_and_the_others_go_on(tmp_path, monkeypatch):
    """In the processes themselves, which are forked here so that they have the reader above."""
    monkeypatch.setattr(fuzz, "KINDS", {"x": fuzz.Kind(lambda rng: b"0", "a", _read)})
    monkeypatch.setattr(fuzz, "case_bytes", lambda kind, number, seed=0: str(number).encode())
    monkeypatch.setattr(fuzz, "SLOWEST_S", 1.0)
    monkeypatch.setattr(multiprocessing, "get_context", lambda _: ForkContext())
    tally = fuzz.fuzz(["x"], cases=7, keep=tmp_path / "kept")["x"]
    assert tally.counts == {"read": 3, "refused": 0, "traceback": 2, "hang": 1, "memory": 1}
    assert "ZeroDivisionError" in tally.defects[0]
    assert len(list((tmp_path / "kept").glob("*.txt"))) == 4
