import numpy as np
import pytest
import torch
from pydantic import ValidationError

from medvae.config import Config
from medvae.detection.detector import Detector
from medvae.detection.operating_points import operating_points
from medvae.errors import MedvaeError, MedvaeWarning
from medvae.fitting import fit
from medvae.imaging.smoothing import smooth_in_mask
from medvae.normative.statistics import fit_normative
from medvae.preparation.prepare import prepare_case, prepare_healthy

RNG = np.random.default_rng(0)
MASK = np.zeros((12, 12, 12), bool)
MASK[2:10, 2:10, 2:10] = True


def test_threshold_leaves_the_asked_share_of_healthy_voxels_above():
    scores = [RNG.standard_normal(MASK.shape).astype(np.float32) for _ in range(5)]
    points, median = operating_points(scores, [MASK] * 5, (0.01, 0.05))
    pooled = np.concatenate([s[MASK] for s in scores])
    for point, rate in zip(points, (0.01, 0.05), strict=True):
        assert (pooled > point.threshold).sum() == int(rate * len(pooled))
    assert median == pytest.approx(np.median(pooled), abs=0.01)
    assert [p.name for p in points] == ["fpr_0.01", "fpr_0.05"]


def test_ties_never_exceed_the_asked_share():
    scores = np.where(RNG.random(MASK.shape) < 0.3, 1.0, 0.0)
    points, _ = operating_points([scores], [MASK], (0.01,))
    assert (scores[MASK] > points[0].threshold).mean() <= 0.01


def test_no_healthy_validation_scan():
    with pytest.raises(MedvaeError, match="validation"):
        operating_points([], [], (0.01,))


