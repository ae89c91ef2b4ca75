"""What ``--overwrite`` replaces, and what it never touches."""

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

import medvae.fitting
from medvae.config import Config, read_config
from medvae.detection.ensemble import load_detector
from medvae.errors import MedvaeError
from medvae.fitting import fit, fit_ensemble
from medvae.locks import locked
from medvae.prediction import predict, scans_of_manifest
from medvae.recalibration import healthy_scans, recalibrate
from medvae.reporting.case_picture import draw_predictions
from medvae.reporting.viewers import write_viewer_files
from medvae.schema import read_document

DARK = {
    "name": "dark",
    "network": None,
    "score": {"kind": "intensity", "polarity": "dark", "smoothing_mm": 2},
}


def config(**changes):
    return Config.model_validate(DARK | changes)


@pytest.fixture(scope="module")
def made(cohort, tmp_path_factory, prepared):
    """Two runs, an ensemble of them, and one recalibrated; copied by those who change them."""
    folder = tmp_path_factory.mktemp("made")
    fit(config(), cohort, folder / "a", cache=prepared, quiet=True)
    fit(
        config(name="bright", score={"kind": "intensity", "polarity": "bright"}),
        cohort,
        folder / "b",
        cache=prepared,
        quiet=True,
    )
    fit_ensemble([folder / "a", folder / "b"], cohort, folder / "both", cache=prepared, quiet=True)
    recalibrate(folder / "a", healthy_scans(cohort), folder / "ours", cache=prepared, quiet=True)
    return folder


@pytest.fixture
def mine(made, tmp_path):
    return shutil.copytree(made, tmp_path / "mine")


def files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_run_is_replaced_and_notes_beside_it_stay(cohort, mine, prepared):
    (mine / "a" / "notes.txt").write_text("the best so far")
    (mine / "a" / "checkpoints").mkdir()
    (mine / "a" / "network.safetensors").write_bytes(b"of a network that the new run has not")
    with pytest.raises(MedvaeError, match="already holds a run"):
        fit(config(name="new"), cohort, mine / "a", cache=prepared, quiet=True)
    detector = fit(config(name="new"), cohort, mine / "a", overwrite=True, cache=prepared, quiet=True)
    assert detector.config.name == "new"
    assert read_config(mine / "a" / "config.yaml").name == "new"
    found = sorted(path.name for path in (mine / "a").iterdir())
    assert found == ["cohort.json", "config.yaml", "detector", "notes.txt"]


def test_a_folder_that_is_no_run_is_left_as_it_is(cohort, mine, tmp_path, prepared):
    thesis = tmp_path / "thesis"
    thesis.mkdir()
    (thesis / "chapter1.tex").write_text("dear")
    (thesis / "config.yaml").write_text("name: a config that somebody wrote by hand\n")
    before = files(thesis)
    with pytest.raises(MedvaeError, match="not a run of medvae, so --overwrite leaves it as it is"):
        fit(config(), cohort, thesis, overwrite=True, cache=prepared, quiet=True)
    assert files(thesis) == before
    before = files(mine / "both")
    with pytest.raises(MedvaeError, match="not a run of medvae"):
        fit(config(), cohort, mine / "both", overwrite=True, cache=prepared, quiet=True)
    assert files(mine / "both") == before


def test_a_run_that_fails_before_it_begins_leaves_the_old_one(cohort, mine, prepared):
    lost = cohort.model_copy(update={"cases": [case for case in cohort.cases if case.split != "validation"]})
    lost._path = cohort.path
    before = files(mine / "a")
    with pytest.raises(MedvaeError, match="0 healthy validation scans"):
        fit(config(name="new"), lost, mine / "a", overwrite=True, cache=prepared, quiet=True)
    assert files(mine / "a") == before


def test_several_processes_do_not_remove_a_run_under_each_other(cohort, mine, monkeypatch, prepared):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(MedvaeError, match="several processes cannot replace a run"):
        fit(config(name="new"), cohort, mine / "a", overwrite=True, cache=prepared, quiet=True)


def test_detectors_made_from_others_replace_each_other_and_nothing_else(cohort, mine, prepared):
    fit_ensemble(
        [mine / "a", mine / "b"], cohort, mine / "ours", name="two", overwrite=True, cache=prepared, quiet=True
    )
    assert load_detector(mine / "ours").config.name == "two"
    recalibrate(mine / "b", healthy_scans(cohort), mine / "ours", overwrite=True, cache=prepared, quiet=True)
    assert load_detector(mine / "ours").config.name == "bright_recalibrated"
    assert "members" not in read_document(mine / "ours" / "cohort.json")
    before = files(mine)
    for out in (mine / "a", mine):  # a training cannot be had again in a minute; the other is no detector's folder
        with pytest.raises(MedvaeError, match="holds more than a detector"):
            fit_ensemble([mine / "a", mine / "b"], cohort, out, overwrite=True, cache=prepared, quiet=True)
    with pytest.raises(MedvaeError, match="would overwrite"):
        recalibrate(mine / "both", healthy_scans(cohort), mine / "both", overwrite=True, cache=prepared, quiet=True)
    assert files(mine) == before


