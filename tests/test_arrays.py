"""Arrays in, arrays out: a detector called without files gives what it writes for them, bit by bit."""

import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest

import medvae
from medvae.config import Config
from medvae.detection.detector import Detector
from medvae.detection.ensemble import load_detector
from medvae.errors import MedvaeError
from medvae.fitting import fit, fit_ensemble
from medvae.imaging.volume import read_volume
from medvae.manifest import Case, Manifest, read_manifest, write_manifest
from medvae.prediction import Scan, predict, scans_of_files

DARK = {
    "network": None,
    "score": {"kind": "intensity", "polarity": "dark", "smoothing_mm": 2, "normative": True},
    "preparation": {"intensity": "landmarks", "brain": "background"},
    "postprocessing": {"minimum_lesion_ml": 0.05},
}
BRIGHT = DARK | {"score": DARK["score"] | {"polarity": "both"}}


@pytest.fixture(scope="module")
def runs(cohort, tmp_path_factory, prepared):
    folder = tmp_path_factory.mktemp("runs")
    for name, content in {"dark": DARK, "bright": BRIGHT}.items():
        fit(Config.model_validate({"name": name, **content}), cohort, folder / name, cache=prepared, quiet=True)
    fit_ensemble([folder / "dark", folder / "bright"], cohort, folder / "both", cache=prepared, quiet=True)
    return folder


@pytest.fixture(scope="module")
def scan(cohort, tmp_path_factory):
    """The scan with the lesion, as another program might store it: lying on its side, moved, off the grid by 0.6 mm."""
    image = nib.load(cohort.images(cohort.case("sub07"))[0])
    turned = image.as_reoriented(nib.orientations.axcodes2ornt(("P", "I", "R")))
    affine = turned.affine.copy()
    affine[:3, 3] += (0.6, -0.4, 0.2)
    path = tmp_path_factory.mktemp("scan") / "scan.nii.gz"
    nib.save(nib.Nifti1Image(np.asarray(turned.dataobj), affine), path)
    return path


def loaded(path):
    image = nib.load(path)
    return image.get_fdata(dtype=np.float32), image.affine


@pytest.mark.parametrize("run", ["dark", "both"])
def test_values_equal_those_of_the_files_bit_by_bit(runs, scan, tmp_path, run):
    detector = load_detector(runs / run)
    (item,), failures = predict(detector, scans_of_files([scan]), tmp_path / "out", quiet=True)
    assert not failures
    array, affine = loaded(scan)
    for given in (array, np.ascontiguousarray(array, dtype=np.float64), array[None], array.astype(np.uint8)):
        maps = detector(given, affine)
        for found, file, dtype in ((maps.anomaly, item.map, np.float32), (maps.lesion_mask, item.mask, np.uint8)):
            assert found.dtype == dtype
            np.testing.assert_array_equal(found, np.asarray(nib.load(file).dataobj))
        assert maps.lesion_volume_ml == item.lesion_volume_ml > 0
        assert maps.threshold == item.threshold
        assert maps.case_p_value == item.case_p_value
        assert maps.notes == item.notes
        np.testing.assert_array_equal(maps.brain_mask, array > 0)
        if run == "both":
            spread = item.map.with_name("scan_desc-spread_probseg.nii.gz")
            np.testing.assert_array_equal(maps.spread, read_volume(spread).array)
        else:
            assert maps.spread is None


def test_operating_point_and_brain_mask_are_those_that_are_given(runs, scan, tmp_path):
    detector = Detector.load(runs / "dark")
    array, affine = loaded(scan)
    brain = (array > 0) & (np.arange(array.shape[2]) > 5)
    nib.save(nib.Nifti1Image(brain.astype(np.uint8), affine), tmp_path / "brain.nii.gz")
    given = [Scan("scan", (scan,), tmp_path / "brain.nii.gz")]
    (item,), _ = predict(detector, given, tmp_path / "out", at="fpv_10ml", quiet=True)
    maps = detector(array, affine, brain, at="fpv_10ml")
    assert maps.point.name == "fpv_10ml"
    np.testing.assert_array_equal(maps.anomaly, read_volume(item.map).array)
    np.testing.assert_array_equal(maps.lesion_mask, read_volume(item.mask).array)
    assert not maps.anomaly[~brain].any()
    assert detector(array, affine, at=0.05).lesion_volume_ml > detector(array, affine, at=0.01).lesion_volume_ml


