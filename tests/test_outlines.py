"""The outline of findings by a random walker."""

import numpy as np
import pytest
from scipy import ndimage

from medvae.config.maps import PostprocessingConfig, RandomWalkerConfig
from medvae.detection.bounded import bounded, distance
from medvae.detection.outlines import _walk, outlined

SHAPE = (40, 40, 40)
DISTANCE = np.linalg.norm(np.indices(SHAPE) - np.reshape([20, 20, 20], (3, 1, 1, 1)), axis=0)
BRAIN = DISTANCE < 18


def dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def scan_with(lesion, contrast=0.3, noise=0.03):
    clean = np.where(BRAIN, 0.7 - contrast * lesion, 0)
    return (clean + np.random.default_rng(0).normal(0, noise, SHAPE) * BRAIN)[None].astype(np.float32)


def test_chances_on_a_line_fall_evenly_from_the_seed_to_the_background():
    region = np.zeros((12, 3, 3), bool)
    region[1:11, 1, 1] = True
    seeds, background = np.zeros_like(region), np.zeros_like(region)
    seeds[1, 1, 1], background[10, 1, 1] = True, True
    channels = np.random.default_rng(1).normal(size=(1, *region.shape))
    channels[:, 1:11, 1, 1] = 0.5  # no edge along the line; what lies outside the region does not count
    np.testing.assert_allclose(_walk(seeds, background, region, channels)[1:11, 1, 1], 1 - np.arange(10) / 9, atol=0.01)


def test_chances_jump_where_the_scan_has_an_edge():
    region = np.ones((12, 3, 3), bool)
    seeds, background = np.zeros_like(region), np.zeros_like(region)
    seeds[0], background[-1] = True, True
    channels = np.where(np.arange(12) < 4, 0.0, 1.0)[None, :, None, None] * np.ones((1, *region.shape))
    chance = _walk(seeds, background, region, channels)[:, 1, 1]
    assert chance[3] > 0.9
    assert chance[4] < 0.1


def test_the_halo_of_a_strong_lesion_is_cut_at_its_edge_in_the_scan():
    lesion = DISTANCE < 5
    strength = 5 * ndimage.gaussian_filter(lesion.astype(float), 2.5)
    found = strength > 1
    likely = outlined(found, strength, scan_with(lesion), BRAIN, RandomWalkerConfig(), 2.0)
    assert dice(found, lesion) < 0.8 < 0.95 < dice(likely > 0.5, lesion)


def test_the_faint_part_of_a_lesion_is_added_as_far_as_it_reaches_in_the_scan():
    lesion = (DISTANCE < 10) & BRAIN
    strength = np.where(DISTANCE < 7, 3.0, np.where(lesion, 0.8, 0.1))
    options = RandomWalkerConfig(reach_mm=10)
    likely = outlined(strength > 1, strength, scan_with(lesion), BRAIN, options, 2.0)
    assert dice(strength > 1, lesion) < 0.6 < 0.95 < dice(likely > 0.5, lesion)


@pytest.mark.parametrize("scale", [1, 1000])
def test_the_outline_does_not_depend_on_the_unit_of_intensities(scale):
    lesion = DISTANCE < 5
    strength = 5 * ndimage.gaussian_filter(lesion.astype(float), 2.5)
    image = scan_with(lesion) * scale - 3 * scale
    likely = outlined(strength > 1, strength, image, BRAIN, RandomWalkerConfig(), 2.0)
    assert dice(likely > 0.5, lesion) > 0.95


def test_a_weak_finding_keeps_its_strongest_fifth_and_nothing_leaves_the_brain_or_the_reach():
    strength = np.where(DISTANCE < 17, 1.5 - DISTANCE / 20, 0)
    found, image = (strength > 1), scan_with(DISTANCE < 0)
    likely = outlined(found, strength, image, BRAIN, RandomWalkerConfig(reach_mm=4), 2.0)
    assert (likely[found & (strength > np.quantile(strength[found], 0.8))] == 1).all()
    assert not likely[~BRAIN].any()
    assert not likely[~ndimage.binary_dilation(found, iterations=2)].any()
    whole = outlined(BRAIN, np.where(BRAIN, 4.0, 0), image, BRAIN, RandomWalkerConfig(), 2.0)
    assert ((whole > 0.5) == BRAIN).all()  # no background, nothing to decide


def test_no_finding_gives_nothing():
    likely = outlined(np.zeros(SHAPE, bool), np.zeros(SHAPE), scan_with(DISTANCE < 0), BRAIN, RandomWalkerConfig(), 2.0)
    assert likely.dtype == np.float32
    assert not likely.any()


def test_single_voxels_and_findings_that_touch_at_a_corner_are_outlined():
    strength = np.zeros(SHAPE)
    strength[20, 20, 20] = strength[21, 21, 21] = strength[10, 20, 20] = 4
    likely = outlined(strength > 1, strength, scan_with(strength > 1), BRAIN, RandomWalkerConfig(), 2.0)
    assert (likely[strength > 1] == 1).all()
    assert np.isfinite(likely).all()
    assert (likely > 0.5).sum() == 3


def test_distances_come_back_from_the_map():
    values = np.array([-5.0, -1, 0, 0.3, 7])
    np.testing.assert_allclose(distance(bounded(values)), values)
    assert np.isfinite(distance(np.array([0.0, 1.0]))).all()


def test_two_ways_to_outline_are_refused():
    with pytest.raises(ValueError, match="Choose one"):
        PostprocessingConfig(grow_to=0.05, random_walker=RandomWalkerConfig())
