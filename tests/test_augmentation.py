import random

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy import ndimage

from medvae.augmentation import batches, options
from medvae.augmentation.affine import move, source_grid
from medvae.augmentation.augmenter import Augmenter
from medvae.augmentation.base import Augmentation, spread
from medvae.augmentation.bias_field import smooth_field, spline_weights
from medvae.augmentation.gamma import Gamma
from medvae.augmentation.mirror import Mirror
from medvae.augmentation.options import AUGMENTATIONS
from medvae.augmentation.randomness import Sample
from medvae.augmentation.spatial import Pose, Spatial
from medvae.augmentation.thick_slices import slab_weights
from medvae.config import AugmentationConfig
from medvae.imaging.planes import PLANES
from medvae.sampling.tiles import left_right_axis

STILL = {
    "rotation_degrees": 0, "scale": (1, 1), "mirror": False, "contrast": (1, 1), "bias_field": 0, "gamma": (1, 1),
    "brightness": (1, 1), "noise_variance": (0, 0), "sharpness": (0, 0),
}  # fmt: skip
FULL = {"contrast": (0.8, 1.2), "bias_field": 0.2}
SHAPES = [(24, 30), (20, 24, 16)]
INTENSITY = {
    "gamma": (0.7, 1.4), "brightness": (0.8, 1.2), "noise_variance": (0, 0.01), "contrast": (0.8, 1.2),
    "bias_field": 0.3, "sharpness": (-0.5, 1), "thick_slices": 0.7,
}  # fmt: skip
BACKENDS = ("batchgenerators", "tensor")
both = pytest.mark.parametrize("backend", BACKENDS)
shapes = pytest.mark.parametrize("shape", SHAPES, ids=["2D", "3D"])


def tile(shape, channels=2, seed=0):
    """An ellipsoid with texture, and its mask."""
    grid = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    mask = sum(g**2 for g in grid) < 0.6
    values = np.random.default_rng(seed).uniform(-0.2, 1.3, (channels, *shape))
    return np.where(mask, values, 0).astype(np.float32), mask[None]


def augment(backend, image, mask, seeds, mirror_axis=0, **options):
    """A batch of the same tile, augmented by each of the seeds."""
    config = AugmentationConfig(backend=backend, **{**STILL, **options})
    if backend == "batchgenerators":
        augmenter = Augmenter(config, mirror_axis=mirror_axis)
        images, masks = zip(*(augmenter(image, mask, seed) for seed in seeds), strict=True)
        return np.stack(images), np.stack(masks)
    x, inside = (torch.from_numpy(np.repeat(a[None], len(seeds), 0)) for a in (image, mask))
    x, inside = batches.augment(x, inside, config, mirror_axis=mirror_axis, seeds=seeds)
    return x.numpy(), inside.numpy()


def keys(count, epoch=0):
    return [(0, epoch, index) for index in range(count)]


@both
@shapes
def test_ranges_without_width_change_nothing(backend, shape):
    image, mask = tile(shape)
    x, inside = augment(backend, image, mask, keys(3))
    for sample, region in zip(x, inside, strict=True):
        np.testing.assert_array_equal(sample, image)
        np.testing.assert_array_equal(region, mask)


@both
@shapes
def test_sample_depends_on_its_seed_only(backend, shape):
    image, mask = tile(shape)
    options = {**AugmentationConfig().model_dump(exclude={"backend"}), **FULL}
    before = image.copy()
    x, inside = augment(backend, image, mask, keys(5), **options)
    alone, inside_alone = augment(backend, image, mask, keys(5)[3:4], **options)
    np.testing.assert_allclose(alone[0], x[3], atol=2e-6)  # batched arithmetic may round the last bit otherwise
    np.testing.assert_array_equal(inside_alone[0], inside[3])
    np.testing.assert_array_equal(image, before)
    for other in [(1, 0, 3), (0, 1, 3), (0, 0, 4)]:
        assert np.abs(augment(backend, image, mask, [other], **options)[0] - alone).max() > 0.01
    again, _ = augment(backend, image, mask, keys(5), **options)
    np.testing.assert_array_equal(again, x)


