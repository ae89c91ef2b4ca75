"""A network that is shown what healthy brains look like at each place."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy import ndimage

from medvae.config import Config, NetworkConfig, ObjectiveConfig
from medvae.detection.detector import Detector
from medvae.detection.ensemble import Ensemble
from medvae.errors import MedvaeError
from medvae.fitting import fit
from medvae.networks.build import build_network
from medvae.networks.segmenter import Segmenter
from medvae.normative.atlas import Atlas, fit_atlas
from medvae.normative.inputs import (
    INPUTS,
    LARGEST_Z,
    HealthyIntensity,
    Inputs,
    LogJacobian,
    Mirrored,
    NetworkInputs,
    Scan,
    Texture,
)
from medvae.normative.statistics import SMALLEST_SD
from medvae.normative.texture import log_local_sd
from medvae.preparation.prepare import prepare_healthy
from medvae.preparation.prepared import PreparedVolume
from medvae.scoring.guided import guided_filter
from medvae.training.corruptions import corrupt

INTENSITIES_KEPT = {"gamma": [1, 1], "brightness": [1, 1], "noise_variance": [0, 0]}
TINY = {
    "name": "tiny",
    "sampling": {"kind": "patch", "patch_size": [48, 48, 48], "patch_overlap": 0, "batch_size": 1, "workers": 0},
    "augmentation": INTENSITIES_KEPT,
    "network": {"kind": "segmenter", "widths": [4, 8], "normalisation": "instance", "atlas": True},
    "objective": {"kind": "discrepancy"},
    "training": {"steps": 2},
    "score": {"kind": "discrepancy", "polarity": "bright", "flipped": True},
}


def inputs_of(modalities=1, **asked):
    return Inputs.of(NetworkConfig(kind="segmenter", atlas=True, **asked), modalities)


def maps_of(atlas: Atlas, image: np.ndarray, mask: np.ndarray, *, mirror: bool = False) -> dict[str, np.ndarray]:
    """The maps that a network is shown of a scan, by name; one modality."""
    asked = {"texture": atlas.texture_mean is not None, "deformable": atlas.cover is not None, "mirror": mirror}
    inputs = NetworkInputs(inputs_of(**asked), atlas)
    return dict(zip(inputs.channels.names, inputs.stack(inputs.fitted(image, mask)), strict=True))


@pytest.fixture(scope="module")
def volumes(cohort, prepared):
    return prepare_healthy(cohort, "train", Config.model_validate(TINY).preparation, cache=prepared, quiet=True)


@pytest.fixture(scope="module")
def deformable(volumes):
    return fit_atlas(volumes, texture=True, deformable=True)


def test_atlas_is_the_mean_and_spread_of_the_training_scans(volumes):
    atlas = fit_atlas(volumes)
    everywhere = np.logical_and.reduce([volume.mask for volume in volumes])
    values = np.stack([volume.image for volume in volumes])
    np.testing.assert_allclose(atlas.mean[:, everywhere], values.mean(0)[:, everywhere], rtol=1e-3)  # half precision
    assert (atlas.sd > 0).all()
    low, high = np.argsort(values.std(0)[0][everywhere])[[0, -1]]  # shrinkage keeps the order
    assert atlas.sd[0][everywhere][low] < atlas.sd[0][everywhere][high]
    with pytest.raises(MedvaeError, match="at least three"):
        fit_atlas(volumes[:2])


def test_the_atlas_ends_with_the_brain_and_the_scan_has_no_bias_field(volumes):
    atlas, volume = fit_atlas(volumes), volumes[0]
    shown = maps_of(atlas, volume.image, volume.mask)
    assert list(shown) == ["scan", "mean", "sd"]
    assert np.array_equal(shown["scan"], atlas.fit(volume.image, volume.mask).image[0])
    assert np.array_equal(shown["mean"][volume.mask], atlas.mean[0][volume.mask])
    assert not any(shown[name][~volume.mask].any() for name in shown)
    inputs = NetworkInputs(inputs_of(), atlas)
    assert np.array_equal(inputs.shown(volume).image, np.stack(list(shown.values())))


@pytest.mark.parametrize("modalities", [1, 2])
def test_channels_split_into_named_maps_and_join_again(modalities):
    channels = inputs_of(modalities, mirror=True, texture=True, deformable=True).channels
    assert channels.count == 7 * modalities
    x = torch.rand(2, channels.count, 4, 4, 4)
    maps = channels.split(x)
    assert list(maps) == list(channels.names)
    assert torch.equal(channels.join(maps), x)
    assert all(torch.equal(x[:, channels.of(name)], maps[name]) for name in maps)


def test_every_input_is_asked_for_by_an_option_of_its_own():
    asked = [{}, {"mirror": True}, {"texture": True}, {"deformable": True}]
    kinds = [{type(one) for one in inputs_of(**options).inputs} for options in asked]
    assert kinds[0] == {Scan, HealthyIntensity}
    assert [kind - kinds[0] for kind in kinds[1:]] == [{Mirrored}, {Texture}, {LogJacobian}]
    assert [type(one) for one in Inputs.of(NetworkConfig(), 1).inputs] == [Scan]
    assert set.union(*kinds) == set(INPUTS)


def seen_by(network: Segmenter) -> list[torch.Tensor]:
    seen: list[torch.Tensor] = []
    network.eval().network.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    return seen


def test_network_sees_scan_mean_and_z_score():
    network = Segmenter((16, 16, 16), inputs=inputs_of(), widths=(4, 8))
    seen = seen_by(network)
    x = torch.rand(2, 3, 16, 16, 16)
    x[:, 2] = 0.1
    x[0, 2, 0] = 0  # no SD: outside the brain
    network(x)
    expected = (x[:, 0] - x[:, 1]) / x[:, 2].clamp(min=SMALLEST_SD) / (LARGEST_Z / 2)
    torch.testing.assert_close(seen[0], torch.stack([x[:, 0], x[:, 1], expected.clamp(-2, 2)], 1))


def test_lesions_and_look_change_the_scan_and_not_the_atlas(volumes):
    inputs = NetworkInputs(inputs_of(), fit_atlas(volumes))
    volume = inputs.shown(volumes[0])
    x, mask = torch.from_numpy(volume.image)[None], torch.from_numpy(volume.mask)[None, None]
    options = ObjectiveConfig(kind="discrepancy")
    corrupted, truth = corrupt(options, x, mask, (3,), inputs.channels)
    alone, expected = corrupt(options, x[:, :1], mask, (3,))
    assert torch.equal(corrupted, torch.cat([alone, x[:, 1:]], 1))
    assert torch.equal(truth, expected)


def test_mirrored_scan_looks_alike_with_lesions_of_its_own(volumes):
    atlas, mask = fit_atlas(volumes), volumes[0].mask
    plain, both = inputs_of(), inputs_of(mirror=True)
    shown = NetworkInputs(both, atlas).shown(volumes[0]).image
    assert both.channels.names == ("scan", "mean", "sd", "mirrored")
    assert np.array_equal(shown[:3], NetworkInputs(plain, atlas).shown(volumes[0]).image)
    assert np.array_equal(shown[3], shown[0][::-1] * mask)

    x, inside = torch.from_numpy(shown)[None], torch.from_numpy(mask)[None, None]
    options = ObjectiveConfig(kind="discrepancy", appearance={"noise_variance": (0, 0), "bias_field": 0})
    corrupted, truth = corrupt(options, x, inside, (3,), both.channels)
    without, expected = corrupt(options, x[:, :3], inside, (3,), plain.channels)
    assert torch.equal(corrupted[:, :3], without)
    assert torch.equal(truth, expected)
    there = inside & (x[:, 3:] > 0)
    before, after = ((y[:, :1][there], y[:, 3:][there]) for y in (x, corrupted))
    assert after[0].mean() - before[0].mean() == pytest.approx(float(after[1].mean() - before[1].mean()), abs=0.05)
    assert not torch.equal(corrupted[:, 3:], corrupted[:, :1].flip(2) * inside)


def test_network_sees_the_mirrored_scan_and_its_z_score():
    network = Segmenter((16, 16, 16), inputs=inputs_of(mirror=True), widths=(4, 8))
    assert network.channels.modalities == 1
    seen = seen_by(network)
    scan, mean, sd, mirrored = torch.rand(2, 4, 16, 16, 16).unbind(1)
    network(torch.stack([scan, mean, sd, mirrored], 1))
    plain = Segmenter((16, 16, 16), inputs=inputs_of(), widths=(4, 8))
    alone = seen_by(plain)
    plain(torch.stack([scan, mean, sd], 1))
    plain(torch.stack([mirrored, mean, sd], 1))
    assert torch.equal(seen[0], torch.cat([alone[0], alone[1][:, ::2]], 1))


def test_texture_of_healthy_scans_is_at_the_level_of_the_scan(volumes):
    plain, atlas = fit_atlas(volumes), fit_atlas(volumes, texture=True)
    volume, mask = volumes[0], volumes[0].mask
    shown, without = (maps_of(one, volume.image, mask, mirror=True) for one in (atlas, plain))
    assert shown.keys() - without.keys() == {"texture_mean", "texture_sd"}
    assert all(np.array_equal(shown[name], without[name]) for name in without)
    everywhere = np.logical_and.reduce([volume.mask for volume in volumes])
    rough = [log_local_sd(torch.from_numpy(v.image * v.mask)[None])[0, 0].numpy() for v in volumes]
    levels = [np.median(one[volume.mask]) for one, volume in zip(rough, volumes, strict=True)]
    values = [one[everywhere] - level + np.mean(levels) for one, level in zip(rough, levels, strict=True)]
    np.testing.assert_allclose(atlas.texture_mean[0][everywhere], np.mean(values, 0), rtol=1e-3)  # half precision
    found = log_local_sd(torch.from_numpy(shown["scan"])[None, None])[0, 0].numpy()
    level = np.median((found - atlas.texture_mean[0])[mask])
    np.testing.assert_allclose(shown["texture_mean"][everywhere], atlas.texture_mean[0][everywhere] + level, rtol=1e-3)
    assert not shown["texture_mean"][~mask].any()
    assert not shown["texture_sd"][~mask].any()


def test_a_scan_that_is_rough_or_smooth_as_a_whole_is_like_any_other_and_a_smooth_place_stays_one(volumes, deformable):
    """Sharpness and noise are the scanner's; lost detail in one place is a lesion."""
    mask, rng = volumes[0].mask, np.random.default_rng(0)
    whole = volumes[0].image[0] * mask
    weight = np.maximum(ndimage.gaussian_filter(mask.astype(np.float32), 1), 1e-3)
    blurred = ndimage.gaussian_filter(whole, 1) / weight * mask
    noisy = np.where(mask, np.maximum(whole + rng.normal(0, 0.05, mask.shape), 0.01), 0)
    centre = np.argwhere(mask)[mask.sum() // 2]
    place = (((np.indices(mask.shape) - centre.reshape(3, 1, 1, 1)) ** 2).sum(0) < 36) & mask
    local = np.where(place, blurred, whole)

    def z(image):
        shown = maps_of(deformable, image[None].astype(np.float32), mask)
        found = log_local_sd(torch.from_numpy(shown["scan"])[None, None])[0, 0].numpy()
        return (found - shown["texture_mean"]) / np.maximum(shown["texture_sd"], SMALLEST_SD)

    for image in (whole, blurred, noisy):
        assert abs(np.median(z(image)[mask])) < 0.05
    assert z(local)[place].mean() < z(whole)[place].mean() - 1


def test_scanners_of_different_sharpness_do_not_widen_what_is_healthy(volumes):
    """The same brains, every second one with detail doubled: a level of its own is no spread."""
    alike = fit_atlas(volumes, texture=True).texture_sd
    sharp = [
        volume.with_image((volume.image + (k % 2) * (volume.image - smoothed(volume))).astype(np.float32))
        for k, volume in enumerate(volumes)
    ]
    inside = np.logical_and.reduce([volume.mask for volume in volumes])
    assert fit_atlas(sharp, texture=True).texture_sd[0][inside].mean() < 1.15 * alike[0][inside].mean()


def smoothed(volume: PreparedVolume) -> np.ndarray:
    """The mean over the brain's voxels near each one, ``(1, X, Y, Z)``; elsewhere the scan."""
    weight = ndimage.gaussian_filter(volume.mask.astype(np.float32), 1)
    mean = ndimage.gaussian_filter(volume.image[0] * volume.mask, 1) / np.maximum(weight, 1e-3)
    return np.where(volume.mask, mean, volume.image[0])[None]


@pytest.mark.parametrize("modalities", [1, 2])
def test_network_sees_the_z_score_of_the_texture_of_scan_and_mirrored(modalities):
    inputs, without = (inputs_of(modalities, mirror=True, texture=texture) for texture in (True, False))
    network = Segmenter((16, 16, 16), inputs=inputs, widths=(4, 8))
    seen = seen_by(network)
    maps = dict(zip(inputs.channels.names, torch.rand(6, 2, modalities, 16, 16, 16), strict=True))
    maps["texture_mean"] = -3 + maps["texture_mean"]
    assert network(inputs.channels.join(maps)).logits.shape == (2, 1, 16, 16, 16)
    plain = Segmenter((16, 16, 16), inputs=without, widths=(4, 8))
    alone = seen_by(plain)
    plain(without.channels.join(maps))
    assert torch.equal(seen[0][:, : 5 * modalities], alone[0])
    for place, image in ((5, maps["scan"]), (6, maps["mirrored"])):
        z = (log_local_sd(image) - maps["texture_mean"]) / maps["texture_sd"].clamp(min=SMALLEST_SD) / (LARGEST_Z / 2)
        torch.testing.assert_close(seen[0][:, place * modalities : (place + 1) * modalities], z.clamp(-2, 2))


def test_deviation_is_the_z_value_against_the_bent_mean_and_needs_no_network(
    cohort, volumes, tmp_path, hasty_bending, prepared
):
    score = {"kind": "z_score", "polarity": "dark", "one_sided": True}
    made = fit(
        Config.model_validate({"name": "a", "network": None, "score": score}),
        cohort,
        tmp_path,
        cache=prepared,
        quiet=True,
    )
    volume = volumes[0]
    fitted = made.atlas.fit(volume.image, volume.mask)
    scan, (mean, sd) = fitted.image, made.atlas.at(fitted, ("mean", "sd")).values()
    scan, mean, sd = (array[0] for array in (scan, mean, sd))
    expected = np.where(volume.mask, np.maximum((mean - scan) / np.maximum(sd, SMALLEST_SD), 0), 0)
    np.testing.assert_allclose(made.score(volume), expected, atol=1e-5)
    assert np.array_equal(Detector.load(tmp_path).score(volume), made.score(volume))
    with pytest.raises(ValidationError, match="is a z score already"):
        Config.model_validate({"name": "a", "network": None, "score": score | {"normative": True}})
    (tmp_path / "detector" / "atlas.safetensors").unlink()
    with pytest.raises(MedvaeError, match=r"atlas\.safetensors: is missing"):
        Detector.load(tmp_path)


def test_an_ensemble_keeps_an_atlas_that_its_members_share_once(volumes, tmp_path, hasty_bending):
    atlas, few = fit_atlas(volumes, deformable=True), volumes[:2]
    copies, members = {"dark": atlas, "bright": replace(atlas)}, {}
    for name in ("dark", "bright"):
        config = Config.model_validate({"name": name, "network": None, "score": {"kind": "z_score", "polarity": name}})
        members[name] = Detector.calibrate(config, None, few, few, atlas=copies[name])
    made = Ensemble.calibrate("both", members, few)
    saved = made.save(tmp_path / "both")
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("atlas.safetensors")] == [
        "both/atlas.safetensors"
    ]
    assert np.array_equal(saved.score(volumes[0]), made.score(volumes[0]))
    members["bright"] = Detector.calibrate(members["bright"].config, None, few, few, atlas=fit_atlas(volumes))
    Ensemble.calibrate("other", members, few).save(tmp_path / "other")
    assert len(list((tmp_path / "other").rglob("atlas.safetensors"))) == 2


