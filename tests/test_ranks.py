"""Detectors whose score and thresholds are ranks within a scan: they learn from nobody and need no healthy scan."""

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.special import logit
from scipy.stats import rankdata

from medvae.config import Config
from medvae.detection.base import read_calibrated
from medvae.detection.detector import Detector
from medvae.detection.ensemble import Ensemble
from medvae.errors import MedvaeError
from medvae.evaluation.points import recorded_points
from medvae.imaging.smoothing import smooth_in_mask
from medvae.imaging.volume import write_volume
from medvae.prediction import predict, scans_of_files
from medvae.preparation.prepare import prepare_scan
from medvae.scoring.intensity import rank_score, smoothed_rank
from tests.conftest import STANDARD_GRID, make_brain

RNG = np.random.default_rng(0)
RANKS = {
    "name": "ranks",
    "network": None,
    "preparation": {"registration": "none", "clip": None},
    "score": {"kind": "brightness_rank", "polarity": "bright", "smoothing_mm": 2},
    "calibration": {"ranks": [0.9, 0.8], "mask_at": "rank_0.9"},
}
LESION = np.s_[26:34, 44:52, 46:54]


def config(**changes):
    return Config.model_validate(RANKS | changes)


@pytest.fixture(scope="module")
def detector():
    return Detector.of_ranks(config(), ["FLAIR"])


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    """A brain with a bright cube."""
    brain = make_brain(3) * 0.6
    brain[LESION] = 250
    path = tmp_path_factory.mktemp("scan") / "ill.nii.gz"
    write_volume(path, brain.astype(np.uint8), STANDARD_GRID)
    return path


def test_the_score_is_the_log_odds_of_the_smoothed_rank_whatever_the_scale_of_the_scan():
    mask = RNG.random((12, 14, 10)) < 0.8
    image = RNG.normal(size=(1, *mask.shape))

    def smooth(values):
        return smooth_in_mask(values, mask, [1, 1, 1])

    found = smoothed_rank(image, mask, smooth)
    ranks = np.zeros(mask.shape)
    ranks[mask] = (rankdata(image[0][mask]) - 0.5) / mask.sum()
    np.testing.assert_allclose(found[mask], logit(smooth(ranks)[mask]), atol=1e-5)
    assert (found[~mask] == 0).all()
    np.testing.assert_array_equal(smoothed_rank(np.exp(image), mask, smooth), found)
    np.testing.assert_allclose(smoothed_rank(-image, mask, smooth), -found, atol=1e-4)  # dark is as far as bright
    assert np.isfinite(smoothed_rank(np.zeros_like(image), mask, smooth)).all()
    assert (rank_score(0.5), rank_score(0.9)) == (0, pytest.approx(2.1972, abs=1e-4))


def test_half_of_the_map_is_the_first_rank_and_the_mask_is_what_lies_above_the_one_asked_for(detector, scan):
    volume = prepare_scan([scan], detector.config.preparation)
    score = detector.score(volume)[volume.mask]
    smooth = 1 / (1 + np.exp(-score))
    anomaly = detector.anomaly_map(volume)[volume.mask]
    clear = np.abs(smooth - 0.9) > 1e-4
    np.testing.assert_array_equal((anomaly > 0.5)[clear], (smooth > 0.9)[clear])
    assert (np.diff(anomaly[np.argsort(score)]) >= 0).all()
    assert detector.map_values(np.array(rank_score(0.5))) == pytest.approx(0.25)  # the middle of every scan
    for at, rank in {"rank_0.9": 0.9, "rank_0.97": 0.97}.items():  # of those that the config lists and of any other
        maps = detector.native_maps(volume, detector.point(at))
        assert maps.lesion_mask.sum() == pytest.approx((smooth > rank).sum(), abs=2)
        assert maps.case_p_value is None
    assert maps.lesion_mask[LESION].mean() > 0.5


