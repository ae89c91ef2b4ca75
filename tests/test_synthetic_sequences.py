"""Healthy T1 scans that are given the contrast of FLAIR and of T2."""

import runpy
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from medvae.imaging.volume import read_volume
from medvae.manifest import read_manifest, write_manifest

PROGRAM = Path(__file__).resolve().parents[1] / "pipelines" / "synthetic_sequences.py"


@pytest.fixture(scope="module")
def program():
    return runpy.run_path(str(PROGRAM))


@pytest.fixture(scope="module")
def head():
    """A T1 of a ball: fluid 0.1, grey 0.55, white 0.9, a ventricle whose border is half fluid; mask, and tissues."""
    places = np.stack(np.meshgrid(*(np.arange(n) for n in (48, 48, 48)), indexing="ij")) - 23.5
    radius = np.sqrt((places**2).sum(0))
    tissue = np.select([radius < 5, radius < 15, radius < 19, radius < 20.5], [1, 3, 2, 1], 0)
    t1 = np.choose(tissue, [0, 0.1, 0.55, 0.9])
    t1 = np.where((radius >= 5) & (radius < 6), 0.5, t1)  # white and fluid in one voxel
    t1 = np.where(tissue > 0, t1 + np.random.default_rng(0).normal(0, 0.01, t1.shape), 0)
    return t1, tissue > 0, tissue, radius


@pytest.mark.parametrize(("sequence", "order"), [("FLAIR", (1, 3, 2)), ("T2", (3, 2, 1))])
def test_tissues_have_the_order_of_the_sequence(program, head, sequence, order):
    t1, mask, tissue, radius = head
    for seed in range(5):
        made = program["another_sequence"](t1, mask, np.zeros_like(mask), sequence, seed)
        inner = [ndimage.binary_erosion(tissue == n, iterations=1) & (np.abs(radius - 5) > 2) for n in (1, 2, 3)]
        means = dict(zip((1, 2, 3), (made[part].mean() for part in inner), strict=True))
        assert [n for n, _ in sorted(means.items(), key=lambda item: item[1])] == list(order)
        assert means[3] == pytest.approx(1, abs=0.1)
        assert not made[~mask].any()
        assert (made[mask] > 0).all()
        assert made.dtype == np.float32


def test_a_voxel_half_fluid_at_a_ventricle_is_no_bright_rim_on_flair(program, head):
    t1, mask, _, radius = head
    rim, ventricle = (radius >= 5) & (radius < 6), radius < 8
    lower = []
    for seed in range(6):
        plain, straight = (
            program["another_sequence"](t1, mask, near, "FLAIR", seed) for near in (np.zeros_like(mask), ventricle)
        )
        lower.append(plain[rim].mean() - straight[rim].mean())
        far = radius > 14
        assert np.allclose(plain[far & mask], straight[far & mask], atol=1e-3)
    assert min(lower) > 0.1


def test_any_linear_scale_gives_the_same_and_any_seed_another(program, head):
    t1, mask, _, _ = head
    make = program["another_sequence"]
    none = np.zeros_like(mask)
    first, scaled, other = (make(*given) for given in [
        (t1, mask, none, "FLAIR", 1), (500 * t1 - 30, mask, none, "FLAIR", 1), (t1, mask, none, "FLAIR", 2)
    ])  # fmt: skip
    assert np.allclose(first, scaled, atol=1e-4)
    assert np.abs(first - other)[mask].mean() > 0.01


def test_a_cohort_keeps_people_and_splits(program, cohort, tmp_path, prepared):
    few = cohort.model_copy(update={"cases": [cohort.case(name) for name in ("sub00", "sub01", "sub04")]})
    program["main"](write_manifest(few, cohort.path.with_name("few.json")), "T2", 2, tmp_path / "made", prepared)
    made = read_manifest(tmp_path / "made" / "manifest.json")
    assert made.modalities == ("T2",)
    assert len(made.of_split("train", healthy=True)) == 2 * 2
    assert {case.subject_id for case in made.of_split("validation", healthy=True)} == {
        case.subject_id for case in few.of_split("validation", healthy=True)
    }
    first, second = (read_volume(made.images(case)[0]).array for case in made.cases[:2])
    assert not np.allclose(first, second)
