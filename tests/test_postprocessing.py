import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from medvae.errors import MedvaeError
from medvae.imaging.morphology import choose_minimum_ml, erode, finding_volumes_ml, grow, remove_small


def smooth(seed, shape=(14, 12, 10)):
    return ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(shape), 1.2)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), minimum=st.floats(0, 0.5))
def test_removing_small_findings_twice_is_once_and_keeps_the_larger_ones_whole(seed, minimum):
    mask = smooth(seed) > 0.15
    kept = remove_small(mask, 0.008, minimum)
    assert not (kept & ~mask).any()
    np.testing.assert_array_equal(remove_small(kept, 0.008, minimum), kept)
    volumes = finding_volumes_ml(mask, 0.008)
    np.testing.assert_allclose(finding_volumes_ml(kept, 0.008), volumes[volumes > minimum])


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), low=st.floats(-0.1, 0.3), step=st.floats(0, 0.2))
def test_hysteresis_lies_between_its_thresholds_and_every_finding_has_a_seed(seed, low, step):
    values = smooth(seed)
    grown = grow(values, low + step, low)
    assert not ((values > low + step) & ~grown).any()
    assert not (grown & ~(values > low)).any()
    labels, count = ndimage.label(grown, np.ones((3, 3, 3)))
    assert all((values[labels == n] > low + step).any() for n in range(1, count + 1))
    np.testing.assert_array_equal(grow(values, low, low + step), values > low)  # nothing to grow down to


def test_a_size_is_in_ml_whatever_the_voxels():
    mask = np.zeros((20, 20, 8), bool)
    mask[2:6, 2:6, 2:4] = True  # 32 voxels
    mask[10:12, 10:12, 5:7] = True  # 8 voxels
    mask[12, 12, 7] = True  # and one more, touching at a corner
    for voxel_ml in (0.001, 1 * 1 * 5 / 1000):
        np.testing.assert_allclose(finding_volumes_ml(mask, voxel_ml), [32 * voxel_ml, 9 * voxel_ml])
        assert remove_small(mask, voxel_ml, 9 * voxel_ml).sum() == 32  # of exactly this volume: removed
        assert remove_small(mask, voxel_ml, 8.9 * voxel_ml).sum() == 41
    assert not remove_small(np.zeros_like(mask), 1, 1).any()


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.5, 1.0, 4.0), (2.0, 0.8, 3.0)])
def test_erosion_takes_the_same_millimetres_off_every_side(spacing):
    shape = [round(40 / s) for s in spacing]
    mask = np.ones(shape, bool)  # 40 mm wide, as large as the grid: what lies beyond is outside
    for distance in (0.0, 3.0, 6.5):
        inner = erode(mask, spacing, distance)
        for axis, s in enumerate(spacing):
            gone = np.flatnonzero(inner.any(axis=tuple({0, 1, 2} - {axis})))[0]
            assert gone == np.floor(distance / s)
            assert gone * s <= distance < (gone + 1) * s
    with pytest.raises(MedvaeError, match="leaves nothing"):
        erode(mask, spacing, 30)


def test_minimum_volume_leaves_each_healthy_scan_at_most_one_finding():
    scans = [smooth(seed) > 0.2 for seed in range(6)]
    volumes = [finding_volumes_ml(scan, 0.008) for scan in scans]
    assert max(map(len, volumes)) > 3
    for left in (0, 1, 2):
        minimum = choose_minimum_ml(volumes, left)
        counts = [len(finding_volumes_ml(remove_small(scan, 0.008, minimum), 0.008)) for scan in scans]
        assert max(counts) <= left
        smaller = [(v > minimum - 0.004).sum() for v in volumes]
        assert max(smaller) > left  # and no smaller volume does
    assert choose_minimum_ml([np.array([])]) == 0
    with pytest.raises(MedvaeError, match="validation"):
        choose_minimum_ml([])
