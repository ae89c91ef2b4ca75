"""Several detectors as one."""

import json
from dataclasses import replace

import numpy as np
import pytest

from medvae.cli import app
from medvae.config import Config
from medvae.detection.detector import Detector
from medvae.detection.ensemble import Ensemble, load_detector, member_names
from medvae.errors import MedvaeError
from medvae.fitting import fit, fit_ensemble
from medvae.imaging.volume import read_volume
from medvae.manifest import write_manifest
from medvae.prediction import predict, scans_of_manifest
from medvae.preparation.landmarks import LandmarkScale
from medvae.preparation.prepare import prepare_case
from medvae.training.run_folder import trained_on

NORMATIVE = {"network": None, "score": {"kind": "intensity", "polarity": "dark", "smoothing_mm": 2, "normative": True}}
PLAIN = {"network": None, "score": {"kind": "equalized_intensity", "polarity": "bright"}}
TRAINED = {
    "sampling": {"plane": "coronal", "workers": 0},
    "network": {"widths": [4, 8, 8], "latent_size": 8, "squeeze": 4},
    "training": {"steps": 2, "validate_every": 100},
}


@pytest.fixture(scope="module")
def runs(cohort, tmp_path_factory, prepared):
    folder = tmp_path_factory.mktemp("members")
    one_sided = NORMATIVE | {"score": NORMATIVE["score"] | {"one_sided": True}}
    for name, content in {"a": NORMATIVE, "b": PLAIN, "c": TRAINED, "d": one_sided}.items():
        fit(Config.model_validate({"name": name, **content}), cohort, folder / name, cache=prepared, quiet=True)
    return folder


@pytest.fixture(scope="module")
def ensemble(runs, cohort, prepared):
    return fit_ensemble(
        [runs / "a", runs / "b", runs / "c"], cohort, runs / "all", name="three", cache=prepared, quiet=True
    )


def test_an_ensemble_of_one_detector_with_itself_ranks_like_it(runs, cohort, tmp_path, prepared):
    twice = fit_ensemble([runs / "a", runs / "a"], cohort, tmp_path / "twice", cache=prepared, quiet=True)
    alone = Detector.load(runs / "a")
    volume = prepare_case(cohort, cohort.case("sub07"), alone.config.preparation, cache=prepared)
    maps = twice.maps(volume)
    np.testing.assert_allclose(maps.anomaly, alone.anomaly_map(volume), atol=1e-5)
    assert not maps.spread.any()
    assert list(twice.members) == ["1_a", "2_a"]


def test_the_score_is_the_mean_in_units_of_each_members_healthy_scale(ensemble, cohort, prepared):
    volume = prepare_case(cohort, cohort.case("sub07"), ensemble.config.preparation, cache=prepared)
    scaled = []
    for member in ensemble.members.values():
        threshold, median = member.points[0].threshold, member.healthy_median
        scaled.append((member.score(volume) - median) / (threshold - median))
    inside = volume.mask
    np.testing.assert_allclose(ensemble.score(volume)[inside], np.mean(scaled, axis=0)[inside], rtol=1e-4, atol=1e-5)
    assert not ensemble.score(volume)[~inside].any()
    spread = ensemble.maps(volume).spread
    assert 0 < spread.max() <= 0.5
    expected = np.std([m.anomaly_map(volume) for m in ensemble.members.values()], axis=0)
    np.testing.assert_allclose(spread, expected, atol=1e-6)


def test_a_one_sided_member_says_nothing_against_what_others_find(runs, cohort, prepared):
    both, one = (Detector.load(runs / name) for name in "ad")
    volume = prepare_case(cohort, cohort.case("sub07"), both.config.preparation, cache=prepared)
    assert (both.score(volume) < -1).any()
    np.testing.assert_array_equal(one.score(volume), np.maximum(both.score(volume), 0))
    assert one.points == both.points


