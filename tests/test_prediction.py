"""From a trained detector to overlays: every orientation, every mistake a person makes."""

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from medvae.config import Config, ScoreConfig
from medvae.derivatives import FAILURES
from medvae.detection.detector import Detector
from medvae.errors import MedvaeError
from medvae.evaluation.options import EvaluationOptions
from medvae.evaluation.study import evaluate
from medvae.evaluation.writing import write_study
from medvae.fitting import fit
from medvae.imaging.volume import Geometry, read_volume, resample
from medvae.prediction import Scan, predict, scans_of_files, scans_of_manifest
from medvae.prediction_tables import table_files
from medvae.reporting.case_picture import draw_predictions
from medvae.schema import read_document
from tests.conftest import STANDARD_GRID

NETWORK = {
    "name": "small_cevae",
    "sampling": {"batch_size": 8, "workers": 0},
    "network": {"widths": [4, 8, 8], "latent_size": 8, "squeeze": 4},
    "training": {"steps": 3, "validate_every": 100},
}
NORMATIVE = {
    "name": "normative",
    "network": None,
    "score": {"kind": "intensity", "polarity": "dark", "smoothing_mm": 2, "normative": True},
}


@pytest.fixture(scope="module")
def detectors(cohort, tmp_path_factory, prepared):
    folder = tmp_path_factory.mktemp("runs")
    return {
        content["name"]: fit(
            Config.model_validate(content), cohort, folder / content["name"], cache=prepared, quiet=True
        )
        for content in (NETWORK, NORMATIVE)
    }


@pytest.fixture(scope="module")
def scan(cohort):
    """The scan with the lesion."""
    return nib.load(cohort.images(cohort.case("sub07"))[0])


def turned(scan, codes):
    to = nib.orientations.axcodes2ornt(tuple(codes))
    return scan.as_reoriented(nib.orientations.ornt_transform(nib.orientations.axcodes2ornt(("R", "A", "S")), to))


def oblique(scan):
    """The same brain in the same place, sampled on a turned, finer grid."""
    a = 0.25
    affine = np.eye(4)
    affine[:3, :3] = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]]) @ np.diag(
        [1.8, 1.8, 1.6]
    )
    shape = (110, 120, 110)
    affine[:3, 3] = [0, -18, 6] - affine[:3, :3] @ (np.array(shape) / 2)
    geometry = Geometry(affine, shape)
    array = resample(scan.get_fdata(dtype=np.float32), STANDARD_GRID, geometry)
    return nib.Nifti1Image(np.where(array < 8, 0, array).astype(np.float32), affine)


@pytest.mark.parametrize("orientation", ["RAS", "LAS", "PIR", "oblique"])
def test_overlays_lie_on_their_scan_whatever_its_orientation(tmp_path, detectors, scan, orientation):
    copy = oblique(scan) if orientation == "oblique" else turned(scan, orientation)
    nib.save(copy, tmp_path / "scan.nii.gz")
    detector = detectors["normative"]
    (prediction,), failures = predict(
        detector, scans_of_files([tmp_path / "scan.nii.gz"]), tmp_path / "out", quiet=True
    )
    assert not failures

    source = nib.load(tmp_path / "scan.nii.gz")
    for path, dtype in ((prediction.map, np.float32), (prediction.mask, np.uint8)):
        written = nib.load(path)
        assert written.get_data_dtype() == dtype
        assert written.shape == source.shape
        for key in ("pixdim", "qform_code", "sform_code", "srow_x", "srow_y", "srow_z", "quatern_b", "qoffset_x"):
            np.testing.assert_array_equal(written.header[key], source.header[key], err_msg=key)
        itk_source, itk_written = sitk.ReadImage(str(tmp_path / "scan.nii.gz")), sitk.ReadImage(str(path))
        corner = tuple(n - 1 for n in source.shape)
        assert itk_written.TransformIndexToPhysicalPoint(corner) == itk_source.TransformIndexToPhysicalPoint(corner)

    native = read_volume(prediction.map)
    assert native.array.min() >= 0
    assert native.array.max() <= 1
    back = resample(native.array, native.geometry, STANDARD_GRID)
    expected = np.array([28.5, 46.5, 48.5])  # centre of the lesion in the standard grid's voxels
    found = np.array(np.unravel_index(int(back.argmax()), back.shape))
    assert np.abs(found - expected).max() <= 4
    if orientation != "oblique":  # flips and axis order lose nothing
        plain, _ = predict(detector, [Scan("sub07", (Path(scan.get_filename()),))], tmp_path / "ras", quiet=True)
        np.testing.assert_array_equal(back, read_volume(plain[0].map).array)


