"""The way to the standard space: found again when it is known, refused when it cannot be."""

from __future__ import annotations

from dataclasses import replace
from importlib import resources

import nibabel as nib
import numpy as np
import pytest

from medvae.errors import MedvaeError
from medvae.imaging.volume import Geometry, read_placement, resample
from medvae.preparation import registration
from medvae.preparation.alignment import USUAL, RegistrationQuality, doubt, measure_quality, refuse_failure
from medvae.preparation.itk import RAS_TO_LPS, to_array, to_image
from medvae.preparation.registration import Registration, move_brain, register
from medvae.preparation.standard_brain import read_template
from tests.conftest import STANDARD_GRID


def turned(pitch_deg: float, yaw_deg: float) -> np.ndarray:
    pitch, yaw = np.deg2rad([pitch_deg, yaw_deg])
    about_x = [[1, 0, 0], [0, np.cos(pitch), -np.sin(pitch)], [0, np.sin(pitch), np.cos(pitch)]]
    about_z = [[np.cos(yaw), -np.sin(yaw), 0], [np.sin(yaw), np.cos(yaw), 0], [0, 0, 1]]
    return np.array(about_x) @ np.array(about_z)


@pytest.fixture(scope="module")
def moved_head() -> tuple[np.ndarray, np.ndarray, Geometry, np.ndarray]:
    """The template brain, tilted, sheared, shrunk and shifted, with other contrast and noise, in a P-S-R scan."""
    truth = np.eye(4)
    truth[:3, :3] = turned(28, -9) @ (np.diag([0.9, 1.02, 0.85]) + np.triu(np.full((3, 3), 0.03), 1))
    truth[:3, 3] = [35, -20, 25]
    affine = np.array([[0, 0, 2.0, -60], [-2.0, 0, 0, 100], [0, 2.0, 0, -90], [0, 0, 0, 1.0]])
    scan = Geometry(affine, (120, 120, 95))
    template, standard = read_template()
    brain = resample(template, STANDARD_GRID, scan, transform=np.linalg.inv(truth))
    mask = resample(standard, STANDARD_GRID, scan, transform=np.linalg.inv(truth)) > 0.5
    noise = np.random.default_rng(0).normal(0, 20, brain.shape)
    return (brain**1.3 + noise) * (1 + 0.5 * ~mask), mask, scan, truth


def test_a_known_affine_is_found_within_a_millimetre_and_with_the_same_bits(moved_head):
    array, mask, scan, truth = moved_head
    found = register(array, mask, scan)
    inside = np.argwhere(read_template()[1])
    corners = np.array(np.meshgrid(*zip(inside.min(0), inside.max(0), strict=True))).reshape(3, -1)
    world = STANDARD_GRID.affine @ np.vstack([corners, np.ones(8)])
    assert np.linalg.norm(((found.transform - truth) @ world)[:3], axis=0).max() < 1.0
    assert found.quality.dice > 0.98
    assert found.quality.scales == pytest.approx(np.linalg.norm(truth[:3, :3], axis=0), abs=0.02)

    outside = np.where(mask, array, 1e4)  # what lies outside the mask takes no part
    again = register(outside, mask, scan)
    assert np.array_equal(found.transform, again.transform)
    assert found.quality == again.quality


def test_images_lie_in_itk_where_the_geometry_says():
    affine = np.array([[0, 0, 2.0, -60], [-1.5, 0, 0, 100], [0, 3.0, 0, -90], [0, 0, 0, 1.0]])
    array = np.random.default_rng(0).random((4, 5, 6)).astype(np.float32)
    image = to_image(array, Geometry(affine, array.shape))
    index = (3, 1, 2)
    assert image[index] == array[index]
    assert image.TransformIndexToPhysicalPoint(index) == pytest.approx((RAS_TO_LPS @ affine @ [*index, 1])[:3])
    assert np.array_equal(to_array(image), array)


