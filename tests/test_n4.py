"""A smooth field that was put on a brain is taken off again."""

from __future__ import annotations

import numpy as np
import pytest

from medvae.errors import MedvaeError
from medvae.imaging.volume import Geometry
from medvae.preparation.n4 import correct_bias
from medvae.preparation.standard_brain import read_template
from tests.conftest import STANDARD_GRID


def field() -> np.ndarray:
    """A factor from about 0.6 to 1.6, brightest at the right front, ``(80, 96, 80)``."""
    x, y, z = (np.linspace(-1, 1, n) for n in STANDARD_GRID.shape)
    return np.exp(0.35 * x[:, None, None] + 0.3 * y[None, :, None] - 0.25 * z[None, None, :] ** 2)


@pytest.fixture(scope="module")
def corrected() -> tuple[np.ndarray, np.ndarray]:
    """Brains corrected without and with a field on them."""
    template, mask = read_template()
    return tuple(correct_bias(template * factor, mask, STANDARD_GRID) for factor in (1.0, field()))


def test_a_known_field_is_taken_off(corrected):
    template, mask = read_template()
    plain, recovered = corrected
    left = np.log(recovered[mask] / plain[mask])
    assert left.std() < 0.2 * np.log(field())[mask].std()
    shaded = (template * field())[mask]
    assert np.corrcoef(recovered[mask], template[mask])[0, 1] > 0.97 > np.corrcoef(shaded, template[mask])[0, 1]


def test_the_white_matter_becomes_even(corrected):
    template, mask = read_template()
    white = mask & (template > 200)
    before = (template * field())[white]
    after = corrected[1][white]
    assert after.std() / after.mean() < 0.4 * before.std() / before.mean()


def test_the_overall_intensity_stays(corrected):
    template, mask = read_template()
    ratio = np.log(corrected[1][mask] / (template * field())[mask])
    assert ratio.mean() == pytest.approx(0, abs=1e-3)


def test_the_same_scan_gives_the_same_bits(corrected):
    template, mask = read_template()
    assert np.array_equal(correct_bias(template, mask, STANDARD_GRID), corrected[0])


def test_neither_the_scale_of_intensities_nor_air_around_the_brain_matters(corrected):
    template, mask = read_template()
    more = Geometry(STANDARD_GRID.affine, (100, 96, 88))
    wide, wide_mask = (np.pad(array, ((0, 20), (0, 0), (0, 8))) for array in (1000 * template, mask))
    result = correct_bias(wide, wide_mask, more)
    assert result.shape == more.shape
    assert result[wide_mask] == pytest.approx(1000 * corrected[0][mask], rel=0.01)


def test_an_empty_mask_is_told():
    template, mask = read_template()
    with pytest.raises(MedvaeError, match="mask covers 0 voxels"):
        correct_bias(template, np.zeros_like(mask), STANDARD_GRID)