@pytest.mark.parametrize("also", [{}, {"mirror": True, "texture": True}])
def test_a_saved_detector_scores_as_before(cohort, volumes, tmp_path, also, prepared):
    config = Config.model_validate(TINY | {"network": TINY["network"] | also})
    made = fit(config, cohort, tmp_path / "run", cache=prepared, quiet=True)
    loaded = Detector.load(tmp_path / "run")
    assert np.array_equal(made.score(volumes[0]), loaded.score(volumes[0]))
    np.testing.assert_array_equal(loaded.atlas.mean, fit_atlas(volumes).mean)
    assert loaded.modalities == ("T1",)


def test_the_scan_freed_of_shading_guides_the_smoothing_and_not_the_atlas(volumes, deformable):
    still = INTENSITIES_KEPT | {"rotation_degrees": 0, "scale": [1, 1]}
    config = Config.model_validate(TINY | {"augmentation": still, "network": TINY["network"] | {"deformable": True}})
    detector = Detector.calibrate(config, build_network(config, 1), volumes[:1], volumes[:1], atlas=deformable)
    guided = config.model_copy(update={"score": config.score.model_copy(update={"guided_mm": 2})})
    volume = volumes[0]
    even = deformable.fit(volume.image, volume.mask).image
    expected = guided_filter(detector.score(volume), even, volume.mask, 1)
    np.testing.assert_allclose(replace(detector, config=guided).score(volume), expected, atol=1e-5)


