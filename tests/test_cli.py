"""The commands as a person types them, in their own process: exit codes, messages, speed of --help."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from medvae.cli import app, main

SMALL = [
    "sampling.batch_size=8", "sampling.workers=0", "network.widths=[4,8,8]", "network.squeeze=4",
    "network.latent_size=8", "training.validate_every=100000",
]  # fmt: skip


def medvae(*arguments, **options):
    command = [sys.executable, "-c", "from medvae.cli import main; main()", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, **options)


COMMANDS = ["manifest", "check", "prepare", "train", "ensemble", "calibrate", "predict", "app", "bids", "evaluate"]
COMMANDS += ["report", "figure", "export", "benchmark"]
LAYOUTS = ["ixi", "brats", "bids", "nnunet", "decathlon", "folder"]


def test_help_teaches_and_imports_nothing_heavy():
    code = (
        "import sys; from medvae.cli import main\n"
        "for words in sys.argv[1:]:\n"
        "    sys.argv = ['medvae', *words.split(), '--help']\n"
        "    try: main()\n    except SystemExit: pass\n"
        "heavy = {'torch', 'monai', 'SimpleITK', 'numpy', 'scipy', 'nibabel', 'matplotlib'} | {'fastapi', 'uvicorn'}\n"
        "heavy &= set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    every = [*(name for name in COMMANDS if name != "manifest"), *(f"manifest {layout}" for layout in LAYOUTS)]
    result = subprocess.run([sys.executable, "-c", code, *every], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    for words in every:
        assert f"Usage: medvae {words}" in result.stdout
        assert f"Example: medvae {words}" in result.stdout


def test_commands_are_listed_in_the_order_of_the_work():
    listed = typer.main.get_command(app)
    assert listed.list_commands(typer.Context(listed)) == COMMANDS


def in_this_process(*arguments):
    """What the command prints: as `medvae`, for what has been started as a process of its own in this file."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output


def test_the_whole_line(tmp_path, cohort, repository):
    config = repository / "configs" / "cevae_slice.yaml"
    result = medvae("train", config, "training.steps=3", *SMALL, "--data", cohort.path, "--out", tmp_path / "run")
    assert result.returncode == 0, result.stderr
    assert "threshold at healthy FPR 0.01" in result.stdout
    scan = cohort.images(cohort.case("sub06"))[0]
    result = medvae("predict", tmp_path / "run", scan, "--out", tmp_path / "overlays")
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "overlays" / "sub06_T1.png").exists()
    workspace = tmp_path / "overlays" / "sub06_T1.itksnap"
    assert workspace.exists()
    assert f"look: itksnap -w {workspace}" in result.stdout
    in_this_process("figure", tmp_path / "overlays", "--detector", tmp_path / "run", "--out", tmp_path / "f.pdf")
    assert (tmp_path / "f.pdf").read_bytes().startswith(b"%PDF")
    left_out = ("--no-pictures", "--no-workspaces", "--bids", tmp_path / "bids")
    in_this_process("predict", tmp_path / "run", "--manifest", cohort.path, *left_out, "--out", tmp_path / "maps")
    assert not list((tmp_path / "maps").glob("*.itksnap"))
    assert (tmp_path / "bids" / "sub-sub06" / "anat" / "sub-sub06_label-lesion_mask.nii.gz").exists()
    in_this_process("evaluate", tmp_path / "maps", "--manifest", cohort.path, "--out", tmp_path / "results")
    results = json.loads((tmp_path / "results" / "results.json").read_text())
    assert 0 <= results["pooled"]["ap"] <= 1
    assert "oracle" in (tmp_path / "results" / "table.md").read_text()


def test_check_says_what_is_wrong(tmp_path, cohort):
    good = medvae("check", cohort.path)
    assert good.returncode == 0, good.stderr
    assert "in order" in good.stdout

    content = json.loads(cohort.path.read_text())
    content["cases"][0]["image"] = "gone.nii.gz"
    content["cases"][1]["mask"] = "small.nii.gz"
    content["cases"][2]["sha256"] = "0" * 64
    broken = cohort.path.with_name("broken.json")
    broken.write_text(json.dumps(content))
    import nibabel as nib
    import numpy as np

    nib.save(nib.Nifti1Image(np.ones((4, 4, 4), np.uint8), np.eye(4)), cohort.path.with_name("small.nii.gz"))
    bad = medvae("check", broken)
    assert bad.returncode == 1
    assert "3 of 8 cases" in bad.stderr
    for words in ("gone.nii.gz", "has shape (4, 4, 4)", "the file has changed"):
        assert words in bad.stdout
    broken.unlink()