@pytest.mark.parametrize("ending", [".mgz", ".mha", ".nrrd"])
def test_a_scan_of_another_format_gets_the_overlays_of_its_nifti(tmp_path, detectors, scan, ending):
    from medvae.preparation.itk import to_image

    copy, name = turned(scan, "LPS"), f"a scan{ending}"
    nib.save(copy, tmp_path / "nifti.nii.gz")
    if ending == ".mgz":
        nib.save(nib.MGHImage(np.asarray(copy.dataobj), copy.affine), tmp_path / name)
    else:
        geometry = Geometry(copy.affine, copy.shape)
        sitk.WriteImage(to_image(np.asarray(copy.dataobj), geometry), str(tmp_path / name))
    scans = scans_of_files([tmp_path / "nifti.nii.gz", tmp_path / name])
    (nifti, other), failures = predict(detectors["normative"], scans, tmp_path / "out", quiet=True)
    assert not failures
    assert other.map.name == "a_scan_desc-anomaly_probseg.nii.gz"
    for expected, found in ((nifti.map, other.map), (nifti.mask, other.mask)):
        assert np.array_equal(read_volume(expected).array, read_volume(found).array)
        np.testing.assert_allclose(nib.load(found).affine, nib.load(expected).affine, atol=1e-5)
        assert sitk.ReadImage(str(found)).GetDirection() == sitk.ReadImage(str(expected)).GetDirection()


def test_mask_is_the_map_above_the_threshold_and_the_sidecar_says_where_it_comes_from(
    tmp_path, cohort, detectors, prepared
):
    detector = detectors["small_cevae"]
    predictions, failures = predict(detector, scans_of_manifest(cohort), tmp_path / "out", cache=prepared, quiet=True)
    assert not failures
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted(
        ["dataset_description.json", "findings.json", "findings.tsv", "lesions.json", "lesions.tsv"]
        + [f"{i}_{s}.{e}" for i in ("sub06", "sub07") for s in ("desc-anomaly_probseg", "label-lesion_mask")
           for e in ("json", "nii.gz")]
    )  # fmt: skip
    for item in predictions:
        sidecar = json.loads(item.mask.with_name(item.mask.name.replace(".nii.gz", ".json")).read_text())
        values, mask = read_volume(item.map).array, read_volume(item.mask).array
        np.testing.assert_array_equal(mask > 0, values > np.float32(sidecar["Threshold"]))
        assert sidecar["LesionVolumeMl"] == pytest.approx(mask.sum() * 0.008, abs=1e-3)
        assert sidecar["Model"] == "small_cevae"
        assert "2 healthy validation scans" in sidecar["ThresholdSource"]
        assert sidecar["Threshold"] == sidecar["OperatingPoints"]["fpr_0.01"]["Threshold"] == 0.5
        assert (values[read_volume(item.scan).array == 0] == 0).all()


def test_realised_rate_on_the_calibration_scans_is_the_asked_one(tmp_path, cohort, detectors, prepared):
    for detector in detectors.values():
        out = tmp_path / detector.config.name
        predict(detector, scans_of_manifest(cohort, ("validation",)), out, cache=prepared, quiet=True)
        study = evaluate(out, cohort, EvaluationOptions(splits=("validation",)))
        for point in study.operating_points:
            assert point["fpr"] == pytest.approx(point.asked_fpr, rel=0.02)


def test_map_orders_voxels_as_the_score_does(cohort, detectors, prepared):
    from medvae.preparation.prepare import prepare_case

    for detector in detectors.values():
        volume = prepare_case(cohort, cohort.case("sub07"), detector.config.preparation, cache=prepared)
        score, bounded = detector.score(volume)[volume.mask], detector.anomaly_map(volume)[volume.mask]
        order = np.argsort(score)
        assert (np.diff(bounded[order]) >= 0).all()
        assert len(np.unique(bounded)) > 0.95 * len(np.unique(score))
        for point in detector.points:
            np.testing.assert_array_equal(score > point.threshold, bounded > np.float32(detector.map_threshold(point)))


