"""Processes that share the work run nothing but that work."""

import os
import signal
import subprocess
import sys

import pytest

from medvae.errors import MedvaeError
from medvae.preparation import cohort_check
from medvae.workers import starting_workers

CHECK = """
from medvae.preparation.cohort_check import check_cohort
print("begun")
print(len(check_cohort({path!r}, jobs=2, quiet=True).cases), "checked")
"""

PREPARE = """
from medvae.config import PreparationConfig
from medvae.manifest import read_manifest
from medvae.preparation.cohort import prepare_cohort
print("begun")
manifest = read_manifest({path!r})
records = prepare_cohort(manifest, manifest.cases[:2], PreparationConfig(), {out!r}, jobs=2, quiet=True)
print(*[record.state for record in records])
"""


@pytest.mark.parametrize(("script", "told"), [(CHECK, "8 checked"), (PREPARE, "prepared prepared")])
def test_a_script_without_a_main_guard_runs_once_and_its_workers_work(tmp_path, cohort, script, told):
    (tmp_path / "mine.py").write_text(script.format(path=str(cohort.path), out=str(tmp_path / "cache")))
    done = subprocess.run([sys.executable, tmp_path / "mine.py"], capture_output=True, text=True)
    assert done.stdout.splitlines() == ["begun", told]
    assert done.returncode == 0, done.stderr


def test_the_main_module_is_itself_again():
    main = sys.modules["__main__"]
    with pytest.raises(ZeroDivisionError), starting_workers():
        assert not hasattr(sys.modules["__main__"], "__file__")
        raise ZeroDivisionError
    assert sys.modules["__main__"] is main


def _end(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_the_system_killed_is_told_as_such(cohort, monkeypatch):
    """As when memory runs out."""
    monkeypatch.setattr(cohort_check, "_check_at", _end)
    with pytest.raises(MedvaeError, match=r"was killed, probably because memory ran out.*--jobs 1"):
        cohort_check.check_cohort(cohort.path, jobs=2, quiet=True)