@both
@shapes
def test_background_stays_zero_and_types_stay(backend, shape):
    image, mask = tile(shape)
    x, inside = augment(backend, image, mask, keys(4), **{**INTENSITY, "rotation_degrees": 20, "scale": (0.8, 1.2)})
    assert (x.dtype, inside.dtype) == (np.float32, np.bool_)
    assert x[np.repeat(~inside, 2, axis=1)].tolist() == [0] * int((~inside).sum() * 2)
    assert np.isfinite(x).all()


@both
@shapes
def test_intensity_changes_ignore_what_lies_outside_the_mask(backend, shape):
    image, mask = tile(shape)
    outside = np.where(mask, image, 37.0).astype(np.float32)
    outside[:, 0] = -37
    clean, inside = augment(backend, image, mask, keys(3), **INTENSITY)
    dirty, _ = augment(backend, outside, mask, keys(3), **INTENSITY)
    np.testing.assert_allclose(dirty, clean, atol=1e-5)
    np.testing.assert_array_equal(inside, np.repeat(mask[None], 3, 0))


@both
@shapes
def test_mirror_is_a_flip_and_happens_to_half(backend, shape):
    image, mask = tile(shape)
    mask[0, :4] = False  # not symmetric
    x, inside = augment(backend, image * mask, mask, keys(80), mirror=True)
    flipped = 0
    for sample, region in zip(x, inside, strict=True):
        is_flip = np.array_equal(region, mask[:, ::-1])
        expected = (image * mask)[:, ::-1] if is_flip else image * mask
        np.testing.assert_allclose(sample, expected, atol=1e-5)
        flipped += is_flip
    assert 25 < flipped < 55
    assert left_right_axis(["axial"]) == left_right_axis(["coronal"]) == left_right_axis([]) == 0
    assert left_right_axis(["sagittal"]) is left_right_axis(PLANES) is None
    x, _ = augment(backend, image, mask, keys(20), mirror=True, mirror_axis=None)
    np.testing.assert_array_equal(x, np.repeat((image * mask)[None], 20, 0))


def centre(image):
    """Centre of mass in voxels from the centre of the tile."""
    grid = np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in image.shape), indexing="ij")
    return np.array([(g * image).sum() / image.sum() for g in grid])