def test_saved_detector_gives_the_same_map(tmp_path, cohort, detectors, prepared):
    from medvae.preparation.prepare import prepare_case

    for name, detector in detectors.items():
        again = detector.save(tmp_path / name)
        volume = prepare_case(cohort, cohort.case("sub07"), detector.config.preparation, cache=prepared)
        np.testing.assert_array_equal(again.anomaly_map(volume), detector.anomaly_map(volume))
        assert again.fingerprint == detector.fingerprint == Detector.load(tmp_path / name).fingerprint


def test_evaluation_equals_scikit_learn_on_the_written_files(tmp_path, cohort, detectors, prepared):
    from sklearn.metrics import average_precision_score, roc_auc_score

    predict(detectors["normative"], scans_of_manifest(cohort), tmp_path / "out", cache=prepared, quiet=True)
    study = evaluate(tmp_path / "out", cohort)
    case = cohort.case("sub07")
    inside = read_volume(cohort.images(case)[0]).array > 0
    values = read_volume(tmp_path / "out" / "sub07_desc-anomaly_probseg.nii.gz").array[inside]
    truth = read_volume(cohort.resolve(case.label)).array[inside] > 0
    assert study.pooled["ap"] == pytest.approx(average_precision_score(truth, values), abs=1e-4)
    assert study.pooled["auroc"] == pytest.approx(roc_auc_score(truth, values), abs=1e-4)
    assert study.pooled["prevalence"] == pytest.approx(truth.mean())
    point = study.operating_points[0]
    flagged = values > np.float32(point.threshold)
    assert point["dice"] == pytest.approx(2 * (flagged & truth).sum() / (flagged.sum() + truth.sum()))
    assert point["sensitivity"] == pytest.approx((flagged & truth).sum() / truth.sum())
    healthy = read_volume(tmp_path / "out" / "sub06_desc-anomaly_probseg.nii.gz").array
    brain = read_volume(cohort.images(cohort.case("sub06"))[0]).array > 0
    assert point["fpr"] == pytest.approx((healthy[brain] > np.float32(point.threshold)).mean())
    assert study.pooled["ap"] > 0.3  # a dark cube is what this score is made to find

    write_study(study, tmp_path / "results")
    written = json.loads((tmp_path / "results" / "results.json").read_text())
    assert written["pooled"]["n_cases"] == 1
    assert len((tmp_path / "results" / "per_case.csv").read_text().splitlines()) == 3