def test_a_detector_of_two_sequences_takes_both_in_one_array(cohort, tmp_path, hasty_bending, prepared):
    cases = []
    for case in (cohort.case(f"sub0{number}") for number in (0, 1, 2, 4, 7)):
        image = nib.load(cohort.images(case)[0])
        t2 = np.where(image.get_fdata() > 0, 256 - image.get_fdata(), 0).astype(np.float32)
        nib.save(nib.Nifti1Image(t2, image.affine), tmp_path / f"{case.id}_t2.nii.gz")
        files = [str(cohort.images(case)[0]), f"{case.id}_t2.nii.gz"]
        cases.append(Case(id=case.id, image=files, split=case.split))
    manifest = Manifest(name="two", modality={"0": "T1", "1": "T2"}, cases=cases)
    manifest = read_manifest(write_manifest(manifest, tmp_path / "two.json"))
    config = Config.model_validate({"name": "two", **DARK, "score": {"kind": "deviation", "polarity": "both"}})
    detector = fit(config, manifest, tmp_path / "run", cache=prepared, quiet=True)
    t1, t2 = manifest.images(manifest.case("sub07"))
    (array, affine), (other, _) = loaded(t1), loaded(t2)
    maps = detector(np.stack([array, other]), affine)
    assert maps.notes == ()
    told = medvae.predict({"t2w": t2, "T1": t1}, detector)  # by name, so in any order
    np.testing.assert_array_equal(told.anomaly, maps.anomaly)
    assert len(detector(np.stack([other, array]), affine).notes) == 2
    with pytest.raises(MedvaeError, match=r"\(80, 96, 80\); \(2, X, Y, Z\) was expected, for T1, T2"):
        detector(array, affine)
    with pytest.raises(MedvaeError, match=r"FLAIR by what was given.*T2 is missing"):
        medvae.predict({"T1": t1, "FLAIR": t2}, detector)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda a, m: (a[0], m), r"has shape \(80, 96\); \(X, Y, Z\) or \(1, X, Y, Z\) was expected, for T1"),
        (lambda a, m: (np.stack([a, a]), m), r"has shape \(2, .*was expected, for T1"),
        (lambda a, m: (np.where(a > 200, np.nan, a), m), "the array: holds .* NaN"),
        (lambda a, m: (a, m[:3]), r"the array: its affine has shape \(3, 4\); \(4, 4\) was expected"),
        (lambda a, m: (a, np.zeros((4, 4))), "the array: its affine is singular"),
        (lambda a, m: (np.zeros_like(a), m), "the array: is empty"),
        (lambda a, m: (a, m, np.zeros(a.shape)), "the mask: the brain mask is empty"),
        (lambda a, m: (a, m, a[1:] > 0), r"the mask: has shape \(.*its image the array has"),
    ],
)
def test_mistakes_are_named(runs, scan, change, words):
    with pytest.raises(MedvaeError, match=words):
        Detector.load(runs / "dark")(*change(*loaded(scan)))


def test_an_unknown_operating_point_is_told_before_anything_is_prepared(runs, scan):
    with pytest.raises(MedvaeError, match='no operating point "fast"'):
        Detector.load(runs / "dark")(np.zeros((2, 2, 2)), np.eye(4), at="fast")


def test_one_line_gives_the_maps_and_writes_them_if_asked(runs, scan, tmp_path):
    detector = load_detector(runs / "both")
    (item,), _ = predict(detector, scans_of_files([scan]), tmp_path / "expected", at=0.01, quiet=True)
    maps = medvae.predict(str(scan), runs / "both", at=0.01)
    np.testing.assert_array_equal(maps.anomaly, read_volume(item.map).array)
    np.testing.assert_array_equal(maps.lesion_mask, read_volume(item.mask).array)
    again = medvae.predict(scan, detector, tmp_path / "out", at=0.01)
    np.testing.assert_array_equal(again.anomaly, maps.anomaly)
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert written == sorted(path.name for path in (tmp_path / "expected").iterdir())
    for name in written:
        if name.endswith(".nii.gz"):
            assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "expected" / name).read_bytes()
    (done,), _ = predict(detector, scans_of_files([scan]), tmp_path / "out", at=0.01, quiet=True)
    assert done.lesion_volume_ml == maps.lesion_volume_ml
    with pytest.raises(MedvaeError, match="another detector or operating point"):
        medvae.predict(scan, runs / "dark", tmp_path / "out")


def test_a_file_of_another_sequence_is_refused(runs, scan, tmp_path):
    flair = tmp_path / "sub-01_FLAIR.nii.gz"
    flair.write_bytes(scan.read_bytes())
    with pytest.raises(MedvaeError, match="is FLAIR by the name of its file"):
        medvae.predict(flair, runs / "dark")


def test_importing_the_package_imports_nothing_heavy():
    code = (
        "import sys, medvae; medvae.predict; "
        "print([m for m in ('torch', 'numpy', 'nibabel', 'pydantic', 'scipy') if m in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
