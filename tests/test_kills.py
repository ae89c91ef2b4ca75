"""The program that kills commands at random moments: a small run of it."""

import os
import runpy
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
PROGRAM = runpy.run_path(str(REPOSITORY / "pipelines" / "kill_test.py"))
WITHOUT_NETWORK = {
    "name": "dark",
    "network": None,
    "preparation": {"registration": "none", "brain": "background"},
    "score": {"kind": "intensity", "polarity": "dark"},
}


@pytest.mark.skipif(sys.platform != "linux", reason="needs fork and /proc")
def test_killed_commands_leave_nothing_broken_and_go_on(tmp_path):
    found = PROGRAM["main"](tmp_path / "kills", 6, 1, ["predict", "evaluate"], settings=WITHOUT_NETWORK)
    assert {name: dict(counts) for name, counts in found.items()} == {
        name: {"kills": 3, "corrupt": 0, "failed": 0, "differing": 0, "left over": 0, "orphans": 0}
        for name in ("predict", "evaluate")
    }


def test_what_a_kill_would_leave_is_seen(tmp_path):
    (tmp_path / "map.nii.gz").write_bytes(b"cut off")
    (tmp_path / "a.json").write_text("{")
    (tmp_path / ".b.json.x.part").write_text("{")
    (tmp_path / "page.html").write_text("<html>")
    (tmp_path / "good.json").write_text("{}")
    broken = PROGRAM["_corrupt"]([tmp_path])
    assert [os.path.basename(line.split(": ")[0]) for line in broken] == ["a.json", "map.nii.gz", "page.html"]
    assert PROGRAM["_leftovers"]([tmp_path], tmp_path) == [str(tmp_path / ".b.json.x.part")]
