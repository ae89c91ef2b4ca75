"""The two benchmarks that come with the project, made small: on a part of the included cohort."""

import json
import runpy
import shutil
import sys

import numpy as np
import pytest

from medvae.benchmark import combine
from medvae.cli import app
from medvae.imaging.volume import read_volume, write_volume
from medvae.manifest import read_manifest


@pytest.fixture
def included(repository):
    return read_manifest(repository / "data_manifests" / "included_t1.json")


def few(included, path, splits=("train", "validation", "test"), *, patients=1):
    """Three, two and one healthy scans, and a patient."""
    counts = {"train": 3, "validation": 2, "test": 1}
    cases = [case for split in splits for case in included.of_split(split, healthy=True)[: counts[split]]]
    return combine(path, "few", [(included, [*cases, *included.of_split("test", healthy=False)[:patients]])])


@pytest.fixture
def run(monkeypatch, capsys):
    """Run a program as from the command line, in this process, and return what it printed."""

    def program(script, *arguments):
        monkeypatch.setattr(sys, "argv", [str(word) for word in (script, *arguments, "--quick")])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(script), run_name="__main__")
        printed = capsys.readouterr()
        assert ended.value.code == 0, printed.err
        return printed.out

    return program


def test_ms_benchmark(included, repository, run, tmp_path):
    few(included, tmp_path / "few.json")
    printed = run(repository / "pipelines" / "ms_benchmark.py", tmp_path / "few.json", "--out", tmp_path / "out")
    for words in ("cevae_slice+post", "normative_baseline", "chance", "1 scans of 1 people", "mean nothing"):
        assert words in printed
    assert (tmp_path / "out" / "study.yaml").is_file()
    assert (tmp_path / "out" / "leaderboard.tex").is_file()


def test_brats_benchmark_takes_the_manifest_of_the_importer(included, repository, run, tmp_path):
    """A patient of the cohort becomes a case of BraTS 2023: its names, and the labels 1, 2 and 3 in its lesion."""
    from typer.testing import CliRunner

    patient = included.of_split("test", healthy=False)[0]
    name = "BraTS-GLI-00001-000"
    folder = tmp_path / "BraTS 2023" / name
    folder.mkdir(parents=True)
    shutil.copy(included.images(patient)[0], folder / f"{name}-t1n.nii.gz")
    shutil.copy(included.images(patient)[0], folder / f"{name}-t2f.nii.gz")
    label = read_volume(included.resolve(patient.label))
    values = np.where(label.array > 0, 1 + np.indices(label.array.shape).sum(axis=0) % 3, 0).astype(np.uint8)
    write_volume(folder / f"{name}-seg.nii.gz", values, label)
    command = ["manifest", "brats", str(folder.parent), "--out", str(tmp_path / "brats.json")]
    made = CliRunner().invoke(app, [*command, "--modality", "flair", "--modality", "t1"])
    assert made.exit_code == 0, made.output
    few(included, tmp_path / "healthy.json", patients=0)

    script = repository / "pipelines" / "brats_benchmark.py"
    printed = run(script, tmp_path / "brats.json", tmp_path / "healthy.json", "--out", tmp_path / "out")
    assert "FLAIR is left out" in printed
    assert "BraTS, T1" in printed
    cohort = read_manifest(tmp_path / "out" / "T1" / "cohort.json")
    assert cohort.label_values["whole tumour"] == [1, 2, 3]
    content = json.loads((tmp_path / "out" / "T1" / "results.json").read_text())
    lesion = int(((label.array > 0) & (read_volume(included.images(patient)[0]).array != 0)).sum())
    counts = content["targets"]["patients"]["counts"]
    assert round(counts["prevalence"] * counts["n_voxels"]) == lesion
