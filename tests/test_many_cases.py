"""Thousands of cases: the same numbers in a small part of the memory, in linear time."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest

from medvae.evaluation import bootstrap
from medvae.evaluation.bootstrap import SubjectCurves, blocks, curve_intervals, draw, subject_sums, sum_interval
from medvae.evaluation.case import MeasuredCase
from medvae.evaluation.case_level import case_level, case_numbers
from medvae.evaluation.curves import BINS, SparseCounts, curve_numbers
from medvae.evaluation.result import CaseResult, Quantity


def scans_of(people, each, voxels, seed=0):
    """(subject, scores, truth) of several scans of each person, people in turn."""
    rng = np.random.default_rng(seed)
    for _ in range(each):
        for person in range(people):
            truth = rng.random(voxels) < 0.05
            yield f"s{person}", (rng.standard_normal(voxels) + truth).astype(np.float32), truth


def counted(scans):
    return [(subject, SparseCounts.of(scores, truth)) for subject, scores, truth in scans]


def same(a: SparseCounts, b: SparseCounts) -> bool:
    return all(
        getattr(a, name).dtype == getattr(b, name).dtype and (getattr(a, name) == getattr(b, name)).all()
        for name in ("bins", "lesion", "healthy")
    )


# --- counts -----------------------------------------------------------------------------------------------------------


def test_packed_counts_are_the_counts():
    for _, counts in counted(scans_of(3, 1, 5000)):
        assert same(counts.packed().sparse(), counts)
    nothing = SparseCounts.merged([])
    assert same(nothing.packed().sparse(), nothing)


def test_packed_counts_hold_what_their_integers_hold():
    """No smaller type is chosen for them: the largest bin, and counts far beyond 32 bits, come back."""
    bins = np.array([0, 1, 255, 256, 65_535, 65_536, BINS - 1], np.uint32)
    limits = np.array([0, 1, 2**8 - 1, 2**16, 2**32 - 1, 2**32, 2**63 - 1], np.int64)
    assert same(SparseCounts(bins, limits, limits[::-1]).packed().sparse(), SparseCounts(bins, limits, limits[::-1]))


def test_packed_counts_are_small():
    """A 2 mm brain: 200,000 voxels."""
    (_, counts), *_ = counted(scans_of(1, 1, 200_000))
    unpacked = sum(array.nbytes for array in (counts.bins, counts.lesion, counts.healthy))
    assert len(counts.packed().deflated) < unpacked / 10


def test_packed_counts_are_merged_as_the_counts_are(monkeypatch):
    cases = [counts for _, counts in counted(scans_of(5, 2, 3000))]
    expected = SparseCounts.merged(cases)
    assert same(SparseCounts.merged(counts.packed() for counts in cases), expected)
    monkeypatch.setattr("medvae.evaluation.curves._CHUNK", 4000)  # as of many cases
    assert same(SparseCounts.merged(counts.packed() for counts in cases), expected)


# --- intervals --------------------------------------------------------------------------------------------------------


def curves_in_one_piece(cases, weights, thresholds):
    """The definition: a table of cumulative counts of all subjects, in floating-point numbers."""
    pooled = SparseCounts.merged([counts for _, counts in cases])
    edges = bootstrap._common_edges(pooled, thresholds)
    subjects = list(dict.fromkeys(name for name, _ in cases))
    tables = np.zeros((2, len(subjects), len(edges)))
    for name, counts in cases:
        place = np.searchsorted(edges, counts.bins, side="right") - 1
        for table, values in zip(tables, (counts.lesion, counts.healthy), strict=True):
            table[subjects.index(name)] += np.bincount(place, values, minlength=len(edges))
    true, false = np.cumsum(tables[:, :, ::-1], axis=-1)
    exact, rough = pooled.summary(), curve_numbers(true.sum(axis=0), false.sum(axis=0))
    found = curve_numbers(weights.astype(float) @ true, weights.astype(float) @ false)
    return {name: np.clip(found[name] + (getattr(exact, name) - float(rough[name])), 0, 1) for name in found}


@pytest.mark.parametrize("thresholds", [20, 10_000])
def test_curves_of_subjects_are_those_of_one_large_table(monkeypatch, thresholds):
    monkeypatch.setattr(bootstrap, "_SUBJECTS", 3)  # as of many
    cases = counted(scans_of(10, 2, 2000))
    name, counts = cases[3]
    cases[3] = name, SparseCounts(counts.bins, counts.lesion * 70_000, counts.healthy * 2**33)
    weights = draw(10, 250)
    found = SubjectCurves.of([(name, counts.packed()) for name, counts in cases], thresholds=thresholds)
    for name, expected in curves_in_one_piece(cases, weights, thresholds).items():
        assert (found.numbers(weights)[name] == expected).all()
    small = SubjectCurves.of(counted(scans_of(10, 1, 2000)), thresholds=thresholds)
    assert {row.dtype for row in small.lesion} == {np.dtype(np.uint8)}
    assert found.healthy[3].dtype == np.uint64  # and the others are as small as before


def test_resamples_in_blocks_are_those_in_one_piece(monkeypatch):
    curves, sums = SubjectCurves.of(counted(scans_of(9, 1, 500))), subject_sums([(f"s{i}", [i, 9]) for i in range(9)])

    def intervals():
        return curve_intervals(curves, resamples=150), sum_interval(sums, lambda a, b: a / b, resamples=150)

    expected = intervals()
    monkeypatch.setattr(bootstrap, "_WEIGHTS", 9 * 40)
    parts = list(blocks(9, 150))
    assert [len(part) for part in parts] == [40, 40, 40, 30]
    assert (np.concatenate(parts) == draw(9, 150)).all()
    assert intervals() == expected


def test_no_resamples_give_no_interval():
    curves = SubjectCurves.of(counted(scans_of(9, 1, 500)))
    found = [*curve_intervals(curves, resamples=0).values()]
    found.append(sum_interval(subject_sums([(f"s{i}", [i, 9]) for i in range(9)]), lambda a, b: a / b, resamples=0))
    level = case_level(["a", "b", "c"], [True, False, False], {"max": [3.0, 2.0, 1.0]}, resamples=0)
    for interval in [*found, *level.scores["max"].values()]:
        assert math.isfinite(interval.value)
        assert math.isnan(interval.low)


def ranks_by_pairs(subjects, diseased, scores, weights):
    """The definition: every lesion scan is compared with every other scan."""
    people = list(dict.fromkeys(subjects))
    person = np.array([people.index(one) for one in subjects])
    ill, values = np.asarray(diseased, dtype=bool), np.asarray(scores, dtype=np.float64)
    member = (person[:, None] == np.arange(len(people))).astype(np.float64)
    own = person[ill]
    high = (values >= values[ill][:, None]).astype(np.float64)
    equal = values == values[ill][:, None]
    true, false = (high[:, kind] @ member[kind] for kind in (ill, ~ill))
    beaten = (~high.astype(bool) + 0.5 * equal)[:, ~ill] @ member[~ill]
    healthy = np.broadcast_to(member[~ill].sum(axis=0), beaten.shape)
    times, n = weights.astype(np.float64), len(people)
    mine = times[:, own]
    with np.errstate(invalid="ignore", divide="ignore"):
        factor = np.where(mine < n, (n - 1) / (n - mine), 0.0)

        def among(table):
            once = table[np.arange(len(own)), own]
            return once + (times @ table.T - mine * once) * factor

        hits, alarms = among(true), among(false)
        ranks = {"auroc": among(beaten) / among(healthy), "ap": hits / (hits + alarms)}
        both = times @ member[~ill].sum(axis=0) > 0
        totals = {name: np.where(mine > 0, mine * of, 0.0).sum(axis=1) / mine.sum(axis=1) for name, of in ranks.items()}
    return {name: np.where(both, total, math.nan) for name, total in totals.items()}


@pytest.mark.parametrize("seed", range(4))
def test_scans_are_ranked_as_if_each_were_compared_with_each(seed):
    rng = np.random.default_rng(seed)
    subjects = [f"s{i}" for i in rng.integers(0, 12, 40)]
    diseased = (rng.random(40) < (0.1, 0.5, 0.9, 0.5)[seed]).tolist()
    scores = rng.standard_normal(40).round(1)  # with ties
    scores[rng.random(40) < 0.1] = -np.inf  # and scans without a map
    weights = draw(len(set(subjects)), 450)
    found = case_numbers(subjects, diseased, scores.tolist(), weights)
    for name, expected in ranks_by_pairs(subjects, diseased, scores, weights).items():
        np.testing.assert_array_equal(found[name], expected)


def test_ten_thousand_scans_are_ranked_without_a_table_of_pairs():
    """It would take 800 MB; what is needed here is some 100 MB, and seconds."""
    rng = np.random.default_rng(0)
    scores, diseased = rng.standard_normal(10_000), rng.random(10_000) < 0.5
    found = case_level([f"s{i}" for i in range(10_000)], diseased.tolist(), {"max": scores.tolist()}, resamples=20)
    assert found.scores["max"]["auroc"].value == pytest.approx(0.5, abs=0.02)
    assert found.scores["max"]["auroc"].low < found.scores["max"]["auroc"].value < found.scores["max"]["auroc"].high


# --- cases ------------------------------------------------------------------------------------------------------------


def test_cases_from_other_processes_share_the_names_of_their_numbers():
    case = MeasuredCase(
        CaseResult("a", "a", False, False, {Quantity("dice", "fpr_0.01"): 0.5}), SparseCounts.merged([]).packed(), {}
    )
    known: dict = {}
    one, other = (pickle.loads(pickle.dumps(case)).with_names_of(known) for _ in range(2))
    assert one == other == case
    assert next(iter(one.result.numbers)) is next(iter(other.result.numbers))
