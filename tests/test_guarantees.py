"""Operating points with a promise, from the config to the sidecar."""

import json
from dataclasses import replace

import nibabel as nib
import nibabel.processing
import numpy as np
import pytest
from scipy import ndimage
from typer.testing import CliRunner

from medvae.cli import app
from medvae.config import CalibrationConfig, Config
from medvae.config.maps import RandomWalkerConfig
from medvae.detection import conformal
from medvae.detection.detector import Detector
from medvae.detection.ensemble import Ensemble
from medvae.detection.guarantees import FILE, check_levels
from medvae.detection.stored import CALIBRATION
from medvae.errors import MedvaeError
from medvae.evaluation.study import evaluate
from medvae.fitting import fit
from medvae.imaging.components import components
from medvae.imaging.morphology import erode, finding_volumes_ml, remove_small
from medvae.imaging.volume import read_volume
from medvae.prediction import Scan, predict, predict_scan, scans_of_manifest
from medvae.preparation.prepare import prepare_case, prepare_healthy, prepare_scan

CONTENT = {
    "name": "normative",
    "network": None,
    "score": {"kind": "intensity", "polarity": "dark", "smoothing_mm": 2, "normative": True},
    "calibration": {"family_wise": [0.4], "false_positive_volume_ml": [10], "cluster_above": 5, "mask_at": "fwer_0.4"},
}


@pytest.fixture(scope="module")
def run(cohort, tmp_path_factory, prepared):
    folder = tmp_path_factory.mktemp("run") / "normative"
    fit(Config.model_validate(CONTENT), cohort, folder, cache=prepared, quiet=True)
    return folder


@pytest.fixture(scope="module")
def detector(run):
    return Detector.load(run)


@pytest.fixture(scope="module")
def validation(cohort, detector, prepared):
    return prepare_healthy(cohort, "validation", detector.config.preparation, cache=prepared, quiet=True)


def scan_of(cohort, name):
    return Scan(name, tuple(cohort.images(cohort.case(name))))


def sidecar_of(prediction):
    return json.loads(prediction.mask.with_name(prediction.mask.name.replace(".nii.gz", ".json")).read_text())


def with_postprocessing(detector, **options):
    config = detector.config
    return replace(detector, config=config.model_copy(
        update={"postprocessing": config.postprocessing.model_copy(update=options)}))  # fmt: skip


def test_promised_points_lie_beside_the_rates_and_are_kept_by_saving(run, detector, validation):
    names = [p["name"] for p in json.loads((run / "detector" / CALIBRATION).read_text())["operating_points"]]
    assert names == ["fpr_0.01", "fpr_0.05", "fwer_0.4", "cluster_fwer_0.4", "fpv_10ml"]
    maxima = [detector.score(volume)[volume.mask].max() for volume in validation]
    np.testing.assert_array_equal(detector.healthy.maximum, maxima)
    assert detector.point("fwer_0.4").threshold == max(maxima)  # one of three may lie above
    assert detector.point("fwer_0.7").threshold == min(maxima)  # not in the config: made when it is asked for
    assert detector.point("fpr_0.01") == detector.point(0.01)
    assert detector.point("fpr_0.01").guarantee == ""
    for name in names[2:]:
        assert "exchangeable" in detector.point(name).guarantee


def test_flagged_volume_of_the_healthy_scans_meets_the_rule_on_the_written_masks(tmp_path, cohort, detector, prepared):
    predictions, _ = predict(
        detector,
        scans_of_manifest(cohort, ("validation",)),
        tmp_path / "out",
        at="fpv_10ml",
        cache=prepared,
        quiet=True,
    )
    volumes = np.array([item.lesion_volume_ml for item in predictions])
    assert volumes.max() > 0
    assert (np.minimum(volumes, 20).sum() + 20) / 3 <= 10
    index = int(np.searchsorted(detector.healthy.thresholds, detector.point("fpv_10ml").threshold))
    np.testing.assert_allclose(detector.healthy.volumes_ml[:, index], volumes, atol=1e-3)
    lower = np.minimum(detector.healthy.volumes_ml[:, index - 1], 20)
    assert (lower.sum() + 20) / 3 > 10  # the next lower threshold would not do


