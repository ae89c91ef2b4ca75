"""The BIDS derivative data set, judged by the validator where it is installed."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from test_viewers import AFFINES, predict_by_hand, scan_file

from medvae.derivatives import MAP_SUFFIX
from medvae.errors import MedvaeError
from medvae.files import write_json
from medvae.prediction import Scan, predict
from medvae.reporting.bids_export import bids_name, write_bids

VALIDATOR = shutil.which("bids-validator-deno", path=Path(sys.executable).parent) or shutil.which("bids-validator-deno")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sub-01", "sub-01"),
        ("sub-01_ses-2_acq-mprage_run-1", "sub-01_ses-2_acq-mprage_run-1"),
        ("sub-01_T1w", "sub-01"),
        ("sub-01_ses-2_desc-preproc_T1w", "sub-01_ses-2"),
        ("patient 7_T1", "sub-patient7T1"),
        ("Müller-2", "sub-Mller2"),
    ],
)
def test_names_are_those_of_bids(name, expected):
    assert bids_name(name) == expected


def test_names_without_a_letter_that_bids_allows_are_refused():
    with pytest.raises(MedvaeError, match="another id"):
        bids_name("患者")


def test_two_cases_of_one_name_and_foreign_folders_are_refused(tmp_path):
    scan = scan_file(tmp_path / "s.nii.gz", AFFINES["RAS"])
    for name in ("a_b", "ab"):
        predict_by_hand(tmp_path / "p", name, scan)
    write_json(tmp_path / "p" / "dataset_description.json", {})
    with pytest.raises(MedvaeError, match='"a_b" and "ab" would both be called "sub-ab"'):
        write_bids(tmp_path / "p", tmp_path / "bids")
    with pytest.raises(MedvaeError, match="is not empty and no BIDS data set"):
        write_bids(tmp_path / "p", tmp_path)
    with pytest.raises(MedvaeError, match="is not a folder"):
        write_bids(tmp_path / "none", tmp_path / "bids")
    assert not (tmp_path / "bids").exists()


def test_a_data_set_of_another_program_stays_as_it_is(tmp_path):
    predict_by_hand(tmp_path / "p", "a", scan_file(tmp_path / "s.nii.gz", AFFINES["RAS"]))
    write_json(tmp_path / "p" / "dataset_description.json", {})
    write_json(tmp_path / "raw" / "dataset_description.json", {"Name": "raw"})
    with pytest.raises(MedvaeError, match="medvae did not write"):
        write_bids(tmp_path / "p", tmp_path / "raw")
    assert [path.name for path in (tmp_path / "raw").iterdir()] == ["dataset_description.json"]


@pytest.fixture(scope="module")
def data_set(tmp_path_factory, cohort, prepared):
    from medvae.config import Config
    from medvae.detection.ensemble import load_detector
    from medvae.fitting import fit, fit_ensemble

    tmp_path = tmp_path_factory.mktemp("study")
    runs = []
    for polarity in ("dark", "bright"):
        content = {"name": polarity, "network": None, "score": {"kind": "intensity", "polarity": polarity}}
        fit(Config.model_validate(content), cohort, tmp_path / "runs" / polarity, cache=prepared, quiet=True)
        runs.append(tmp_path / "runs" / polarity)
    fit_ensemble(runs, cohort, tmp_path / "runs" / "both", cache=prepared, quiet=True)
    image = cohort.images(cohort.case("sub07"))[0]
    scans = [Scan(name, (image,)) for name in ("sub-01_ses-2_acq-mprage_run-1", "sub-02", "IXI_3")]
    predict(load_detector(tmp_path / "runs" / "both"), scans, tmp_path / "p", quiet=True)
    write_bids(tmp_path / "p", tmp_path / "bids")
    return tmp_path


def test_the_data_set_holds_the_same_images_and_finds_its_scan(data_set):
    bids = data_set / "bids"
    names = sorted(path.relative_to(bids).as_posix() for path in bids.rglob("*.nii.gz"))
    assert names == [
        f"{folder}/anat/{name}_{kind}.nii.gz"
        for folder, name in (
            ("sub-01/ses-2", "sub-01_ses-2_acq-mprage_run-1"),
            ("sub-02", "sub-02"),
            ("sub-IXI3", "sub-IXI3"),
        )
        for kind in ("desc-anomaly_probseg", "desc-spread_probseg", "label-lesion_mask")
    ]
    assert (bids / "sub-02/anat" / f"sub-02{MAP_SUFFIX}").read_bytes() == (
        data_set / "p" / f"sub-02{MAP_SUFFIX}"
    ).read_bytes()
    for sidecar in bids.rglob("*_mask.json"):
        assert (bids / json.loads(sidecar.read_text())["SpatialReference"]).is_file()
    before = {path: path.read_bytes() for path in bids.rglob("*") if path.is_file()}
    write_bids(data_set / "p", bids)
    assert {path: path.read_bytes() for path in bids.rglob("*") if path.is_file()} == before


@pytest.mark.skipif(VALIDATOR is None, reason="bids-validator-deno is not installed (pip install bids-validator-deno)")
def test_the_bids_validator_finds_no_error(data_set):
    command = [VALIDATOR, data_set / "bids", "--json"]
    environment = os.environ | {"DENO_DIR": str(data_set / "deno")}  # where it would else write to the home folder
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    issues = json.loads(result.stdout)["issues"]["issues"]
    assert [issue for issue in issues if issue["severity"] == "error"] == []
    assert {issue["code"] for issue in issues} <= {"TOO_FEW_AUTHORS"}
    assert result.returncode == 0
