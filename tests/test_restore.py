"""The way back from the standard grid to the scan's own."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from medvae.imaging.grid import DEFAULT_GRID
from medvae.imaging.volume import Geometry, Placement, resample
from medvae.preparation.prepared import InMemory, PreparedVolume
from tests.conftest import STANDARD_GRID

CENTRE = STANDARD_GRID.affine[:3, :3] @ ((np.array(STANDARD_GRID.shape) - 1) / 2) + STANDARD_GRID.affine[:3, 3]


def ball(radius_mm, centre=CENTRE):
    places = (
        np.moveaxis(np.indices(STANDARD_GRID.shape), 0, -1) @ STANDARD_GRID.affine[:3, :3] + STANDARD_GRID.affine[:3, 3]
    )
    return ((places - centre) ** 2).sum(-1) < radius_mm**2


def prepared(angles, shift_mm, spacing_mm, scale=1.0):
    """A round brain of 60 mm on a turned grid of the scan's, and a world that is turned, moved and scaled again."""
    shape = tuple(int(150 / s) for s in spacing_mm)
    turned = np.eye(4)
    turned[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() @ np.diag(spacing_mm)
    turned[:3, 3] = -turned[:3, :3] @ ((np.array(shape) - 1) / 2)
    transform = np.eye(4)
    transform[:3, :3] = Rotation.from_euler("zyx", angles, degrees=True).as_matrix() * scale
    transform[:3, 3] = shift_mm - transform[:3, :3] @ CENTRE
    source, mask = Geometry(turned, shape), ball(60)
    back = np.linalg.inv(transform)
    inside = resample(mask, STANDARD_GRID, source, transform=back, antialias=False) >= 0.5
    arrays = InMemory(mask[None].astype(np.float32), mask, inside)
    return PreparedVolume(arrays, Placement(source), transform, True, grid=DEFAULT_GRID)


@settings(max_examples=6, deadline=None)
@given(
    angles=st.tuples(*[st.floats(-40, 40)] * 3),
    shift_mm=st.tuples(*[st.floats(-8, 8)] * 3).map(np.array),
    spacing_mm=st.tuples(*[st.floats(1.2, 4)] * 3),
    scale=st.floats(0.9, 1.1),
)
def test_a_point_comes_back_to_where_it_was(angles, shift_mm, spacing_mm, scale):
    volume = prepared(angles, shift_mm, spacing_mm, scale)
    grid = volume.source.geometry
    chosen = np.argwhere(volume.source_mask)[::97]
    native_mm = chosen @ grid.affine[:3, :3].T + grid.affine[:3, 3]
    expected = (native_mm - volume.transform[:3, 3]) @ np.linalg.inv(volume.transform[:3, :3]).T
    deep = np.linalg.norm(expected - CENTRE, axis=1) < 54  # away from the rim, where a map is continued
    for axis in range(3):  # the map of a coordinate: linear interpolation of it is exact
        steps = np.arange(STANDARD_GRID.shape[axis]) * 2.0 + STANDARD_GRID.affine[axis, 3]
        coordinate = np.broadcast_to(steps.reshape([-1 if a == axis else 1 for a in range(3)]), STANDARD_GRID.shape)
        found = volume.restore(coordinate.astype(np.float32))[tuple(chosen.T)]
        np.testing.assert_allclose(found[deep], expected[deep, axis], atol=0.01)


@pytest.mark.parametrize("angles", [(0, 0, 0), (5, 3, 8), (20, -10, 30)])
def test_a_lesion_there_and_back_at_equal_resolution(angles):
    volume = prepared(angles, np.array([0.7, -1.1, 0.4]), (2.0, 2.0, 2.0))
    lesion = ball(9, CENTRE + np.array([14, -9, 5]))
    native = volume.restore(lesion.astype(np.float32)) > 0.5
    grid = volume.source.geometry
    again = resample(native, grid, STANDARD_GRID, transform=volume.transform, antialias=False) > 0.5
    assert 2 * (again & lesion).sum() / (again.sum() + lesion.sum()) >= 0.95


def test_where_the_grids_differ_by_flips_and_whole_voxels_values_are_copied():
    flipped = STANDARD_GRID.affine @ np.array([[-1, 0, 0, 77], [0, 1, 0, 2], [0, 0, 1, -3], [0, 0, 0, 1.0]])
    source = Geometry(flipped, (78, 92, 83))
    mask = ball(60)
    inside = resample(mask, STANDARD_GRID, source, transform=np.eye(4)) >= 0.5
    arrays = InMemory(mask[None].astype(np.float32), mask, inside)
    volume = PreparedVolume(arrays, Placement(source), np.eye(4), False, grid=DEFAULT_GRID)
    values = np.random.default_rng(0).random(STANDARD_GRID.shape).astype(np.float32)
    found = volume.restore(values)
    expected = np.zeros(source.shape, np.float32)
    expected[:, :, 3:] = values[77::-1, 2:94, :]
    np.testing.assert_array_equal(found, expected * inside)