def test_sidecar_says_what_is_promised_and_how_unusual_the_scan_is(tmp_path, cohort, detector, prepared):
    predictions, failures = predict(detector, scans_of_manifest(cohort), tmp_path / "out", cache=prepared, quiet=True)
    assert not failures
    for item in predictions:
        sidecar = sidecar_of(item)
        assert sidecar["OperatingPoint"] == "fwer_0.4"
        assert "at most 0.4" in sidecar["Guarantee"]
        assert "exchangeable" in sidecar["Guarantee"]
        assert sidecar["CaseStatistic"] == "maximum"
        assert "Postprocessing" not in sidecar
        assert set(sidecar["OperatingPoints"]) == {"fpr_0.01", "fpr_0.05", "fwer_0.4", "fpv_10ml"}
        values = read_volume(item.map).array
        np.testing.assert_array_equal(read_volume(item.mask).array > 0, values > np.float32(item.threshold))
        higher = sum(detector.map_values(detector.healthy.maximum) >= values.max())
        assert item.case_p_value == sidecar["CasePValue"] == (1 + higher) / 3
        assert (item.lesion_volume_ml > 0) == (item.case_p_value <= 0.4)  # mask and p-value agree
    assert predictions[1].case_p_value == pytest.approx(1 / 3)  # the scan with the lesion
    again, _ = predict(detector, scans_of_manifest(cohort), tmp_path / "out", cache=prepared, quiet=True)
    assert again == predictions
    assert [p.name for p in evaluate(tmp_path / "out", cohort).operating_points][2:] == ["fwer_0.4", "fpv_10ml"]


def test_what_is_written_never_exceeds_the_largest_score_also_between_voxels(tmp_path, cohort, detector):
    image = nib.load(cohort.images(cohort.case("sub05"))[0])
    fine = nib.processing.resample_to_output(image, (1.7, 2.3, 3.1), order=1)
    values = np.where(fine.get_fdata() < 8, 0, fine.get_fdata()).astype(np.float32)
    nib.save(nib.Nifti1Image(values, fine.affine), tmp_path / "fine.nii.gz")
    (item,), _ = predict(detector, [Scan("fine", (tmp_path / "fine.nii.gz",))], tmp_path / "out", quiet=True)
    volume = prepare_scan([tmp_path / "fine.nii.gz"], detector.config.preparation)
    largest = detector.map_values(detector.score(volume)[volume.mask].max())
    assert 0.9 * largest < read_volume(item.map).array.max() <= largest


def test_findings_of_a_size(tmp_path, cohort, detector, prepared):
    point = detector.point("cluster_fwer_0.4")
    assert point.minimum_lesion_ml == max(detector.healthy.largest_cluster_ml)
    for item in predict(
        detector, scans_of_manifest(cohort), tmp_path / "out", at=point.name, cache=prepared, quiet=True
    )[0]:
        above = read_volume(item.map).array > np.float32(detector.map_threshold(point))
        expected = remove_small(above, 0.008, point.minimum_lesion_ml)
        np.testing.assert_array_equal(read_volume(item.mask).array > 0, expected)
        assert sidecar_of(item)["Postprocessing"]["MinimumLesionMl"] == point.minimum_lesion_ml
    assert expected.any()  # the lesion is larger than any healthy finding


def test_false_discovery_rate_is_called_approximate(tmp_path, cohort, detector, prepared):
    (item,), _ = predict(
        detector, [scan_of(cohort, "sub07")], tmp_path / "out", at="fdr_0.1", cache=prepared, quiet=True
    )
    assert sidecar_of(item)["Guarantee"].count("Approximate") == 1
    assert "fdr_0.1" not in sidecar_of(item)["OperatingPoints"]  # another threshold in every scan
    volume = prepare_case(cohort, cohort.case("sub07"), detector.config.preparation, cache=prepared)
    healthy, score = detector.healthy, detector.score(volume)[volume.mask]
    p = conformal.voxel_p_values(score, healthy.thresholds, healthy.at_or_above, healthy.voxels)
    found = conformal.benjamini_hochberg(p, 0.1)
    assert 0 < found.sum() == (read_volume(item.mask).array > 0).sum()


