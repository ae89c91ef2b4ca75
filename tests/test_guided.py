"""The guided filter: window by window what a ridge regression says, and borders where the scan has them."""

import numpy as np
import pytest

from medvae.config import Config
from medvae.imaging.smoothing import smooth_in_mask
from medvae.scoring.guided import FLAT, guided_filter
from medvae.scoring.volume import score_volume

SHAPE = (12, 11, 10)
RNG = np.random.default_rng(3)
MASK = np.zeros(SHAPE, dtype=bool)
MASK[1:11, 2:10, 1:9] = RNG.random((10, 8, 8)) < 0.9  # with holes
VALUES = RNG.normal(size=SHAPE).astype(np.float32)


@pytest.mark.parametrize("radius", [1, 2])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_voxel_is_the_mean_of_what_ridge_regressions_around_it_predict(channels, radius):
    guide = (5 + 20 * RNG.normal(size=(channels, *SHAPE))).astype(np.float32)
    found = guided_filter(VALUES, guide, MASK, radius)
    unit = (guide - guide[:, MASK].mean(axis=1).reshape(-1, 1, 1, 1)) / guide[:, MASK].std(axis=1).reshape(-1, 1, 1, 1)

    def window(place):
        box = tuple(slice(max(0, p - radius), p + radius + 1) for p in place)
        return box, np.argwhere(MASK[box]) + [part.start for part in box]

    fits = {}
    for place in np.argwhere(np.ones(SHAPE)):
        _, inside = window(place)
        if len(inside):
            x, y = unit[:, *inside.T].astype(float).T, VALUES[*inside.T].astype(float)
            centred = x - x.mean(axis=0)
            ridge = centred.T @ centred / len(x) + FLAT**2 * np.eye(channels)
            slope = np.linalg.solve(ridge, centred.T @ (y - y.mean()) / len(x))
            fits[tuple(place)] = slope, y.mean() - slope @ x.mean(axis=0)
    expected = np.zeros(SHAPE)
    for place in np.argwhere(MASK):
        _, around = window(place)
        slope, offset = np.mean([fits[tuple(p)][0] for p in around], 0), np.mean([fits[tuple(p)][1] for p in around])
        expected[tuple(place)] = slope @ unit[:, *place] + offset
    np.testing.assert_allclose(found, expected, atol=2e-4)


def test_a_constant_stays_and_the_outside_does_not_count():
    guide = RNG.normal(size=(1, *SHAPE)).astype(np.float32)
    changed = np.where(MASK, 2.0, 1e4)
    np.testing.assert_allclose(guided_filter(changed, guide, MASK, 1), np.where(MASK, 2, 0), atol=1e-5)
    np.testing.assert_array_equal(
        guided_filter(VALUES, np.where(MASK, guide, np.nan), MASK, 1), guided_filter(VALUES, guide, MASK, 1)
    )
    assert not guided_filter(VALUES, guide, np.zeros(SHAPE, dtype=bool), 1).any()


def test_a_guide_without_detail_leaves_a_mean_and_its_unit_does_not_matter():
    flat = guided_filter(VALUES, np.ones((1, *SHAPE)), MASK, 1)
    assert np.isfinite(flat).all()
    assert 0 < flat[MASK].std() < 0.3 * VALUES[MASK].std()
    guide = RNG.normal(size=(1, *SHAPE)).astype(np.float32)
    np.testing.assert_allclose(
        guided_filter(VALUES, guide, MASK, 1), guided_filter(VALUES, 3000 - 700 * guide, MASK, 1), atol=1e-3
    )


def test_a_blurred_score_gets_the_border_of_the_scan_back():
    whole = np.ones((20, 20, 20), dtype=bool)
    scan = np.where(np.arange(20) < 10, 1.0, 0.6)[:, None, None] * np.ones(whole.shape)
    blurred = np.clip((np.arange(20) - 7) / 5, 0, 1)[:, None, None] * np.ones(whole.shape)  # 0.4, 0.6 at the border
    found = guided_filter(blurred, scan[None], whole, 1)[:, 10, 10]
    assert blurred[10, 0, 0] - blurred[9, 0, 0] == pytest.approx(0.2)
    assert found[10] - found[9] > 0.3


def test_the_scan_guides_and_not_the_atlas_that_follows_it():
    config = Config(name="dark", network=None, score={"kind": "intensity", "polarity": "dark", "guided_mm": 2})
    scan = RNG.random((1, *SHAPE)).astype(np.float32) * MASK
    beside = np.concatenate([scan, RNG.random((2, *SHAPE)).astype(np.float32)])
    alone = score_volume(config, None, scan, MASK)
    np.testing.assert_allclose(alone, guided_filter(scan[0], scan, MASK, 1))
    np.testing.assert_array_equal(alone, score_volume(config, None, beside, MASK, modalities=1))
    assert not np.array_equal(alone, score_volume(config, None, beside, MASK))


def test_the_gaussian_comes_first():
    score = {"kind": "intensity", "polarity": "dark", "smoothing_mm": 3, "guided_mm": 4}
    scan = RNG.random((1, *SHAPE)).astype(np.float32) * MASK
    found = score_volume(Config(name="dark", network=None, score=score), None, scan, MASK)
    np.testing.assert_allclose(found, guided_filter(smooth_in_mask(scan[0], MASK, [1.5] * 3), scan, MASK, 2))