def test_its_thresholds_keep_the_asked_rate_on_the_validation_scans(ensemble, cohort, prepared):
    cases = cohort.of_split("validation", healthy=True)
    volumes = [prepare_case(cohort, case, ensemble.config.preparation, cache=prepared) for case in cases]
    values = np.concatenate([ensemble.score(v)[v.mask] for v in volumes])
    for point in ensemble.points:
        assert np.mean(values > point.threshold) == pytest.approx(point.false_positive_rate, rel=0.01)


def test_it_is_loaded_as_it_was_saved_and_predicts_with_its_spread(ensemble, runs, cohort, tmp_path, prepared):
    again = load_detector(runs / "all")
    assert isinstance(again, Ensemble)
    assert again.fingerprint == ensemble.fingerprint
    assert isinstance(load_detector(runs / "a"), Detector)
    with pytest.raises(MedvaeError, match=r"an ensemble.*load_detector"):
        Detector.load(runs / "all")
    predictions, failures = predict(again, scans_of_manifest(cohort), tmp_path / "out", cache=prepared, quiet=True)
    assert not failures
    spread = read_volume(tmp_path / "out" / "sub07_desc-spread_probseg.nii.gz")
    assert spread.geometry == read_volume(predictions[1].map).geometry
    assert 0 < spread.array.max() <= 0.5
    sidecar = json.loads((tmp_path / "out" / "sub07_desc-spread_probseg.json").read_text())
    assert sidecar["Model"] == "three"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"preparation": {"percentiles": [2, 98]}}, "differ in their preparation"),
        ({"calibration": {"false_positive_rates": [0.02], "mask_at": 0.02}}, "first false-positive rate"),
    ],
)
def test_members_that_do_not_fit_together_are_refused(runs, cohort, tmp_path, change, words, prepared):
    other = Config.model_validate({"name": "other", **NORMATIVE, **change})
    fit(other, cohort, tmp_path / "other", cache=prepared, quiet=True)
    with pytest.raises(MedvaeError, match=words):
        fit_ensemble([runs / "a", tmp_path / "other"], cohort, tmp_path / "both", cache=prepared, quiet=True)
    assert not (tmp_path / "both").exists()


def test_thresholds_are_not_set_on_scans_a_member_has_learned_from(runs, cohort, tmp_path, prepared):
    swapped = [
        case.model_copy(update={"split": {"train": "validation", "validation": "train"}.get(case.split, case.split)})
        for case in cohort.cases
    ]
    other = cohort.model_copy(update={"cases": swapped})
    other._path = cohort.path
    with pytest.raises(MedvaeError, match=r'case "sub00" would set the thresholds.*was trained on it'):
        fit_ensemble([runs / "a", runs / "b" / "detector"], other, tmp_path / "leak", cache=prepared, quiet=True)


def test_a_lonely_member_a_full_folder_and_a_bad_name_are_refused(runs, cohort, tmp_path, prepared):
    with pytest.raises(MedvaeError, match="at least two"):
        fit_ensemble([runs / "a"], cohort, tmp_path / "one", cache=prepared, quiet=True)
    with pytest.raises(MedvaeError, match="not empty"):
        fit_ensemble([runs / "a", runs / "b"], cohort, runs, cache=prepared, quiet=True)
    with pytest.raises(MedvaeError, match="name"):
        fit_ensemble([runs / "a", runs / "b"], cohort, tmp_path / "named", name="two words", cache=prepared, quiet=True)


def test_a_validation_scan_that_is_gone_is_named(runs, cohort, tmp_path, prepared):
    gone = [case.model_copy(update={"image": "gone.nii.gz"}) if case.id == "sub04" else case for case in cohort.cases]
    other = cohort.model_copy(update={"cases": gone})
    other._path = cohort.path
    with pytest.raises(MedvaeError, match=r'case "sub04": .*gone.nii.gz'):
        fit_ensemble([runs / "a", runs / "b"], other, tmp_path / "gone", cache=prepared, quiet=True)


def test_its_folder_says_what_its_members_have_learned_from(ensemble, runs):
    record = json.loads((runs / "all" / "cohort.json").read_text())
    assert record["members"] == ["a", "b", "c"]
    assert list(record["healthy_scans"]["train"]) == ["sub00", "sub01", "sub02", "sub03"]
    assert list(record["healthy_scans"]["validation"]) == ["sub04", "sub05"]
    assert trained_on(runs / "all") == trained_on(runs / "a") != set()