def test_predictions_of_another_detector_are_replaced_with_all_that_was_drawn_of_them(cohort, made, tmp_path):
    out, scans = tmp_path / "maps", scans_of_manifest(cohort)
    both, dark = load_detector(made / "both"), load_detector(made / "a")
    predictions, _ = predict(both, scans, out, quiet=True)
    draw_predictions(predictions, cohort, both, out)
    write_viewer_files(out, manifest=cohort)
    (out / "notes.txt").write_text("look at sub07 again")
    before = set(files(out))
    with pytest.raises(MedvaeError, match="or replace medvae's with --overwrite"):
        predict(dark, scans, out, quiet=True)
    assert set(files(out)) == before

    predict(dark, scans[1:], out, overwrite=True, quiet=True)
    assert sorted(str(path) for path in files(out)) == [
        "dataset_description.json", "findings.json", "findings.tsv", "lesions.json", "lesions.tsv", "notes.txt",
        "sub07_desc-anomaly_probseg.json",
        "sub07_desc-anomaly_probseg.nii.gz", "sub07_label-lesion_mask.json", "sub07_label-lesion_mask.nii.gz",
        "viewers/itksnap_labels.txt",
    ]  # fmt: skip
    assert read_document(out / "sub07_label-lesion_mask.json")["Model"] == "dark"
    assert [line.split("\t")[0] for line in (out / "lesions.tsv").read_text().splitlines()] == ["case_id", "sub07"]


def test_the_same_detector_goes_on_where_it_was(cohort, made, tmp_path):
    detector, scans = load_detector(made / "a"), scans_of_manifest(cohort)
    (first, *_), _ = predict(detector, scans, tmp_path / "maps", quiet=True)
    written = first.map.stat().st_mtime_ns
    predict(detector, scans, tmp_path / "maps", overwrite=True, quiet=True)
    assert first.map.stat().st_mtime_ns == written


@pytest.mark.parametrize("made_by", [None, {"GeneratedBy": [{"Name": "fMRIPrep"}]}])
def test_predictions_of_another_program_are_left_as_they_are(cohort, made, tmp_path, made_by, prepared):
    theirs = tmp_path / "maps"
    theirs.mkdir()
    (theirs / "sub07_desc-anomaly_probseg.nii.gz").write_bytes(b"theirs")
    if made_by:
        (theirs / "dataset_description.json").write_text(str(made_by).replace("'", '"'))
    before = files(theirs)
    with pytest.raises(MedvaeError, match="Choose another"):
        predict(
            load_detector(made / "a"), scans_of_manifest(cohort), theirs, overwrite=True, cache=prepared, quiet=True
        )
    assert files(theirs) == before


def test_a_second_command_in_the_same_folder_is_refused(cohort, made, mine, tmp_path, prepared):
    """The folder is locked, as by a command that is at work in it; the first one's files stay."""
    runs = [made / "a", made / "b"]
    commands = {
        "new": lambda out: fit(config(), cohort, out, cache=prepared, quiet=True),
        "a": lambda out: fit(config(name="other"), cohort, out, overwrite=True, cache=prepared, quiet=True),
        "both": lambda out: fit_ensemble(runs, cohort, out, overwrite=True, cache=prepared, quiet=True),
        "ours": lambda out: recalibrate(
            made / "a", healthy_scans(cohort), out, overwrite=True, cache=prepared, quiet=True
        ),
    }
    for name, command in commands.items():
        with locked(mine / name):
            before = files(mine / name)
            with pytest.raises(MedvaeError, match=f"{name}: another command is at work in this folder .*; nothing was"):
                command(mine / name)
            assert files(mine / name) == before
        command(mine / name)
        assert not list((mine / name).glob(".*"))


def test_of_two_trainings_that_start_together_one_is_refused(cohort, tmp_path, monkeypatch):
    barrier, prepare = threading.Barrier(2), medvae.fitting.one_at_a_time

    def together(out):
        barrier.wait(timeout=20)
        return prepare(out)

    monkeypatch.setattr(medvae.fitting, "one_at_a_time", together)

    def job(name):
        try:
            return fit(config(name=name), cohort, tmp_path / "run", quiet=True).config.name
        except MedvaeError as error:
            return str(error)

    with ThreadPoolExecutor(2) as pool:
        said = sorted(pool.map(job, ["one", "two"]))
    assert "another command is at work" in said[0] or "was started with another config" in said[0]
    assert load_detector(tmp_path / "run").config.name == read_config(tmp_path / "run" / "config.yaml").name == said[1]