def test_a_detector_that_comes_with_medvae_is_found_by_its_name_unless_a_folder_is_called_so(
    cohort, volumes, tmp_path, monkeypatch
):
    monkeypatch.setattr("medvae.detection.detector.PRETRAINED", tmp_path / "package")
    monkeypatch.chdir(tmp_path)
    baseline = Config.model_validate({"name": "a", "network": None, "score": {"kind": "intensity"}})
    Detector.calibrate(baseline, None, volumes, volumes).save(tmp_path / "package" / "t1")
    assert Detector.load("t1").config.name == "a"
    with pytest.raises(MedvaeError, match=r"t2: holds no detector \(check the path; with medvae comes t1\)"):
        Detector.load("t2")
    (tmp_path / "t1").mkdir()
    with pytest.raises(MedvaeError, match="t1: holds no detector"):
        Detector.load("t1")


def test_augmentation_that_would_change_the_atlas_is_refused():
    with pytest.raises(ValidationError, match="leave gamma, brightness, noise_variance of augmentation off"):
        Config.model_validate(TINY | {"augmentation": {}})
    assert Config.model_validate(TINY | {"augmentation": {"enabled": False}})
    with pytest.raises(ValidationError, match='only kind "segmenter" can be shown an atlas'):
        Config.model_validate({"name": "a", "network": {"atlas": True}})
    with pytest.raises(ValidationError, match="texture is shown as a z score, which needs an atlas"):
        Config.model_validate(TINY | {"network": {"kind": "segmenter", "texture": True}})
    with pytest.raises(ValidationError, match='only kind "segmenter" can be shown the mirrored scan'):
        Config.model_validate({"name": "a", "network": {"mirror": True}})


