"""NaN around a brain is background; anywhere else, and infinite values, are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medvae.errors import MedvaeError, MedvaeWarning
from medvae.imaging.finite import finite_values
from medvae.preparation.mask import mask_from_background
from medvae.preparation.standard_brain import read_template
from tests.conftest import STANDARD_GRID

PATH = Path("scan.nii.gz")


def test_nan_around_a_brain_is_its_background():
    template, mask = read_template()
    scan = np.where(mask, template, np.nan).astype(np.float32)
    with pytest.warns(MedvaeWarning, match=f"scan.nii.gz: its background is NaN .{np.count_nonzero(~mask):,} voxels"):
        found = finite_values(scan, PATH)
    assert np.array_equal(found, template)
    assert np.array_equal(mask_from_background(found, STANDARD_GRID), mask)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_bad_voxel_in_a_brain_is_refused(value):
    template, _ = read_template()
    scan = template.astype(np.float32)
    scan[40, 48, 40] = value
    with pytest.raises(MedvaeError, match=r"scan.nii.gz: holds 1 voxels that are NaN or infinite"):
        finite_values(scan, PATH)


def test_infinity_is_no_background():
    template, mask = read_template()
    with pytest.raises(MedvaeError, match="NaN or infinite"):
        finite_values(np.where(mask, template, -np.inf).astype(np.float32), PATH)