def test_files_say_that_no_healthy_scan_was_used(detector, scan, tmp_path):
    saved = detector.save(tmp_path / "detector")
    assert sum(file.stat().st_size for file in (tmp_path / "detector").iterdir()) < 10_000
    assert saved.point("rank_0.8") == detector.point("rank_0.8")
    (item,), failures = predict(saved, scans_of_files([scan]), tmp_path / "out", quiet=True)
    assert not failures
    told = json.loads(item.mask.with_name("ill_label-lesion_mask.json").read_text())
    assert told["OperatingPoint"] == "rank_0.9"
    assert told["OperatingPoints"]["rank_0.8"]["FalsePositiveRate"] is None
    assert told["HealthyScans"] == {"training": 0, "validation": 0}
    assert "CasePValue" not in told
    for field in ("Guarantee", "ThresholdSource"):
        assert "no healthy scan was used" in told[field]
        assert "medvae calibrate" in told[field]
    points, model, _ = recorded_points(item.map)
    assert model == "ranks"
    assert {point.name: np.isnan(point.asked_fpr) for point in points} == {"rank_0.9": True, "rank_0.8": True}
    again, _ = predict(saved, scans_of_files([scan]), tmp_path / "out", quiet=True)
    assert again == [item]


def test_a_brain_that_deepbet_found_on_a_flair_is_announced(detector, scan):
    volume = prepare_scan([scan], detector.config.preparation)
    found = replace(volume, brain_from="deepbet")
    assert any(note.startswith("deepbet, which") for note in detector.doubts(found))
    assert detector.doubts(volume) == tuple(n for n in detector.doubts(found) if not n.startswith("deepbet"))
    of_t1 = replace(detector, modalities=("T1",))
    assert of_t1.doubts(found) == of_t1.doubts(volume)


@pytest.mark.parametrize("at", [0.01, "fwer_0.2", "fpv_5ml"])
def test_what_needs_healthy_scans_is_refused_with_the_command_that_sets_it(detector, at):
    with pytest.raises(MedvaeError, match=r"No healthy scan was used.*medvae calibrate"):
        detector.point(at)
    with pytest.raises(MedvaeError, match="no operating point"):
        detector.point("rank_1.5")


def test_thresholds_of_healthy_scans_replace_the_ranks(detector, scan, tmp_path):
    volume = prepare_scan([scan], detector.config.preparation)
    score = detector.score(volume)
    made = detector.recalibrated([volume], [score])
    assert [point.name for point in made.points] == ["fpr_0.01", "fpr_0.05"]
    assert made.config.calibration.mask_at == 0.01
    assert np.mean(score[volume.mask] > made.points[0].threshold) == pytest.approx(0.01, abs=1e-3)
    assert made.healthy is not None
    assert made.point("rank_0.9") == detector.point("rank_0.9")  # asked for by name, they remain
    made.save(tmp_path / "calibrated")
    assert read_calibrated(tmp_path / "calibrated")[0]["config"] == made.config

    averaged = Ensemble.calibrate("both", {"a": detector, "b": detector}, [volume])
    assert averaged.config.calibration.mask_at == 0.01
    with pytest.raises(MedvaeError, match="no operating point"):
        averaged.point("rank_0.9")  # a mean of scores is no rank


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"score": {"kind": "intensity"}}, "calibration.ranks are thresholds of score.kind: brightness_rank"),
        ({"score": RANKS["score"] | {"normative": True}}, "without normative"),
        ({"calibration": {"ranks": [1.0], "mask_at": "rank_1"}}, "between 0 and 1"),
        ({"calibration": {"ranks": [0.9], "mask_at": "rank_0.8"}}, "rank_0.9"),
        (
            {
                "score": RANKS["score"] | {"normative": True},
                "calibration": {},
                "preparation": {"registration": "if_possible"},
            },
            "compare no places",
        ),
    ],
)
def test_options_that_do_not_fit_are_refused(changes, problem):
    with pytest.raises(ValueError, match=problem):
        config(**changes)
    with pytest.raises(MedvaeError, match=r"no calibration.ranks"):
        Detector.of_ranks(config(calibration={}), ["FLAIR"])