def test_impossible_levels_say_how_many_subjects_they_need(tmp_path, cohort, detector, prepared):
    for name, words in {
        "fwer_0.1": r"2 healthy validation subjects.*1/3 = 0\.333.*9 subjects would be needed",
        "cluster_fwer_0.05": "19 subjects would be needed",
        "fpv_1ml": r"smallest level is 6\.67 ml.*19 subjects would be needed",
        "fpv_20ml": "promises nothing",
        "fwer_1.5": "between 0 and 1",
        "fpv_5": "no operating point.*fwer_0.4.*fpv_5ml",
        "fwer_x": "no operating point",
    }.items():
        with pytest.raises(MedvaeError, match=words):
            predict(detector, scans_of_manifest(cohort), tmp_path / "out", at=name, cache=prepared, quiet=True)
        assert not (tmp_path / "out").exists()
    config = Config.model_validate(CONTENT | {"calibration": {"family_wise": [0.1]}})
    with pytest.raises(MedvaeError, match=r"cohort\.json: fwer_0\.1.*9 subjects"):
        fit(config, cohort, tmp_path / "run", cache=prepared, quiet=True)
    assert not (tmp_path / "run").exists()  # noticed before anything is trained


@pytest.mark.parametrize("level", [0.5, 0.25, 0.2, 0.1, 0.05, 0.01])
def test_the_number_it_names_is_enough(level):
    needed = conformal.subjects_needed(level)
    config = CalibrationConfig()
    check_levels([f"fwer_{level:g}", f"fpv_{20 * level:g}ml"], needed, config)
    if needed > 1:
        for name in (f"fwer_{level:g}", f"fpv_{20 * level:g}ml"):
            with pytest.raises(MedvaeError, match=f"{needed} subjects"):
                check_levels([name], needed - 1, config)


def test_scans_of_one_person_count_once(detector, validation):
    config = detector.config.model_copy(update={"calibration": CalibrationConfig()})
    one = replace(detector, config=config)._with_points(validation, [detector.score(v) for v in validation], ["a", "a"])
    assert one.healthy.count == 1
    assert one.healthy.maximum == max(detector.healthy.maximum)
    np.testing.assert_array_equal(one.healthy.volumes_ml[0], detector.healthy.volumes_ml.max(axis=0))
    assert one.points == detector.points[:2]


def test_a_detector_of_an_earlier_version_still_predicts(tmp_path, run, cohort, detector, prepared):
    old = detector.save(tmp_path / "old")
    content = json.loads((tmp_path / "old" / CALIBRATION).read_text())
    content["operating_points"] = [
        {key: p[key] for key in ("name", "false_positive_rate", "threshold")} for p in content["operating_points"][:2]
    ]
    (tmp_path / "old" / CALIBRATION).write_text(json.dumps(content))
    (tmp_path / "old" / FILE).unlink()
    old = Detector.load(tmp_path / "old")
    (item,), _ = predict(old, [scan_of(cohort, "sub07")], tmp_path / "out", rate=0.01, cache=prepared, quiet=True)
    assert item.case_p_value is None
    assert "CasePValue" not in sidecar_of(item)
    with pytest.raises(MedvaeError, match=r"earlier version.*--resume"):
        old.point("fwer_0.4")


def test_the_run_of_an_earlier_version_is_calibrated_again_with_resume(tmp_path, cohort, prepared):
    """Its config.yaml lacks the options that came later; they stand at their defaults."""
    config = Config.model_validate({key: CONTENT[key] for key in ("name", "network", "score")})
    older = config.model_dump(mode="json", exclude={"postprocessing": True, "calibration": {"family_wise"}})
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text(json.dumps(older))
    found = fit(config, cohort, tmp_path / "run", resume=True, cache=prepared, quiet=True)
    assert found.point("fwer_0.4").kind == "family_wise"