@pytest.mark.parametrize(
    ("transform", "complaint"),
    [
        (np.diag([0.5, 0.9, 0.9, 1]), "0.50, 0.90, 0.90"),
        (np.diag([-1.0, 1, 1, 1]), "mirrored"),
        (np.array([[1.0, 0.4, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]), "sheared by 0.37"),
        (np.diag([1, 1.0, -1, 1]), "mutual information with the template is 0.0"),
        (np.array([[1.0, 0, 0, 60], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]), "Dice 0."),
    ],
)
def test_an_impossible_brain_is_refused_by_name(monkeypatch, transform, complaint):
    template, mask = read_template()
    monkeypatch.setattr(registration, "_optimise", lambda *_: transform)
    with pytest.raises(MedvaeError, match=f"sub-01.nii.gz.*{complaint}.*orientation labels"):
        register(template, mask, STANDARD_GRID, source="sub-01.nii.gz")


def test_information_tells_an_upside_down_brain_from_an_upright_one_of_any_contrast():
    template, mask = read_template()
    noisy = template + np.random.default_rng(0).normal(0, 0.1 * template.max(), mask.shape)
    upright = measure_quality(noisy, mask, np.eye(4))
    inverted = measure_quality(5 - 0.01 * noisy, mask, np.eye(4))
    turned = measure_quality(noisy[:, :, ::-1], mask[:, :, ::-1], np.eye(4))
    assert upright.dice == 1
    assert (upright.scales, upright.shear) == ((1, 1, 1), 0)
    assert inverted.mutual_information == pytest.approx(upright.mutual_information, rel=0.01)
    assert turned.dice > 0.8  # the outline alone does not tell
    assert turned.mutual_information < USUAL.information < 0.3 * upright.mutual_information


GOOD = RegistrationQuality(0.96, 0.2, (1, 1, 1), 0.02, 0.05)


@pytest.mark.parametrize(
    "unusual",
    [
        {"mutual_information": 0.07, "turned_information": 0.032},
        {"mutual_information": 0.077, "turned_information": 0.03},
        {"dice": 0.84},
        {"scales": (0.66, 0.72, 0.75)},
        {"scales": (1.2, 1.45, 1.3)},
        {"shear": 0.18},
    ],
)
def test_one_unusual_number_is_announced_and_not_refused(unusual):
    found = replace(GOOD, **unusual)
    refuse_failure(found, np.eye(4), "sub-01.nii.gz")
    assert "is doubtful: " in doubt(found)


@pytest.mark.parametrize(
    "wrong",
    [
        {"mutual_information": 0.052, "turned_information": 0.042},  # back to front, as measured
        {"mutual_information": 0.077, "turned_information": 0.06},
        {"mutual_information": 0.07, "turned_information": 0.03, "shear": 0.18},  # two at once
        {"mutual_information": 0.07, "turned_information": 0.03, "dice": 0.85},
        {"mutual_information": 0.03, "turned_information": 0.01},
        {"dice": 0.75},
        {"shear": 0.25},
    ],
)
def test_what_cannot_be_right_is_refused(wrong):
    with pytest.raises(MedvaeError, match=r"sub-01.nii.gz: the registration .* failed"):
        refuse_failure(replace(GOOD, **wrong), np.eye(4), "sub-01.nii.gz")


def test_a_usual_registration_needs_no_word():
    refuse_failure(GOOD, np.eye(4), "sub-01.nii.gz")
    assert doubt(GOOD) is None


@pytest.mark.parametrize("turn", [np.s_[::-1, ::-1], np.s_[::-1, :, ::-1], np.s_[:, ::-1, ::-1]])
def test_a_brain_that_lies_the_wrong_way_round_is_doubted(turn):
    template, mask = read_template()
    right = measure_quality(template, mask, np.eye(4))
    assert right.direction > 3
    assert doubt(right) is None
    wrong = measure_quality(template[turn], mask[turn], np.eye(4))
    assert "when it is turned round" in doubt(wrong)


def test_quality_of_nothing_is_nothing():
    template, mask = read_template()
    assert measure_quality(template, np.zeros_like(mask), np.eye(4)).mutual_information == 0
    assert measure_quality(np.full(mask.shape, 7.0), mask, np.eye(4)).mutual_information == pytest.approx(0, abs=1e-9)


def test_a_registration_cannot_be_changed_afterwards():
    found = Registration(np.eye(4), RegistrationQuality(0.9, 0.5, (1, 1, 1), 0))
    with pytest.raises(ValueError, match="read-only"):
        found.transform[0, 0] = 2


def test_a_moved_brain_of_one_intensity_has_no_dark_rim():
    _, mask = read_template()
    fine = Geometry(np.array([[1.5, 0, 0, -80], [0, 1.5, 0, -115], [0, 0, 1.5, -75], [0, 0, 0, 1]]), (107, 128, 107))
    on_fine = resample(mask, STANDARD_GRID, fine) > 0.5
    values, moved = move_brain(np.full(fine.shape, 70.0), on_fine, fine, STANDARD_GRID)
    assert values[moved] == pytest.approx(70, abs=1e-2)
    assert not values[~moved].any()
    assert np.count_nonzero(moved) == pytest.approx(np.count_nonzero(mask), rel=0.01)


def test_a_brain_moved_onto_its_own_grid_is_copied():
    template, mask = read_template()
    values, moved = move_brain(template, mask, STANDARD_GRID, STANDARD_GRID)
    assert np.array_equal(values, template)
    assert np.array_equal(moved, mask)


def test_the_template_fills_the_standard_grid_symmetrically():
    template, mask = read_template()
    assert template.shape == mask.shape == STANDARD_GRID.shape
    assert np.array_equal(template > 0, mask)
    assert np.count_nonzero(mask) * STANDARD_GRID.voxel_volume_ml == pytest.approx(1887, abs=10)
    assert np.count_nonzero(mask != mask[::-1]) < 0.01 * np.count_nonzero(mask)
    assert np.corrcoef(template[mask], template[::-1][mask])[0, 1] > 0.99


def test_the_template_says_that_it_lies_in_mni_space():
    folder = resources.files("medvae.preparation") / "template"
    path = folder / "mni152_t1.nii.gz"
    assert read_placement(path).geometry == STANDARD_GRID
    header = nib.load(path).header
    assert (int(header["qform_code"]), int(header["sform_code"])) == (4, 4)
    assert "McConnell Brain Imaging Centre" in (folder / "NOTICE.txt").read_text()
