"""The check for a GPU, on the CPU: every row of it made small, and what becomes of rows that fail."""

import importlib.util
import json
import subprocess
import sys
from argparse import Namespace
from functools import partial

import pytest
import torch

from medvae.config.methods import SCORES
from medvae.errors import MedvaeError


@pytest.fixture(scope="module")
def program(request):
    path = request.config.rootpath / "pipelines" / "gpu_check.py"
    spec = importlib.util.spec_from_file_location("gpu_check", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def options(tmp_path, program):
    (tmp_path / "rows").mkdir()
    return Namespace(device="cpu", tiny=True, steps=2, manifest=program.MANIFESTS / "included_t1.json", minutes=1.0,
                     out=tmp_path / "table.md", folder=tmp_path, only=None, again=False)  # fmt: skip


FINE = {"largest_difference": 0.0, "largest_value": 1.0, "correlation": 1.0, "seconds": 0.1, "cpu_seconds": 0.2,
        "problems": [], "note": ""}  # fmt: skip


@pytest.mark.timeout(900)
def test_every_row_is_fine_on_the_cpu(tmp_path, program):
    out = tmp_path / "check" / "table.md"
    command = [sys.executable, program.__file__, "--device", "cpu", "--tiny", "--minutes", "14", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(out.with_suffix(".json").read_text())
    assert not found["problems"]
    assert found["environment"]["torch"] == torch.__version__
    rows = found["rows"]
    assert {*program.PRESETS, "t1-2mm, float32", "flair-2mm, float32", "flair-2mm, bfloat16"} < rows.keys()
    assert {f"score {name}" for name, kind in SCORES.items() if kind.needs_network} < rows.keys()
    for preset in program.PRESETS:
        assert rows[preset]["steps"] == 3
        assert rows[preset]["steps_per_second"] > 0
        assert 0 <= rows[preset]["waiting"] <= 1
        assert rows[preset]["first_loss"] != rows[preset]["last_loss"]
    assert rows["t1-2mm, float32"]["dice"] == 1
    assert 0 < rows["flair-2mm, float32"]["ap"] <= 1
    assert rows["flair-2mm, float32"]["largest_difference"] == 0 < rows["flair-2mm, bfloat16"]["largest_difference"]
    table = out.read_text()
    assert all(f"| {name} |" in table for name in rows)
    assert f"torch {torch.__version__}" in table


def raising(error, *_):
    raise error


def test_a_row_that_fails_is_told_and_the_others_go_on(program, options, monkeypatch):
    rows = {
        "first": lambda *_: FINE,
        "large": partial(raising, torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")),
        "wrong": partial(raising, MedvaeError("the scan is empty.")),
        "broken": partial(raising, RuntimeError("expected all tensors to be on the same device")),
        "last": lambda *_: FINE,
    }
    monkeypatch.setattr(program, "plan", lambda options: rows)
    program.work([*rows], options, 1e12)
    assert program.write_table(options) == [
        "large: out of memory: lower sampling.batch_size.",
        "wrong: the scan is empty.",
        "broken: RuntimeError: expected all tensors to be on the same device",
    ]
    table = options.out.read_text()
    assert "| first |" in table
    assert "| last |" in table
    assert "- large: out of memory: lower sampling.batch_size." in table
    assert "raising" in program.read_row("broken", options)["traceback"]


def test_rows_that_are_fine_are_kept_and_the_others_done_again(program, options, monkeypatch):
    done = []

    def supervised(names, *_):
        done.append(list(names))
        return True

    monkeypatch.setattr(program, "plan", lambda options: dict.fromkeys(("fine", "failed", "never")))
    monkeypatch.setattr(program, "supervise", supervised)
    arguments = ["--device", "cpu", "--tiny", "--out", str(options.out), "--steps", "2"]
    for name, problems in (("fine", []), ("failed", ["it failed."])):
        row = {"name": name, "settings": program.settings(options)} | FINE | {"problems": problems}
        program.path_of(name, options).write_text(json.dumps(row))
    assert program.main(arguments) == 1
    assert program.main([*arguments[:-1], "5"]) == 1  # other steps: other rows
    assert done == [["failed", "never"], ["fine", "failed", "never"]]
    assert "not done, as there was no time: fine; failed; never" in options.out.read_text()


def test_a_process_that_dies_is_started_anew_for_the_rows_that_are_left(program, options, monkeypatch, capsys):
    monkeypatch.setattr(program, "plan", lambda options: dict.fromkeys(("one", "two")))
    program.supervise(["one", "two"], options, [sys.executable, "-c", "import sys; sys.exit(7)"])
    assert program.write_table(options) == [
        "one: its process died (exit status 7).",
        "two: its process died (exit status 7).",
    ]
    assert "2/2 two: its process died" in capsys.readouterr().out


def test_rows_for_which_no_time_is_left_are_named(program, options, monkeypatch):
    monkeypatch.setattr(program, "plan", lambda options: dict.fromkeys(("one", "two")))
    options.minutes = 0.01
    program.supervise(["one", "two"], options, [sys.executable, "-c", "import time; time.sleep(600)"])
    (problem,) = program.write_table(options)
    assert problem.startswith("not done, as there was no time: one; two.")


def test_a_device_that_is_missing_is_told_in_a_sentence_and_nothing_is_done(program, options, capfd):
    missing = "cuda:99" if torch.cuda.is_available() else "cuda"
    assert program.main(["--device", missing, "--out", str(options.out)]) == 1
    told = capfd.readouterr().err
    assert told.startswith(f'device "{missing}":')
    assert "Traceback" not in told
    assert not options.out.exists()
