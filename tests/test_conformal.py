"""Promises kept on simulated healthy subjects: smooth, so that voxels of a scan depend on each other."""

import numpy as np
import pytest
from scipy import ndimage

from medvae.detection import conformal
from medvae.errors import MedvaeError

COHORTS, SUBJECTS = 400, 9


@pytest.fixture(scope="module")
def cohorts():
    """Healthy maps and one new subject's, last: ``(cohorts, subjects + 1, voxels)``, each subject of another spread."""
    rng = np.random.default_rng(3)
    noise = rng.standard_normal((COHORTS * (SUBJECTS + 1), 10, 10, 10)).astype(np.float32)
    maps = ndimage.gaussian_filter(noise, (0, 1.5, 1.5, 1.5), mode="wrap")
    maps *= np.exp(0.3 * rng.standard_normal((len(maps), 1, 1, 1)))
    return maps.reshape(COHORTS, SUBJECTS + 1, -1)


def rarely(events, probability):
    """Whether so many events among the cohorts agree with a probability of at most that (4 binomial SDs)."""
    return events <= COHORTS * probability + 4 * np.sqrt(COHORTS * probability * (1 - probability))


def often(events, probability):
    return events >= COHORTS * probability - 4 * np.sqrt(COHORTS * probability * (1 - probability))


@pytest.mark.parametrize("level", [0.1, 0.2, 0.25, 0.5])
def test_any_false_finding_is_as_rare_as_promised_and_no_rarer_than_needed(cohorts, level):
    maxima = cohorts.max(axis=2)
    found = sum(c[-1] > conformal.family_wise_threshold(c[:-1], level) for c in maxima)
    assert rarely(found, level)
    assert often(found, level - 1 / (SUBJECTS + 1))


def test_pooled_voxel_rates_keep_no_such_promise(cohorts):
    """What the family-wise threshold is for: at 1 % of the pooled voxels most healthy subjects have a finding."""
    found = sum(c[-1].max() > np.quantile(c[:-1], 0.99) for c in cohorts)
    assert found > 0.4 * COHORTS


@pytest.mark.parametrize("bound", [12.0, 25.0, 60.0])
def test_expected_flagged_volume_is_within_the_bound_and_near_it(cohorts, bound):
    cap = 100.0
    volumes = np.stack([(cohorts > threshold).sum(-1) for threshold in np.linspace(0, 1.5, 30)], axis=-1)
    losses = []
    for cohort in volumes:
        index = conformal.risk_controlled(cohort[:-1], bound, cap)
        losses.append(min(cohort[-1, index], cap))
    standard_error = np.std(losses) / np.sqrt(COHORTS)
    assert np.mean(losses) <= bound + 3 * standard_error
    assert np.mean(losses) >= bound - 2 * cap / (SUBJECTS + 1) - 3 * standard_error  # theorem 2 of the same paper


def test_risk_control_by_hand():
    losses = np.array([[8.0, 4.0, 1.0, 0.0], [6.0, 2.0, 0.0, 0.0], [50.0, 3.0, 0.0, 0.0]])
    # with B = 10: (8 + 6 + 10 + 10)/4 = 8.5, (9 + 10)/4 = 4.75, (1 + 10)/4 = 2.75, 2.5
    for bound, index in ((9, 0), (8.5, 0), (8.4, 1), (4, 2), (2.5, 3)):
        assert conformal.risk_controlled(losses, bound, 10) == index
    with pytest.raises(MedvaeError, match=r"3 healthy subjects cannot promise.*smallest is 2.5\. 4 healthy"):
        conformal.risk_controlled(losses, 2.0, 10)


def test_p_values_of_healthy_subjects_are_seldom_small(cohorts):
    for statistic in (cohorts.max(axis=2), np.quantile(cohorts, 0.99, axis=2, method="inverted_cdf")):
        p = np.array([conformal.p_value(c[-1], c[:-1]) for c in statistic])
        assert p.min() >= 1 / (SUBJECTS + 1)
        for u in (0.1, 0.2, 0.35, 0.5, 0.8):
            assert rarely((p <= u).sum(), u)


def test_a_case_is_flagged_exactly_where_its_p_value_is_at_most_the_level(cohorts):
    for cohort in cohorts.max(axis=2)[:100]:
        for level in (0.1, 0.3, 0.7):
            flagged = cohort[-1] > conformal.family_wise_threshold(cohort[:-1], level)
            assert flagged == (conformal.p_value(cohort[-1], cohort[:-1]) <= level + 1e-9)


