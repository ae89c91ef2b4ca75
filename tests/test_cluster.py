"""Workers of Dask in the place of processes of this machine: the same results, and what is lost is told."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest

if importlib.util.find_spec("dask_jobqueue") is None:  # found, not imported: that would change who gets Ctrl-C
    pytest.skip("needs the extra cluster", allow_module_level=True)

from medvae import cluster
from medvae.cli import main
from medvae.cluster import slurm_cluster, workers_on
from medvae.detection.ensemble import load_detector
from medvae.errors import MedvaeError, MedvaeWarning
from medvae.jobs import WorkersLost, shared_out
from medvae.prediction import Scan, predict, scans_of_manifest
from tests.test_jobs import Deadly, Square, broken, half_written
from tests.test_jobs_of_commands import files

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs signals")


def all_of(work, task, workers):
    with shared_out(work, task, workers) as results:
        return dict(results)


@pytest.fixture(scope="module")
def local():
    with workers_on("local", 2) as workers:
        yield workers


def test_every_item_is_done_once_by_workers_of_one_thread_that_get_the_task_once(tmp_path, local):
    with pytest.warns(MedvaeWarning) as told:
        found = all_of(range(9), Square(tmp_path), local)
    assert {number: result[0] for number, result in found.items()} == {n: n**2 for n in range(9)}
    workers = {result[1] for result in found.values()}
    assert len(workers) <= 2
    assert os.getpid() not in workers
    assert len(list(tmp_path.iterdir())) == len(workers)
    assert all(set(result[2].values()) == {"1"} for result in found.values())
    assert {str(one.message) for one in told} == {"even", *(f"{n} is odd" for n in range(1, 9, 2))}
    assert all_of([], Square(tmp_path), local) == {}


def test_workers_write_the_bytes_of_this_process(tmp_path, local, cohort):
    detector = load_detector("flair-rank-2mm")
    cut = tmp_path / "cut.nii.gz"
    scans = [Scan("broken", (cut,))]
    for scan in scans_of_manifest(cohort):
        scans.append(Scan(scan.id, (tmp_path / f"{scan.id}.nii.gz",)))
        shutil.copy(scan.images[0], scans[-1].images[0])
    cut.write_bytes(scans[1].images[0].read_bytes()[:5000])
    one, failed = predict(detector, scans, tmp_path / "one", quiet=True)
    two, failed_too = predict(detector, scans, tmp_path / "two", jobs=local, quiet=True)
    assert files(tmp_path / "one") == files(tmp_path / "two")
    assert [item.id for item in one] == [item.id for item in two] == [scan.id for scan in scans[1:]]
    assert failed == failed_too
    assert list(failed) == ["broken"]


def test_what_a_killed_worker_was_at_is_done_by_others(tmp_path, local):
    assert all_of(range(8), Deadly(tmp_path / "died", False), local) == {n: n for n in range(8)}
    assert (tmp_path / "died").exists()


def test_an_item_that_always_kills_its_worker_is_told_and_the_others_are_done(tmp_path, local):
    found = all_of(range(6), Deadly(tmp_path / "died", True), local)
    assert "2 workers died one after the other" in str(found.pop(3))
    assert found == {n: n for n in range(6) if n != 3}


def test_ctrl_c_ends_the_workers_and_leaves_nothing_half_written(tmp_path):
    before = set(multiprocessing.active_children())

    def work():
        yield tmp_path
        while not list(tmp_path.glob("begun-*")):
            time.sleep(0.01)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), workers_on("local", 2) as workers:
        all_of(work(), half_written, workers)
    assert not set(multiprocessing.active_children()) - before
    left = [path.name for path in tmp_path.iterdir() if not path.name.startswith("begun-")]
    assert "a.json" not in left
    assert "b.json" not in left


@contextlib.contextmanager
def program(*words):
    with subprocess.Popen([sys.executable, "-m", *map(str, words), "--no-dashboard"], stderr=subprocess.DEVNULL) as one:
        try:
            yield one
        finally:
            one.kill()


@contextlib.contextmanager
def scheduler(folder):
    """A scheduler as a user starts it: its process, and its address."""
    known = folder / "scheduler.json"
    words = ("--host", "127.0.0.1", "--port", "0", "--scheduler-file", known)
    with program("distributed.cli.dask_scheduler", *words) as started:
        until(known.exists)
        yield started, json.loads(known.read_text())["address"]


def until(condition):
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """A scheduler with one worker."""
    folder = tmp_path_factory.mktemp("dask")
    with contextlib.ExitStack() as stack:
        _, found = stack.enter_context(scheduler(folder))
        words = ("--nthreads", "1", "--local-directory", folder)
        stack.enter_context(program("distributed.cli.dask_worker", found, *words))
        yield found


def test_workers_of_a_scheduler_are_used_and_left_as_they_are(tmp_path, address):
    for _ in range(2):
        with workers_on(address, shares=tmp_path / "shared") as workers:
            assert all_of([3, 5], abs, workers) == {3: 3, 5: 5}
            with pytest.raises(ZeroDivisionError):
                all_of([1, 0], broken, workers)
            assert all_of([-3], abs, workers) == {-3: 3}
    assert not list((tmp_path / "shared").iterdir())


def test_a_worker_that_does_not_see_the_files_is_named(tmp_path, address):
    there = tmp_path / "there"
    there.touch()
    with workers_on(address, needs=[there, tmp_path / "never"]) as workers:
        there.unlink()  # as if it had been another machine's
        with pytest.raises(MedvaeError, match=rf"^worker tcp://127.0.0.1:\d+ on .*: does not see {there}"):
            all_of([1], abs, workers)


@pytest.mark.parametrize(
    ("differs", "threads", "told"),
    [
        (("0.0.1", "3.11.7"), 1, "has medvae .* not medvae 0.0.1 and Python 3.11.7"),
        ((cluster.__version__, "3.2.1"), 1, "not medvae .* and Python 3.2.1"),
        (None, 4, "works on 4 things at a time.*--nthreads 1 --nworkers 4"),
    ],
)
def test_a_worker_that_would_work_otherwise_is_named(differs, threads, told):
    sent = cluster._Sent("a", b"", [], ".", False)
    sent.made_by = differs or sent.made_by
    worker = SimpleNamespace(address="tcp://node7:1234", state=SimpleNamespace(nthreads=threads))
    with pytest.raises(MedvaeError, match=f"^worker tcp://node7:1234 on .*{told}"):
        sent.setup(worker)


def test_a_worker_without_medvae_is_named(tmp_path):
    (tmp_path / "without.py").write_text("import sys; sys.modules['medvae'] = None")
    with scheduler(tmp_path) as (_, address):
        words = ("--nthreads", "1", "--preload", tmp_path / "without.py", "--local-directory", tmp_path)
        with program("distributed.cli.dask_worker", address, *words), workers_on(address) as workers:
            workers.client.wait_for_workers(1, timeout=120)
            with pytest.raises(MedvaeError, match=r"^worker tcp://127.0.0.1:\d+: cannot import medvae"):
                all_of([1], abs, workers)


def test_a_scheduler_that_ends_is_told_and_ends_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "_ANSWER_S", 2.0)
    with scheduler(tmp_path) as (process, address), workers_on(address) as workers:
        threading.Timer(0.5, process.kill).start()
        with pytest.raises(WorkersLost, match=r"cannot be reached any more .*finished is kept.*same command"):
            all_of([1], abs, workers)


def test_a_place_that_is_none_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "_ANSWER_S", 0.5)
    places = {
        "slrum": "neither local nor slurm",
        "tcp://127.0.0.1:9": "no scheduler of Dask answers",
        "x://y": "no sche",
    }
    for where, told in places.items():
        with pytest.raises(MedvaeError, match=told), workers_on(where):
            pass


def test_a_job_is_one_process_of_one_thread_with_the_options_of_sbatch(monkeypatch):
    options = {"partition": "short", "time": "02:00:00", "mem": "8G", "exclusive": ""}
    with slurm_cluster(options) as found:
        lines = found.job_script().splitlines()
    directives = {line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH")}
    wanted = {"-n 1", "--cpus-per-task=1", "--partition=short", "--time=02:00:00", "--mem=8G", "--exclusive"}
    assert directives == {"-J dask-worker", *wanted}
    assert {"export OMP_NUM_THREADS=1", "export ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS=1"} <= set(lines)
    assert "--nthreads 1" in lines[-1]
    assert lines[-1].startswith(sys.executable)


def test_the_library_of_queues_does_not_take_ctrl_c(monkeypatch):
    for name in [one for one in sys.modules if one.startswith("dask_jobqueue")]:
        monkeypatch.delitem(sys.modules, name)  # its handlers are set when it is imported
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    slurm_cluster({}).close()
    assert "dask_jobqueue.runner" in sys.modules
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def commands(monkeypatch, folder, **scripts):
    """Stand-ins for commands of SLURM."""
    for name, script in scripts.items():
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin" if scripts else str(folder))


def test_a_queue_that_takes_no_job_is_quoted(tmp_path, monkeypatch):
    commands(monkeypatch, tmp_path)
    with pytest.raises(MedvaeError, match=r"sbatch takes no job: .*No such file.*sbatch"), workers_on("slurm", 1):
        pass
    commands(monkeypatch, tmp_path, sbatch="echo 'sbatch: error: invalid partition specified: x' >&2; exit 1")
    told = "sbatch takes no job: sbatch: error: invalid partition specified: x. Give its options"
    with pytest.raises(MedvaeError, match=told), workers_on("slurm", 1):
        pass


def test_jobs_that_end_before_a_worker_reports_are_not_waited_for(tmp_path, monkeypatch):
    cancelled = tmp_path / "cancelled"
    commands(monkeypatch, tmp_path, sbatch="echo job 7", squeue="echo 8", scancel=f'echo "$@" > {cancelled}')
    monkeypatch.setattr(cluster, "_MEND_S", 0.0)
    with (
        pytest.raises(MedvaeError, match=r"jobs 7 ended before a worker.*slurm-7\.out"),
        workers_on("slurm", 1) as jobs,
        pytest.warns(MedvaeWarning, match="no worker at present"),
    ):
        all_of([1], abs, jobs)
    assert cancelled.read_text() == "7\n"


def said(monkeypatch, capsys, *words):
    monkeypatch.setattr(sys, "argv", ["medvae", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code, " ".join(capsys.readouterr().err.replace("│", " ").split())


def test_options_that_contradict_each_other_are_refused(tmp_path, cohort, monkeypatch, capsys):
    words = ("evaluate", tmp_path, "--manifest", cohort.path, "--out", tmp_path / "out")
    for more, told in (
        (("--on", "tcp://a:1", "--jobs", 2), "as many as there are"),
        (("--on-option", "mem=8G"), "--on-option is for --on slurm"),
        (("--on", "local", "--on-option", "mem=8G"), "not for --on local"),
    ):
        code, found = said(monkeypatch, capsys, *words, *more)
        assert code == 2
        assert told in found


def test_without_the_extra_it_is_named(tmp_path, cohort, monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    words = ("evaluate", tmp_path, "--manifest", cohort.path, "--out", tmp_path / "out", "--on", "local")
    code, told = said(monkeypatch, capsys, *words)
    assert code == 1
    assert 'distributed and dask_jobqueue, not installed here. Run: pip install "medvae-anomaly[cluster]"' in told


def test_no_command_imports_dask_without_on():
    code = "import sys, medvae.cli, medvae.jobs; "
    code += "print({'dask', 'distributed'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def slurm_answers():
    if shutil.which("sinfo") is None:
        return False
    asked = subprocess.run(["sinfo", "--noheader", "--states=idle"], capture_output=True, text=True, timeout=60)
    return asked.returncode == 0 and bool(asked.stdout.strip())


@pytest.mark.skipif(not slurm_answers(), reason="needs SLURM with an idle node")
def test_jobs_of_slurm_do_the_work_and_are_ended(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where SLURM writes the output of jobs
    with workers_on("slurm", 1, options={"mem": "500M"}, shares=tmp_path / "out") as workers:
        (tmp_path / "marks").mkdir()
        with pytest.warns(MedvaeWarning):
            found = all_of([2, 3], Square(tmp_path / "marks"), workers)
        assert {number: result[0] for number, result in found.items()} == {2: 4, 3: 9}
        job = next(iter(workers.started.workers.values())).job_id
    until(
        lambda: job not in subprocess.run(["squeue", "-h", "-o", "%A"], capture_output=True, text=True).stdout.split()
    )
