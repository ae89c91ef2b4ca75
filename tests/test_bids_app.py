"""``medvae bids``: a data set in, a derivative out that the validator accepts, and the raw data set as it was."""

import json
import os
import shutil
import subprocess

import nibabel as nib
import numpy as np
import pytest
from layouts import tiny
from test_bids import VALIDATOR
from typer.testing import CliRunner

from medvae.bids_app.data_set import choose, open_data_set
from medvae.bids_app.lesion_roi import refresh_roi
from medvae.bids_app.output import check_output
from medvae.bids_app.scans import RawData
from medvae.cli import app
from medvae.commands.bids import _a_flag_each
from medvae.derivatives import FAILURES, MAP_SUFFIX, MASK_SUFFIX, ROI_SUFFIX
from medvae.errors import MedvaeError
from medvae.files import write_json
from medvae.parsing import read_rows
from tests.predicted import make_predictions

ABOUT = {"Name": "raw", "BIDSVersion": "1.9.0", "DatasetDOI": "doi:10.18112/openneuro.ds002748.v1.0.5"}


def data_set(folder, *images):
    tiny(folder, *images)
    write_json(folder / "dataset_description.json", ABOUT)
    return folder


def everything(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize(
    ("given", "spread"),
    [
        ("B O participant", "B O participant"),
        ("B O participant --participant-label 01 02 --roi", "B O participant {p} 01 {p} 02 --roi"),
        ("--participant-label 01 02 B O participant", "{p} 01 {p} 02 B O participant"),
        ("B O group --session-label a b", "B O group --session-label a --session-label b"),
        ("B O participant --participant-label group", "B O participant {p} group"),
        ("B O participant --participant-label", "B O participant {p}"),
        ("B O group --participant_label 1 2 --skip_bids_validator", "B O group {p} 1 {p} 2 --skip-bids-validation"),
    ],
)
def test_several_labels_may_follow_one_flag(given, spread):
    assert _a_flag_each(given.split()) == spread.format(p="--participant-label").split()


def test_labels_come_with_or_without_their_prefix_and_several_in_a_string(tmp_path):
    names = ("sub-01/ses-a/anat/sub-01_ses-a_T1w.nii.gz", "sub-02/ses-b/anat/sub-02_ses-b_T1w.nii.gz")
    found = open_data_set(data_set(tmp_path, *names))
    assert choose(found).participants == ("01", "02")
    assert choose(found, ["sub-02 01", "02"], ["ses-b,a"]) == choose(found, ["02", "01"], ["b", "a"])
    with pytest.raises(MedvaeError, match=r"no participant 003\. .*It has 01, 02\. Choose with --participant-label"):
        choose(found, ["003"])
    with pytest.raises(MedvaeError, match=r"no session b of participant 01; there are a\."):
        choose(found, ["01"], ["b"])


def test_what_is_no_data_set_is_refused_in_a_sentence(tmp_path):
    tiny(tmp_path / "set", "sub-01/anat/sub-01_T1w.nii.gz")
    with pytest.raises(MedvaeError, match=r"has no dataset_description.json, .* medvae predict takes single files"):
        open_data_set(tmp_path / "set")
    assert open_data_set(tmp_path / "set", described=False).participants == ("01",)
    data_set(tmp_path / "set")
    with pytest.raises(MedvaeError, match=f"There is one in {tmp_path / 'set'}"):
        open_data_set(tmp_path / "set" / "sub-01")
    with pytest.raises(MedvaeError, match="has no participants"):
        open_data_set(data_set(tmp_path / "empty"))
    with pytest.raises(MedvaeError, match="no such folder"):
        open_data_set(tmp_path / "sett")
    with pytest.raises(MedvaeError, match="there are no sessions; leave out --session-label"):
        choose(open_data_set(tmp_path / "set"), sessions=["1"])


def test_derivatives_never_become_a_part_of_the_raw_data_set(tmp_path):
    raw = data_set(tmp_path / "study" / "raw", "sub-01/anat/sub-01_T1w.nii.gz")
    (tmp_path / "study" / "link").symlink_to(raw)
    for place, words in (
        (raw, "is the data set itself"),
        (tmp_path / "study" / "link", "is the data set itself"),
        (tmp_path / "study", "above the data set"),
        (raw / "sub-01" / "new", "would be a part of the raw data set"),
        (raw / "derivatives", "would be a part of the raw data set"),
        (raw / "dataset_description.json", "part of the raw"),
    ):
        with pytest.raises(MedvaeError, match=rf"{words}.*Choose another folder, as .*derivatives/medvae"):
            check_output(raw, place)
    other = data_set(raw / "derivatives" / "fmriprep", "sub-01/anat/sub-01_desc-preproc_T1w.nii.gz")
    with pytest.raises(MedvaeError, match="medvae did not write it"):
        check_output(raw, other)
    check_output(raw, raw / "derivatives" / "medvae")
    check_output(raw, tmp_path / "out")


def names_of(found):
    return [scan.id for scan in found.scans]


def test_all_sessions_and_runs_of_a_sequence_are_found_and_what_is_left_out_is_said(tmp_path):
    images = ["sub-01_ses-1_run-1_T1w", "sub-01_ses-1_run-2_T1w", "sub-01_ses-2_acq-fast_rec-norm_T1w"]
    images += ["sub-01_ses-2_FLAIR", "sub-01_ses-2_ce-gadolinium_T1w", "sub-01_ses-2_acq-fast_part-phase_T1w"]
    data_set(tmp_path, *(f"sub-01/{name[7:12]}/anat/{name}.nii.gz" for name in images))
    tiny(tmp_path, "sub-02/anat/sub-02_T1w.nii.gz", "sub-03/anat/sub-03_FLAIR.nii.gz")
    tiny(tmp_path, *(f"sub-04/anat/sub-04_echo-{echo}_T1w.nii.gz" for echo in (1, 2)))
    tiny(tmp_path, "derivatives/x/sub-05/anat/sub-05_T1w.nii.gz", "sourcedata/sub-06/anat/sub-06_T1w.nii.gz")
    (tmp_path / "sub-02/anat/sub-02_run-2_T1w.nii.gz").write_bytes(b"")
    found = open_data_set(tmp_path)
    scans = RawData(found).scans("T1", choose(found))
    assert names_of(scans) == ["sub-01_ses-1_run-1_T1w", "sub-01_ses-1_run-2_T1w", images[2], "sub-02_T1w"]
    assert list(scans.broken) == ["sub-02_run-2_T1w"]
    assert "is empty (0 bytes)" in scans.broken["sub-02_run-2_T1w"]
    notes = "\n".join(scans.notes)
    assert "1 image after contrast agent left out" in notes
    assert "choose with --entity echo=VALUE" in notes
    assert "is the phase" in notes
    assert "2 participants without T1w image: 03, 04" in notes
    assert names_of(RawData(found).scans("FLAIR", choose(found))) == ["sub-01_ses-2_FLAIR", "sub-03_FLAIR"]
    assert names_of(RawData(found).scans("T1", choose(found, ["04"]), entity=["echo=1"])) == ["sub-04_echo-1_T1w"]
    assert names_of(RawData(found).scans("T1", choose(found, ["01"], ["2"]))) == [images[2]]
    with pytest.raises(MedvaeError, match="no T1w image of session 2 of sub-02"):
        RawData(found).scans("T1", choose(found, ["01", "02"], ["2"]))


def test_a_data_set_without_the_sequence_says_which_detector_fits(tmp_path):
    found = open_data_set(data_set(tmp_path, "sub-01/anat/sub-01_FLAIR.nii.gz", "sub-02/anat/sub-02_T2w.nii.gz"))
    with pytest.raises(MedvaeError, match=r"no T1w image.* 1 FLAIR, 1 T2w\. Choose --detector flair-2mm or t2-2mm"):
        RawData(found).scans("T1", choose(found))
    assert RawData(found).detector() == "flair-2mm"
    with pytest.raises(MedvaeError, match=r"no T1w or FLAIR or T2w image.*1 PDw"):
        RawData(open_data_set(data_set(tmp_path / "pd", "sub-01/anat/sub-01_PDw.nii.gz"))).detector()


def test_a_mask_for_fmriprep_follows_the_mask_and_an_empty_one_has_none(tmp_path):
    make_predictions(tmp_path, ["sub-1"], ["sub-2"])
    mask, empty = (tmp_path / "predictions" / f"{name}{MASK_SUFFIX}" for name in ("sub-1", "sub-2"))
    assert refresh_roi(mask, wanted=False) is None
    roi = refresh_roi(mask, wanted=True)
    assert roi.name == "sub-1_label-lesion_roi.nii.gz"
    assert roi.read_bytes() == mask.read_bytes()
    sidecar = empty.with_name("sub-2_label-lesion_mask.json")
    write_json(sidecar, json.loads(sidecar.read_text()) | {"LesionVolumeMl": 0.0})
    old = empty.with_name(f"sub-2{ROI_SUFFIX}")
    old.write_bytes(b"of an older mask")
    assert refresh_roi(empty, wanted=False) is None
    assert not old.exists()


@pytest.fixture(scope="module")
def study(tmp_path_factory, cohort, prepared):
    """A detector without a network, and a data set of brains with sessions, runs, and one file that is cut."""
    from medvae.config import Config
    from medvae.fitting import fit

    folder = tmp_path_factory.mktemp("study")
    content = {"name": "dark", "network": None, "score": {"kind": "intensity", "polarity": "dark"}}
    fit(Config.model_validate(content), cohort, folder / "run", cache=prepared, quiet=True)
    raw = data_set(folder / "raw", "sub-03/anat/sub-03_FLAIR.nii.gz")
    brains = [cohort.images(cohort.case(name))[0] for name in ("sub07", "sub06", "sub05")]
    names = ("sub-01/ses-1/anat/sub-01_ses-1_run-1", "sub-01/ses-2/anat/sub-01_ses-2_acq-fast", "sub-02/anat/sub-02")
    for brain, name in zip(brains, names, strict=True):
        (raw / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(brain, raw / f"{name}_T1w.nii.gz")
    (raw / "sub-02/anat/sub-02_run-2_T1w.nii.gz").write_bytes(brains[0].read_bytes()[:5000])
    return folder


def run(study, *arguments, level="participant", out="out"):
    wanted = ["bids", study / "raw", study / out, level, "--detector", study / "run", "--no-pictures", *arguments]
    return CliRunner().invoke(app, [str(word) for word in wanted])


@pytest.fixture(scope="module")
def written(study):
    """The data set predicted once, with the files for fMRIPrep; and the table."""
    before = everything(study / "raw")
    early = run(study, level="group")
    first = run(study, "--participant-label", "sub-01", "--roi", "--no-workspaces")
    second = run(study, "--roi", "--no-workspaces")
    table = run(study, level="group")
    assert everything(study / "raw") == before, "the raw data set has changed"
    return early, first, second, table


def test_one_broken_image_stops_no_other(study, written):
    early, first, second, _ = written
    assert "Run the participant level first: medvae bids" in str(early.exception)
    assert first.exit_code == 0, first.output
    assert f"next: medvae bids {study / 'raw'} {study / 'out'} group" in first.output
    assert second.exit_code == 1
    assert "sub-02_run-2_T1w.nii.gz" in str(second.exception)
    assert "1 of 4 scans failed" in str(second.exception)
    assert list(json.loads((study / "out" / "overlays" / FAILURES).read_text())) == ["sub-02_run-2_T1w"]


def test_the_files_have_the_names_and_places_of_bids(study, written):
    out = study / "out"
    images = sorted(path.relative_to(out).as_posix() for path in out.glob("sub-*/**/*.nii.gz"))
    names = ("sub-01/ses-1/anat/sub-01_ses-1_run-1", "sub-01/ses-2/anat/sub-01_ses-2_acq-fast", "sub-02/anat/sub-02")
    assert images == sorted(f"{name}{end}" for name in names for end in (MAP_SUFFIX, MASK_SUFFIX, ROI_SUFFIX))
    about = json.loads((out / "dataset_description.json").read_text())
    assert about["GeneratedBy"][0]["Name"] == "medvae"
    assert about["SourceDatasets"] == [{"URL": "../raw", "DOI": "10.18112/openneuro.ds002748.v1.0.5"}]
    for name in names:
        roi, scan = nib.load(out / f"{name}{ROI_SUFFIX}"), nib.load(study / "raw" / f"{name}_T1w.nii.gz")
        np.testing.assert_allclose(roi.affine, scan.affine)
        assert set(np.unique(np.asarray(roi.dataobj))) == {0, 1}
        sidecar = json.loads((out / f"{name}{MASK_SUFFIX.removesuffix('.nii.gz')}.json").read_text())
        assert (out / sidecar["SpatialReference"]).resolve() == (study / "raw" / f"{name}_T1w.nii.gz").resolve()


def test_the_group_level_is_one_table_of_what_was_written(study, written):
    table = written[3]
    assert table.exit_code == 0, table.output
    assert "note: no prediction of sub-03" in table.output
    rows = read_rows(study / "out" / "lesions.tsv")
    assert list(rows[0]) == list(json.loads((study / "out" / "lesions.json").read_text()))
    sessions = [(row["participant_id"], row["session_id"]) for row in rows]
    assert sessions == [("sub-01", "ses-1"), ("sub-01", "ses-2"), *[("sub-02", "n/a")] * 2, ("sub-03", "n/a")]
    assert [row["case_id"] for row in rows[2:]] == ["sub-02", "sub-02_run-2", "n/a"]
    assert [row["volume_ml"] for row in rows[3:]] == ["n/a", "n/a"]
    assert "sub-02_run-2_T1w.nii.gz" in rows[3]["notes"]
    for row in rows[:3]:
        (mask,) = (study / "out").glob(f"sub-*/**/{row['case_id']}{MASK_SUFFIX}")
        image = nib.load(mask)
        volume = np.count_nonzero(image.dataobj) * np.prod(image.header.get_zooms()) / 1000
        assert float(row["volume_ml"]) == pytest.approx(volume, abs=0.01)
        assert 0 < float(row["largest_ml"]) <= volume + 0.01
        assert int(row["findings"]) >= 1


@pytest.mark.skipif(VALIDATOR is None, reason="bids-validator-deno is not installed (pip install bids-validator-deno)")
def test_the_bids_validator_finds_no_error(study, written, tmp_path):
    environment = os.environ | {"DENO_DIR": str(tmp_path / "deno")}  # where it would else write to the home folder
    command = [VALIDATOR, study / "out", "--json"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=280, env=environment)
    issues = json.loads(result.stdout)["issues"]["issues"]
    assert [issue for issue in issues if issue["severity"] == "error"] == []
    assert {issue["code"] for issue in issues} <= {"TOO_FEW_AUTHORS"}


def test_a_scan_that_changed_is_predicted_again_and_another_operating_point_needs_overwrite(study, written):
    out, name = study / "out", "sub-02/anat/sub-02"
    mask, former = out / f"{name}{MASK_SUFFIX}", everything(out / "sub-01")
    before = mask.read_bytes()
    scan = study / "raw" / f"{name}_T1w.nii.gz"
    content = scan.read_bytes()
    shutil.copyfile(study / "raw/sub-01/ses-1/anat/sub-01_ses-1_run-1_T1w.nii.gz", scan)
    small = ("--participant-label", "02", "--no-workspaces")
    run(study, *small)
    assert mask.read_bytes() != before
    assert (out / f"{name}{ROI_SUFFIX}").read_bytes() == mask.read_bytes(), "the file for fMRIPrep follows"
    assert everything(out / "sub-01") == former
    scan.write_bytes(content)

    refused = run(study, *small, "--fpr", "0.05")
    assert "--overwrite" in str(refused.exception)
    assert everything(out / "sub-01") == former
    run(study, *small, "--fpr", "0.05", "--overwrite")
    assert not list(out.glob("sub-01/**/*.nii.gz")), "masks of another operating point lie among the new ones"
    assert mask.is_file()


def test_help_of_a_flair_detector_and_roi(tmp_path):
    raw = data_set(tmp_path / "raw", "sub-01/anat/sub-01_FLAIR.nii.gz")
    words = ["bids", str(raw), str(tmp_path / "out"), "participant", "--detector", "auto", "--roi"]
    result = CliRunner().invoke(app, words)
    assert "on the grid of the T1w image, and flair-2mm takes FLAIR" in str(result.exception)
    assert not (tmp_path / "out").exists()