def test_an_ensemble_promises_as_well(detector, validation):
    found = Ensemble.calibrate("two", {"a": detector, "b": detector}, validation)
    assert [p.name for p in found.points] == [p.name for p in detector.points]
    volume = validation[int(np.argmax(detector.healthy.maximum))]
    assert found.point("fwer_0.4").threshold == found.score(volume)[volume.mask].max()


def test_post_processing_removes_and_is_written_down(tmp_path, cohort, detector, prepared):
    scan = scan_of(cohort, "sub07")
    changed = with_postprocessing(detector, erosion_mm=5.0, minimum_lesion_ml=0.1)
    for folder in ("plain", "changed"):
        (tmp_path / folder).mkdir()
    plain = predict_scan(detector, scan, tmp_path / "plain", 0.05)
    item = predict_scan(changed, scan, tmp_path / "changed", 0.05)
    assert item.map.read_bytes() == plain.map.read_bytes()
    before, after = (read_volume(p.mask).array > 0 for p in (plain, item))
    volume = prepare_case(cohort, cohort.case("sub07"), detector.config.preparation, cache=prepared)
    inner = erode(volume.mask, (2, 2, 2), 5.0)
    np.testing.assert_array_equal(after, remove_small(before & inner, 0.008, 0.1))
    assert finding_volumes_ml(after, 0.008).min() > 0.1
    assert after.sum() < before.sum()
    sidecar = sidecar_of(item)
    assert sidecar["Postprocessing"] == {
        "ErosionMm": 5.0, "GrownTo": None, "PeakAbove": None, "MinimumLesionMl": 0.1,
    }  # fmt: skip
    assert sidecar["LesionVolumeMlWithoutPostprocessing"] == plain.lesion_volume_ml


def test_findings_without_a_high_enough_peak_are_removed_and_the_others_keep_their_size(tmp_path, cohort, detector):
    scan = scan_of(cohort, "sub07")
    certain = with_postprocessing(detector, peak_share=0.2)
    for folder in ("plain", "certain"):
        (tmp_path / folder).mkdir()
    plain = predict_scan(detector, scan, tmp_path / "plain", 0.05)
    item = predict_scan(certain, scan, tmp_path / "certain", 0.05)
    values = read_volume(item.map).array
    before, after = (components(read_volume(p.mask).array > 0) for p in (plain, item))
    peak = sidecar_of(item)["Postprocessing"]["PeakAbove"]
    kept = [number for number in range(1, len(before.sizes) + 1) if values[before.labels == number].max() > peak]
    assert 0 < len(kept) < len(before.sizes)
    np.testing.assert_array_equal(after.labels > 0, np.isin(before.labels, kept))
    healthy = detector.healthy
    asked = healthy.at_or_above[np.searchsorted(detector.map_values(healthy.thresholds), np.float32(peak))]
    assert 0.95 * 0.01 < asked / healthy.voxels <= 0.01
    assert sidecar_of(item)["Threshold"] == sidecar_of(plain)["Threshold"] < peak
    assert sidecar_of(item)["Guarantee"] == sidecar_of(plain)["Guarantee"]
    (tmp_path / "fdr").mkdir()
    stricter = with_postprocessing(detector, peak_share=1e-4)  # above the scan's own threshold, were there a rate
    assert sidecar_of(predict_scan(stricter, scan, tmp_path / "fdr", "fdr_0.5")).get("Postprocessing") is None


def test_grown_findings_lie_between_the_thresholds_and_lose_the_promise_of_a_volume(tmp_path, cohort, detector):
    grown = with_postprocessing(detector, grow_to=0.05)
    item = predict_scan(grown, scan_of(cohort, "sub07"), tmp_path, "fpv_10ml")
    values, mask = read_volume(item.map).array, read_volume(item.mask).array > 0
    high, low = (np.float32(detector.map_threshold(detector.point(at))) for at in ("fpv_10ml", 0.05))
    assert (values > high).sum() < mask.sum() < (values > low).sum()
    assert not (mask & ~(values > low)).any()
    assert sidecar_of(item)["Guarantee"].startswith("None: findings were grown down to fpr_0.05")


