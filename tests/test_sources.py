"""An output belongs to a scan by the scan's content: what is refused, and what is the same scan at another place."""

import json
import shutil
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import nibabel as nib
import numpy as np
import pytest

from medvae.cli import main
from medvae.config import Config
from medvae.derivatives import DESCRIPTION, FAILURES, FINDINGS_TABLE, LESIONS_TABLE, MAP_SUFFIX, MASK_SUFFIX
from medvae.detection.scan_names import names_of
from medvae.errors import MedvaeError
from medvae.evaluation.study import evaluate
from medvae.evaluation.writing import write_study
from medvae.files import write_json
from medvae.fitting import fit
from medvae.manifest import read_manifest
from medvae.prediction import Scan, predict, predict_one, scans_of_files, scans_of_manifest
from medvae.reporting.bids_export import write_bids
from medvae.reporting.case_picture import draw_figure
from medvae.reporting.report import write_report
from medvae.schema import read_document
from tests.predicted import make_predictions

DARK = {"name": "dark", "network": None, "score": {"kind": "intensity", "polarity": "dark"}}


@pytest.fixture(scope="module")
def detector(cohort, tmp_path_factory, prepared):
    return fit(
        Config.model_validate(DARK), cohort, tmp_path_factory.mktemp("runs") / "dark", cache=prepared, quiet=True
    )


@pytest.fixture
def two(cohort, tmp_path):
    """Two people whose scans are both called T1."""
    for name, case in (("A", "sub06"), ("B", "sub07")):
        (tmp_path / name).mkdir()
        shutil.copy(cohort.images(cohort.case(case))[0], tmp_path / name / "T1.nii.gz")
    return tmp_path


def files(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def map_of(path):
    return np.asarray(nib.load(path).dataobj)


def test_the_prediction_of_another_scan_is_not_replaced_and_the_others_go_on(two, detector, cohort):
    predict(detector, scans_of_files([two / "A" / "T1.nii.gz"]), two / "out", quiet=True)
    before = files(two / "out")
    other = Scan("sub01", (cohort.images(cohort.case("sub01"))[0],))
    made, failures = predict(detector, [*scans_of_files([two / "B" / "T1.nii.gz"]), other], two / "out", quiet=True)
    assert [item.id for item in made] == ["sub01"]
    for words in (str(two / "A" / "T1.nii.gz"), str(two / "B" / "T1.nii.gz"), "--name-by parent", "{subject}"):
        assert words in failures["T1"]
    after = files(two / "out")
    for table in (LESIONS_TABLE, FINDINGS_TABLE):  # which get rows, and lose none
        assert set(before.pop(table).splitlines()) < set(after[table].splitlines())
    assert before.items() <= after.items()
    with pytest.raises(MedvaeError, match="is another scan than"):
        predict_one(two / "B" / "T1.nii.gz", detector, two / "out")


def test_overwrite_replaces_it_with_all_that_was_drawn_of_it(two, detector):
    predict(detector, scans_of_files([two / "A" / "T1.nii.gz"]), two / "out", quiet=True)
    (two / "out" / "T1.png").write_bytes(b"of A")
    (two / "out" / "notes.txt").write_text("mine")
    scans = scans_of_files([two / "B" / "T1.nii.gz"])
    (made,), _ = predict(detector, scans, two / "out", overwrite=True, quiet=True)
    (clean,), _ = predict(detector, scans, two / "clean", quiet=True)
    assert np.array_equal(map_of(made.map), map_of(clean.map))
    assert any("was replaced" in note for note in made.notes)
    assert files(two / "out").keys() == {*files(two / "clean"), "notes.txt"}


def test_a_scan_that_was_moved_or_copied_is_the_same(two, detector):
    (first,), _ = predict(detector, scans_of_files([two / "A" / "T1.nii.gz"]), two / "out", quiet=True)
    written = first.map.stat().st_mtime_ns
    shutil.rmtree(two / "B")
    shutil.copytree(two / "A", two / "B")
    for scan in (two / "B" / "T1.nii.gz", (two / "A").rename(two / "C") / "T1.nii.gz"):
        made, failures = predict(detector, scans_of_files([scan]), two / "out", quiet=True)
        assert not failures
        assert made[0].map.stat().st_mtime_ns == written


def test_of_two_processes_that_bring_one_name_at_once_one_is_refused(two, detector, monkeypatch):
    """Both look before either has written, and both find nothing."""
    barrier, score = threading.Barrier(2), type(detector).native_maps

    def together(*arguments, **options):
        barrier.wait(timeout=20)
        return score(*arguments, **options)

    monkeypatch.setattr(type(detector), "native_maps", together)

    def job(person):
        return predict(detector, scans_of_files([two / person / "T1.nii.gz"]), two / "out", quiet=True)

    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(job, "AB"))
    assert sorted(len(made) for made, _ in results) == [0, 1]
    winner = "AB"[[bool(made) for made, _ in results].index(True)]
    (clean,), _ = next(result for result in results if result[0])
    source = read_document(two / "out" / "T1_label-lesion_mask.json")["SpatialReference"]
    assert source == f"../{winner}/T1.nii.gz"
    failed = next(failures for made, failures in results if not made)
    assert "is another scan than" in failed["T1"]
    assert clean.mask.exists()


