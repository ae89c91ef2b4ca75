"""Commands with several scans at a time: the files, the failures and what is told are those of one at a time."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import medvae.prediction
from medvae.cli import main
from medvae.config import Config
from medvae.derivatives import FAILURES, MAP_SUFFIX
from medvae.errors import MedvaeError
from medvae.evaluation.options import EvaluationOptions
from medvae.evaluation.study import evaluate
from medvae.evaluation.writing import write_study
from medvae.files import LOCK
from medvae.fitting import fit
from medvae.imaging.volume import read_volume, write_volume
from medvae.manifest import read_manifest
from medvae.prediction import Scan, predict, scans_of_manifest
from medvae.reporting.report import write_report
from medvae.reporting.seen import Seen
from medvae.schema import read_document
from tests.predicted import make_predictions
from tests.test_prepare import alive, children, wait_until

NETWORK = {
    "name": "small",
    "sampling": {"batch_size": 8, "workers": 0},
    "network": {"widths": [4, 8, 8], "latent_size": 8, "squeeze": 4},
    "training": {"steps": 2, "validate_every": 100},
}


@pytest.fixture(scope="module")
def detector(cohort, tmp_path_factory, prepared):
    return fit(
        Config.model_validate(NETWORK), cohort, tmp_path_factory.mktemp("runs") / "run", cache=prepared, quiet=True
    )


@pytest.fixture(scope="module")
def run(detector, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    detector.save(folder / "detector")
    return folder


def files(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_two_jobs_write_the_bytes_of_one(tmp_path, detector, cohort):
    scans = scans_of_manifest(cohort)
    cut = tmp_path / "cut.nii.gz"
    cut.write_bytes(scans[0].images[0].read_bytes()[:5000])
    wanted = [Scan("broken", (cut,)), *scans, Scan("gone", (tmp_path / "gone.nii.gz",))]
    found = {}
    for jobs in (1, 2):
        out = tmp_path / f"maps{jobs}"
        seen = Seen(detector, cohort, out)
        found[jobs] = predict(detector, wanted, out, jobs=jobs, then=seen, quiet=True)
    assert files(tmp_path / "maps1") == files(tmp_path / "maps2")
    (one, failed), (two, failed_too) = found[1], found[2]
    assert [item.id for item in two] == [item.id for item in one] == [scan.id for scan in scans]
    assert [item.lesion_volume_ml for item in two] == [item.lesion_volume_ml for item in one]
    assert all(item.look for item in two)
    assert list(failed.items()) == list(failed_too.items())
    assert list(failed) == ["broken", "gone"]
    assert read_document(tmp_path / "maps2" / FAILURES) == failed
    assert {f"{scan.id}.{ending}" for scan in scans for ending in ("png", "itksnap")} <= set(files(tmp_path / "maps2"))


def test_a_scan_is_written_while_another_one_waits_for_its_disk(tmp_path, detector, cohort, monkeypatch):
    first, second = scans_of_manifest(cohort)
    written, packed = threading.Event(), medvae.prediction.volume_bytes

    def slow(path, *arguments, **options):
        if path.name.startswith(first.id):
            assert written.wait(60)
        return packed(path, *arguments, **options)

    monkeypatch.setattr(medvae.prediction, "volume_bytes", slow)

    def other():
        made = predict(detector, [second], tmp_path / "out", quiet=True)
        written.set()
        return made

    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(predict, detector, [first], tmp_path / "out", quiet=True), pool.submit(other)]
    assert [[item.id for item in one.result()[0]] for one in both] == [[first.id], [second.id]]


def test_a_scan_is_read_once_for_its_checksum(tmp_path, detector, cohort, monkeypatch):
    (scan, _), reads, digest = scans_of_manifest(cohort), [], hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda stream, name: reads.append(stream.name) or digest(stream, name))
    fresh = tmp_path / "fresh.nii.gz"  # of which the times do not tell yet that it has not changed
    fresh.write_bytes(scan.images[0].read_bytes())
    for _ in range(2):
        assert predict(detector, [Scan("a", (fresh,))], tmp_path / "out", quiet=True)[0]
        assert reads == [str(fresh)]
        reads.clear()


def test_a_scan_that_changes_while_it_is_predicted_is_refused(tmp_path, detector, cohort, monkeypatch):
    scan, other = (one.images[0] for one in scans_of_manifest(cohort))
    changing = tmp_path / "a.nii.gz"
    changing.write_bytes(scan.read_bytes())
    maps = type(detector).native_maps

    def meanwhile(*arguments):
        changing.write_bytes(other.read_bytes())
        return maps(*arguments)

    monkeypatch.setattr(type(detector), "native_maps", meanwhile)
    made, failures = predict(detector, [Scan("a", (changing,))], tmp_path / "out", quiet=True)
    assert not made
    assert "has changed while it was being used" in failures["a"]
    assert not list((tmp_path / "out").glob("a_*"))


@pytest.mark.skipif(sys.platform != "linux", reason="needs process groups and /proc")
def test_ctrl_c_of_a_terminal_ends_all_processes_and_the_same_command_goes_on(
    tmp_path, run, detector, cohort, prepared
):
    command = [sys.executable, "-m", "medvae", "predict", run, "--manifest", cohort.path, "--out", tmp_path / "out"]
    command = [str(word) for word in [*command, *("--split", "train", "--split", "test"), "--jobs", 2]]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 250
    while not list((tmp_path / "out").glob("*_mask.json")) and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.01)
    workers = children(process.pid)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=100)
    assert process.returncode == 130, errors
    assert errors.count("Stopped") == 1
    assert "same command" in errors
    assert "Traceback" not in errors
    assert len(workers) >= 2
    wait_until(lambda: not any(map(alive, workers)))  # the tracker of their resources hears of the end last
    assert not [name for name in files(tmp_path / "out") if name.startswith(".") or LOCK in name]
    made, failures = predict(
        detector, scans_of_manifest(cohort, ("train", "test")), tmp_path / "out", cache=prepared, quiet=True
    )
    assert (len(made), failures) == (6, {})


@pytest.fixture(scope="module")
def predicted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("predicted")
    return folder / "predictions", make_predictions(folder, ["one", "two", "three"], ["well", "fine"])


def test_numbers_and_pages_do_not_depend_on_the_jobs(tmp_path, predicted):
    folder, manifest = predicted
    for jobs in (1, 2):
        study = evaluate(folder, manifest, EvaluationOptions(free_response=True), jobs=jobs)
        write_study(study, tmp_path / f"results{jobs}")
        write_report(folder, tmp_path / f"report{jobs}", manifest=manifest, jobs=jobs, quiet=True)
    assert files(tmp_path / "results1") == files(tmp_path / "results2")
    assert files(tmp_path / "report1") == files(tmp_path / "report2")
    assert len(files(tmp_path / "report2")) > 10


def test_what_is_wrong_with_maps_is_told_as_by_one_job(tmp_path, predicted):
    folder, manifest = predicted
    shutil.copytree(folder.parent, tmp_path / "all")
    bad = tmp_path / "all" / "predictions"
    for name in ("three", "well"):
        path = bad / f"{name}{MAP_SUFFIX}"
        volume = read_volume(path)
        write_volume(path, np.where(volume.array > 0.3, np.nan, volume.array).astype(np.float32), volume)
    told = []
    for jobs in (1, 2):
        with pytest.raises(MedvaeError) as refused:
            evaluate(bad, read_manifest(tmp_path / "all" / manifest.path.name), jobs=jobs)
        told.append(str(refused.value))
    assert told[0] == told[1]
    assert [line.split(":")[0] for line in told[0].splitlines()] == ['case "three"', 'case "well"']


def said(monkeypatch, capsys, *words):
    monkeypatch.setattr(sys, "argv", ["medvae", "predict", *map(str, words), "--no-pictures", "--no-workspaces"])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code, capsys.readouterr().err


def test_the_number_of_jobs_is_said_in_one_line(tmp_path, run, cohort, monkeypatch, capsys):
    asked = []

    def as_asked(*arguments, jobs, **options):
        asked.append(jobs)
        return [], {}

    monkeypatch.setattr(medvae.prediction, "predict", as_asked)
    monkeypatch.setattr("medvae.commands.shared.available_cores", lambda: 3)
    monkeypatch.setattr("medvae.jobs.available_cores", lambda: 3)
    monkeypatch.setattr("medvae.jobs.available_memory", lambda: 20e9)
    words = (run, "--manifest", cohort.path, "--out", tmp_path / "out", "--split", "train")
    code, told = said(monkeypatch, capsys, *words)
    assert (code, told) == (0, "4 scans, 3 at a time on 3 cores; --jobs changes that.\n")
    assert said(monkeypatch, capsys, *words, "-q") == (0, "")
    assert said(monkeypatch, capsys, *words, "-j", 2) == (0, "")
    assert "8 processes take turns on 3 cores" in said(monkeypatch, capsys, *words, "-j", 8)[1]
    assert said(monkeypatch, capsys, run, cohort.images(cohort.cases[0])[0], "--out", tmp_path / "out") == (0, "")
    assert asked == [3, 3, 2, 8, 1]
    assert said(monkeypatch, capsys, *words, "-j", 0)[0] == 2
    monkeypatch.setattr("medvae.jobs.available_memory", lambda: 5e9)
    told = said(monkeypatch, capsys, *words)[1]
    assert told == "4 scans, 2 at a time on 3 cores, as there is memory for 2; --jobs changes that.\n"
    assert "enough for about 2 at a time" in said(monkeypatch, capsys, *words, "-j", 3)[1]
