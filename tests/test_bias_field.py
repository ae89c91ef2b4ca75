"""A scan freed of the smooth field by which it differs from healthy scans."""

from itertools import pairwise

import numpy as np
import pytest

from medvae.config import Config
from medvae.detection.detector import Detector
from medvae.fitting import fit
from medvae.normative.bias_field import STEP, fit_reference, without_bias_field
from medvae.preparation.prepare import prepare_healthy
from medvae.preparation.standard_brain import read_template

TINY = {
    "name": "tiny",
    "sampling": {"kind": "patch", "patch_size": [48, 48, 48], "patch_overlap": 0, "batch_size": 1, "workers": 0},
    "network": {"kind": "unet", "widths": [4, 8], "bias_field": "removed"},
    "objective": {"kind": "dae"},
    "training": {"steps": 2},
    "score": {"kind": "residual", "polarity": "dark", "normative": True},
}


@pytest.fixture(scope="module")
def healthy():
    """Mean and SD of healthy scans at every second voxel, their mask, and one: the template with folds of its own."""
    template, mask = read_template()
    mean = np.where(mask, 0.2 + 0.7 * template / template.max(), 0)
    folds = np.random.default_rng(0).normal(0, 0.1, mask.shape)
    return mean[STEP], np.full(mask[STEP].shape, 0.1), mask, np.clip(mean * (1 + folds), 0.05, None) * mask


def shading(shape, strength=0.3):
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    return np.exp(strength * (x - 0.5 * y**2 + 0.5 * x * y * z))


def test_a_field_is_taken_out(healthy):
    mean, sd, mask, scan = healthy
    alone = without_bias_field(scan, mask, mean, sd)
    shaded = without_bias_field(scan * shading(mask.shape), mask, mean, sd)
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
    found = without_bias_field(ill, mask, mean, sd)
    healthy_there = without_bias_field(scan, mask, mean, sd)[lesion].mean()
    assert found[lesion].mean() / healthy_there == pytest.approx(0.5, abs=0.02)


def finer_shading(shape, strength):
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    return np.exp(strength * (x + 0.6 * (8 * y**4 - 8 * y**2 + 1) - 0.5 * x * (2 * z**2 - 1) * y**2))


def test_strong_shading_is_followed_more_finely(healthy):
    mean, sd, mask, scan = healthy
    field = finer_shading(mask.shape, 0.25)
    assert np.log(field)[mask].std() > 0.13
    alone = without_bias_field(scan, mask, mean, sd)
    left = np.abs(without_bias_field(scan * field, mask, mean, sd) - alone)[mask].mean()
    assert left < 0.1 * np.abs(scan * field - scan)[mask].mean()


@pytest.mark.parametrize("contrast", [0.7, 1.3])
def test_a_large_lesion_is_not_taken_for_strong_shading(healthy, contrast):
    mean, sd, mask, scan = healthy
    places = np.indices(mask.shape) - np.array([28, 50, 45]).reshape(3, 1, 1, 1)
    lesion = (np.square(places).sum(0) < 12**2) & mask
    field = finer_shading(mask.shape, 0.25)
    alone = without_bias_field(scan * field, mask, mean, sd)[lesion].mean()
    ill = without_bias_field(np.where(lesion, contrast * scan, scan) * field, mask, mean, sd)[lesion].mean()
    assert ill / alone == pytest.approx(contrast, abs=0.08)


def test_weak_shading_is_taken_for_what_a_cubic_follows(healthy):
    """So that a large lesion on a scan with next to no shading is not taken for some."""
    mean, sd, mask, scan = healthy
    places = np.indices(mask.shape) - np.array([28, 50, 45]).reshape(3, 1, 1, 1)
    lesion = (np.square(places).sum(0) < 12**2) & mask
    bright = np.where(lesion, 1.2 * scan, scan)
    kept = (
        without_bias_field(bright, mask, mean, sd)[lesion].mean()
        / without_bias_field(scan, mask, mean, sd)[lesion].mean()
    )
    assert kept == pytest.approx(1.2, abs=0.05)


def test_more_shading_never_jumps(healthy):
    """Between weak and strong shading the two fields are mixed: no threshold that a scan may just miss."""
    mean, sd, mask, scan = healthy
    strengths = np.linspace(0.1, 0.25, 16)
    results = [without_bias_field(scan * finer_shading(mask.shape, s), mask, mean, sd)[mask] for s in strengths]
    steps = [np.abs(b - a).mean() for a, b in pairwise(results)]
    assert max(steps) < 0.01


def test_twice_is_once_and_too_little_brain_is_left_alone(healthy):
    mean, sd, mask, scan = healthy
    once = without_bias_field(scan * shading(mask.shape), mask, mean, sd)
    assert np.abs(without_bias_field(once, mask, mean, sd) - once)[mask].mean() < 1.5e-3
    little = np.zeros_like(mask)
    little[40:44, 48:52, 40:44] = mask[40:44, 48:52, 40:44]
    assert np.array_equal(without_bias_field(scan, little, mean, sd), np.where(little, scan, 0).astype(np.float32))


@pytest.fixture(scope="module")
def volumes(cohort, prepared):
    return prepare_healthy(cohort, "train", Config.model_validate(TINY).preparation, cache=prepared, quiet=True)


def test_network_is_shown_no_bias_field(cohort, volumes, tmp_path, prepared):
    config = Config.model_validate(TINY)
    made = fit(config, cohort, tmp_path / "run", cache=prepared, quiet=True)
    loaded = Detector.load(tmp_path / "run")
    volume = volumes[0]
    assert np.array_equal(loaded.shown(volume), fit_reference(volumes).remove(volume.image, volume.mask))
    assert np.array_equal(made.score(volume), loaded.score(volume))

    field = shading(volume.mask.shape, 0.08).astype(np.float32)
    shaded = volume.with_image(volume.image * field)
    difference = np.abs(loaded.score(shaded) - loaded.score(volume))[volume.mask].mean()
    kept = Detector.calibrate(
        Config.model_validate(TINY | {"network": TINY["network"] | {"bias_field": "kept"}}),
        made.network,
        volumes,
        volumes,
    )
    assert difference < 0.3 * np.abs(kept.score(shaded) - kept.score(volume))[volume.mask].mean()


def test_reference_is_kept_in_half_the_length_of_every_axis(cohort, volumes, tmp_path, prepared):
    fit(Config.model_validate(TINY), cohort, tmp_path / "run", cache=prepared, quiet=True)
    assert (tmp_path / "run" / "detector" / "bias_field.safetensors").stat().st_size < 2 * 2 * volumes[0].mask.size / 7


def test_a_detector_of_an_earlier_version_is_read(cohort, volumes, tmp_path, prepared):
    """Where the bias field was called shading, in config and file."""
    made = fit(Config.model_validate(TINY), cohort, tmp_path / "run", cache=prepared, quiet=True)
    folder = tmp_path / "run" / "detector"
    (folder / "bias_field.safetensors").rename(folder / "shading.safetensors")
    config = folder / "config.yaml"
    config.write_text(config.read_text().replace("  bias_field: removed", "  shading: removed"))
    assert np.array_equal(Detector.load(folder).score(volumes[0]), made.score(volumes[0]))


def test_an_atlas_takes_it_out_already():
    with pytest.raises(ValueError, match="sees no residual bias field anyway"):
        Config.model_validate({"name": "a", "network": {"kind": "segmenter", "atlas": True, "bias_field": "removed"}})
