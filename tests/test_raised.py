"""Scans on which a detector's scores are raised nearly everywhere."""

from dataclasses import replace

import numpy as np
import pytest

from medvae.config import Config
from medvae.detection.detector import Detector
from medvae.detection.guarantees import HealthySubjects
from medvae.detection.raised import LEAST_SUBJECTS, lower_quartile, raised_scores
from medvae.fitting import fit
from medvae.preparation.prepare import prepare_healthy

CONTENT = {
    "name": "normative",
    "network": None,
    "score": {"kind": "intensity", "polarity": "dark", "normative": True},
}


@pytest.fixture(scope="module")
def run(cohort, tmp_path_factory, prepared):
    folder = tmp_path_factory.mktemp("raised") / "run"
    fit(Config.model_validate(CONTENT), cohort, folder, cache=prepared, quiet=True)
    return folder


def test_another_scanner_is_told_from_a_lesion():
    rng = np.random.default_rng(0)
    healthy = np.array([lower_quartile(rng.normal(0, 1, 20_000)) for _ in range(30)])
    like = rng.normal(0, 1, 20_000)
    assert raised_scores(like + 1, healthy) is not None
    assert raised_scores(like - 0.1, healthy) is None
    with_lesion = np.where(np.arange(20_000) < 2_000, 8, like)  # a tenth of the brain
    assert lower_quartile(with_lesion) < lower_quartile(like + 0.2)


def test_no_more_than_one_in_n_healthy_scans_is_announced():
    rng = np.random.default_rng(1)
    quartiles = rng.normal(0, 1, (4_000, LEAST_SUBJECTS + 1))
    announced = [raised_scores(np.full(4, q[0]), q[1:]) is not None for q in quartiles]
    assert abs(np.mean(announced) - 1 / (LEAST_SUBJECTS + 1)) < 0.01


def test_few_healthy_scans_announce_nothing():
    assert raised_scores(np.full(4, 100.0), np.zeros(LEAST_SUBJECTS - 1)) is None
    assert raised_scores(np.full(4, 100.0), np.zeros(LEAST_SUBJECTS)) is not None


def test_quartiles_are_stored_by_calibration_and_the_note_reaches_the_maps(run, cohort, prepared):
    detector = Detector.load(run)
    scans = prepare_healthy(cohort, "validation", detector.config.preparation, cache=prepared, quiet=True)
    measured = [lower_quartile(detector.score(scan)[scan.mask]) for scan in scans]
    np.testing.assert_allclose(detector.healthy.lower_quartile, measured, rtol=1e-6)
    assert "raised" not in " ".join(detector.native_maps(scans[0], detector.points[0]).notes)  # only three people
    many = replace(detector.healthy, lower_quartile=np.full(LEAST_SUBJECTS, min(measured) - 1))
    notes = replace(detector, healthy=many).native_maps(scans[0], detector.points[0]).notes
    assert [note for note in notes if f"each of the {LEAST_SUBJECTS} healthy people" in note]
    same = replace(detector, healthy=replace(many, lower_quartile=np.full(LEAST_SUBJECTS, max(measured))))
    assert "raised" not in " ".join(same.native_maps(scans[0], detector.points[0]).notes)


def test_a_detector_of_an_earlier_version_is_read_without_them(run, tmp_path):
    healthy = Detector.load(run).healthy
    replace(healthy, lower_quartile=None).save(tmp_path)
    assert HealthySubjects.load(tmp_path).lower_quartile is None
    healthy.save(tmp_path)
    np.testing.assert_array_equal(HealthySubjects.load(tmp_path).lower_quartile, healthy.lower_quartile)
