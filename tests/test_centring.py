"""A brain without registration: moved to where the template's lies, and never refused."""

import numpy as np
import pytest

from medvae.config import PreparationConfig
from medvae.detection.detector import Detector
from medvae.imaging.grid import DEFAULT_GRID
from medvae.imaging.volume import Geometry, write_volume
from medvae.preparation import steps
from medvae.preparation.alignment import Misplaced
from medvae.preparation.centring import centre
from medvae.preparation.prepare import prepare_scan
from medvae.preparation.standard_brain import read_template
from tests.conftest import STANDARD_GRID, make_brain
from tests.test_ranks import config

GRID_MM = np.array([160.0, 192.0, 160.0])


def box(lengths_mm, spacing=2.0):
    """A block of brain in a scan far from the standard space, P-S-R."""
    affine = np.array([[0, 0, spacing, 300], [-spacing, 0, 0, 40], [0, spacing, 0, -500], [0, 0, 0, 1.0]])
    x, y, z = (round(n / spacing) for n in lengths_mm)
    mask = np.zeros((y + 9, z + 7, x + 5), bool)
    mask[4 : 4 + y, 3 : 3 + z, 2 : 2 + x] = True
    return mask, Geometry(affine, mask.shape)


def corners_on_grid(mask, geometry, grid):
    """First and last brain voxel in voxels of the standard grid."""
    to_standard = np.linalg.inv(centre(mask, geometry, grid))
    world = np.argwhere(mask) @ geometry.affine[:3, :3].T + geometry.affine[:3, 3]
    places = world @ to_standard[:3, :3].T + to_standard[:3, 3]
    voxels = (places - grid.geometry.affine[:3, 3]) / grid.voxel_mm
    return voxels.min(axis=0), voxels.max(axis=0)


@pytest.fixture
def grid():
    return DEFAULT_GRID


def test_the_centres_meet_and_nothing_is_turned_or_stretched(grid):
    mask, geometry = box((130, 160, 120))
    transform = centre(mask, geometry, grid)
    np.testing.assert_array_equal(transform[:3, :3], np.eye(3))
    low, high = corners_on_grid(mask, geometry, grid)
    np.testing.assert_allclose((low + high) / 2, np.argwhere(read_template(grid)[1]).mean(axis=0), atol=0.6)


@pytest.mark.parametrize("lengths", [(150, 180, 158), (150, 230, 150), (200, 150, 100)])
def test_a_brain_that_would_jut_out_is_moved_and_a_longer_one_made_smaller(grid, lengths):
    low, high = corners_on_grid(*box(lengths), grid)
    assert (low >= -1).all()
    assert (high <= np.array(grid.shape)).all()
    factor = centre(*box(lengths), grid)[0, 0]
    assert factor == pytest.approx(max(1, (np.array(lengths) / GRID_MM).max()), abs=0.03)


@pytest.fixture
def far(tmp_path):
    """A brain with a bright cube, 90 mm from the standard space."""
    brain = make_brain(4) * 0.6
    brain[26:34, 44:52, 46:54] = 250
    affine = STANDARD_GRID.affine.copy()
    affine[:3, 3] += 90
    path = tmp_path / "far.nii.gz"
    write_volume(path, brain.astype(np.uint8), Geometry(affine, STANDARD_GRID.shape))
    return path


def test_a_scan_whose_registration_fails_is_centred_where_that_is_enough_and_says_so(far, monkeypatch):
    def fails(*arguments, **options):
        raise Misplaced("far.nii.gz: the registration failed.", "its angles are odd")

    monkeypatch.setattr(steps, "register", fails)
    with pytest.raises(Misplaced):
        prepare_scan([far], PreparationConfig(registration="auto"))
    volume = prepare_scan([far], PreparationConfig(registration="if_possible", clip=None))
    assert not volume.registered
    assert volume.quality is None
    (note,) = volume.notes
    assert "its angles are odd" in note
    detector = Detector.of_ranks(config(preparation={"registration": "if_possible", "clip": None}), ["T2"])
    assert detector.doubts(volume) == (note,)  # a T1: but what lies where is not known
    maps = detector.native_maps(volume, detector.point("rank_0.9"))
    assert maps.lesion_mask[28:32, 46:50, 48:52].all()


def test_one_whose_registration_succeeds_is_registered(far, monkeypatch):
    class Found:
        transform = np.eye(4)

    Found.transform[:3, 3] = 90
    monkeypatch.setattr(steps, "register", lambda *arguments, **options: Found)
    volume = prepare_scan([far], PreparationConfig(registration="if_possible", clip=None))
    assert volume.registered
    detector = Detector.of_ranks(config(preparation={"registration": "if_possible", "clip": None}), ["T2"])
    (note,) = detector.doubts(volume)
    assert note.startswith("this scan looks like T1, not like T2")