@pytest.mark.parametrize(
    ("point", "degrees", "expected"),
    [
        ((8, 0), [30], (8 * 0.866, 4)),  # axis 0 towards axis 1
        ((0, 8), [90], (-8, 0)),
        ((0, 8, 0), [90, 0, 0], (0, 0, 8)),  # about axis 0: axis 1 towards axis 2
        ((0, 0, 8), [0, 90, 0], (8, 0, 0)),  # about axis 1: axis 2 towards axis 0
        ((8, 0, 0), [0, 0, 90], (0, 8, 0)),  # about axis 2: axis 0 towards axis 1
        ((8, 0, 0), [90, 0, 90], (0, 0, 8)),  # R_x R_y R_z: about axis 2 first
    ],
)
@pytest.mark.parametrize("mirror", [False, True])
def test_both_backends_turn_a_point_the_same_way(point, degrees, expected, mirror):
    shape = (25, 33, 29)[: len(point)]
    image = np.zeros((1, *shape), np.float32)
    start = tuple(n // 2 + p for n, p in zip(shape, point, strict=True))
    image[(0, *(slice(s - 1, s + 2) for s in start))] = 1
    mask = np.ones((1, *shape), bool)
    if mirror:  # after the rotation
        expected = (-expected[0], *expected[1:])

    config = AugmentationConfig(**{**STILL, "rotation_degrees": 180, "mirror": mirror})
    changes = config.changes(0)
    drawn = [Pose(np.deg2rad(degrees), 1.0), True][: len(changes)]
    matrices = [change.matrix(one, len(shape)) for change, one in zip(changes, drawn, strict=True)]
    x, _ = move(
        torch.from_numpy(image[None]),
        torch.from_numpy(mask[None]),
        [matrices[0] @ matrices[-1] if mirror else matrices[0]],
    )
    np.testing.assert_allclose(centre(x[0, 0].numpy()), expected, atol=0.06)

    moved = image, mask
    for change, one in zip(changes, drawn, strict=True):
        moved = change.apply_to_array(*moved, one)
    np.testing.assert_allclose(centre(moved[0][0]), expected, atol=0.06)


@both
@shapes
def test_scale_above_one_makes_the_brain_smaller(backend, shape):
    image, mask = tile(shape)
    _, inside = augment(backend, image, mask, keys(20), scale=(1, 1.2))
    assert (inside.reshape(20, -1).sum(1) <= mask.sum()).all()
    _, inside = augment(backend, image, mask, keys(20), scale=(0.8, 1))
    assert (inside.reshape(20, -1).sum(1) >= mask.sum()).all()


@both
@shapes
def test_contrast_keeps_the_mean_inside_the_brain(backend, shape):
    image, mask = tile(shape)
    x, _ = augment(backend, image, mask, keys(40), contrast=(0.5, 1.5))
    before, after = image[:, mask[0]], x[:, :, mask[0]]
    np.testing.assert_allclose(after.mean(2), np.broadcast_to(before.mean(1), (40, 2)), atol=1e-4)
    factors = after.std(2) / before.std(1)
    assert (factors >= 0.5).all()
    assert (factors <= 1.5).all()
    assert factors.min() < 0.7 < 1.3 < factors.max()
    assert (factors[:, 0] != factors[:, 1]).all()  # each channel its own


@both
@shapes
def test_bias_field_is_smooth_within_its_amplitude_and_shared_by_the_channels(backend, shape):
    image, mask = tile(shape)
    image = np.where(mask, image + 1, 0).astype(np.float32)
    x, _ = augment(backend, image, mask, keys(30), bias_field=0.3)
    field = x[:, :, mask[0]] / image[:, mask[0]]
    assert np.abs(field - 1).max() <= 0.3 + 1e-5
    assert np.abs(field - 1).max() > 0.15
    np.testing.assert_allclose(field[:, 0], field[:, 1], atol=1e-4)
    full = np.ones_like(image), np.ones_like(mask)
    x, _ = augment(backend, *full, keys(30), bias_field=0.3)
    for axis in range(2, x.ndim):  # between neighbours far less than over the tile
        assert np.abs(np.diff(x, axis=axis)).max() < 0.1
    assert (np.ptp(x.reshape(30, -1), axis=1) > 0).all()


@both
def test_noise_has_the_variance_that_was_asked_for(backend):
    image, mask = np.ones((1, 40, 40), np.float32), np.ones((1, 40, 40), bool)
    x, _ = augment(backend, image, mask, keys(20), noise_variance=(0.04, 0.04))
    assert x.std() == pytest.approx(0.2, rel=0.02)
    assert x.mean() == pytest.approx(1, abs=0.01)


@both
def test_gamma_keeps_the_range_and_moves_the_middle_to_either_side(backend):
    image, mask = tile((24, 30), channels=1)
    x, _ = augment(backend, image, mask, keys(60), gamma=(0.7, 1.4))
    before, after = image[0, mask[0]], x[:, 0, mask[0]]
    np.testing.assert_allclose(after.min(1), before.min(), atol=1e-4)
    np.testing.assert_allclose(after.max(1), before.max(), atol=1e-4)
    brighter = (after.mean(1) > before.mean()).sum()
    assert 18 < brighter < 42


@both
def test_brightness_is_a_factor_of_its_own_for_each_channel(backend):
    image, mask = tile((24, 30))
    x, _ = augment(backend, image, mask, keys(30), brightness=(0.5, 1.5))
    factors = x[:, :, mask[0]] / image[:, mask[0]]
    np.testing.assert_allclose(factors, np.broadcast_to(factors[:, :, :1], factors.shape), rtol=1e-4)
    assert 0.5 <= factors.min() < 0.6
    assert 1.4 < factors.max() <= 1.5
    assert (factors[:, 0, 0] != factors[:, 1, 0]).all()


def test_brain_that_would_leave_the_tile_is_not_moved():
    image, mask = np.zeros((1, 20, 20), np.float32), np.zeros((1, 20, 20), bool)
    image[0, 0, 0], mask[0, 0, 0] = 1, True
    x, inside = augment("tensor", image, mask, keys(20), rotation_degrees=45)
    assert inside.reshape(20, -1).any(1).all()
    assert (x.reshape(20, -1).sum(1) > 0).all()
    x, inside = augment("batchgenerators", image, mask, keys(20), rotation_degrees=45)
    assert not inside.reshape(20, -1).any(1).all()  # the data set then hands out the tile as it was


def test_changing_one_range_leaves_the_other_draws_alone():
    sample = Sample((0, 0, 3), channels=2, dimensions=3, voxel_mm=2.0)

    def draws(**options):
        return {type(change): change.draw(sample) for change in AugmentationConfig(**options).changes(0)}

    first, other = draws(), draws(bias_field=0.2, gamma=(0.5, 2), sharpness=(-1, 1), contrast=(0.8, 1.2))
    for change in set(first) - {Gamma}:
        np.testing.assert_equal(first[change], other[change], err_msg=change.__name__)
    assert first[Gamma] != other[Gamma]
    assert len(other) == len(first) + 3


def test_parameters_of_a_new_change_come_from_a_generator_of_its_own():
    sample = Sample((0, 1, 2), channels=1, dimensions=2, voxel_mm=2.0)
    drawn = sample.generator("ghost").random(4)
    np.testing.assert_array_equal(sample.generator("ghost").random(4), drawn)
    for other in (
        sample.generator("spike"),
        Sample((0, 1, 3), 1, 2, 2.0).generator("ghost"),
        sample.generator("rotation"),
    ):
        assert (other.random(4) != drawn).all()


@both
@shapes
def test_no_global_generator_is_drawn_from_or_moved(backend, shape):
    image, mask = tile(shape)
    options = {**INTENSITY, "rotation_degrees": 20, "scale": (0.8, 1.2), "mirror": True, "thick_slices": 1}
    results = []
    for seed in (1, 2):
        np.random.seed(seed)
        random.seed(seed)
        torch.manual_seed(seed)
        before = np.random.get_state()[1].tolist(), np.random.get_state()[2], random.getstate(), torch.get_rng_state()
        results.append(augment(backend, image, mask, keys(3), **options)[0])
        after = np.random.get_state()[1].tolist(), np.random.get_state()[2], random.getstate(), torch.get_rng_state()
        assert before[:3] == after[:3]
        assert torch.equal(before[3], after[3])
    np.testing.assert_array_equal(*results)


def test_every_option_of_a_change_belongs_to_one_class():
    fields = [field for change in AUGMENTATIONS for field in change.fields.model_fields]
    assert len(fields) == len(set(fields))
    assert set(AugmentationConfig.model_fields) - set(fields) == {"backend", "enabled", "extra"}
    assert {change for change in AUGMENTATIONS if change.moves_mask} == {Spatial, Mirror}
    assert all(issubclass(AugmentationConfig, change.fields) for change in AUGMENTATIONS)


class Shadow(Augmentation):
    """A change as somebody would add it: one draw, one application."""

    fields = AugmentationConfig
    active = True

    def draw(self, sample):
        return sample.generator("shadow").uniform(0.1, 0.9)

    def apply(self, x, mask, drawn):
        return x * spread(drawn, x), mask


def test_a_change_needs_one_draw_and_one_application_for_both_engines(monkeypatch):
    image, mask = tile(SHAPES[0])
    plain = {backend: augment(backend, image, mask, keys(3), gamma=(0.7, 1.4))[0] for backend in BACKENDS}
    monkeypatch.setattr(options, "AUGMENTATIONS", (*options.AUGMENTATIONS, Shadow))
    for backend in BACKENDS:
        x, _ = augment(backend, image, mask, keys(3), gamma=(0.7, 1.4))
        factors = [Shadow(None).draw(Sample(key, 2, 2, 2.0)) for key in keys(3)]
        expected = plain[backend] * np.reshape(factors, (3, 1, 1, 1))
        np.testing.assert_allclose(x, expected, atol=1e-6)  # and the draws of gamma stayed


@shapes
def test_source_grid_is_that_of_pytorch(shape):
    matrix = torch.from_numpy(np.random.default_rng(0).normal(size=(3, len(shape), len(shape))).astype(np.float32))
    half = torch.tensor(shape) / 2  # PyTorch's matrix is in its own coordinates, the last axis first
    theta = torch.nn.functional.pad((matrix * half / half[:, None]).flip(1, 2), (0, 1))
    expected = torch.nn.functional.affine_grid(theta, [3, 1, *shape], align_corners=False)
    torch.testing.assert_close(source_grid(matrix, shape), expected, rtol=0, atol=1e-5)


def test_spline_is_smooth_and_sums_to_one():
    weights = spline_weights(50)
    assert (weights >= 0).all()
    np.testing.assert_allclose(weights.sum(1), 1)
    field = smooth_field(np.random.default_rng(0).uniform(-1, 1, (5, 5)), (50, 40))
    assert np.abs(field).max() == pytest.approx(1)
    assert field.shape == (50, 40)


@pytest.mark.parametrize(
    "options",
    [
        {"scale": (1.05, 1.2)},
        {"contrast": (0.5, 0.9)},
        {"gamma": (0, 1)},
        {"noise_variance": (0.1, 0)},
        {"slice_mm": (5, 3)},
    ],
)
def test_ranges_that_would_be_drawn_otherwise_than_written_are_refused(options):
    with pytest.raises(ValidationError, match=next(iter(options))):
        AugmentationConfig(**options)


@both
@shapes
def test_sharpness_of_minus_one_is_the_blurred_copy(backend, shape):
    image, mask = tile(shape)
    x, _ = augment(backend, image, mask, keys(1), sharpness=(-1, -1))
    weight = np.maximum(ndimage.gaussian_filter(mask[0].astype(float), 1, mode="constant", truncate=3), 1e-9)
    for channel, found in zip(image, x[0], strict=True):
        expected = ndimage.gaussian_filter(np.where(mask[0], channel, 0.0), 1, mode="constant", truncate=3) / weight
        np.testing.assert_allclose(found[mask[0]], expected[mask[0]], rtol=1e-4)
        assert not found[~mask[0]].any()
    sharper, _ = augment(backend, image, mask, keys(1), sharpness=(1, 1))
    np.testing.assert_allclose(sharper[0] + x[0], 2 * image, atol=1e-5)


@pytest.mark.parametrize("phase", [0.0, 0.3])
def test_slabs_are_means_and_lie_on_a_line_between(phase):
    np.testing.assert_allclose(slab_weights(9, 1, 0), np.eye(9), atol=1e-6)
    weights = slab_weights(12, 3.0, phase)
    np.testing.assert_allclose(weights.sum(1), 1, rtol=1e-5)
    assert (weights >= 0).all()
    np.testing.assert_allclose((weights @ np.arange(12.0))[4:8], np.arange(4.0, 8.0), atol=1e-5)  # a ramp stays one
    if not phase:
        for voxel in range(1, 12, 3):  # in the middle of a slice: its mean
            np.testing.assert_allclose(weights[voxel, voxel - 1 : voxel + 2], 1 / 3, rtol=1e-5)
        np.testing.assert_allclose(weights[2], (2 * weights[1] + weights[4]) / 3, atol=1e-6)


@both
@shapes
def test_thick_slices_keep_what_is_alike_along_an_axis_and_take_what_is_not(backend, shape):
    image, mask = tile(shape, channels=1)
    even, _ = augment(backend, np.where(mask, 0.7, 0).astype(np.float32), mask, keys(1), thick_slices=1)
    np.testing.assert_allclose(even[0, 0][mask[0]], 0.7, rtol=1e-5)
    x, _ = augment(backend, image, mask, keys(24), thick_slices=1, slice_mm=(6, 6))
    axes = set()
    for sample in x:
        steps = [
            np.abs(np.diff(sample[0], axis=axis))[(slice(4, -4),) * len(shape)].mean() for axis in range(len(shape))
        ]
        axes.add(int(np.argmin(steps)))
        assert min(steps) < 0.7 * sorted(steps)[1]  # smooth along one axis
    assert axes == set(range(len(shape)))


@both
def test_a_share_of_the_scans_has_thick_slices(backend):
    image, mask = tile(SHAPES[1])
    x, _ = augment(backend, image, mask, keys(120), thick_slices=0.25)
    changed = sum(not np.array_equal(sample, image) for sample in x)
    assert 15 <= changed <= 48  # binomial, 30 ± 4 SDs