def test_jobs_that_start_into_one_new_folder_all_go_on(two, detector, cohort, monkeypatch):
    import medvae.prediction

    barrier, opened = threading.Barrier(4), medvae.prediction.open_folder

    def together(*arguments, **options):
        barrier.wait(timeout=20)
        return opened(*arguments, **options)

    monkeypatch.setattr(medvae.prediction, "open_folder", together)
    scans = [Scan(f"case{n}", (two / f"gone{n}.nii.gz",)) for n in range(4)]

    def job(scan):
        return predict(detector, [scan], two / "out", quiet=True)[1]

    with ThreadPoolExecutor(4) as pool:
        failures = list(pool.map(job, scans))
    assert [set(one) for one in failures] == [{f"case{n}"} for n in range(4)]
    assert set(read_document(two / "out" / FAILURES)) == {f"case{n}" for n in range(4)}
    assert {path.name for path in (two / "out").iterdir()} == {DESCRIPTION, FAILURES}
    monkeypatch.undo()
    shutil.copy(cohort.images(cohort.case("sub06"))[0], two / "gone2.nii.gz")
    predict(detector, [scans[2]], two / "out", quiet=True)
    assert set(read_document(two / "out" / FAILURES)) == {"case0", "case1", "case3"}


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["A/T1.nii.gz", "B/t1.nii.gz"], ["A_T1", "B_t1"]),  # one file to Windows and macOS
        (["A/T1.nii.gz", "B/T1.nii.gz"], ["A_T1", "B_T1"]),
        (["A/anat/T1.nii.gz", "B/anat/T1.nii.gz"], ["A_T1", "B_T1"]),
        (["A/first/T1.nii", "B/first/T1.nii"], ["A_T1", "B_T1"]),
        (["s1/ses-1/anat/T1.mgz", "s2/ses-1/anat/T1.mgz"], ["s1_ses-1_T1", "s2_ses-1_T1"]),
        (["A/T1.nii.gz", "B/T1.nii.gz", "C/x.nii.gz"], ["A_T1", "B_T1", "x"]),
        (["a b/T1/scan.nii.gz", "c/T1/scan.nii.gz"], ["a_b_scan", "c_scan"]),
        (["s1_T1w/t1-mprage/scan.mha", "s2_T1w/t1-mprage/scan.mha"], ["s1_T1w_scan", "s2_T1w_scan"]),
        (["A/T1.nii.gz", "A/B/T1.nii.gz"], ["A_T1", "B_T1"]),
        (["A/B.nii.gz", "A.nii.gz"], ["B", "A"]),
    ],
)
def test_scans_that_are_called_alike_are_named_by_their_folders(tmp_path, paths, names):
    assert names_of([tmp_path / path for path in paths]) == names
    assert names_of([tmp_path / path for path in paths[::-1]]) == names[::-1]


