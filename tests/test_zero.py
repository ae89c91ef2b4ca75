"""The zero of intensities is that of the brain, whatever scale and background a scan has."""

from __future__ import annotations

import numpy as np
import pytest

from medvae.config import PreparationConfig
from medvae.imaging.zero import from_zero
from medvae.preparation.prepare import prepare_array
from medvae.preparation.prepared import PreparedVolume
from medvae.preparation.standard_brain import read_template
from tests.conftest import STANDARD_GRID, make_brain


def test_zero_and_white_do_not_depend_on_scale_and_offset():
    template, mask = read_template()
    expected = from_zero(template, mask)
    assert np.percentile(expected[mask], 98) == pytest.approx(1)
    assert expected.min() == 0
    for other in (template * 1e-6, template * 40 - 3000, template / 50 + 7):
        assert from_zero(other, mask)[mask] == pytest.approx(expected[mask], abs=1e-4)


def test_a_brain_of_one_value_stays():
    _, mask = read_template()
    assert np.array_equal(from_zero(np.full(mask.shape, 7.0), mask), np.full(mask.shape, 7.0, np.float32))


def test_a_rim_mixed_with_a_distant_background_does_not_move_the_zero():
    template, mask = read_template()
    inner = np.argwhere(mask)[::60]
    mixed = template.astype(float)
    mixed[tuple(inner.T)] = -500
    kept = mask & (mixed > 0)
    assert from_zero(mixed, mask)[kept] == pytest.approx(from_zero(template, mask)[kept], abs=0.05)
    assert from_zero(mixed, mask).min() == 0


AFFINE = STANDARD_GRID.affine @ np.diag([2, 2, 2, 1])


def prepared(scan: np.ndarray, registration: str) -> PreparedVolume:
    config = PreparationConfig(registration=registration, bias_field="n4", brain="background")
    return prepare_array(scan[None], AFFINE, config)


@pytest.fixture(scope="module")
def brain() -> np.ndarray:
    """Of voxels of 4 mm."""
    values = make_brain(3).astype(np.float32)[::2, ::2, ::2]
    return np.where(values > 0, values + np.random.default_rng(0).random(values.shape), 0).astype(np.float32)


@pytest.mark.parametrize(
    ("gain", "offset", "background", "registration"),
    [
        (1, 0, -1000, "none"),
        (0.02, -2, 0, "none"),
        (0.02, -2, -2, "none"),
        (3, 700, 100, "none"),
        (50, -3000, 0, "affine"),
    ],
)
def test_neither_scale_nor_background_changes_a_prepared_scan(brain, gain, offset, background, registration):
    """With the steps that form ratios and find a place: N4 and the registration."""
    plain = prepared(brain, registration)
    other = prepared(np.where(brain > 0, gain * brain + offset, background).astype(np.float32), registration)
    assert np.array_equal(other.source_mask, plain.source_mask)
    assert other.image == pytest.approx(plain.image, abs=1e-3)
