"""``medvae predict auto``: the detector for a scan's sequence, or the question which."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

import medvae
from medvae.cli import app
from medvae.detection.by_sequence import by_sequence, choose_detector, is_auto
from medvae.detection.scan import Scan, scan_of, scans_of_files
from medvae.errors import MedvaeError
from medvae.imaging.volume import write_volume
from tests.conftest import STANDARD_GRID, make_brain
from tests.test_modality import as_flair, as_t2

OPTIONS = r"instead of auto name flair-2mm \(FLAIR\) or t1-2mm \(T1\) or t2-2mm \(T2\)"


def test_each_detector_that_comes_with_medvae_is_for_one_sequence():
    assert by_sequence() == {"T1": "t1-2mm", "FLAIR": "flair-2mm", "T2": "t2-2mm"}


@pytest.mark.parametrize(
    ("files", "name"),
    [
        (["a_FLAIR.nii.gz", "b_flair.nii.gz"], "flair-2mm"),
        (["BraTS-1-t2w.nii.gz"], "t2-2mm"),
        (["sub-1_T1w.nii.gz"], "t1-2mm"),
    ],
)
def test_the_file_name_decides_without_a_look_at_the_file(files, name):
    choice = choose_detector(scans_of_files(files))
    assert choice.name == name
    assert "by the name of its file" in choice.reason


def of_manifest(*modalities):
    images = tuple(f"{name}.nii.gz" for name in modalities)
    return Scan("p1", images, None, modalities, "cohort.json")


def test_the_manifest_decides_if_there_is_a_detector_for_just_one_of_its_sequences():
    assert choose_detector([of_manifest("DWI", "T2")]) == ("t2-2mm", "for T2 by cohort.json")
    with pytest.raises(MedvaeError, match=rf'scan "p1" is T1, FLAIR by cohort.json, for several .*{OPTIONS}'):
        choose_detector([of_manifest("T1", "FLAIR")])
    with pytest.raises(MedvaeError, match=rf"T1c by cohort.json, for which none comes with medvae: {OPTIONS}"):
        choose_detector([of_manifest("T1c")])
    with pytest.raises(MedvaeError, match="for several"):
        choose_detector([scan_of({"T1": "a.nii.gz", "FLAIR": "b.nii.gz"})])


def test_scans_of_several_sequences_are_not_predicted_into_one_folder():
    files = scans_of_files([f"p{number}_T1.nii.gz" for number in range(6)] + ["q_FLAIR.nii.gz"])
    with pytest.raises(MedvaeError, match=r"t1-2mm for p0_T1, p1_T1, p2_T1, p3_T1, …; flair-2mm for q_FLAIR\. Predict"):
        choose_detector(files)


def written(path, made):
    brain = make_brain(7)
    write_volume(path, np.where(brain > 0, np.maximum(made(brain.astype(np.float32)), 1), 0), STANDARD_GRID)
    return path


@pytest.mark.parametrize(("made", "name"), [(as_t2, "t2-2mm"), (as_flair, "flair-2mm"), (lambda x: x, "t1-2mm")])
def test_a_file_that_declares_nothing_is_looked_at(tmp_path, made, name):
    choice = choose_detector(scans_of_files([written(tmp_path / "scan.nii.gz", made)]))
    assert choice.name == name
    assert "looks like" in choice.reason


def like_nothing(brain):
    """White matter and fluid both brighter than grey matter."""
    return np.where(brain < 100, 250, brain)


def like_two(brain):
    """Dark fluid, and white matter as bright as grey matter but for a little: a T1, or a FLAIR."""
    grain = np.random.default_rng(0).normal(0, 20, brain.shape)
    return np.where(brain > 100, 150 + grain + 16 * (brain > 160), brain)


@pytest.mark.parametrize(
    ("made", "looks"), [(like_nothing, "it looks like none that"), (like_two, "it looks like FLAIR or T1")]
)
def test_one_that_looks_like_nothing_or_like_two_is_asked_about(tmp_path, made, looks):
    scan = written(tmp_path / "scan.nii.gz", made)
    problem = rf'sequence of scan "scan" is neither declared nor evident \({looks}.*{OPTIONS}, .*scan_FLAIR\.nii\.gz'
    with pytest.raises(MedvaeError, match=problem):
        choose_detector(scans_of_files([scan]))


def test_a_folder_of_that_name_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert is_auto("auto")
    (tmp_path / "auto").mkdir()
    assert not is_auto("auto")


def test_the_command_and_the_function_use_it(tmp_path):
    scan = written(tmp_path / "p_T2.nii.gz", as_t2)
    out = tmp_path / "out"
    told = CliRunner().invoke(
        app, ["predict", "auto", str(scan), "--out", str(out), "--no-pictures", "--no-workspaces", "-q"]
    )
    assert told.exit_code == 0, told.output
    assert "detector: t2-2mm, for T2 by the name of its file" in told.stdout
    assert json.loads((out / "p_T2_label-lesion_mask.json").read_text())["Model"] == "t2-2mm"
    maps = medvae.predict(scan, "auto")
    assert maps.point.name == "fpr_0.001"
