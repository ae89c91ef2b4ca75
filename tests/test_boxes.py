"""What is done inside the box of a mask is what would be done in the whole volume."""

import numpy as np
import pytest
from scipy import ndimage

from medvae.imaging.boxes import box_of, faces
from medvae.imaging.volume import Geometry, resample
from medvae.preparation.registration import move_brain


def test_the_box_is_tight_and_its_margin_ends_with_the_array():
    mask = np.zeros((10, 12, 14), bool)
    mask[0:3, 5, 9:14] = True
    assert box_of(mask) == (slice(0, 3), slice(5, 6), slice(9, 14))
    assert box_of(mask, margin=2) == (slice(0, 5), slice(3, 8), slice(7, 14))
    assert box_of(np.zeros((2, 3, 4), bool)) == (slice(0, 2), slice(0, 3), slice(0, 4))


@pytest.mark.parametrize("order", ["C", "F"])
def test_faces_are_those_of_take(order):
    array = np.array(np.random.default_rng(0).random((4, 5, 6)), order=order)
    taken = [array.take(end, axis) for axis in range(3) for end in (0, -1)]
    for face, expected in zip(faces(array), taken, strict=True):
        assert np.array_equal(face, expected)
        assert np.shares_memory(face, array)


def test_a_part_of_a_grid_lies_where_its_voxels_lie():
    affine = np.array([[-1.2, 0.1, 0, 30], [0, 2, 0.3, -20], [0, -0.3, 1.5, 5], [0, 0, 0, 1]])
    box = (slice(2, 5), slice(4, 9), slice(1, 3))
    part = Geometry(affine, (10, 12, 14)).part(box)
    assert part.shape == (3, 5, 2)
    np.testing.assert_allclose(part.affine @ [1, 2, 1, 1], affine @ [3, 6, 2, 1])


@pytest.mark.parametrize("spacing", [(1, 1, 1), (0.7, 0.7, 3), (2, 2, 2), (2.5, 0.9, 0.9)])
@pytest.mark.parametrize("corner", [0, 9])
def test_a_brain_is_moved_as_if_the_whole_volume_were(spacing, corner):
    generator = np.random.default_rng(3)
    mask = np.zeros((60, 50, 40), bool)
    mask[corner:45, corner:40, corner:30] = True  # at a border, or not
    array = generator.normal(100, 20, mask.shape)
    source = Geometry(np.diag([*spacing, 1.0]), mask.shape)
    turned = np.array([[2, 0.1, 0, -3], [-0.1, 2, 0.05, -2], [0, -0.05, 2, -4], [0, 0, 0, 1.0]])
    target = Geometry(turned, (40, 40, 50))
    values, moved = move_brain(array, mask, source, target)
    weight = resample(mask.astype(np.float32), source, target)
    whole = resample(np.where(mask, array, 0), source, target)
    np.testing.assert_array_equal(moved, ndimage.binary_fill_holes(weight >= 0.5))
    np.testing.assert_allclose(values, np.where(moved, whole / np.maximum(weight, 1e-3), 0), atol=2e-3)