def test_names_by_parent_do_not_depend_on_the_other_scans(tmp_path):
    paths = [tmp_path / "A" / "anat" / "T1.nii.gz", tmp_path / "B" / "anat" / "T1.nii.gz"]
    assert [names_of([path], "parent") for path in paths] == [["A_T1"], ["B_T1"]]
    assert names_of(paths, "parent") == names_of(paths)
    for by in ("file", "parent"):
        with pytest.raises(MedvaeError, match="both be written as"):
            names_of([*paths, paths[0]], by)
    with pytest.raises(MedvaeError, match="neither file nor parent"):
        names_of(paths, "grandparent")


def test_predict_says_how_it_names_scans(two, detector, monkeypatch, capsys):
    detector.save(two / "run" / "detector")

    def say(*arguments):
        quiet = ("--no-pictures", "--no-workspaces", "-q", "--out", "out")
        monkeypatch.setattr(sys, "argv", ["medvae", "predict", "run", *arguments, *quiet])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code, capsys.readouterr().err

    monkeypatch.chdir(two)
    code, err = say("A/T1.nii.gz", "B/T1.nii.gz")
    assert (code, err) == (0, "note: 2 files are called alike; they are named by their folders: A_T1, B_T1\n")
    assert say("A/T1.nii.gz", "--name-by", "parent") == (0, "")
    assert len(list((two / "out").glob(f"*{MAP_SUFFIX}"))) == 2
    assert say("A/T1.nii.gz", "--name-by", "person")[0] == 2


@pytest.fixture
def swapped(tmp_path):
    """Predictions of two people with lesions, and a second cohort in which their scans have each other's name."""
    cohort = make_predictions(tmp_path, ["one", "two"], ["well"])
    content = json.loads(cohort.path.read_text())
    one, two, _ = content["cases"]
    one["image"], two["image"] = two["image"], one["image"]
    write_json(tmp_path / "other.json", content)
    return tmp_path / "predictions", cohort, read_manifest(tmp_path / "other.json")


def test_evaluate_refuses_maps_of_other_scans(swapped):
    folder, cohort, other = swapped
    assert evaluate(folder, cohort).pooled["n_cases"] == 2
    with pytest.raises(MedvaeError) as refused:
        evaluate(folder, other)
    said = str(refused.value)
    for words in ('case "one"', 'case "two"', "case0.nii.gz", "case1.nii.gz", "2 of 3 maps", "nothing was measured"):
        assert words in said
    assert 'case "well"' not in said


def test_evaluate_refuses_the_map_of_a_scan_that_has_changed_and_takes_one_that_was_moved(swapped):
    folder, cohort, _ = swapped
    scan = cohort.images(cohort.case("one"))[0]
    label = cohort.resolve(cohort.case("one").label)
    image = nib.load(label)
    nib.save(nib.Nifti1Image(np.roll(np.asarray(image.dataobj), 1, 0), image.affine), label)  # is no source of a map
    shutil.copytree(scan.parent, folder.parent / "moved")
    moved = cohort.model_copy()
    moved._path = folder.parent / "moved.json"
    moved.path.write_text(cohort.path.read_text().replace("scans/", "moved/"))
    assert evaluate(folder, read_manifest(moved.path)).pooled["n_cases"] == 2
    image = nib.load(scan)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj) * 2, image.affine), scan)
    with pytest.raises(MedvaeError, match=r"case0\.nii\.gz: (has changed|is not the file).*\n.*1 of 3 maps"):
        evaluate(folder, cohort)


def test_maps_of_other_tools_have_no_source_and_are_measured(swapped):
    folder, _, other = swapped
    for sidecar in folder.glob("*.json"):
        sidecar.unlink()
    assert evaluate(folder, other).pooled["n_cases"] == 2