def test_outlined_findings_are_told_in_the_sidecar_and_lose_the_promise_of_a_volume(tmp_path, cohort, detector):
    scan = scan_of(cohort, "sub07")
    walker = {"seeds_above": 1.5, "background_below": 0.6, "reach_mm": 6}
    outlined = with_postprocessing(detector, random_walker=RandomWalkerConfig(**walker))
    for folder in ("plain", "outlined", "volume", "all"):
        (tmp_path / folder).mkdir()
    plain = predict_scan(detector, scan, tmp_path / "plain", 0.05)
    item = predict_scan(outlined, scan, tmp_path / "outlined", 0.05)
    assert item.map.read_bytes() == plain.map.read_bytes()
    before, after = (read_volume(p.mask).array > 0 for p in (plain, item))
    reached = ndimage.binary_dilation(before, iterations=3)
    assert after.any()
    assert not np.array_equal(before, after)
    assert not (after & ~reached).any()
    sidecar = sidecar_of(item)
    assert sidecar["Postprocessing"]["RandomWalker"] == {"SeedsAbove": 1.5, "BackgroundBelow": 0.6, "ReachMm": 6.0}
    assert sidecar["LesionVolumeMlWithoutPostprocessing"] == plain.lesion_volume_ml
    promised = sidecar_of(predict_scan(outlined, scan, tmp_path / "volume", "fpv_10ml"))
    assert promised["Guarantee"].startswith("None: findings were outlined anew")
    assert predict_scan(outlined, scan, tmp_path / "all", "fdr_0.0001").lesion_volume_ml == 0  # nothing is flagged


def test_eroding_the_rim_lowers_what_healthy_maxima_forbid(detector, validation):
    changed = with_postprocessing(detector, erosion_mm=6.0)
    scores = [detector.score(volume) for volume in validation]
    eroded = changed._with_points(validation, scores, None)
    inner = [score[erode(v.mask, (2, 2, 2), 6.0)].max() for score, v in zip(scores, validation, strict=True)]
    np.testing.assert_array_equal(eroded.healthy.maximum, inner)
    assert (eroded.healthy.volumes_ml <= eroded.healthy.volumes_ml[:, :1]).all()
    assert eroded.points[:2] == detector.points[:2]  # a rate stays a share of the whole brain


def test_command_line(tmp_path, run, cohort):
    scan = str(cohort.images(cohort.case("sub07"))[0])
    words = ["predict", str(run), scan, "--no-pictures", "--quiet", "--out"]
    done = CliRunner().invoke(app, [*words, str(tmp_path / "a b"), "--at", "fwer_0.4"])
    assert done.exit_code == 0, done.output
    assert "p = 0.333" in done.output
    both = CliRunner().invoke(app, [*words, str(tmp_path / "b"), "--at", "fwer_0.4", "--fpr", "0.01"])
    assert both.exit_code == 2
    other = CliRunner().invoke(app, [*words, str(tmp_path / "a b"), "--at", "fpv_10ml"])
    assert isinstance(other.exception, MedvaeError)
    assert "another detector or operating point" in str(other.exception)


@pytest.mark.parametrize(
    ("calibration", "words"),
    [
        ({"family_wise": [0]}, "family_wise"),
        ({"false_positive_volume_ml": [30]}, "false_positive_volume_cap_ml=20"),
        ({"case_statistic": "largest_cluster"}, "cluster_above"),
        ({"mask_at": "fwer_0.2"}, "named points: none"),
        ({"false_positive_rates": [], "family_wise": [0.2], "mask_at": "fwer_0.2"}, "at least one"),
    ],
)
def test_contradictory_options_are_refused(calibration, words):
    with pytest.raises(ValueError, match=words):
        Config.model_validate(CONTENT | {"calibration": calibration})
    with pytest.raises(ValueError, match="grow_to"):
        Config.model_validate(CONTENT | {"postprocessing": {"grow_to": 0.02}})
