"""Bad input is recognised by what preparation measures and said in one sentence; ordinary scans need none."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from medvae.config import PreparationConfig
from medvae.errors import MedvaeError
from medvae.imaging.grid import DEFAULT_GRID
from medvae.imaging.volume import Geometry, read_volume, volume_of_array
from medvae.preparation.alignment import RegistrationQuality
from medvae.preparation.anatomy import (
    MOST_SYMMETRY,
    cerebellum_share,
    cut_ends,
    sinus_brightness,
    symmetry,
    uncovered_ends,
)
from medvae.preparation.contrast import tissues
from medvae.preparation.doubts import doubts
from medvae.preparation.extraction import find_brain
from medvae.preparation.prepare import prepare_array
from medvae.preparation.prepared import PreparedVolume
from medvae.preparation.standard_brain import read_template
from tests.conftest import STANDARD_GRID, make_brain
from tests.test_modality import as_flair, as_t2

CONFIG = PreparationConfig(registration="none", brain="background", clip=None)
X, Y, Z = (
    STANDARD_GRID.affine[axis, axis] * n + STANDARD_GRID.affine[axis, 3]
    for axis, n in enumerate(np.indices(STANDARD_GRID.shape))
)


def prepared(array: np.ndarray, affine: np.ndarray = STANDARD_GRID.affine) -> PreparedVolume:
    return prepare_array(np.asarray(array, np.float32)[None], affine, CONFIG)


def told(array: np.ndarray, modality: str = "T1") -> str:
    """The one sentence; "" if there is none."""
    found = doubts(prepared(array), (modality,))
    assert len(found) <= 1, found
    assert not found or (found[0].endswith(".") and ". " not in found[0].rstrip("."))
    return "".join(found)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_an_ordinary_scan_needs_no_word(seed):
    assert told(make_brain(seed)) == ""


@pytest.mark.parametrize(("made", "name"), [(as_flair, "FLAIR"), (as_t2, "T2")])
def test_another_sequence_is_said_once(made, name):
    assert told(made(make_brain(1))).startswith(f"this scan looks like {name}, not like T1")
    assert told(made(make_brain(1)), name) == ""


def as_ct(brain: np.ndarray) -> np.ndarray:
    """Hounsfield units: fluid 6, white matter 28, grey matter 36, with noise."""
    template, _ = read_template()
    units = np.select([template >= 190, template >= 110], [28.0, 36.0], 8.0)
    units = ndimage.gaussian_filter(units, 0.6) + np.random.default_rng(0).normal(0, 3, brain.shape)
    return np.where(brain > 0, units, 0)


@pytest.mark.parametrize("outside", [0, -1000, -1024])
def test_a_ct_is_recognised_by_its_units(outside):
    brain = make_brain(1)
    units = np.where(brain > 0, as_ct(brain), outside)
    assert told(units).startswith("its values are those of a CT")
    assert told(units, "CT") == ""  # of a detector that learned from CT
    assert told(make_brain(1) / 4.5) == ""  # a T1 whose unit gives such values


def test_the_ct_of_a_whole_head_is_refused_as_such():
    radius = np.sqrt(X**2 + (Y + 17) ** 2 + Z**2)
    rng = np.random.default_rng(0)
    head = np.select([radius < 65, radius < 72, radius < 76], [35.0, 900.0, -80.0], -1000) + rng.normal(0, 5, X.shape)
    with pytest.raises(MedvaeError, match=r"head.nii.gz: its values are those of a CT of a head"):
        find_brain(volume_of_array(head, STANDARD_GRID.affine, "head.nii.gz"), "auto")


def with_contrast_agent(brain: np.ndarray, gain: float = 1.6) -> np.ndarray:
    """Bright tubes where sinuses are, a little beside the usual place, and bright choroid plexus."""
    white = float(np.median(brain[tissues(DEFAULT_GRID)[0]]))
    vessels = np.zeros(brain.shape, bool)
    straight = [(2, -43, 6), (2, -50, 2), (1, -60, -4), (1, -72, -12)]
    upper = [(0, 50, 30), (0, 20, 66), (0, -20, 74), (0, -60, 58), (0, -95, 10)]
    for line, radius in (
        (straight, 2.6),
        (upper, 4.0),
        ([(-22, -42, 8), (-22, -36, 10)], 3),
        ([(22, -42, 8), (22, -36, 10)], 3),
    ):
        for start, end in pairwise(line):
            for share in np.linspace(0, 1, 30):
                x, y, z = np.array(start) * (1 - share) + np.array(end) * share
                vessels |= (X - x) ** 2 + (Y - y) ** 2 + (Z - z) ** 2 <= radius**2
    weight = ndimage.gaussian_filter(vessels.astype(np.float32), 0.5)
    return np.where(brain > 0, brain * (1 - weight) + gain * white * weight, 0)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_contrast_agent_is_recognised_by_the_straight_sinus(seed):
    brain = make_brain(seed).astype(np.float32)
    assert told(with_contrast_agent(brain)).startswith("its straight sinus is brighter than white matter")
    assert told(with_contrast_agent(brain), "T1c") == ""
    volume = prepared(brain)
    assert sinus_brightness(volume.image[0], volume.mask, DEFAULT_GRID) < 0.1
    assert sinus_brightness(volume.image[0], volume.mask & (Z > 30), DEFAULT_GRID) is None


def test_an_atlas_is_recognised_by_its_symmetry_and_people_are_not(repository):
    template, _ = read_template()
    assert "as in a mean of many people" in told(template)
    scans = [
        read_volume(path).array for path in sorted(Path(repository, "data_manifests/included/ixi").glob("*.gz"))[:20]
    ]
    mean = np.mean([scan / np.percentile(scan[scan > 0], 99) for scan in scans], axis=0)
    mean = np.where(np.mean([scan > 0 for scan in scans], axis=0) > 0.5, np.maximum(mean, 1e-3), 0)
    assert "as in a mean of many people" in told(mean)
    for scan in scans[:3]:
        assert told(scan) == ""
        assert symmetry(scan, scan > 0) < MOST_SYMMETRY - 0.05
    assert symmetry(np.ones(mean.shape), mean > 0) == 0


@pytest.mark.parametrize("part", [1.0, 0.7])
def test_a_missing_cerebellum_is_named(part):
    brain = make_brain(0)
    cerebellum = (Z < -18) & (Y < -34) & (np.abs(X) < 71 * part)
    assert "of the place of the cerebellum" in told(np.where(cerebellum, 0, brain))
    assert cerebellum_share(brain > 0, DEFAULT_GRID) > 0.95


SIDES = {"left": -X, "right": X, "back": -Y, "front": Y, "bottom": -Z, "top": Z}


def without(brain: np.ndarray, side: str, mm: float) -> np.ndarray:
    """The brain with the outermost millimetres of a side set to 0."""
    along = SIDES[side]
    end = along[brain > 0].max()
    return np.where(along <= end - mm, brain, 0)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("mm", [16, 24])
def test_a_cut_is_named_with_its_side_and_nothing_else(side, mm):
    cut = without(make_brain(0), side, mm + 12 * (side == "bottom"))  # the brain stem is thin
    assert told(cut).startswith(f"its brain is cut off at the {side} (its last slice is")


def test_a_cut_at_both_ends_and_in_other_voxel_orders_is_one_sentence():
    brain = make_brain(0)
    cut = without(without(brain, "top", 20), "bottom", 30)
    both = told(cut)
    assert "bottom" in both
    assert "top" in both
    order = np.array([[0, 0, -1.0, 0], [0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
    turned = cut[:, ::-1].transpose(2, 1, 0)[::-1]  # z, y, x: of another orientation
    flipped = Geometry(order @ np.diag([2, 2, 2, 1.0]), turned.shape)
    assert set(cut_ends(turned > 0, flipped)) <= {"left", "right"} | {"bottom", "top"}


def test_a_cut_that_was_turned_afterwards_is_named():
    brain = make_brain(0)
    tilted = Z + 0.35 * Y - 0.1 * X
    cut = np.where(tilted > np.percentile(tilted[brain > 0], 93), 0, brain)
    assert told(cut).startswith("its brain is cut off at the front") or "top" in told(cut)


def test_thick_slices_are_no_cut():
    for step in (2, 3, 4):
        affine = STANDARD_GRID.affine @ np.diag([1, 1, step, 1])
        assert cut_ends(make_brain(0)[:, :, ::step] > 0, Geometry(affine, make_brain(0)[:, :, ::step].shape)) == {}


def small(volume: PreparedVolume, scale: float) -> PreparedVolume:
    """The same brain as it would be found in a scan of a smaller head."""
    smaller = np.diag([scale, scale, scale, 1.0])
    geometry = Geometry(smaller @ volume.source.geometry.affine, volume.source.geometry.shape)
    quality = RegistrationQuality(0.96, 0.2, (scale, scale, scale), 0.01, 0.05)
    return replace(
        volume, source=replace(volume.source, geometry=geometry), transform=smaller, registered=True, quality=quality
    )


@pytest.mark.parametrize("scale", [0.66, 0.75, 0.8])
def test_a_small_head_is_said_once_also_where_its_scale_is_unusual(scale):
    (sentence,) = doubts(small(prepared(make_brain(0)), scale), ("T1",))
    assert "ml were expected of an adult, and a child's brain is smaller" in sentence
    assert doubts(small(prepared(make_brain(0)), 0.85), ("T1",)) == ()


def test_a_cut_of_an_adult_head_is_not_a_small_head():
    brain = make_brain(0)
    (sentence,) = doubts(small(prepared(without(brain, "top", 40)), 0.87), ("T1",))
    assert "cut off at the top" in sentence


def test_what_explains_an_unusual_number_is_said_instead_of_it():
    brain = make_brain(0)
    cut = prepared(without(brain, "top", 24))
    low = RegistrationQuality(0.86, 0.2, (1, 1, 1), 0.01, 0.05)
    (sentence,) = doubts(replace(cut, quality=low), ("T1",))
    assert "cut off" in sentence
    (sentence,) = doubts(replace(prepared(brain), quality=low), ("T1",))
    assert "Dice 0.86" in sentence
    blurred = RegistrationQuality(0.96, 0.06, (1, 1, 1), 0.01, 0.03)
    (sentence,) = doubts(replace(prepared(as_flair(brain)), quality=blurred), ("T1",))
    assert "looks like FLAIR" in sentence


def test_uncovered_ends_are_those_that_the_mask_leaves_out():
    _, mask = read_template()
    assert uncovered_ends(mask, DEFAULT_GRID) == {}
    assert set(uncovered_ends(mask & (Z < 55), DEFAULT_GRID)) == {"top"}
    assert set(uncovered_ends(mask & (Y > -75), DEFAULT_GRID)) == {"back"}


def test_of_a_brain_that_was_only_centred_no_places_are_compared():
    """As by a detector that needs no place on the template: neither tissues nor parts are where the template's are."""
    brain = make_brain(0)
    cerebellum = (Z < -18) & (Y < -34)
    centred = replace(prepared(as_flair(np.where(cerebellum, 0, brain))), quality=None)
    assert doubts(centred, ("T2",), needs_place=False) == ()
    assert len(doubts(centred, ("T2",))) == 2
    cut = replace(prepared(without(brain, "top", 24)), quality=None)
    (sentence,) = doubts(cut, ("FLAIR",), needs_place=False)
    assert "cut off at the top" in sentence
    low = RegistrationQuality(0.86, 0.2, (1, 1, 1), 0.01, 0.05)
    assert doubts(replace(prepared(brain), quality=low), ("T1",), needs_place=False) == ()


def test_a_refused_registration_names_what_else_was_seen(monkeypatch):
    monkeypatch.setattr("medvae.preparation.registration._optimise", lambda *_: np.diag([0.5, 0.9, 0.9, 1]))
    brain = without(make_brain(0), "top", 24).astype(np.float32)
    with pytest.raises(MedvaeError, match=r"failed: the .* Also, its brain is cut off at the top"):
        prepare_array(brain[None], STANDARD_GRID.affine, CONFIG.model_copy(update={"registration": "affine"}))