def test_report_and_figure_treat_them_alike(swapped):
    folder, _, other = swapped
    report = write_report(folder, folder.parent / "report", manifest=other, quiet=True)
    assert set(report.problems) == {"one", "two"}
    assert all("another scan" in why or "is not the file" in why for why in report.problems.values())
    assert not (folder.parent / "report" / "cases" / "one.js").exists()
    assert "Not measured, for the reason given at each: one, two." in report.notes
    few = other.model_copy(update={"cases": other.cases[:2]})
    few._path = other.path
    report = write_report(folder, folder.parent / "report", manifest=few, quiet=True)
    assert "No case could be measured, for the reason given at each." in report.notes
    with pytest.raises(MedvaeError, match="Predict it again"):
        draw_figure(folder, folder.parent / "figure.png", manifest=other)


def test_maps_of_another_detector_in_the_folder_are_refused(swapped):
    folder, cohort, _ = swapped
    for suffix in (MAP_SUFFIX, MASK_SUFFIX):
        sidecar = folder / f"two{suffix.removesuffix('.nii.gz')}.json"
        write_json(sidecar, read_document(sidecar) | {"ModelFingerprint": "e" * 64, "Model": "other"})
    with pytest.raises(MedvaeError, match=r"two_desc.*another detector.*other"):
        evaluate(folder, cohort)
    made = {"Name": "medvae", "Parameters": {"model": "m", "fingerprint": "f" * 64}}
    write_json(folder / DESCRIPTION, {"GeneratedBy": [made]})
    with pytest.raises(MedvaeError, match="was made by another detector"):
        draw_figure(folder, folder.parent / "figure.png", manifest=cohort)
    with pytest.raises(MedvaeError, match="was made by another detector"):
        write_bids(folder, folder.parent / "bids")
    assert {path.name for path in (folder.parent / "bids").glob("sub-*")} == {"sub-one", "sub-well"}


def test_a_report_refuses_the_numbers_of_other_maps(swapped):
    folder, cohort, _ = swapped
    write_study(evaluate(folder, cohort), folder.parent / "results")
    write_report(folder, folder.parent / "report", evaluations=[folder.parent / "results"], quiet=True)
    for change, words in (({"SourcesSha256": ["0" * 64]}, "another scan"), ({"ModelFingerprint": "e"}, "detector")):
        sidecar = folder / f"one{MASK_SUFFIX.removesuffix('.nii.gz')}.json"
        before = read_document(sidecar)
        write_json(sidecar, before | change)
        with pytest.raises(MedvaeError, match=f'another map of "one".*{words}.*evaluate'):
            write_report(folder, folder.parent / "report", evaluations=[folder.parent / "results"], quiet=True)
        write_json(sidecar, before)


def test_a_data_set_keeps_the_scan_that_has_the_name(two, detector):
    for person in "AB":
        predict(detector, scans_of_files([two / person / "T1.nii.gz"]), two / f"out{person}", quiet=True)
    write_bids(two / "outA", two / "bids")
    before = files(two / "bids")
    with pytest.raises(MedvaeError, match=r'holds "sub-T1" already.*another scan'):
        write_bids(two / "outB", two / "bids")
    assert files(two / "bids") == before
    write_bids(two / "outA", two / "bids")
    write_bids(two / "outB", two / "bids", overwrite=True)
    assert files(two / "bids") != before


def test_a_manifest_of_two_sequences_finds_the_one_that_was_predicted(two, detector, cohort):
    """The detector takes T1, which is the second image of the manifest."""
    flair = nib.load(two / "A" / "T1.nii.gz")
    nib.save(nib.Nifti1Image(np.asarray(flair.dataobj) // 2, flair.affine), two / "A" / "FLAIR.nii.gz")
    case = {"id": "a", "image": ["A/FLAIR.nii.gz", "A/T1.nii.gz"], "split": "test"}
    write_json(two / "m.json", {"name": "m", "modality": {"0": "FLAIR", "1": "T1"}, "cases": [case]})
    manifest = read_manifest(two / "m.json")
    assert not predict(detector, scans_of_manifest(manifest), two / "out", quiet=True)[1]
    assert evaluate(two / "out", manifest).missing == []
    assert write_report(two / "out", two / "report", manifest=manifest, quiet=True).problems == {}
