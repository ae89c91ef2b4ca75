"""What belongs to the whole command line: version, more words, completion, usage lines, what an import leaves alone."""

import gzip
import os
import re
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
import typer

import medvae
from medvae.cli import app, main
from medvae.commands.shared import LOG
from tests.predicted import make_predictions

COMPUTING = ("train", "ensemble", "calibrate", "predict", "bids", "figure", "benchmark")
REPLACING = ("train", "ensemble", "calibrate", "predict", "bids")


def commands(group=None, words=()):
    """Every command with the words that call it."""
    group = group or typer.main.get_command(app)
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*words, name))
        else:
            yield (*words, name), command


def say(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["medvae", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        main()
    said = capsys.readouterr()
    return caught.value.code, said.out, said.err


def options_of(command):
    return {name for parameter in command.params for name in parameter.opts if name.startswith("--")}


def test_the_version_is_told(monkeypatch, capsys):
    assert say(monkeypatch, capsys, "--version") == (0, f"medvae {medvae.__version__}\n", "")


def test_verbose_tells_where_an_error_comes_from_and_is_off_again_the_next_time(monkeypatch, capsys, tmp_path):
    wrong = tmp_path / "wrong.json"
    wrong.write_text("{")
    code, _, quiet = say(monkeypatch, capsys, "check", wrong)
    assert code == 1
    assert "Traceback" not in quiet
    code, _, told = say(monkeypatch, capsys, "-v", "check", wrong)
    assert code == 1
    assert told.startswith(f"medvae: version {medvae.__version__}, Python ")
    assert "Traceback" in told
    assert "JSONDecodeError" in told  # the cause
    assert told.endswith(quiet)
    assert say(monkeypatch, capsys, "check", wrong) == (1, "", quiet)
    assert not LOG.handlers


def test_usage_lines_have_no_doubled_brackets(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "200")
    for words, _ in commands():
        _, out, _ = say(monkeypatch, capsys, *words, "--help")
        usage = next(line for line in out.splitlines() if "Usage:" in line)
        assert not re.search(r"\[\[|\]\]|\.\.\.\S*\.\.\.|\{\{", usage), usage
        for repeated in ("SCAN", "KEY=VALUE", "CASE"):
            assert repeated not in usage or f"[{repeated}]..." in usage


def test_devices_and_overwriting_are_offered_where_a_person_expects_them():
    every = {" ".join(words): options_of(command) for words, command in commands()}
    assert {name for name, options in every.items() if "--device" in options} == {*COMPUTING, "app"}
    manifests = {name for name in every if name.startswith("manifest ")}
    assert {name for name, options in every.items() if "--overwrite" in options} == {*REPLACING, *manifests}
    assert all("--force" in every[name] for name in manifests)  # its older name


@pytest.mark.parametrize("command", ["train", "predict"])
def test_a_device_that_is_not_there_ends_with_a_sentence(monkeypatch, capsys, cohort, repository, tmp_path, command):
    arguments = {
        "train": (repository / "configs" / "normative_baseline.yaml", "--data", cohort.path),
        "predict": ("t1-2mm", cohort.images(cohort.cases[0])[0]),
    }[command]
    code, _, err = say(monkeypatch, capsys, command, *arguments, "--out", tmp_path / "out", "--device", "cuda:99")
    assert code == 1
    assert err.startswith('medvae: device "cuda:99": ')
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_resume_and_overwrite_contradict_each_other(monkeypatch, capsys, cohort, repository, tmp_path):
    config = repository / "configs" / "normative_baseline.yaml"
    arguments = (config, "--data", cohort.path, "--out", tmp_path / "run", "--resume", "--overwrite")
    code, _, err = say(monkeypatch, capsys, "train", *arguments)
    assert code == 2
    assert "give --resume, or --overwrite" in err


def test_commands_replace_what_they_wrote_when_told(monkeypatch, capsys, cohort, repository, tmp_path):
    config = repository / "configs" / "normative_baseline.yaml"
    train = ["train", config, "--data", cohort.path, "--out", tmp_path / "run", "-q"]
    scan = cohort.images(cohort.case("sub06"))[0]
    predict = ["predict", tmp_path / "run", scan, "--out", tmp_path / "maps", "--no-pictures", "--no-workspaces", "-q"]
    monkeypatch.setattr(sys, "argv", ["medvae", *map(str, train)])
    main_returns()
    monkeypatch.setattr(sys, "argv", ["medvae", *map(str, predict)])
    main_returns()
    code, _, err = say(monkeypatch, capsys, *train)
    assert code == 1
    assert "--overwrite" in err
    monkeypatch.setattr(sys, "argv", ["medvae", *map(str, train), "score.smoothing_mm=6", "--overwrite"])
    main_returns()
    code, _, err = say(monkeypatch, capsys, *predict)
    assert code == 1
    assert "--overwrite" in err
    monkeypatch.setattr(sys, "argv", ["medvae", *map(str, predict), "--overwrite"])
    main_returns()


def main_returns():
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 0


def in_a_fresh_python(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=100, env=os.environ | environment
    )


def test_a_shell_completes_commands_and_options_without_heavy_imports():
    code = (
        "import sys; from medvae.cli import main\n"
        "sys.argv = ['medvae']\n"
        "try: main()\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'matplotlib'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    asked = {"COMP_WORDS": "medvae pre", "COMP_CWORD": "1", "_MEDVAE_COMPLETE": "complete_bash"}
    done = in_a_fresh_python(code, **asked)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["prepare", "predict"]
    done = in_a_fresh_python(code, **asked | {"COMP_WORDS": "medvae predict --dev", "COMP_CWORD": "2"})
    assert done.stdout.split() == ["--device"]


@pytest.mark.parametrize("module", ["medvae", "medvae.cli"])
def test_an_import_changes_no_environment_variable(module):
    code = f"import os; before = dict(os.environ); import {module}; assert dict(os.environ) == before, 'changed'"
    done = in_a_fresh_python(code)
    assert done.returncode == 0, done.stderr


def test_the_command_line_lets_waiting_threads_sleep_unless_told_otherwise():
    code = (
        "import os, sys; from medvae.cli import main\n"
        "sys.argv = ['medvae', '--version']\n"
        "try: main()\nexcept SystemExit: print(os.environ['OMP_WAIT_POLICY'])"
    )
    unset = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=unset, timeout=100)
    assert done.stdout.split()[-1] == "PASSIVE"
    assert in_a_fresh_python(code, OMP_WAIT_POLICY="ACTIVE").stdout.split()[-1] == "ACTIVE"


def test_a_warning_about_a_scan_is_told_once_however_often_it_is_read(monkeypatch, capsys, tmp_path):
    make_predictions(tmp_path, ["ill"], [])
    for path in tmp_path.rglob("*.nii.gz"):
        image = nib.load(path)
        image.header["qform_code"] = image.header["sform_code"] = 0
        path.write_bytes(gzip.compress(type(image)(np.asarray(image.dataobj), None, image.header).to_bytes()))
    for path in (tmp_path / "predictions").glob("*probseg.json"):  # which says of which file content the map is
        path.unlink()
    arguments = (tmp_path / "predictions", "--manifest", tmp_path / "cohort.json", "--out", tmp_path / "numbers", "-q")
    monkeypatch.setattr(sys, "argv", ["medvae", *map(str, ("evaluate", *arguments))])
    main_returns()
    told = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert "left and right are a guess" in told[0]
    assert sorted(told) == sorted(set(told))
