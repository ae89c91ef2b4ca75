"""Folders of predictions that were begun with many scans: a folder for each, and everybody finds them there."""

import json
import shutil

import pytest

from medvae.config import Config
from medvae.derivatives import SCAN_FOLDERS, case_folder, finished
from medvae.detection.ensemble import load_detector
from medvae.errors import MedvaeError
from medvae.evaluation.options import EvaluationOptions
from medvae.evaluation.study import evaluate
from medvae.fitting import fit
from medvae.parsing import read_rows
from medvae.prediction import Scan, predict, predict_one, scans_of_manifest
from medvae.reporting.bids_export import write_bids
from medvae.reporting.case_picture import draw_figure
from medvae.reporting.cases import find_predictions, predicted_names, read_cases
from medvae.reporting.report import write_report
from medvae.reporting.seen import Seen
from medvae.schema import read_document

BRIGHT = {
    "name": "bright",
    "network": None,
    "score": {"kind": "intensity", "polarity": "bright", "smoothing_mm": 2, "normative": False},
}


@pytest.fixture(scope="module")
def made(cohort, tmp_path_factory, prepared):
    """Two detectors, and the predictions of one in a folder of each kind."""
    folder = tmp_path_factory.mktemp("many")
    for name, polarity in (("run", "bright"), ("other", "dark")):
        content = BRIGHT | {"name": name, "score": BRIGHT["score"] | {"polarity": polarity}}
        fit(Config.model_validate(content), cohort, folder / name, cache=prepared, quiet=True)
    detector, scans = load_detector(folder / "run"), scans_of_manifest(cohort)
    with pytest.MonkeyPatch.context() as patch:
        for name, together in (("flat", 1000), ("folders", 1)):
            patch.setattr("medvae.prediction_folder.TOGETHER", together)
            seen = Seen(detector, cohort, folder / name)
            found, failures = predict(detector, scans, folder / name, cache=prepared, then=seen, quiet=True)
            assert not failures
            assert len(found[0].look) > 0
    return folder


@pytest.fixture
def mine(made, tmp_path):
    """A copy of the folder with a folder for each scan, as far from the scans as the original."""
    return shutil.copytree(made / "folders", made / tmp_path.name)


def files(folder):
    return {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}


def test_each_scan_has_what_lies_together_otherwise(made):
    flat, apart = files(made / "flat"), files(made / "folders")
    own = {name for name in flat if "sub0" in name}
    assert set(apart) == (set(flat) - own - {"viewers/itksnap_labels.txt"}) | {
        f"{scan}/{name}" for scan in ("sub06", "sub07") for name in own if scan in name
    } | {f"{scan}/viewers/itksnap_labels.txt" for scan in ("sub06", "sub07")}
    for name in own:
        if name.endswith((".nii.gz", ".png", ".nrrd")):
            assert flat[name].read_bytes() == apart[f"{name.split('/')[-1][:5]}/{name}"].read_bytes()
    one = read_document(apart["sub07/sub07_label-lesion_mask.json"])
    assert (apart["sub07/sub07_label-lesion_mask.json"].parent / one["SpatialReference"]).is_file()


def test_one_table_names_all_and_says_where_they_are(made):
    rows, flat = (read_rows(made / name / "lesions.tsv") for name in ("folders", "flat"))
    assert [row["case_id"] for row in rows] == ["sub06", "sub07"]
    assert [row["mask"] for row in rows] == [f"{s}/{s}_label-lesion_mask.nii.gz" for s in ("sub06", "sub07")]
    assert [row | {"mask": ""} for row in rows] == [row | {"mask": ""} for row in flat]
    for name, there in (("folders", rows), ("flat", flat)):
        assert all((made / name / row["mask"]).is_file() for row in there)


def test_a_folder_goes_on_as_it_was_begun(made, mine, cohort, tmp_path, prepared):
    detector, scans = load_detector(made / "run"), scans_of_manifest(cohort)
    before = {name: path.stat().st_mtime_ns for name, path in files(mine).items()}
    shutil.rmtree(mine / "sub07")
    predict(detector, scans[:1], mine, cache=prepared, quiet=True)  # nothing to do
    assert predicted_names(mine) == ["sub06"]
    predict(detector, scans, mine, cache=prepared, quiet=True)
    assert {n for n, path in files(mine).items() if before.get(n) == path.stat().st_mtime_ns and "sub06" in n} == {
        name for name in before if "sub06" in name
    }
    assert list(finished(mine)) == ["sub06", "sub07"]
    new = Scan("new", scans[1].images)
    predict_one(new.images[0], detector, mine, cache=prepared)
    assert (mine / new.images[0].name.removesuffix(".nii.gz")).is_dir()
    flat = shutil.copytree(made / "flat", made / f"{mine.name}_flat")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("medvae.prediction_folder.TOGETHER", 1)
        predict(detector, [*scans, new], flat, cache=prepared, quiet=True)
    assert not any(path.is_dir() for path in flat.iterdir() if path.name != "viewers")


