"""Brain masks: solid, in one piece, and refused when the skull is still there."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from medvae.errors import MedvaeError
from medvae.imaging.background import backgrounds, on_black
from medvae.imaging.volume import Geometry
from medvae.preparation.mask import mask_from_anatomy, mask_from_background
from medvae.preparation.standard_brain import read_template
from tests.conftest import STANDARD_GRID


def test_the_mask_of_a_stripped_brain_is_its_nonzero_region():
    template, mask = read_template()
    assert np.array_equal(mask_from_background(template, STANDARD_GRID), mask)


def test_zero_and_negative_voxels_inside_the_brain_stay_inside():
    template, mask = read_template()
    deep = ndimage.binary_erosion(mask, iterations=6)
    rng = np.random.default_rng(0)
    holed = np.where(deep & (rng.random(mask.shape) < 0.2), 0, template)
    assert np.array_equal(mask_from_background(holed, STANDARD_GRID), mask)
    standardised = np.where(mask, (template - template[mask].mean()) / template[mask].std(), 0)
    overlap = mask_from_background(standardised, STANDARD_GRID) & mask
    assert np.count_nonzero(overlap) > 0.98 * np.count_nonzero(mask)


def test_ringing_and_crumbs_around_the_brain_stay_outside():
    template, mask = read_template()
    rng = np.random.default_rng(0)
    ringing = np.where(mask, template, rng.normal(0, 0.1, mask.shape))
    ringing[1, 1, 1] = 200
    assert np.array_equal(mask_from_background(ringing, STANDARD_GRID), mask)


def test_scale_does_not_matter():
    template, mask = read_template()
    assert np.array_equal(mask_from_background(template * 1e-6, STANDARD_GRID), mask)


STANDARDISED = {
    "its own scale": lambda x: x,
    "an offset": lambda x: x + 100,
    "z scores": lambda x: (x - x.mean()) / x.std(),
}


@pytest.mark.parametrize("background", [0, -1, -1000, 0.5, 3, 100, 1e6])
@pytest.mark.parametrize("standardised", STANDARDISED.values(), ids=STANDARDISED)
def test_the_background_may_have_any_value(background, standardised):
    template, mask = read_template()
    template = template + 0.3  # no voxel has the background's value
    scan = np.full(mask.shape, background, np.float32)
    scan[mask] = standardised(template[mask])
    assert np.array_equal(mask_from_background(scan, STANDARD_GRID), mask)


def test_a_brain_in_zeros_keeps_its_middle_grey():
    template, mask = read_template()
    scan = np.zeros(mask.shape, np.float32)
    scan[mask] = (template[mask] - np.median(template[mask])) / 50
    found = mask_from_background(scan, STANDARD_GRID)
    lost = mask & ~found
    assert not (found & ~mask).any()
    assert (scan[lost] == 0).all()
    assert np.count_nonzero(lost) < 0.002 * np.count_nonzero(mask)


def test_a_second_constant_in_the_corners_is_background_too():
    template, mask = read_template()
    scan = np.where(mask, template, -1000)
    scan[:, :3], scan[:2] = 0, 0
    assert np.array_equal(mask_from_background(scan, STANDARD_GRID), mask)
    assert set(backgrounds(scan)) == {0, -1000}


@pytest.mark.parametrize("background", [0, -1000, 3])
def test_a_brain_is_shown_on_black(background):
    template, mask = read_template()
    scan = np.where(mask, (template - 150.3) / 50, background).astype(np.float32)
    shown = on_black(scan, -2.5)
    assert np.array_equal(shown[mask], scan[mask])
    assert shown[~mask].max() <= -2.5
    assert shown.dtype == np.float32


def head() -> np.ndarray:
    """A brain in a head: filled round it up to the border of the volume below and behind."""
    template, mask = read_template()
    skin = ndimage.binary_dilation(mask, iterations=5)
    skin[:, :, :20] |= skin[:, :, 20:21]
    return np.where(mask, template, 80 * skin)


@pytest.mark.parametrize(
    ("array", "complaint"),
    [
        (np.zeros(STANDARD_GRID.shape), "all its voxels are 0"),
        (np.full(STANDARD_GRID.shape, 7.0), "all its voxels are 7"),
        (np.random.default_rng(0).normal(7, 1, STANDARD_GRID.shape), "no empty background"),
        (head(), "more than any brain"),
    ],
)
def test_what_is_no_stripped_brain_is_refused_with_advice(array, complaint):
    with pytest.raises(MedvaeError, match=f"sub-01.nii.gz.*{complaint}"):
        mask_from_background(array, STANDARD_GRID, source="sub-01.nii.gz")


def test_a_small_field_of_view_cut_through_the_head_is_refused():
    inner = Geometry(STANDARD_GRID.affine, (40, 40, 40))
    cut = head()[20:60, 20:60, 20:60].copy()
    cut[:3] = 0  # some background
    with pytest.raises(MedvaeError, match=r"5 of its 6 sides.*(skull-stripped|HD-BET)"):
        mask_from_background(cut, inner)


def test_anatomy_becomes_one_solid_piece():
    _, mask = read_template()
    x, y, z = np.indices(mask.shape)
    labels = np.where(mask & ((x + y + z) % 9 > 1), 1 + x % 5, 0)  # gaps of up to two voxels
    labels[35:45, 40:56, 35:45] = 0  # ventricles without a label
    labels[1:3, 1:3, 1:3] = 4  # a crumb
    found = mask_from_anatomy(labels)
    assert ndimage.label(found)[1] == 1
    assert ndimage.binary_fill_holes(found).sum() == found.sum()
    assert np.count_nonzero(found ^ mask) < 0.03 * np.count_nonzero(mask)
    assert not found[1, 1, 1]


def test_closing_does_not_eat_a_brain_at_the_border():
    labels = np.zeros((20, 20, 20))
    labels[5:15, 5:15, :10] = 1
    assert mask_from_anatomy(labels)[5:15, 5:15, 0].all()


def test_an_empty_label_map_is_refused():
    with pytest.raises(MedvaeError, match="holds no label"):
        mask_from_anatomy(np.zeros((5, 5, 5)))
