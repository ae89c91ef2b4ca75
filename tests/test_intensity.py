"""Intensities of different scanners on one scale: gain and gamma do not matter, order does."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medvae.config import Config, PreparationConfig
from medvae.detection.detector import Detector
from medvae.errors import MedvaeError
from medvae.fitting import fit
from medvae.imaging.volume import read_volume
from medvae.prediction import predict, scans_of_manifest
from medvae.preparation.intensity import before_scale, normalise, standardise, white_matter_peak
from medvae.preparation.landmarks import LandmarkScale, fit_landmarks, landmark_percentiles
from medvae.preparation.prepare import prepare_case, prepare_healthy, prepare_scan, prepare_training

LANDMARKS = PreparationConfig(intensity="landmarks", clip=None)
MASK = np.ones((24, 24, 24), bool)
MASK[:3] = False


def scan(seed: int) -> np.ndarray:
    """Three tissues with noise."""
    rng = np.random.default_rng(seed)
    tissue = rng.choice([20.0, 60.0, 90.0], MASK.shape, p=[0.15, 0.45, 0.4])
    return np.abs(tissue + rng.normal(0, 6, MASK.shape)) + 1


def scale_of(*seeds: int) -> LandmarkScale:
    return fit_landmarks([scan(seed)[None] for seed in seeds], [MASK] * len(seeds))


def on_scale(image: np.ndarray, scale: LandmarkScale) -> np.ndarray:
    plain = normalise(image, MASK, before_scale(LANDMARKS), "x.nii.gz")
    return standardise(plain[None], MASK, scale, LANDMARKS)[0]


def test_landmarks_of_every_scan_come_to_lie_on_the_scale():
    scale = scale_of(0, 1, 2)
    for gamma in (0.7, 1.0, 1.6):
        mapped = on_scale(1000 * (scan(7) / 100) ** gamma, scale)
        found = np.percentile(mapped[MASK], scale.percentiles)
        np.testing.assert_allclose(found, scale.levels[0], atol=2e-3)
        assert not mapped[~MASK].any()


@settings(max_examples=20, deadline=None)
@given(gain=st.floats(0.01, 1e4), offset=st.floats(-500, 500))
def test_gain_and_offset_do_not_matter(gain, offset):
    scale = scale_of(0, 1)
    plain, other = on_scale(scan(3), scale), on_scale(gain * (scan(3) + offset), scale)
    np.testing.assert_allclose(other, plain, atol=2e-3)


def test_the_scale_learned_does_not_depend_on_gain_or_offset():
    changed = fit_landmarks([40 * scan(0)[None] - 300, scan(1)[None]], [MASK, MASK])
    np.testing.assert_allclose(changed.levels, scale_of(0, 1).levels, atol=1e-9)
    assert changed.percentiles == (1, 10, 20, 30, 40, 50, 60, 70, 80, 90, 99)


def test_a_scan_on_the_scale_stays_as_it_is():
    standard = on_scale(scan(5), scale_of(5))
    np.testing.assert_allclose(on_scale(standard, scale_of(5)), standard, atol=1e-4)


def test_order_is_kept_also_beyond_the_ends():
    image = scan(4)
    image[10, 10, 10:13] = 500, 800, 1200  # brighter than all healthy tissue, and still told apart
    image[11, 10, 10:13] = -900, -500, -100
    mapped = on_scale(image, scale_of(0, 1))
    values, found = image[MASK], mapped[MASK]
    order = np.argsort(values)
    apart = np.diff(values[order]) > 1e-3
    assert (np.diff(found[order])[apart] > 0).all()
    assert found.max() > 3
    assert found.min() < -3


def test_ties_between_landmarks_do_not_break_the_map():
    image = np.where(scan(4) > 50, 90.0, scan(4))  # more than half of the brain has one intensity
    mapped = on_scale(image, scale_of(0, 1))
    assert np.isfinite(mapped).all()
    order = np.argsort(image[MASK])
    assert (np.diff(mapped[MASK][order]) >= 0).all()


def test_percentiles_of_the_config_are_the_ends():
    assert landmark_percentiles((15, 75)) == (15, 20, 30, 40, 50, 60, 70, 75)


def test_modalities_have_scales_of_their_own():
    both = np.stack([scan(0), 1 / scan(0)])
    scale = fit_landmarks([both], [MASK])
    assert not np.allclose(scale.levels[0], scale.levels[1], atol=0.05)
    for mapped, levels in zip(standardise(both, MASK, scale, LANDMARKS), scale.levels, strict=True):
        np.testing.assert_allclose(np.percentile(mapped[MASK], scale.percentiles), levels, atol=2e-3)


def test_what_cannot_be_a_scale_is_refused():
    with pytest.raises(MedvaeError, match="none"):
        fit_landmarks([], [])
    with pytest.raises(MedvaeError, match="label maps"):
        fit_landmarks([(scan(0) > 50)[None].astype(float)], [MASK])
    with pytest.raises(ValueError, match="ascend"):
        LandmarkScale(percentiles=(1, 50, 99), levels=((0, 0.6, 0.5),))


def test_white_matter_becomes_one():
    config = PreparationConfig(intensity="white_matter", clip=None)
    for gain in (0.01, 30):
        found = normalise(gain * scan(2), MASK, config, "x.nii.gz")
        assert white_matter_peak(found[MASK]) == pytest.approx(1, abs=0.02)
        assert np.median(found[MASK & (scan(2) > 80)]) == pytest.approx(1, abs=0.03)
    with pytest.raises(MedvaeError, match=r"x.nii.gz.*positive"):
        normalise(scan(2) - 200, MASK, config, "x.nii.gz")


def test_zscore_that_is_cut_at_the_percentiles_limits_is_refused():
    with pytest.raises(ValueError, match="clip: null"):
        PreparationConfig(intensity="zscore")
    PreparationConfig(intensity="zscore", clip=None)
    PreparationConfig(intensity="zscore", clip=(-4, 6))


def test_a_detector_keeps_its_scale_and_predicts_with_it(tmp_path, cohort, prepared):
    config = Config.model_validate(
        {
            "name": "normative",
            "network": None,
            "preparation": {"intensity": "landmarks"},
            "score": {"kind": "intensity", "polarity": "dark", "smoothing_mm": 2, "normative": True},
        }
    )
    detector = fit(config, cohort, tmp_path / "run", cache=prepared, quiet=True)
    training, scale = prepare_training(cohort, config.preparation, cache=prepared, quiet=True)
    assert detector.scale == scale == Detector.load(tmp_path / "run").scale
    for file in (tmp_path / "run", tmp_path / "run" / "detector"):
        assert json.loads((file / "intensity_scale.json").read_text()) == scale.model_dump(mode="json")

    cache = tmp_path / "cache"
    again = prepare_healthy(cohort, "train", config.preparation, scale=scale, cache=cache, quiet=True)
    for one, other in zip(training, again, strict=True):  # one way to the scale, whether it is learned or given
        np.testing.assert_array_equal(one.image, other.image)

    predictions, failures = predict(detector, scans_of_manifest(cohort), tmp_path / "out", cache=prepared, quiet=True)
    assert (len(predictions), failures) == (2, {})
    volume = prepare_case(cohort, cohort.case("sub07"), config.preparation, scale=scale, cache=prepared)
    assert volume.image.min() >= config.preparation.clip[0]
    expected = volume.restore(detector.anomaly_map(volume))
    np.testing.assert_array_equal(read_volume(predictions[1].map).array, expected)
    sidecar = json.loads((tmp_path / "out" / "sub07_label-lesion_mask.json").read_text())
    assert sidecar["BrainMaskFrom"] == "background"
    assert sidecar["RegistrationQuality"]["TemplateDice"] > 0.99

    with pytest.raises(MedvaeError, match=r"detector\.scale"):
        prepare_scan(cohort.images(cohort.case("sub07")), config.preparation)
    (tmp_path / "run" / "detector" / "intensity_scale.json").write_text('{"percentiles": [1, 99]}')
    with pytest.raises(MedvaeError, match=r"intensity_scale.json.*levels"):
        Detector.load(tmp_path / "run")