def test_how_a_folder_is_begun_can_be_said(made, cohort, tmp_path, prepared):
    detector, scans = load_detector(made / "run"), scans_of_manifest(cohort)[:1]
    predict(detector, scans, tmp_path / "out", scan_folders=True, cache=prepared, quiet=True)
    assert (tmp_path / "out" / "sub06" / "sub06_label-lesion_mask.json").is_file()
    predict(detector, scans, tmp_path / "out", scan_folders=True, cache=prepared, quiet=True)
    with pytest.raises(MedvaeError, match="begun with a folder for each scan, and goes"):
        predict(detector, scans, tmp_path / "out", scan_folders=False, quiet=True)
    with pytest.raises(MedvaeError, match="begun with all files together, and goes on so"):
        predict(detector, scans, made / "flat", scan_folders=True, quiet=True)


def test_another_detector_replaces_all_of_them(made, mine, cohort, prepared):
    (mine / "sub06" / "mine.txt").write_text("look again")
    other = load_detector(made / "other")
    predict(other, scans_of_manifest(cohort)[1:], mine, overwrite=True, cache=prepared, quiet=True)
    assert sorted(files(mine)) == [
        "dataset_description.json", "findings.json", "findings.tsv", "lesions.json", "lesions.tsv", "sub06/mine.txt",
        "sub07_desc-anomaly_probseg.json", "sub07_desc-anomaly_probseg.nii.gz",
        "sub07_label-lesion_mask.json", "sub07_label-lesion_mask.nii.gz",
    ]  # fmt: skip
    assert not (mine / "sub07").exists()


def test_another_scan_of_the_same_name_is_refused(made, mine, cohort, prepared):
    second = scans_of_manifest(cohort)[1]
    detector = load_detector(made / "run")
    _, failures = predict(detector, [Scan("sub06", second.images)], mine, cache=prepared, quiet=True)
    assert "is another scan than" in failures["sub06"]
    (again,), _ = predict(detector, [Scan("sub06", second.images)], mine, overwrite=True, cache=prepared, quiet=True)
    assert "it was replaced" in again.notes[-1]
    assert again.map.parent == mine / "sub06"


def test_the_same_is_measured_and_reported(made, cohort, tmp_path):
    one, other = (
        evaluate(made / name, cohort, EvaluationOptions(resamples=50), method="m") for name in ("flat", "folders")
    )
    assert one.pooled == other.pooled
    assert one.sources == other.sources
    assert [str(case) for case in one.per_case] == [str(case) for case in other.per_case]
    by_name = evaluate(
        made / "folders", cohort, EvaluationOptions(resamples=50, pattern="{id}/{id}_desc-anomaly_probseg.nii.gz")
    )
    assert by_name.pooled == one.pooled
    report = write_report(made / "folders", tmp_path / "report", manifest=cohort, quiet=True)
    assert (report.cases, report.problems) == (2, {})
    draw_figure(made / "folders", tmp_path / "figure.png", ids=["sub07"], manifest=cohort)
    cases, problems = read_cases(made / "folders")
    assert not problems
    assert all(case.predictions == made / "folders" and case.folder.parent == case.predictions for case in cases)


def test_a_bids_data_set_is_the_same_of_both(made, tmp_path):
    for name in ("flat", "folders"):
        write_bids(made / name, tmp_path / name)
    one, other = files(tmp_path / "flat"), files(tmp_path / "folders")
    assert set(one) == set(other)
    assert {n: path.read_bytes() for n, path in one.items()} == {n: path.read_bytes() for n, path in other.items()}
    assert SCAN_FOLDERS not in read_document(other["dataset_description.json"])


def test_a_scan_called_by_dots_stays_in_the_folder(made, mine, cohort, prepared):
    detector, (_, scan) = load_detector(made / "run"), scans_of_manifest(cohort)
    for name in (".", ".."):
        (one,), failures = predict(detector, [Scan(name, scan.images)], mine, cache=prepared, quiet=True)
        assert not failures
        assert one.map.resolve().parent == mine
    assert predicted_names(mine) == [".", "..", "sub06", "sub07"]
    assert [row["mask"] for row in read_rows(mine / "lesions.tsv")][:2] == [
        "._label-lesion_mask.nii.gz", ".._label-lesion_mask.nii.gz",
    ]  # fmt: skip


def test_folders_of_other_programs_are_read_as_they_are(tmp_path):
    (tmp_path / "dataset_description.json").write_text(json.dumps([1]))
    assert case_folder(tmp_path, "a") == tmp_path
    (tmp_path / "dataset_description.json").write_text("{")
    assert case_folder(tmp_path, "a") == tmp_path
    assert finished(tmp_path / "nowhere") == {}
    with pytest.raises(MedvaeError, match="holds no predictions"):
        find_predictions(tmp_path)