def bent(volume: PreparedVolume, seed: int) -> PreparedVolume:
    """The brain, bent by up to 4 voxels."""
    rng = np.random.default_rng(seed)
    field = ndimage.gaussian_filter(rng.standard_normal((3, *volume.mask.shape)), (0, 8, 8, 8))
    places = np.indices(volume.mask.shape) + field / np.abs(field).max() * 4
    image = ndimage.map_coordinates(volume.image[0], places, order=1)
    mask = ndimage.map_coordinates(volume.mask.astype(np.float32), places, order=1) > 0.5
    return volume.with_image(np.where(mask, image, 0)[None].astype(np.float32), mask)


def test_a_bent_atlas_is_sharper_and_lies_on_the_scan(volumes):
    """Brains that differ by a smooth field are one brain once they are bent."""
    volumes = [bent(volume, seed) for seed, volume in enumerate(volumes[:3])]
    affine, bent_atlas = fit_atlas(volumes), fit_atlas(volumes, texture=True, deformable=True)
    covered = bent_atlas.cover[0] > 0.9
    assert bent_atlas.sd[0][covered].mean() < 0.8 * affine.sd[0][covered].mean()
    for volume in volumes:
        mask = volume.mask
        shown = maps_of(bent_atlas, volume.image, mask, mirror=True)
        plain = maps_of(affine, volume.image, mask)
        differences = [np.abs(maps["scan"] - maps["mean"])[mask].mean() for maps in (shown, plain)]
        assert differences[0] < 0.8 * differences[1]
        assert not any(found[~mask].any() for found in shown.values())


