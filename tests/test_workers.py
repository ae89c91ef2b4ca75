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


AHEAD = """
import os, sys
from medvae.workers import import_ahead
import_ahead("json.tool", "no.such.module")
from medvae.jobs import shared_out
print("json.tool" in sys.modules, os.environ["OMP_NUM_THREADS"])
with shared_out([("OMP_NUM_THREADS", "import_ahead")] * 4, seen.of_worker, jobs=2) as results:
    print(*{result for _, result in results})
print(os.environ["OMP_NUM_THREADS"])
"""

SEEN = """
import os, sys
def of_worker(_):
    return os.environ["OMP_NUM_THREADS"], "json.tool" in sys.modules, os.getppid() == int(os.environ["COMMAND"])
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="workers are spawned there")
def test_workers_are_forked_from_a_process_of_one_thread_that_has_imported_ahead(tmp_path):
    (tmp_path / "seen.py").write_text(SEEN)
    (tmp_path / "mine.py").write_text("import os, seen\nos.environ['COMMAND'] = str(os.getpid())" + AHEAD)
    environment = {**os.environ, "OMP_NUM_THREADS": "3"}
    done = subprocess.run([sys.executable, tmp_path / "mine.py"], capture_output=True, text=True, env=environment)
    assert done.stdout.splitlines() == ["False 3", "('1', True, False)", "3"]
    assert not done.stderr


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="workers are spawned there")
def test_where_no_socket_can_be_workers_are_spawned(tmp_path):
    """As with a TMPDIR of more than a hundred characters, which clusters have."""
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    (tmp_path / "seen.py").write_text(SEEN)
    (tmp_path / "mine.py").write_text("import os, seen\nos.environ['COMMAND'] = str(os.getpid())" + AHEAD)
    environment = {**os.environ, "OMP_NUM_THREADS": "3", "TMPDIR": str(deep)}
    done = subprocess.run([sys.executable, tmp_path / "mine.py"], capture_output=True, text=True, env=environment)
    assert done.stdout.splitlines() == ["False 3", "('1', False, True)", "3"]
    assert not done.stderr
