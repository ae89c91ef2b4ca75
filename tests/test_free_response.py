"""Lesions found against false findings per scan."""

import json
import math

import numpy as np
import pytest
from typer.testing import CliRunner

from medvae.cli import app
from medvae.evaluation.curves import SparseCounts
from medvae.evaluation.free_response import THRESHOLDS, FreeResponseStep, free_response, thresholds_of
from medvae.evaluation.maps import CaseVoxels
from medvae.imaging.volume import Geometry, read_volume, write_volume

RULE = {"overlap": 0.1, "smallest_ml": 0.003}
GRID = Geometry(np.diag([2.0, 2, 2, 1]), (30, 30, 10))


def scan(lesions=(), findings=()):
    """Boxes of 4 voxels a side (0.512 ml) at some corners; a finding has a score."""
    truth, scores = np.zeros(GRID.shape, bool), np.zeros(GRID.shape, np.float32)
    for x, y in lesions:
        truth[x : x + 4, y : y + 4, 2:6] = True
    for (x, y), score in findings:
        scores[x : x + 4, y : y + 4, 2:6] = score
    return CaseVoxels(scores, truth, np.ones(GRID.shape, bool), GRID)


def test_sensitivity_at_false_findings_per_scan_by_hand():
    ill = scan([(0, 0), (10, 0), (20, 0)], [((0, 0), 9), ((10, 0), 5), ((0, 10), 7), ((10, 10), 4)])
    well = scan([], [((0, 20), 6), ((10, 20), 3), ((20, 20), 2.5), ((0, 10), 2.2)])
    found = free_response([ill, well], [8.5, 6.5, 5.5, 4.5, 3.5, 2.9, 2.4, 2.0], **RULE)
    assert (found.lesions, found.scans) == (3, 2)
    assert [point.false_per_scan for point in found.curve] == [0, 0.5, 1, 1, 1.5, 2, 2.5, 3]
    third = pytest.approx(1 / 3)
    assert found.sensitivity == {
        0.25: third, 0.5: third, 1: pytest.approx(2 / 3), 2: pytest.approx(2 / 3), 4: pytest.approx(2 / 3),
        8: pytest.approx(2 / 3),
    }  # fmt: skip


def test_a_finding_is_as_large_as_in_the_mask_and_as_certain_as_its_peak():
    ill = scan([(0, 0)], [((0, 0), 5), ((10, 0), 5), ((20, 0), 3)])
    ill.scores[0, 0, 2] = 9  # a 64th of the lesion
    ill.scores[10, 0, [2, 5]] = 7, 6  # one false finding with two peaks
    plain = free_response([ill], [8.0, 5.5, 2.0], **RULE)
    assert [(point.sensitivity, point.false_per_scan) for point in plain.curve] == [(0, 0), (0, 2), (1, 2)]
    grown = free_response([ill], [8.0, 5.5, 2.0], **RULE, findings_above=4.0)
    assert [(point.sensitivity, point.false_per_scan) for point in grown.curve] == [(1, 0), (1, 1), (1, 2)]
    assert (plain.findings_above, grown.findings_above) == (None, 4.0)


def test_flagging_the_whole_brain_is_no_way_to_few_false_findings():
    ill = scan([(0, 0)], [((8 * i, 8 * j), 5) for i in range(1, 4) for j in range(3)])
    found = free_response([ill], [4.0, -1.0], overlap=0.0, smallest_ml=0.003)
    assert [point.false_per_scan for point in found.curve] == [9, 0]
    assert found.curve[1].sensitivity == 1
    assert found.sensitivity[8] == 0


def test_small_lesions_are_neither_asked_for_nor_a_mistake():
    ill = scan([(0, 0)], [((0, 0), 9)])
    ill.truth[12:14, 0:4, 2:5] = True  # 0.192 ml
    ill.scores[12:14, 0:4, 2:5] = 8
    found = free_response([ill], [1.0], **RULE)
    assert found.lesions == 1
    assert found.curve[0] == FreeResponseStep(threshold=1.0, false_per_scan=0.0, sensitivity=1.0)
    assert all(math.isnan(value) for value in free_response([scan()], [1.0], **RULE).sensitivity.values())


def test_thresholds_flag_the_shares_that_they_should():
    rng = np.random.default_rng(0)
    scores, truth = rng.standard_normal(100_000).astype(np.float32), rng.random(100_000) < 0.01
    found = thresholds_of(SparseCounts.of(scores, truth))
    shares = [float((scores > value).mean()) for value in found]
    assert len(found) <= THRESHOLDS
    assert shares == sorted(shares)
    assert shares[0] == pytest.approx(1e-5, abs=2e-5)
    assert shares[-1] == pytest.approx(0.1, rel=0.01)
    assert thresholds_of(SparseCounts.of(np.full(9, -np.inf), np.zeros(9, bool))) == []
    assert thresholds_of(SparseCounts.merged([])) == []


def test_evaluate_prints_it_when_asked(cohort, tmp_path):
    for case in cohort.of_split("test"):
        scan = read_volume(cohort.images(case)[0])
        truth = read_volume(cohort.resolve(case.label)).array > 0 if case.label else np.zeros(scan.array.shape, bool)
        noise = np.random.default_rng(1).random(truth.shape) * 0.5
        map_ = (0.4 * truth + noise).astype(np.float32)
        write_volume(tmp_path / "maps" / f"{case.id}_desc-anomaly_probseg.nii.gz", map_, scan)
    arguments = ["evaluate", str(tmp_path / "maps"), "--manifest", str(cohort.path)]
    arguments += ["-q", "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, [*arguments, "--free-response", "--threshold", "0.6"])
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "out" / "results.json").read_text())["free_response"]
    assert 0 < found["sensitivity"]["8"] <= 1
    assert found["findings_above"] == 0.6
    assert "false findings per scan" in done.output
    CliRunner().invoke(app, [*arguments[:-1], str(tmp_path / "plain")])
    assert json.loads((tmp_path / "plain" / "results.json").read_text())["free_response"] == {}
