"""Lesions, surfaces, scans and intervals: against brute force, scikit-learn and MONAI."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from sklearn.metrics import average_precision_score, roc_auc_score

from medvae.evaluation import curves as curves_module
from medvae.evaluation.bootstrap import (
    SubjectCurves,
    curve_intervals,
    draw,
    interval,
    paired_difference,
    subject_sums,
    sum_interval,
)
from medvae.evaluation.case_level import case_level, case_numbers, case_scores
from medvae.evaluation.curves import SparseCounts, VoxelCounts, bin_ceiling, score_bins
from medvae.evaluation.lesions import lesion_numbers, match_lesions, sensitivity_by_size
from medvae.evaluation.surfaces import surface_distances


def cohort_counts(n_subjects=8, scans=2, size=4000, seed=0):
    """(subject, scores, truth) of some scans per subject, some subjects harder than others."""
    rng = np.random.default_rng(seed)
    for subject in range(n_subjects):
        strength = rng.uniform(0.5, 2.5)
        for _ in range(scans):
            truth = rng.random(size) < 0.05
            yield f"s{subject}", (rng.standard_normal(size) + strength * truth).astype(np.float32), truth


def sparse(cases):
    return [(subject, SparseCounts.of(scores, truth)) for subject, scores, truth in cases]


# --- curves -----------------------------------------------------------------------------------------------------------


def test_sparse_counts_are_the_dense_ones():
    for _, scores, truth in cohort_counts(2):
        found, dense = SparseCounts.of(scores, truth), VoxelCounts.of(scores, truth).sparse()
        for name in ("bins", "lesion", "healthy"):
            np.testing.assert_array_equal(getattr(found, name), getattr(dense, name))


@pytest.mark.parametrize("chunk", [1, 7, 1000, 4000, 10**6])
def test_counting_in_parts_changes_no_count(monkeypatch, chunk):
    _, scores, truth = next(cohort_counts(1))
    scores[:50], scores[50:60] = -np.inf, 0.0
    whole = VoxelCounts.of(scores, truth).sparse()
    parts = [(scores[part], truth[part]) for part in (slice(0, 1500), slice(1500, 1500), slice(1500, None))]
    monkeypatch.setattr(curves_module, "_CHUNK", chunk)
    for found in (SparseCounts.of(scores, truth), SparseCounts.merged([SparseCounts.of(*part) for part in parts])):
        for name in ("bins", "lesion", "healthy"):
            np.testing.assert_array_equal(getattr(found, name), getattr(whole, name))
            assert getattr(found, name).dtype == getattr(whole, name).dtype
    assert len(SparseCounts.merged([]).bins) == 0


def test_cases_merge_in_any_order():
    cases = [counts for _, counts in sparse(cohort_counts(3, 1))]
    summaries = {SparseCounts.merged(list(order)).summary() for order in itertools.permutations(cases)}
    assert len(summaries) == 1
    everything = [np.concatenate(part) for part in list(zip(*cohort_counts(3, 1), strict=True))[1:]]
    assert summaries == {VoxelCounts.of(*everything).summary()}


@settings(max_examples=25, deadline=None)
@given(factor=st.floats(1e-3, 1e3), power=st.integers(-8, 8))
def test_scaling_a_score_changes_nothing_that_matters(factor, power):
    _, scores, truth = next(cohort_counts(1))
    before, exact = (SparseCounts.of(s, truth).summary() for s in (scores, scores * np.float32(2.0**power)))
    for name in (
        "ap",
        "auroc",
        "oracle_dice",
        "fpr_at_95_tpr",
    ):  # doubling moves every score by the same number of bins
        assert getattr(exact, name) == getattr(before, name)
    scaled = SparseCounts.of(scores * np.float32(factor), truth).summary()
    assert scaled.ap == pytest.approx(before.ap, abs=2e-3)
    assert scaled.auroc == pytest.approx(before.auroc, abs=1e-4)


def test_fpr_at_95_tpr_is_the_smallest_of_all_thresholds():
    _, scores, truth = next(cohort_counts(1))
    scores = np.round(scores, 1)
    rates = [
        (scores[~truth] >= t).mean() for t in np.unique(scores) if (scores[truth] >= t).sum() >= 0.95 * truth.sum()
    ]
    assert SparseCounts.of(scores, truth).summary().fpr_at_95_tpr == pytest.approx(min(rates))


@pytest.mark.parametrize("rate", [0.0, 0.01, 0.05, 0.5])
def test_threshold_keeps_its_false_positive_rate_and_is_the_detectors(rate):
    from medvae.detection.operating_points import operating_points

    rng = np.random.default_rng(1)
    for scores in (rng.standard_normal(5000), -np.exp(rng.standard_normal(5000)), rng.integers(0, 3, 5000)):
        scores = scores.astype(np.float32)
        threshold = SparseCounts.of(scores, np.zeros(5000, bool)).threshold(rate)
        assert (scores > np.float32(threshold)).mean() <= rate
        (point,), _ = operating_points([scores], [np.ones(5000, bool)], [rate])
        both, everywhere = [scores, scores + 1, scores], [np.ones(5000, bool)] * 3
        (worst,), _ = operating_points(both, everywhere, [rate], ["A", "B", "A"])
        assert worst.threshold == pytest.approx(point.threshold + 1)
        assert point.threshold <= threshold <= point.threshold + 1.3e-4 * abs(point.threshold)


def test_ceiling_is_the_last_score_of_its_bin():
    for value in (-3.7, -1e-6, 0.0, 0.4, 1.0, 255.0):
        key = int(score_bins(np.array([value]))[0])
        ceiling = np.float32(bin_ceiling(key))
        assert score_bins(np.array([ceiling]))[0] == key
        assert score_bins(np.nextafter(np.array([ceiling]), np.float32(np.inf)))[0] == key + 1


# --- intervals --------------------------------------------------------------------------------------------------------


def test_resampled_numbers_are_those_of_the_drawn_scans():
    cases = list(cohort_counts(6, 2, 1500))
    curves = SubjectCurves.of(sparse(cases))
    weights = draw(6, 5, seed=3)
    assert (weights.sum(axis=1) == 6).all()
    found = curves.numbers(weights)
    for row, times in enumerate(weights):
        drawn = [case for case in cases for _ in range(times[curves.subjects.index(case[0])])]
        scores, truth = (np.concatenate(part) for part in list(zip(*drawn, strict=True))[1:])
        assert found["ap"][row] == pytest.approx(average_precision_score(truth, scores), abs=2e-4)
        assert found["auroc"][row] == pytest.approx(roc_auc_score(truth, scores), abs=2e-4)
        assert found["oracle_dice"][row] == pytest.approx(
            SparseCounts.of(scores, truth).summary().oracle_dice, abs=1e-9
        )


def test_a_few_thresholds_give_what_all_give():
    cases = sparse(cohort_counts(6, 1, 30_000))
    weights = draw(6, 20)
    some, every = (SubjectCurves.of(cases, thresholds=n) for n in (1000, 10**6))
    assert len(some.lesion[0]) < 3000 < len(every.lesion[0])
    for name, values in some.numbers(weights).items():
        tolerance = 2e-3 if name == "fpr_at_95_tpr" else 5e-4  # it jumps from threshold to threshold
        np.testing.assert_allclose(values, every.numbers(weights)[name], atol=tolerance)


def test_identical_subjects_have_no_spread():
    (_, scores, truth) = next(cohort_counts(1))
    cases = [(f"s{i}", SparseCounts.of(scores, truth)) for i in range(6)]
    exact = cases[0][1].summary()
    for name, found in curve_intervals(SubjectCurves.of(cases), resamples=200).items():
        assert found.low == pytest.approx(found.high, abs=1e-12)
        assert found.value == pytest.approx(getattr(exact, name), abs=1e-9)


def test_scans_of_a_person_stay_together():
    """Twice the same scan of everybody says nothing new; taken for other people, it would."""
    once = sparse(cohort_counts(8, 1))
    twice = [case for case in once for _ in range(2)]
    one, two = (curve_intervals(SubjectCurves.of(cases), resamples=300) for cases in (once, twice))
    others = [(f"{name}{i}", counts) for i, (name, counts) in enumerate(twice)]
    wrong = curve_intervals(SubjectCurves.of(others), resamples=300)
    assert two["ap"].n_subjects == 8
    assert (one["ap"].low, one["ap"].high) == pytest.approx((two["ap"].low, two["ap"].high), abs=1e-4)
    assert wrong["ap"].high - wrong["ap"].low < 0.9 * (two["ap"].high - two["ap"].low)


def test_the_same_seed_gives_the_same_interval_and_another_seed_another():
    curves = SubjectCurves.of(sparse(cohort_counts()))
    a, b, c = (curve_intervals(curves, resamples=100, seed=seed)["ap"] for seed in (0, 0, 1))
    assert a == b != c
    assert a.low < a.value < a.high


def test_few_subjects_are_said_to_be_few():
    for n, few in ((1, True), (4, True), (5, False)):
        assert interval(0.5, np.linspace(0, 1, 101), n).means_little is few
    assert np.isnan(interval(0.5, np.linspace(0, 1, 101), 1).low)
    assert interval(0.5, np.linspace(0, 1, 101), 9).low == pytest.approx(0.025)


def test_sums_are_resampled_by_subject():
    halves = [(f"s{h}", [h / 2, 5]) for h in (1, 2, 3, 4, 5)]  # two scans of each person
    sums = subject_sums([*halves, *halves])
    found = sum_interval(sums, lambda hits, every: hits / every)
    assert found.value == pytest.approx(0.3)
    drawn = draw(5, 2000) @ np.array([1, 2, 3, 4, 5]) / 50
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])))


def test_paired_difference():
    cases = list(cohort_counts(8))
    noise = np.random.default_rng(9)
    a = sparse(cases)
    worse = sparse((s, x + noise.standard_normal(x.shape).astype(np.float32), t) for s, x, t in cases)
    for found in paired_difference(a, a, resamples=100).values():
        assert (found.value, found.low, found.high) == (0, 0, 0)
    found, back = paired_difference(a, worse, resamples=500), paired_difference(worse, a, resamples=500)
    assert 0 < found["ap"].low < found["ap"].value < found["ap"].high
    assert back["ap"].low == pytest.approx(-found["ap"].high)
    # People differ more than the methods do: unpaired, the difference would drown.
    apart = [curve_intervals(SubjectCurves.of(cases), resamples=500)["ap"] for cases in (a, worse)]
    assert found["ap"].high - found["ap"].low < apart[0].high - apart[0].low
    shuffled = [worse[i] for i in np.random.default_rng(0).permutation(len(worse))]
    same = paired_difference(a, [a[i] for i in np.random.default_rng(0).permutation(len(a))], resamples=50)["ap"]
    assert (same.value, same.low, same.high) == pytest.approx((0, 0, 0), abs=1e-12)  # people are matched by name
    assert paired_difference(a, shuffled, resamples=500)["ap"].low == pytest.approx(found["ap"].low)
    with pytest.raises(ValueError, match="same subjects"):
        paired_difference(a, worse[2:])


# --- lesions ----------------------------------------------------------------------------------------------------------


def volume(*boxes, shape=(20, 20, 20)):
    found = np.zeros(shape, bool)
    for box in boxes:
        found[tuple(slice(*axis) for axis in box)] = True
    return found


def cube(corner, size):
    return [(c, c + size) for c in corner]


def test_lesions_by_hand():
    truth = volume(cube((1, 1, 1), 4), cube((10, 10, 10), 2))
    flagged = volume(cube((4, 4, 4), 2), cube((15, 2, 2), 2), cube((10, 10, 10), 2))
    weak = match_lesions(flagged, truth, 0.001, overlap=0)
    assert weak.found.tolist() == [True, True]  # one voxel in common is enough
    assert weak.right.tolist() == [True, True, False]
    default = match_lesions(flagged, truth, 0.001)
    assert default.found.tolist() == [False, True]  # 1 of 64 voxels
    assert default.right.tolist() == [True, True, False]  # 1 of 8
    numbers = lesion_numbers([default, default])
    assert numbers.lesion_sensitivity == 0.5
    assert numbers.lesion_precision == pytest.approx(2 / 3)
    assert numbers.lesion_f1 == pytest.approx(2 * 0.5 * (2 / 3) / (0.5 + 2 / 3))
    assert numbers.false_positives_per_scan == 1
    assert numbers.lesions == 4


def test_voxels_that_touch_at_a_corner_are_one_lesion():
    truth = volume(cube((2, 2, 2), 2), cube((4, 4, 4), 2))
    assert len(match_lesions(truth, truth, 0.001).found) == 1


def test_flagging_everything_finds_all_and_is_one_false_finding():
    truth = volume(cube((1, 1, 1), 2), cube((10, 10, 10), 2))
    match = match_lesions(np.ones_like(truth), truth, 0.001)
    assert match.found.all()
    assert match.right.tolist() == [False]
    assert lesion_numbers([match]).lesion_f1 == 0


def test_small_components_do_not_count_but_excuse_what_covers_them():
    truth = volume(cube((1, 1, 1), 1), cube((10, 10, 10), 2))
    flagged = volume(cube((1, 1, 1), 2), cube((16, 16, 16), 1))
    match = match_lesions(flagged, truth, 0.001, smallest_ml=0.002)
    assert match.found.tolist() == [False]
    assert match.right.tolist() == [True]
    exact = match_lesions(flagged, truth, 0.001, smallest_ml=0.001)
    assert (len(exact.found), len(exact.right)) == (2, 2)


def test_nothing_flagged_nothing_there():
    empty, truth = volume(), volume(cube((1, 1, 1), 3))
    assert lesion_numbers([match_lesions(empty, truth, 0.001)]).lesion_f1 == 0
    healthy = lesion_numbers([match_lesions(truth, empty, 0.001)])
    assert (healthy.false_positives, healthy.lesion_precision) == (1, 0)
    assert np.isnan([healthy.lesion_sensitivity, healthy.lesion_f1]).all()
    assert np.isnan(lesion_numbers([]).false_positives_per_scan)


def test_lesions_equal_brute_force_and_their_sizes_add_up():
    rng = np.random.default_rng(5)
    for _ in range(5):
        truth, flagged = (ndimage.gaussian_filter(rng.standard_normal((24, 24, 24)), 1.5) > 0.12 for _ in range(2))
        match = match_lesions(flagged, truth, 0.05, overlap=0.3, smallest_ml=0.1)
        labels, count = ndimage.label(truth, np.ones((3, 3, 3)))
        findings, many = ndimage.label(flagged, np.ones((3, 3, 3)))
        kept = np.isin(findings, [k for k in range(1, many + 1) if (findings == k).sum() >= 2])
        sizes = [(labels == k).sum() for k in range(1, count + 1)]
        found = [(kept & (labels == k)).sum() >= max(1, 0.3 * (labels == k).sum()) for k in range(1, count + 1)]
        assert match.found.tolist() == [f for f, n in zip(found, sizes, strict=True) if n >= 2]
        bins = sensitivity_by_size([match])
        assert sum(b.lesions for b in bins) == len(match.found)
        assert sum(b.found for b in bins) == match.found.sum()


# --- surfaces ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.9, 1.1, 3.0)])
def test_distances_equal_monai(spacing):
    from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance

    rng = np.random.default_rng(2)
    for _ in range(4):
        a, b = (ndimage.gaussian_filter(rng.standard_normal((26, 22, 18)), 2) > 0.08 for _ in range(2))
        tensors = [torch.from_numpy(m)[None, None].float() for m in (a, b)]
        found = surface_distances(a, b, spacing)
        hd95 = compute_hausdorff_distance(*tensors, include_background=True, percentile=95, spacing=spacing)
        assd = compute_average_surface_distance(*tensors, include_background=True, symmetric=True, spacing=spacing)
        assert found.hd95_mm == pytest.approx(float(hd95), rel=1e-5)
        assert found.assd_mm == pytest.approx(float(assd), rel=1e-5)


def test_a_moved_mask_is_as_far_as_it_was_moved():
    a, b = volume(cube((3, 3, 3), 5)), volume(cube((3, 3, 9), 5))
    assert surface_distances(a, b, (1, 1, 2)).hd95_mm == 12
    assert surface_distances(a, b, (1, 1, 2)) == surface_distances(b, a, (1, 1, 2))
    assert surface_distances(a, a, (1, 1, 2)).assd_mm == 0


def test_there_is_no_distance_to_nothing():
    empty, full = volume(), volume(cube((3, 3, 3), 5))
    assert surface_distances(empty, empty, (1, 1, 1)).hd95_mm == 0
    assert np.isnan(surface_distances(empty, full, (1, 1, 1)).hd95_mm)
    assert np.isnan(surface_distances(full, empty, (1, 1, 1)).assd_mm)


# --- scans ------------------------------------------------------------------------------------------------------------


def test_case_level_equals_scikit_learn():
    rng = np.random.default_rng(0)
    diseased = [True] * 7 + [False] * 9
    scores = {name: (rng.standard_normal(16) + np.array(diseased)).round(1).tolist() for name in ("mean", "max")}
    found = case_level([f"s{i}" for i in range(16)], diseased, scores, resamples=200)
    assert found.prevalence == 7 / 16
    for name, values in scores.items():
        auroc, ap = (found.scores[name][number] for number in ("auroc", "ap"))
        assert auroc.value == pytest.approx(roc_auc_score(diseased, values))
        assert ap.value == pytest.approx(average_precision_score(diseased, values))
        assert ap.low < ap.value < ap.high
        assert ap.means_little is False
    few = case_level([f"s{i}" for i in range(12)], [True] * 3 + [False] * 9, {"max": list(range(12))}, resamples=50)
    assert few.scores["max"]["auroc"].value == 0
    assert few.scores["max"]["auroc"].means_little is True
    one_kind = case_level(["a"], [True], {"max": [1.0]}, resamples=50)
    assert np.isnan(one_kind.prevalence)
    assert one_kind.scores == {}


def with_inserted(n=12, lift=0.1, seed=0):
    """Scans of n people, each with a healthy one and the same with a lesion, which raises its score a little."""
    healthy = np.random.default_rng(seed).standard_normal(n)
    people = [f"s{i}" for i in range(n)]
    return [*people, *people], [False] * n + [True] * n, np.concatenate([healthy, healthy + lift]).tolist()


def test_nobody_is_compared_with_himself_twice():
    """A person drawn twice is no pair of people who differ in the lesion alone: the interval lay above its number."""
    subjects, diseased, scores = with_inserted()
    found = case_level(subjects, diseased, {"p99": scores}, resamples=500).scores["p99"]
    for number, of_scans in (("auroc", roc_auc_score), ("ap", average_precision_score)):
        assert found[number].value == pytest.approx(of_scans(diseased, scores))
        assert found[number].low < found[number].value < found[number].high
    drawn = case_numbers(subjects, diseased, scores, draw(12, 20_000))["auroc"]
    assert drawn.mean() == pytest.approx(found["auroc"].value, abs=2e-3)


def test_resampled_numbers_of_scans_are_those_of_the_scans_drawn():
    rng = np.random.default_rng(3)
    subjects = [f"s{i}" for i in range(9) for _ in range(2)]
    scores, weights = rng.standard_normal(18).round(1), draw(9, 40)
    ill = np.array([i < 4 for i in range(9) for _ in range(2)])  # nobody is on both sides
    found = case_numbers(subjects, ill.tolist(), scores.tolist(), weights)
    for times, auroc in zip(weights, found["auroc"], strict=True):
        drawn = np.repeat(times, 2)
        if drawn[ill].any() and drawn[~ill].any():
            assert auroc == pytest.approx(roc_auc_score(ill, scores, sample_weight=drawn))
        else:
            assert np.isnan(auroc)


def test_scores_of_a_scan():
    found = case_scores(np.arange(1, 101, dtype=np.float32))
    assert found == {"mean": 50.5, "p99": pytest.approx(99.01), "max": 100}
    assert set(case_scores(np.full(5, -np.inf, np.float32)).values()) == {-np.inf}