def test_members_count_by_their_weights_also_after_loading(runs, cohort, tmp_path, prepared):
    weighted = fit_ensemble(
        [runs / "a", runs / "b"], cohort, tmp_path / "run", weights=[3, 1], cache=prepared, quiet=True
    )
    assert weighted.weights == load_detector(tmp_path / "run").weights == (3, 1)
    volume = prepare_case(cohort, cohort.case("sub07"), weighted.config.preparation, cache=prepared)
    parts = [(m.score(volume) - m.healthy_median) / (m.points[0].threshold - m.healthy_median)
             for m in weighted.members.values()]  # fmt: skip
    found, inside = load_detector(tmp_path / "run").score(volume), volume.mask
    np.testing.assert_allclose(found[inside], (0.75 * parts[0] + 0.25 * parts[1])[inside], rtol=1e-4, atol=1e-5)
    equal = fit_ensemble(
        [runs / "a", runs / "b"], cohort, tmp_path / "equal", weights=[2, 2], cache=prepared, quiet=True
    )
    assert "weights" not in json.loads((tmp_path / "equal" / "detector" / "calibration.json").read_text())
    np.testing.assert_allclose(equal.score(volume)[inside], np.mean(parts, axis=0)[inside], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("weights", [[1], [1, 0], [1, -1], [1, float("nan")], [1, 1, 1], []])
def test_weights_that_are_not_one_for_each_member_are_refused(runs, cohort, tmp_path, weights, prepared):
    with pytest.raises(MedvaeError, match="one number above 0 for each of its 2 members"):
        fit_ensemble([runs / "a", runs / "b"], cohort, tmp_path / "run", weights=weights, cache=prepared, quiet=True)


def test_names_of_members_differ():
    assert member_names(["a", "b"]) == ["a", "b"]
    assert member_names(["a", "b", "a"]) == ["1_a", "2_b", "3_a"]


def test_the_command_makes_one(runs, cohort, tmp_path):
    from typer.testing import CliRunner

    manifest = write_manifest(cohort, cohort.path.with_name("again.json"))
    command = ["ensemble", runs / "a", runs / "b", "--data", manifest, "--out", tmp_path / "run", "-q"]
    result = CliRunner().invoke(app, [str(part) for part in command])
    assert result.exit_code == 0, result.output
    assert "ensemble of a, b" in result.output
    assert (tmp_path / "run" / "detector" / "members" / "b" / "config.yaml").is_file()


def test_a_member_that_learned_another_intensity_scale_is_shown_the_scan_on_its_own(cohort, tmp_path, prepared):
    landmarks = {
        "preparation": {"intensity": "landmarks", "clip": None},
        "score": NORMATIVE["score"] | {"normative": False},
    }
    one = fit(
        Config.model_validate({"name": "one", **NORMATIVE, **landmarks}),
        cohort,
        tmp_path / "one",
        cache=prepared,
        quiet=True,
    )
    levels = tuple(tuple(level**2 for level in row) for row in one.scale.levels)
    other = replace(one, scale=LandmarkScale(percentiles=one.scale.percentiles, levels=levels))
    both = Ensemble.calibrate("two", {"one": one, "other": other}, [prepare_of(cohort, one)]).save(tmp_path / "two")
    volume = prepare_of(cohort, one)
    expected = [(m.score(prepare_of(cohort, m)) - m.healthy_median) / (m.points[0].threshold - m.healthy_median)
                for m in (one, other)]  # fmt: skip
    found, inside = both.score(volume), volume.mask
    np.testing.assert_allclose(found[inside], np.mean(expected, axis=0)[inside], atol=1e-3)
    assert np.abs(expected[0] - expected[1])[inside].max() > 0.05


def prepare_of(cohort, detector):
    return prepare_case(cohort, cohort.case("sub07"), detector.config.preparation, scale=detector.scale)