def test_log_jacobian_tells_where_tissue_was_pushed_outwards(volumes, deformable):
    atlas, volume = deformable, volumes[0]
    centre, radius = np.array([28, 40, 44]), 7.0
    offsets = np.indices(volume.mask.shape) - centre.reshape(3, 1, 1, 1)
    away = np.sqrt((offsets**2).sum(0))
    source = np.indices(volume.mask.shape) - offsets * 0.55 * np.exp(-((away / radius) ** 2))
    pushed = ndimage.map_coordinates(volume.image[0], source, order=1)[None]
    before, after = (maps_of(atlas, image, volume.mask)["log_jacobian"] for image in (volume.image, pushed))
    core = (away < 3) & volume.mask
    assert after[core].mean() > before[core].mean() + 1


def test_mirrored_scan_is_that_of_the_same_place_on_the_other_side(deformable):
    """A brain that is its own mirror image, bent: the mirrored scan lies on the scan, the flipped array does not."""
    atlas = deformable
    template = np.where(atlas.cover > 0.5, (atlas.mean + atlas.mean[:, ::-1]) / 2, 0)
    inside = template[0] > 0.1
    push = 2.5 * np.exp(-(((np.indices(inside.shape) - np.array([26, 48, 44]).reshape(3, 1, 1, 1)) / 12) ** 2).sum(0))
    scan = ndimage.map_coordinates(
        template[0], np.indices(inside.shape) + np.stack([push, 0 * push, 0 * push]), order=1
    )[None]
    mask = scan[0] > 0.1
    shown = maps_of(atlas, scan.astype(np.float32), mask, mirror=True)
    near = mask & mask[::-1] & ((push > 0.5) | (push[::-1] > 0.5))
    flipped, mirrored = (
        np.abs(image - shown["scan"])[near].mean() for image in (shown["scan"][::-1], shown["mirrored"])
    )
    assert mirrored < 0.8 * flipped


def test_network_sees_the_log_jacobian_last_and_its_detail_at_full_resolution():
    network = Segmenter((16, 16, 16), inputs=inputs_of(mirror=True, deformable=True), detail=2, widths=(4, 8))
    seen = seen_by(network)
    x = torch.rand(2, 5, 16, 16, 16)
    x[:, network.channels.of("log_jacobian")] = 9.0
    for weights in network.network.parameters():
        weights.data.zero_()
    logits = network(x).logits
    assert seen[0].shape[1] == 6
    assert torch.equal(seen[0][:, 5], torch.full((2, 16, 16, 16), 2.0))
    moved = x.clone()
    moved[:, 0, 8, 8, 8] += 0.5
    change = (network(moved).logits - logits).abs()[0, 0]
    assert change[8, 8, 8] > 0
    assert int((change > 0).sum()) == 1  # the U-Net has no say here, and what is finer than its stride is seen
