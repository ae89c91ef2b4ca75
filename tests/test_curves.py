import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from medvae.evaluation.curves import VoxelCounts, bin_floor, score_bins


def sample(seed, size=20_000, prevalence=0.05):
    rng = np.random.default_rng(seed)
    truth = rng.random(size) < prevalence
    scores = rng.standard_normal(size) + 1.2 * truth
    return scores.astype(np.float32), truth


TRANSFORMS = {
    "gaussian": lambda s: s,
    "heavy tail": lambda s: np.exp(3 * s),
    "in [0, 1]": lambda s: 1 / (1 + np.exp(-s)),
    "negative": lambda s: -np.exp(-s),
    "many ties": lambda s: np.round(s),
    "constant": lambda s: np.zeros_like(s),
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_equals_scikit_learn(name):
    scores, truth = sample(0)
    scores = TRANSFORMS[name](scores)
    summary = VoxelCounts.of(scores, truth).summary()
    assert summary.auroc == pytest.approx(roc_auc_score(truth, scores), abs=1e-4)
    assert summary.ap == pytest.approx(average_precision_score(truth, scores), abs=1e-4)
    assert summary.prevalence == pytest.approx(truth.mean())


def test_scores_are_not_squashed_or_clipped():
    scores, truth = sample(1)
    a, b = VoxelCounts.of(scores, truth).summary(), VoxelCounts.of(100 * scores + 7, truth).summary()
    assert a.auroc == pytest.approx(b.auroc, abs=1e-3)
    assert a.ap == pytest.approx(b.ap, abs=1e-3)


def test_best_dice_is_the_maximum_over_all_thresholds():
    scores, truth = sample(2, 3000)
    scores = np.round(scores, 1)

    def dice(threshold):
        flagged = scores >= threshold
        return 2 * (flagged & truth).sum() / (flagged.sum() + truth.sum())

    summary = VoxelCounts.of(scores, truth).summary()
    assert summary.oracle_dice == pytest.approx(max(dice(t) for t in np.unique(scores)), abs=1e-9)
    assert dice(summary.oracle_threshold) == pytest.approx(summary.oracle_dice)


def test_counts_merge_by_addition():
    parts = [sample(seed) for seed in range(3)]
    merged = sum((VoxelCounts.of(*p) for p in parts[1:]), VoxelCounts.of(*parts[0])).summary()
    whole = VoxelCounts.of(np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])).summary()
    assert merged == whole


def test_order_of_bins_is_the_order_of_numbers():
    values = np.array([-np.inf, -1e30, -2, -1e-30, -0.0, 0.0, 1e-38, 1e-3, 1, 1.001, 5e20, np.inf], np.float32)
    keys = score_bins(values)
    assert (np.diff(keys) >= 0).all()
    assert keys[4] == keys[5]
    for value, key in zip(values, keys, strict=True):
        assert bin_floor(key) <= value
        assert score_bins(np.array([bin_floor(key)]))[0] == key


def test_one_class_only_has_no_curve():
    scores, _ = sample(3, 100)
    for truth in (np.zeros(100, bool), np.ones(100, bool)):
        summary = VoxelCounts.of(scores, truth).summary()
        assert np.isnan([summary.ap, summary.auroc, summary.oracle_dice]).all()


def test_nan_is_refused():
    with pytest.raises(ValueError, match="NaN"):
        VoxelCounts.of(np.array([1.0, np.nan]), np.array([True, False]))
