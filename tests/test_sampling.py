import numpy as np
import pytest
import torch

from medvae.augmentation.augmenter import Augmenter
from medvae.config import AugmentationConfig, Config, PreparationConfig
from medvae.imaging.planes import PLANES, cropped, padded, slice_shape, slices_of, volume_of, with_neighbours
from medvae.preparation.prepare import prepare_case
from medvae.sampling.order import EpochOrder
from medvae.sampling.slices import SliceDataset
from medvae.sampling.tiles import augment_batch, training_tiles


@pytest.fixture(scope="module")
def volumes(cohort):
    return [prepare_case(cohort, case, PreparationConfig()) for case in cohort.cases[:2]]


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_slices_put_together_are_the_volume(plane):
    array = np.random.default_rng(0).random((2, 5, 6, 7))
    np.testing.assert_array_equal(volume_of(slices_of(array, plane), plane), array)
    np.testing.assert_array_equal(volume_of(slices_of(array[0], plane), plane), array[0])
    assert slices_of(array, plane).shape[1:] == {"axial": (2, 5, 6), "coronal": (2, 5, 7), "sagittal": (2, 6, 7)}[plane]


@pytest.mark.parametrize("shape", [(5, 6), (7, 6), (8, 9)])
def test_padded_slices_lie_in_the_middle_and_come_back(shape):
    slices = np.random.default_rng(0).random((3, 2, 5, 6))
    wide = padded(slices, shape)
    assert wide.shape == (3, 2, *shape)
    assert wide.sum() == pytest.approx(slices.sum())
    np.testing.assert_array_equal(cropped(wide, (5, 6)), slices)


def test_one_shape_holds_a_slice_of_every_plane():
    assert slice_shape((5, 6, 7), PLANES) == (6, 7)
    assert [slice_shape((5, 6, 7), [plane]) for plane in PLANES] == [(5, 6), (5, 7), (6, 7)]


def test_a_slice_lies_between_its_neighbours_and_beyond_the_ends_is_nothing():
    stack = np.random.default_rng(0).random((6, 2, 3, 4))
    shown = with_neighbours(stack, [0, 3, 5], 2)
    assert shown.shape == (3, 10, 3, 4)
    for row, chosen in enumerate([0, 3, 5]):
        for modality in range(2):
            for offset in range(-2, 3):
                there = chosen + offset
                expected = stack[there, modality] if 0 <= there < 6 else np.zeros((3, 4))
                np.testing.assert_array_equal(shown[row, 5 * modality + offset + 2], expected)
    np.testing.assert_array_equal(with_neighbours(stack, [4], 0)[0], stack[4])
    assert with_neighbours(stack, [], 1).shape == (0, 6, 3, 4)


def test_slices_of_all_planes_are_those_of_each(volumes):
    every = SliceDataset(volumes, PLANES, min_brain_fraction=0.02)
    each = [SliceDataset(volumes, [plane], min_brain_fraction=0.02) for plane in PLANES]
    assert len(every) == sum(map(len, each))
    assert every.images.shape[1:] == (1, 96, 96)
    assert every.masks.sum() == sum(plane.masks.sum() for plane in each)
    np.testing.assert_array_equal(cropped(every.images[40], (80, 96)), each[0].images[40])


def augmented(volumes, key, seed=0, **options):
    augmenter = Augmenter(AugmentationConfig(**options), mirror_axis=0)
    return SliceDataset(volumes, ["axial"], min_brain_fraction=0.02, augmenter=augmenter, seed=seed)[key]


def test_item_depends_on_seed_epoch_and_index_only(volumes):
    first = augmented(volumes, (1, 40))
    np.random.seed(5)
    augmented(volumes, (0, 3))
    again = augmented(volumes, (1, 40))
    assert np.array_equal(first[0], again[0])
    np.random.seed(5)
    expected = np.random.random()
    np.random.seed(5)
    augmented(volumes, (0, 3))
    assert np.random.random() == expected  # the caller's generator is left as it was
    for other in (augmented(volumes, (2, 40)), augmented(volumes, (1, 41)), augmented(volumes, (1, 40), seed=1)):
        assert not np.array_equal(first[0], other[0])


def test_augmentation_changes_the_slice_but_not_the_background_or_the_source(volumes):
    plain = SliceDataset(volumes, ["axial"], min_brain_fraction=0.02)
    before = plain.images[40].copy()
    image, mask = augmented(volumes, (0, 40))
    assert image.dtype == plain[(0, 40)][0].dtype
    assert image.shape == plain[(0, 40)][0].shape
    assert (image[~mask] == 0).all()
    assert 0.85 < mask.sum() / plain.masks[40].sum() < 1.15
    np.testing.assert_array_equal(plain.images[40], before)


def test_no_augmentation_within_no_range(volumes):
    still = {"rotation_degrees": 0, "scale": (1, 1), "mirror": False, "gamma": (1, 1), "brightness": (1, 1)}
    image, _ = augmented(volumes, (0, 40), **still, noise_variance=(0, 0))
    np.testing.assert_allclose(image, SliceDataset(volumes, ["axial"], min_brain_fraction=0.02)[(0, 40)][0], atol=1e-5)


def test_mirroring_is_left_to_right_and_happens_to_half_of_the_slices(volumes):
    still = {"rotation_degrees": 0, "scale": (1, 1), "gamma": (1, 1), "brightness": (1, 1), "noise_variance": (0, 0)}
    plain = SliceDataset(volumes, ["axial"], min_brain_fraction=0.02)[(0, 40)][0]
    mirrored = 0
    for epoch in range(60):
        image, _ = augmented(volumes, (epoch, 40), **still)
        flipped = bool(torch.allclose(image, plain.flip(1), atol=1e-5))
        assert flipped or torch.allclose(image, plain, atol=1e-5)
        mirrored += flipped
    assert 15 < mirrored < 45


@pytest.mark.parametrize("sampling", [{"plane": "sagittal"}, {"kind": "patch", "patch_size": (32, 32, 32)}])
def test_tiles_augmented_as_tensors_depend_on_their_key_only(volumes, sampling):
    def batch(keys, **changes):
        config = Config(name="a", sampling=sampling, augmentation={"backend": "tensor"}, **changes)
        tiles = training_tiles(config, volumes)
        x, mask, key = (torch.stack(parts) for parts in zip(*(tiles[k] for k in keys), strict=True))
        assert key.tolist() == [list(k) for k in keys]
        return augment_batch(config, x, mask, key)[0]

    x = batch([(0, 3), (1, 3), (0, 7)])
    torch.testing.assert_close(batch([(0, 5), (0, 7)])[1], x[2], rtol=0, atol=2e-6)
    assert (x[0] - x[1]).abs().max() > 0.01
    assert (batch([(0, 3)], seed=1)[0] - x[0]).abs().max() > 0.01
    config = Config(name="a", sampling=sampling, augmentation={"backend": "tensor", "enabled": False})
    assert len(training_tiles(config, volumes)[0, 3]) == 2  # without a key nothing is augmented


def test_order_is_shuffled_whole_epochs_and_resumes_anywhere():
    whole = list(EpochOrder(7, seed=3, start=0, stop=20))
    assert list(EpochOrder(7, seed=3, start=9, stop=20)) == whole[9:]
    assert sorted(index for epoch, index in whole[:7]) == list(range(7))
    assert {epoch for epoch, _ in whole} == {0, 1, 2}
    assert [i for _, i in whole[:7]] != [i for _, i in whole[7:14]]
    assert len(EpochOrder(7, seed=3, start=9, stop=20)) == 11
