"""medvae prepare, as a person runs it: failures, Ctrl-C, kill -9, two at once, a full disk."""

import csv
import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from medvae.cli import main
from medvae.config import PreparationConfig
from medvae.preparation import cache as caching

MEDVAE = [sys.executable, "-c", "from medvae.cli import main; main()"]
pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs signals and /proc")


TRAINING = ("--split", "train")


def start(*arguments, **options):
    command = [*MEDVAE, "prepare", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def finish(process):
    out, errors = process.communicate(timeout=200)
    assert "Traceback" not in errors, errors
    return process.returncode, out, errors


def entries(cache):
    return {path.parent.name for path in cache.glob("*/volume.json")}


def wait_until(condition):
    deadline = time.monotonic() + 100
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def children(pid):
    """Processes that descend from ``pid``, by id."""
    found = []
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/children") as stream:
            for child in map(int, stream.read().split()):
                found += [child, *children(child)]
    return found


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as stream:
            return stream.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def all_found(cohort, cache):
    cases = cohort.of_split("train")
    requests = (caching.request(cohort.images(c), PreparationConfig(), mask=None, cache=cache) for c in cases)
    return all(caching.find(request) for request in requests)


def test_failures_are_listed_and_stop_nothing(tmp_path, cohort):
    folder = tmp_path / "my cohört"
    shutil.copytree(cohort.path.parent, folder)
    content = json.loads((folder / "cohort.json").read_text())
    for case, image in zip(content["cases"][:3], ("[gone].nii.gz", "cut.nii.gz", "head.nii.gz"), strict=True):
        case["image"] = image
    whole = (folder / "sub00_T1.nii.gz").read_bytes()
    (folder / "cut.nii.gz").write_bytes(whole[: len(whole) // 2])
    raw = bytearray(gzip.decompress(whole))
    raw[352:] = bytes(value or 5 + n % 23 for n, value in enumerate(raw[352:]))  # noise, as around a head
    (folder / "head.nii.gz").write_bytes(gzip.compress(bytes(raw)))
    (folder / "cohort.json").write_text(json.dumps(content))

    cache = tmp_path / "cache"
    code, out, errors = finish(start(folder / "cohort.json", "--out", cache, "--jobs", 2))
    assert code == 1
    assert "3 of 8 scans could not be prepared" in errors
    words = " ".join(out.replace("│", " ").split())
    for expected in ("[gone].nii.gz", "cut.nii.gz: ", "no empty background", "3 of 8 scans failed"):
        assert expected in words
    assert len(entries(cache)) == 5
    with open(cache / "preparation.csv", newline="") as stream:
        rows = {row["id"]: row for row in csv.DictReader(stream)}
    assert [rows[case["id"]]["state"] for case in content["cases"]] == ["failed"] * 3 + ["prepared"] * 5
    assert "cut.nii.gz" in rows["sub01"]["problem"]
    assert rows["sub03"]["entry"] in entries(cache)

    for case in content["cases"][:3]:
        case["image"] = f"{case['id']}_T1.nii.gz"
    (folder / "cohort.json").write_text(json.dumps(content))
    code, out, _ = finish(start(folder / "cohort.json", "--out", cache, "--split", "train"))
    assert code == 0
    assert "3 scans prepared, 1 were there" in out
    report = json.loads((cache / "preparation.json").read_text())
    assert [case["state"] for case in report["cases"]] == ["prepared"] * 3 + ["kept"]
    assert report["preparation"] == PreparationConfig().model_dump(mode="json")


def test_two_at_once_fill_one_cache(tmp_path, cohort):
    cache = tmp_path / "cache"
    both = [start(cohort.path, *TRAINING, "--out", cache) for _ in range(2)]
    for process in both:
        code, _, errors = finish(process)
        assert code == 0, errors
    assert len(entries(cache)) == 4
    assert all_found(cohort, cache)
    assert not list(cache.glob(".*"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_stopped_in_the_middle_it_leaves_whole_entries_and_goes_on(tmp_path, cohort, number):
    cache = tmp_path / "cache"
    process = start(cohort.path, *TRAINING, "--out", cache)
    wait_until(lambda: entries(cache))
    workers = children(process.pid)
    assert workers
    process.send_signal(number)
    stopped = time.monotonic()
    code, _, errors = finish(process)
    if number == signal.SIGINT:
        assert code == 130
        assert "Go on with the same command" in errors
        assert not list(cache.glob(".*"))
    wait_until(lambda: not any(map(alive, workers)))
    assert time.monotonic() - stopped < 60
    kept = entries(cache)
    assert 0 < len(kept) < 4

    code, out, errors = finish(start(cohort.path, *TRAINING, "--out", cache))
    assert code == 0, errors
    assert f"{4 - len(kept)} scans prepared, {len(kept)} were there" in out
    assert all_found(cohort, cache)


def test_ctrl_c_of_a_terminal_reaches_all_processes_and_is_told_once(tmp_path, cohort):
    command = (cohort.path, "preparation.bias_field=n4", "--out", tmp_path / "cache", "--jobs", 2)
    process = start(*command, start_new_session=True)
    wait_until(lambda: len(children(process.pid)) > 2)  # two workers and multiprocessing's resource tracker
    os.killpg(process.pid, signal.SIGINT)
    code, _, errors = finish(process)
    assert code == 130, errors
    assert errors.count("Stopped") == 1


DEADLY = """
import multiprocessing, os, signal
import medvae.imaging.formats
open_scan = medvae.imaging.formats.open_scan
def deadly(path):
    if "{name}" in str(path) and multiprocessing.parent_process() and not os.path.exists({once!r}):
        open({marker!r}, "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    return open_scan(path)
medvae.imaging.formats.open_scan = deadly
"""


@pytest.mark.parametrize("always", [True, False])
def test_a_process_that_dies_costs_its_own_case_at_most(tmp_path, cohort, always):
    """As the system kills one when memory runs out: every time, or because another program took the memory."""
    marker = str(tmp_path / "died")
    once = str(tmp_path / "never") if always else marker
    (tmp_path / "sitecustomize.py").write_text(DEADLY.format(name="sub01", marker=marker, once=once))
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path}
    process = start(cohort.path, *TRAINING, "--out", tmp_path / "cache", "--jobs", 2, env=environment)
    code, out, errors = finish(process)
    assert os.path.exists(marker)
    assert code == (1 if always else 0), errors
    assert len(entries(tmp_path / "cache")) == 4 - always
    assert ("Its process died twice" in " ".join(out.replace("│", " ").split())) == always


def test_a_full_disk_is_told_once(tmp_path, cohort):
    """A limit on the size of files stands for the full disk."""
    import resource

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    code, out, errors = finish(start(cohort.path, "--out", tmp_path / "cache", "--jobs", 2, preexec_fn=limit))
    assert code == 1
    assert errors.count("could not be written") == 1
    assert "failed" not in out
    assert not entries(tmp_path / "cache")
    assert not list((tmp_path / "cache").glob(".*"))


def test_train_and_predict_use_the_cache(tmp_path, cohort, repository, monkeypatch, capsys):
    cache, config = tmp_path / "cache", repository / "configs" / "normative_baseline.yaml"
    moved = tmp_path / "moved"
    shutil.copytree(cohort.path.parent, moved)

    def medvae(*arguments):
        monkeypatch.setattr(sys, "argv", ["medvae", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            main()
        output = capsys.readouterr()
        assert not caught.value.code, output.err
        return output.out

    out = medvae("prepare", cohort.path, "--config", config, "--out", cache, "--quiet")
    assert f"--data {cohort.path} --cache {cache} --out RUN" in out
    made = {path: path.stat().st_mtime_ns for path in cache.glob("*/volume.json")}
    data = moved / "cohort.json"
    medvae("train", config, "--data", data, "--out", tmp_path / "run", "--cache", cache)
    to = ("--no-pictures", "--out", tmp_path / "maps", "--cache", cache)
    medvae("predict", tmp_path / "run", "--manifest", data, *to)
    assert {path: path.stat().st_mtime_ns for path in cache.glob("*/volume.json")} == made
    assert len(made) == len(cohort.cases)
    assert len(list((tmp_path / "maps").glob("*.nii.gz"))) == 4


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--out", "{tmp}"), 1, "is no cache of medvae"),
        (("preparation.bias=n4", "--out", "{tmp}/c"), 1, 'did you mean "bias_field"'),
        (("--split", "none", "--out", "{tmp}/c"), 1, "has no case in split none"),
        (("--jobs", "0", "--out", "{tmp}/c"), 2, "greater than or equal to 1"),
        ((), 2, "Missing option"),
    ],
)
def test_mistakes_end_with_a_message(tmp_path, cohort, arguments, code, words, monkeypatch, capsys):
    (tmp_path / "mine.txt").write_text("kept")
    given = [argument.format(tmp=tmp_path) for argument in arguments]
    monkeypatch.setattr(sys, "argv", ["medvae", "prepare", str(cohort.path), *given])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == code
    assert words in " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