def test_a_rising_map_changes_no_decision(cohorts):
    for cohort in cohorts.max(axis=2)[:20]:
        mapped = np.exp(3 * cohort) + cohort
        assert conformal.p_value(mapped[-1], mapped[:-1]) == conformal.p_value(cohort[-1], cohort[:-1])
        threshold = conformal.family_wise_threshold(cohort[:-1], 0.2)
        assert conformal.family_wise_threshold(mapped[:-1], 0.2) == pytest.approx(np.exp(3 * threshold) + threshold)


def test_ties_are_on_the_safe_side():
    rng = np.random.default_rng(0)
    drawn = rng.integers(0, 3, (COHORTS, SUBJECTS + 1)).astype(float)
    assert rarely(sum(c[-1] > conformal.family_wise_threshold(c[:-1], 0.2) for c in drawn), 0.2)
    assert rarely(sum(conformal.p_value(c[-1], c[:-1]) <= 0.2 for c in drawn), 0.2)
    assert conformal.p_value(1.0, np.ones(4)) == 1


@pytest.mark.parametrize(("level", "needed"), [(0.5, 1), (0.2, 4), (0.1, 9), (0.05, 19), (0.01, 99), (0.3, 3)])
def test_the_smallest_number_of_subjects(level, needed):
    assert conformal.subjects_needed(level) == needed
    values = np.arange(needed, dtype=float)
    assert conformal.family_wise_threshold(values, level) == needed - 1
    if needed > 1:
        with pytest.raises(MedvaeError, match=f"cannot promise.* {needed} healthy validation subjects"):
            conformal.family_wise_threshold(values[:-1], level)


def test_scans_of_one_subject_are_one_unit():
    values = np.array([[1.0, 5.0], [3.0, 2.0], [2.0, 9.0]])
    np.testing.assert_array_equal(conformal.worst_of_subjects(values, ["b", "a", "b"]), [[2, 9], [3, 2]])


def test_many_scans_of_few_subjects_promise_no_more_than_the_subjects(cohorts):
    """Nine scans of three subjects: taken for nine subjects they break the promise, as three they keep it."""
    between = np.random.default_rng(5).standard_normal((COHORTS, 4)) * 3
    scans = cohorts.max(axis=2)[:, :9] + np.repeat(between[:, :3], 3, axis=1)
    new = cohorts.max(axis=2)[:, 9] + between[:, 3]
    subjects = list("aaabbbccc")
    wrong = sum(n > conformal.family_wise_threshold(s, 0.1) for s, n in zip(scans, new, strict=True))
    assert not rarely(wrong, 0.1)
    units = [conformal.worst_of_subjects(s, subjects) for s in scans]
    assert rarely(sum(n > conformal.family_wise_threshold(u, 0.25) for u, n in zip(units, new, strict=True)), 0.25)
    with pytest.raises(MedvaeError, match="3 healthy subjects"):
        conformal.family_wise_threshold(units[0], 0.1)


def test_false_discoveries_stay_below_the_level_on_independent_nulls():
    rng = np.random.default_rng(1)
    shares = {True: [], False: []}
    for _ in range(300):
        p = rng.random(400)
        for some in shares:
            values = np.concatenate([p[:350], p[350:] * 1e-3]) if some else p
            found = conformal.benjamini_hochberg(values, 0.2)
            false = found[:350].sum() if some else found.sum()
            shares[some].append(false / max(1, found.sum()))
            assert not some or found[350:].mean() > 0.8
    for some, expected in ((True, 0.2 * 350 / 400), (False, 0.2)):
        assert np.mean(shares[some]) == pytest.approx(expected, abs=4 * np.std(shares[some]) / np.sqrt(300))
    assert not conformal.benjamini_hochberg(np.full(5, 0.9), 0.1).any()
    np.testing.assert_array_equal(  # the third saves the second: all up to the largest that passes
        conformal.benjamini_hochberg(np.array([0.01, 0.045, 0.05, 0.9]), 0.07), [True, True, True, False]
    )


def test_voxel_p_values_are_those_of_the_pooled_voxels_and_never_smaller():
    rng = np.random.default_rng(2)
    pooled, values = np.sort(rng.standard_normal(5000)), rng.standard_normal(500) * 2
    exact = (1 + (pooled[None] >= values[:, None]).sum(1)) / 5001
    every = conformal.voxel_p_values(values, pooled, 5000 - np.arange(5000), 5000)
    assert (every >= exact).all()
    np.testing.assert_allclose(every, exact, atol=1.1 / 5001)
    few = np.sort(np.unique(pooled[5000 - np.unique(np.geomspace(1, 5000, 60).astype(int))]))
    coarse = conformal.voxel_p_values(values, few, 5000 - np.searchsorted(pooled, few), 5000)
    assert (coarse >= exact).all()
    assert (coarse <= 1.3 * exact + 2 / 5001).all()