@pytest.mark.skipif(sys.platform != "linux", reason="needs process groups and /proc")
def test_ctrl_c_stops_a_check_and_its_processes_in_silence(tmp_path, cohort):
    command = [sys.executable, "-c", "from medvae.cli import main; main()", "check", cohort.path, "--jobs", "2"]
    process = subprocess.Popen(
        [str(c) for c in [*command, "--out", tmp_path / "out"]],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    deadline = time.monotonic() + 100
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            if len(children.read_text().split()) == 3:  # two workers and their tracker
                break
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all of them, while the workers still import
    output, _ = process.communicate(timeout=100)
    assert process.returncode == 130, output
    assert "Stopped" in output
    assert "Traceback" not in output
    assert not (tmp_path / "out").exists()


def mistakes(cohort, repository, tmp_path):
    config = repository / "configs" / "cevae_slice.yaml"
    data = ("--data", cohort.path, "--out", tmp_path / "run")
    scan = cohort.images(cohort.cases[0])[0]
    yield ("train", tmp_path / "none.yaml", *data), 1, "no such file"
    yield ("train", config, "training.step=3", *data), 1, 'did you mean "steps"'
    yield ("train", config, "network.widths=[4,4,4,4,4,4]", *data), 1, "divisible by 64"
    yield ("train", config, "--data", tmp_path / "none.json", "--out", tmp_path / "run"), 1, "no such file"
    yield ("train", config), 2, "Missing option"
    yield ("predict", tmp_path / "none", scan, "--out", tmp_path / "o"), 1, "holds no detector"
    yield ("predict", tmp_path / "none", "--out", tmp_path / "o"), 2, "give scans, or --manifest"
    yield ("evaluate", tmp_path / "none", "--manifest", cohort.path, "--out", tmp_path / "o"), 1, "is not a folder"
    yield ("figure", tmp_path / "none", "--out", tmp_path / "o.png"), 1, "is not a folder"
    yield ("figure", tmp_path, "--plane", "oblique", "--out", tmp_path / "o.png"), 2, "is no plane"
    yield ("check", scan), 1, "cannot be read as text"
    yield ("chekc", scan), 2, "No such command"


def test_mistakes_end_with_a_message_and_never_a_traceback(tmp_path, cohort, repository, monkeypatch, capsys):
    for arguments, code, words in mistakes(cohort, repository, tmp_path):
        monkeypatch.setattr(sys, "argv", ["medvae", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            main()
        errors = capsys.readouterr().err
        assert caught.value.code == code, (arguments, errors)
        assert words in " ".join(errors.replace("│", " ").split()), (arguments, errors)
        assert not (tmp_path / "o").exists()


def test_ctrl_c_leaves_a_checkpoint_and_resume_goes_on(tmp_path, cohort, repository):
    config = repository / "configs" / "cevae_slice.yaml"
    steps = ["training.steps=100000", *SMALL, "training.log_every=1"]
    command = [sys.executable, "-c", "from medvae.cli import main; main()", "train", config, *steps]
    command += ["--data", cohort.path, "--out", tmp_path / "run"]
    process = subprocess.Popen([str(c) for c in command], stderr=subprocess.PIPE, text=True)
    metrics = tmp_path / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 200
    while not (metrics.exists() and metrics.read_text().count("\n") > 2) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=100)
    assert process.returncode == 130, errors
    assert "--resume" in errors
    assert "Traceback" not in errors
    stopped = json.loads((tmp_path / "run" / "checkpoints" / "latest" / "step.json").read_text())["step"]
    assert stopped >= 3

    again = medvae("train", config, *steps, "--data", cohort.path, "--out", tmp_path / "run")
    assert again.returncode == 1
    assert "already holds a run" in again.stderr


@pytest.mark.skipif(os.name != "posix", reason="needs limits on file size")
def test_full_disk_is_told_in_one_paragraph(tmp_path, cohort, repository):
    """A limit on the size of files stands for the full disk: writing past it fails in the same place."""
    import resource

    config = repository / "configs" / "normative_baseline.yaml"

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    result = medvae("train", config, "--data", cohort.path, "--out", tmp_path / "run", preexec_fn=limit)
    assert result.returncode == 1
    assert "could not be written" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "run" / "detector").exists()
    assert not list((tmp_path / "run").glob("*.part"))
