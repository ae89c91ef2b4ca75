"""A scan freed of the smooth field by which it differs from healthy scans."""

import numpy as np
import pytest

from medvae.preparation.registration import read_template
from medvae.shading import without_shading


@pytest.fixture(scope="module")
def healthy():
    """Mean, SD and mask of healthy scans, and one of them: the template with folds of its own."""
    template, mask = read_template()
    mean = np.where(mask, 0.2 + 0.7 * template / template.max(), 0)
    folds = np.random.default_rng(0).normal(0, 0.1, mask.shape)
    return mean, np.full(mask.shape, 0.1), mask, np.clip(mean * (1 + folds), 0.05, None) * mask


def shading(shape, strength=0.3):
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    return np.exp(strength * (x - 0.5 * y**2 + 0.5 * x * y * z))


def test_a_field_is_taken_out(healthy):
    mean, sd, mask, scan = healthy
    alone = without_shading(scan, mask, mean, sd)
    shaded = without_shading(scan * shading(mask.shape), mask, mean, sd)
    assert np.abs(scan * shading(mask.shape) - scan)[mask].mean() > 0.05
    assert np.abs(shaded - alone)[mask].mean() < 0.003
    assert np.abs(alone - scan)[mask].mean() < 0.01
    assert shaded.dtype == np.float32
    assert not shaded[~mask].any()


def test_a_large_lesion_stays_as_dark_as_it_is(healthy):
    mean, sd, mask, scan = healthy
    places = np.indices(mask.shape) - np.array([28, 50, 45]).reshape(3, 1, 1, 1)
    lesion = (np.square(places).sum(0) < 12**2) & mask  # 48 mm wide
    assert lesion.sum() > 5000
    ill = np.where(lesion, 0.5 * scan, scan)
    found = without_shading(ill, mask, mean, sd)
    healthy_there = without_shading(scan, mask, mean, sd)[lesion].mean()
    assert found[lesion].mean() / healthy_there == pytest.approx(0.5, abs=0.02)


def test_twice_is_once_and_too_little_brain_is_left_alone(healthy):
    mean, sd, mask, scan = healthy
    once = without_shading(scan * shading(mask.shape), mask, mean, sd)
    assert np.abs(without_shading(once, mask, mean, sd) - once)[mask].mean() < 1e-3
    little = np.zeros_like(mask)
    little[40:44, 48:52, 40:44] = mask[40:44, 48:52, 40:44]
    assert np.array_equal(without_shading(scan, little, mean, sd), np.where(little, scan, 0).astype(np.float32))