def test_second_call_computes_nothing_again_and_another_detector_is_refused(tmp_path, cohort, detectors, prepared):
    first, _ = predict(detectors["normative"], scans_of_manifest(cohort), tmp_path / "out", cache=prepared, quiet=True)
    times = {item.map: item.map.stat().st_mtime_ns for item in first}
    second, _ = predict(detectors["normative"], scans_of_manifest(cohort), tmp_path / "out", cache=prepared, quiet=True)
    assert second == first
    assert {item.map: item.map.stat().st_mtime_ns for item in second} == times
    with pytest.raises(MedvaeError, match="another detector"):
        predict(detectors["small_cevae"], scans_of_manifest(cohort), tmp_path / "out", cache=prepared, quiet=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("x")
    with pytest.raises(MedvaeError, match="not empty"):
        predict(detectors["normative"], scans_of_manifest(cohort), tmp_path / "mine", cache=prepared, quiet=True)


def test_scan_that_has_changed_is_computed_again(tmp_path, cohort, detectors, scan):
    nib.save(scan, tmp_path / "scan.nii.gz")
    (before,), _ = predict(
        detectors["normative"], scans_of_files([tmp_path / "scan.nii.gz"]), tmp_path / "o", quiet=True
    )
    old = read_volume(before.map).array
    healthy = nib.load(cohort.images(cohort.case("sub06"))[0])
    nib.save(healthy, tmp_path / "scan.nii.gz")
    (after,), _ = predict(
        detectors["normative"], scans_of_files([tmp_path / "scan.nii.gz"]), tmp_path / "o", quiet=True
    )
    assert not np.array_equal(read_volume(after.map).array, old)


def test_one_bad_scan_does_not_stop_the_others(tmp_path, cohort, detectors, scan):
    values = scan.get_fdata(dtype=np.float32)
    bad = {
        "zero": (np.zeros_like(values), "zero|empty|no"),
        "nan": (np.where(values > 200, np.nan, values), "NaN"),
        "four": (np.stack([values, values], -1), "3D"),
        "skull": (values + np.random.default_rng(0).normal(50, 5, values.shape), "skull"),
        "half": (np.where(np.arange(80)[:, None, None] < 30, values, 0), "MNI152"),
        "flat": ((values > 0).astype(np.float32), "same intensity"),
    }
    for name, (array, _) in bad.items():
        nib.save(nib.Nifti1Image(array.astype(np.float32), scan.affine), tmp_path / f"{name}.nii.gz")
    (tmp_path / "text.nii.gz").write_text("hello")
    detector = detectors["normative"]
    config = detector.config.model_copy(
        update={
            "preparation": detector.config.preparation.model_copy(
                update={"registration": "none", "brain": "background"}  # also where deepbet is installed
            )
        }
    )
    detector = Detector(**{**detector.__dict__, "config": config})
    files = [tmp_path / f"{n}.nii.gz" for n in [*bad, "text", "gone"]]
    good = cohort.images(cohort.case("sub06"))[0]
    predictions, failures = predict(detector, scans_of_files([*files, good]), tmp_path / "out", quiet=True)
    assert [item.id for item in predictions] == ["sub06_T1"]
    assert set(failures) == {*bad, "text", "gone"}
    for name, (_, words) in bad.items():
        assert f"{name}.nii.gz" in failures[name]
        assert any(word in failures[name] for word in words.split("|")), failures[name]
    tables = {path.name for path in table_files(tmp_path / "out")}
    assert {p.name.split("_")[0] for p in (tmp_path / "out").iterdir()} == {"sub06", "dataset", FAILURES, *tables}
    assert read_document(tmp_path / "out" / FAILURES) == failures
    shutil.copy(good, tmp_path / "zero.nii.gz")
    predict(detector, scans_of_files([good, tmp_path / "zero.nii.gz"]), tmp_path / "out", quiet=True)
    assert set(read_document(tmp_path / "out" / FAILURES)) == set(failures) - {"zero"}  # the others still lack theirs


def test_unfinished_run_says_so(tmp_path):
    (tmp_path / "config.yaml").write_text("name: a\n")
    with pytest.raises(MedvaeError, match="--resume"):
        Detector.load(tmp_path)


def test_detector_needs_validation_scans(tmp_path, cohort, prepared):
    healthy = [case for case in cohort.cases if case.split == "train"]
    only = cohort.model_copy(update={"cases": healthy})
    only._path = cohort.path
    with pytest.raises(MedvaeError, match="validation"):
        fit(Config.model_validate(NORMATIVE), only, tmp_path / "run", cache=prepared, quiet=True)
    assert not (tmp_path / "run").exists()


def test_run_is_not_resumed_with_another_cohort(tmp_path, cohort, prepared):
    fit(Config.model_validate(NORMATIVE), cohort, tmp_path / "run", cache=prepared, quiet=True)
    record = json.loads((tmp_path / "run" / "cohort.json").read_text())
    assert set(record["healthy_scans"]["train"]) == {"sub00", "sub01", "sub02", "sub03"}
    shutil.rmtree(tmp_path / "run" / "detector")
    fewer = cohort.model_copy(update={"cases": [case for case in cohort.cases if case.id != "sub02"]})
    fewer._path = cohort.path
    with pytest.raises(MedvaeError, match=r'other healthy scans.*"sub02"'):
        fit(Config.model_validate(NORMATIVE), fewer, tmp_path / "run", resume=True, cache=prepared, quiet=True)
    fit(Config.model_validate(NORMATIVE), cohort, tmp_path / "run", resume=True, cache=prepared, quiet=True)


def test_wrong_maps_are_named(tmp_path, cohort, detectors, prepared):
    with pytest.raises(MedvaeError, match="not a folder"):
        evaluate(tmp_path / "none", cohort)
    (tmp_path / "empty").mkdir()
    with pytest.raises(MedvaeError, match="no prediction"):
        evaluate(tmp_path / "empty", cohort)
    predict(detectors["normative"], scans_of_manifest(cohort), tmp_path / "out", cache=prepared, quiet=True)
    file = tmp_path / "out" / "sub07_desc-anomaly_probseg.nii.gz"
    image = nib.load(file)
    nib.save(nib.Nifti1Image(np.full(image.shape, np.nan, np.float32), image.affine), file)
    with pytest.raises(MedvaeError, match="NaN"):
        evaluate(tmp_path / "out", cohort)
    nib.save(turned(nib.Nifti1Image(np.zeros(image.shape, np.float32), image.affine), "LAS"), file)
    with pytest.raises(MedvaeError, match="another grid"):
        evaluate(tmp_path / "out", cohort)
    file.unlink()
    assert evaluate(tmp_path / "out", cohort).missing == ["sub07"]


def test_unknown_label_values_are_named(tmp_path, cohort):
    labelled = cohort.model_copy(update={"label_values": {"tumour": [4]}})
    labelled._path = cohort.path
    from medvae.evaluation.maps import lesion_truth

    with pytest.raises(MedvaeError, match="label values 1, which"):
        lesion_truth(labelled, labelled.case("sub07"))


def test_pictures_are_drawn(tmp_path, cohort, detectors, prepared):
    predictions, _ = predict(
        detectors["normative"], scans_of_manifest(cohort), tmp_path / "out", cache=prepared, quiet=True
    )
    drawn = draw_predictions(predictions, cohort, detectors["normative"], tmp_path / "pictures")
    assert [p.name for p in drawn] == ["sub06.png", "sub07.png"]
    first = drawn[1].read_bytes()
    assert first[:4] == b"\x89PNG"
    draw_predictions(predictions, cohort, detectors["normative"], tmp_path / "pictures")
    assert drawn[1].read_bytes() == first


@pytest.mark.parametrize("kind", ["kl_gradient", "elbo_gradient", "context", "product", "sum"])
def test_every_score_makes_a_detector_that_can_be_saved(tmp_path, cohort, detectors, kind, prepared):
    from medvae.preparation.prepare import prepare_case, prepare_healthy

    trained = detectors["small_cevae"]
    polarity = "both" if kind == "context" else "bright"
    score = {"kind": kind, "polarity": polarity, "smoothgrad_draws": 2 if kind == "elbo_gradient" else 0}
    config = trained.config.model_copy(update={"score": ScoreConfig.model_validate(score)})
    scans = [
        prepare_healthy(cohort, split, config.preparation, cache=prepared, quiet=True)[:2]
        for split in ("train", "validation")
    ]
    detector = Detector.calibrate(config, trained.network, *scans).save(tmp_path / "detector")
    volume = prepare_case(cohort, cohort.case("sub07"), config.preparation, cache=prepared)
    values = detector.score(volume)
    assert np.isfinite(values).all()
    assert values[volume.mask].min() >= 0
    assert (values[~volume.mask] == 0).all()
    if kind == "product":  # scaling constants do not change the order of a product, and make its healthy mean about 1
        assert len(detector.part_scales) == 2
        doubled = Detector(**{**detector.__dict__, "part_scales": tuple(2 * s for s in detector.part_scales)})
        np.testing.assert_allclose(4 * doubled.score(volume), values, rtol=1e-4, atol=1e-6)


def test_readers_that_differ_are_noted_beside_the_volume_and_in_the_sidecars(tmp_path, cohort, detectors):
    """qform and sform of their own, and a voxel size that is not the affine's; the numbers go by the affine."""
    path = cohort.images(cohort.case("sub07"))[0]
    plain, _ = predict(detectors["normative"], [Scan("plain", (path,))], tmp_path, quiet=True)
    scan = nib.load(path)
    image = nib.Nifti1Image(np.asarray(scan.dataobj), scan.affine, scan.header)
    image.set_sform(scan.affine, 4)
    image.set_qform(None, 0)
    content = bytearray(image.to_bytes())
    header = nib.Nifti1Header(bytes(content[:348]))
    header["pixdim"][1:4] = 1
    content[:348] = header.binaryblock
    (tmp_path / "odd.nii").write_bytes(content)
    for cache in (None, tmp_path / "cache", tmp_path / "cache"):
        (found,), _ = predict(
            detectors["normative"], scans_of_files([tmp_path / "odd.nii"]), tmp_path, cache=cache, quiet=True
        )
        assert found.lesion_volume_ml == plain[0].lesion_volume_ml
        place, size = found.notes
        assert "so that ITK (ITK-SNAP, 3D Slicer, ANTs) reads it up to" in place
        assert "millilitres are counted by the affine, 8 mm³ a voxel, not by pixdim, 1 mm³" in size
        for file in (found.map, found.mask):
            sidecar = file.with_name(file.name.replace(".nii.gz", ".json"))
            assert read_document(sidecar)["Notes"] == [place, size]
            sidecar.unlink()