def test_z_has_mean_zero_and_unit_spread_on_the_healthy_scans():
    place = RNG.standard_normal(MASK.shape)
    spread = np.exp(0.5 * RNG.standard_normal(MASK.shape))
    scores = [place + spread * RNG.standard_normal(MASK.shape) for _ in range(200)]
    normative = fit_normative(scores, [MASK] * 200, shrinkage=0)
    z = np.stack([normative.z(s, MASK)[MASK] for s in scores])
    np.testing.assert_allclose(z.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(z.std(0, ddof=1), 1, rtol=1e-3)
    np.testing.assert_allclose(normative.sd[MASK], spread[MASK], rtol=0.3)


def test_shrinkage_draws_towards_the_common_variance():
    scores = [RNG.standard_normal(MASK.shape) for _ in range(4)]
    free, drawn = (fit_normative(scores, [MASK] * 4, shrinkage=k) for k in (0, 50))
    assert drawn.sd[MASK].std() < 0.2 * free.sd[MASK].std()
    assert (drawn.sd**2)[MASK].mean() == pytest.approx((free.sd**2)[MASK].mean(), rel=0.05)


def test_places_that_few_brains_cover_take_the_common_values():
    seldom = MASK.copy()
    masks = [MASK.copy() for _ in range(6)]
    seldom[:] = False
    seldom[2, 2, 2] = True
    for mask in masks[2:]:
        mask[2, 2, 2] = False
    scores = [np.full(MASK.shape, 3.0) + RNG.standard_normal(MASK.shape) for _ in masks]
    scores[0][2, 2, 2] = 1e6  # an outlier where only two brains are
    normative = fit_normative(scores, masks, shrinkage=5)
    assert normative.mean[2, 2, 2] == pytest.approx(3, abs=0.2)
    assert normative.sd[2, 2, 2] == pytest.approx(1, abs=0.3)
    assert np.isfinite(normative.sd).all()
    assert (normative.sd > 0).all()


def test_too_few_scans():
    with pytest.raises(MedvaeError, match="three"):
        fit_normative([np.zeros(MASK.shape)] * 2, [MASK] * 2, 0)


def test_smoothing_keeps_a_constant_up_to_the_rim_and_knows_nothing_outside():
    values = np.where(MASK, 2.0, 99.0)
    smoothed = smooth_in_mask(values, MASK, (1.5, 1.5, 1.5))
    np.testing.assert_allclose(smoothed[MASK], 2.0, rtol=1e-5)
    assert (smoothed[~MASK] == 0).all()
    np.testing.assert_array_equal(smooth_in_mask(values, MASK, (0, 0, 0)), np.where(MASK, 2.0, 0))


def test_a_compact_detector_is_half_as_large_and_scores_as_it_was_calibrated(cohort, tmp_path, prepared):
    config = Config.model_validate(
        {
            "name": "tiny", "sampling": {"kind": "patch", "patch_size": [48, 48, 48], "patch_overlap": 0, "workers": 0},
            "network": {"kind": "unet", "widths": [8, 16]}, "objective": {"kind": "dae"}, "training": {"steps": 2},
            "score": {"kind": "residual", "polarity": "dark", "normative": True},
        }
    )  # fmt: skip
    whole = fit(config, cohort, tmp_path / "run", cache=prepared, quiet=True)
    training, validation = (
        prepare_healthy(cohort, split, config.preparation, cache=prepared, quiet=True)
        for split in ("train", "validation")
    )
    before = {name: weights.clone() for name, weights in whole.network.state_dict().items()}
    made = Detector.calibrate(config, whole.network, training, validation, compact=True)
    saved = made.save(tmp_path / "compact")
    for name in ("network.safetensors", "normative.safetensors"):
        size, before_size = (
            (folder / name).stat().st_size for folder in (tmp_path / "compact", tmp_path / "run" / "detector")
        )
        assert size < 0.6 * before_size
    assert all(torch.equal(weights, before[name]) for name, weights in whole.network.state_dict().items())
    score = saved.score(validation[0])
    assert np.array_equal(score, made.score(validation[0]))
    assert saved.points == made.points
    assert score[validation[0].mask] == pytest.approx(whole.score(validation[0])[validation[0].mask], abs=0.2)


def test_a_z_score_may_come_before_the_smoothing(cohort, tmp_path, prepared):
    score = {"kind": "intensity", "polarity": "dark", "one_sided": True, "normative": True}
    last = {"smoothing_mm": 4, "surround_mm": 12, "surround_weight": 2}
    plain = fit(
        Config.model_validate({"name": "z", "network": None, "score": score}),
        cohort,
        tmp_path / "z",
        cache=prepared,
        quiet=True,
    )
    first = Config.model_validate({"name": "first", "network": None, "score": score | last | {"normative_first": True}})
    detector = fit(first, cohort, tmp_path / "first", cache=prepared, quiet=True)
    volume = prepare_case(cohort, cohort.case("sub07"), first.preparation, cache=prepared)
    smooth = smooth_in_mask(plain.score(volume), volume.mask, [2, 2, 2])
    expected = smooth + 2 * smooth_in_mask(smooth, volume.mask, [6, 6, 6])
    np.testing.assert_allclose(detector.score(volume), expected, atol=1e-4)
    np.testing.assert_array_equal(Detector.load(tmp_path / "first").score(volume), detector.score(volume))
    with pytest.raises(ValidationError, match="it needs normative: true"):
        Config.model_validate({"name": "x", "network": None, "score": {"kind": "intensity", "normative_first": True}})


def test_with_confidence_further_people_keep_the_rate():
    """People differ: a threshold by the share in a few of them is too low for half of all draws."""
    rng, mask = np.random.default_rng(5), np.ones((10, 10, 10), bool)

    def cohort(people):
        return [rng.standard_normal(mask.shape) + rng.normal(0, 0.4) for _ in range(people)]

    everybody = np.concatenate([scan.ravel() for scan in cohort(400)])
    kept = {0.0: 0, 0.9: 0}
    for _ in range(40):
        few = cohort(12)
        for confidence in kept:
            (point,), _ = operating_points(few, [mask] * 12, (0.05,), confidence=confidence)
            kept[confidence] += (everybody > point.threshold).mean() <= 0.05
    assert kept[0.0] < 28
    assert kept[0.9] > 31
    scans = cohort(6)
    assert operating_points(scans, [mask] * 6, (0.05,))[0] == operating_points(scans, [mask] * 6, (0.05,), ["a"] * 6)[0]
    with pytest.warns(MedvaeWarning, match="one healthy validation subject at a site"):
        alone = operating_points(scans, [mask] * 6, (0.05,), subjects=["same"] * 6, confidence=0.9)
    assert alone == operating_points(scans, [mask] * 6, (0.05,))


def test_with_alike_people_confidence_costs_nothing():
    mask = np.ones((10, 10, 10), bool)
    scan = np.random.default_rng(0).permutation(1000).reshape(mask.shape).astype(np.float32)
    plain, _ = operating_points([scan] * 4, [mask] * 4, (0.01,))
    sure, _ = operating_points([scan] * 4, [mask] * 4, (0.01,), confidence=0.9)
    assert abs(plain[0].threshold - sure[0].threshold) <= 1
