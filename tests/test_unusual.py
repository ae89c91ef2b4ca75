"""What is unusual about a scan is said where it is used, not only where a cohort is checked."""

from __future__ import annotations

import numpy as np

from medvae.config import PreparationConfig
from medvae.imaging.volume import Geometry
from medvae.preparation.prepare import prepare_array
from medvae.preparation.standard_brain import read_template
from medvae.preparation.unusual import unusual_brain
from tests.conftest import STANDARD_GRID, make_brain

CONFIG = PreparationConfig(registration="none", brain="background")


def notes(array: np.ndarray, affine: np.ndarray = STANDARD_GRID.affine) -> str:
    return " ".join(prepare_array(array.astype(np.float32)[None], affine, CONFIG).notes)


def test_an_ordinary_scan_needs_no_word():
    assert notes(make_brain(0)) == ""


def test_thick_slices_are_named():
    affine = STANDARD_GRID.affine @ np.diag([1, 1, 4, 1])
    assert "thick slices hide small lesions" in notes(make_brain(0)[:, :, ::4], affine)


def test_few_values_are_named():
    brain = make_brain(0)
    assert "only 5 different values" in notes(np.where(brain > 0, 1 + brain // 52, 0))


def test_a_small_brain_is_named():
    _, mask = read_template()
    assert unusual_brain(mask, STANDARD_GRID) == ()
    half = Geometry(STANDARD_GRID.affine @ np.diag([0.7, 0.7, 0.7, 1]), mask.shape)
    assert "its brain measures 647 ml; 1,000 to 2,200 ml" in unusual_brain(mask, half)[0]
