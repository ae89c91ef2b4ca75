"""The numbers of an augmentation stay: trained detectors and published numbers rest on them."""

import contextlib
import functools
import math
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from batchgenerators.transforms.abstract_transforms import Compose
from batchgenerators.transforms.color_transforms import (
    BrightnessMultiplicativeTransform,
    ContrastAugmentationTransform,
    GammaTransform,
)
from batchgenerators.transforms.spatial_transforms import MirrorTransform, SpatialTransform

from medvae.augmentation.augmenter import Augmenter
from medvae.augmentation.batches import augment
from medvae.augmentation.bias_field import smooth_field
from medvae.augmentation.sharpness import sharpened
from medvae.augmentation.thick_slices import Slabs, thickly_sliced
from medvae.config import AugmentationConfig, ObjectiveConfig, read_config

CONFIGS = Path(__file__).parents[1] / "configs"
FULL = AugmentationConfig(
    rotation_degrees=20, scale=(0.8, 1.2), contrast=(0.7, 1.3), bias_field=0.3, gamma=(0.7, 1.5), brightness=(0.8, 1.2),
    sharpness=(-0.8, 1.2), thick_slices=0.6, noise_variance=(0, 0.01),
)  # fmt: skip
ABOVE = AugmentationConfig(scale=(1, 1.2), gamma=(1, 1.5), contrast=(1, 1.5), mirror=False)
SHAPES = [(24, 30), (20, 24, 16)]


def presets():
    """The ranges of every config that is shipped, by a name; those that occur twice once."""
    found = {"defaults": AugmentationConfig(), "appearance": ObjectiveConfig().appearance, "full": FULL, "above": ABOVE}
    for path in sorted(CONFIGS.glob("**/*.yaml")):
        if path.parent.name == "studies":
            continue
        config = read_config(path)
        for ranges in (config.augmentation, config.objective.appearance):
            if ranges not in found.values():
                found[f"{path.stem} {len(found)}"] = ranges
    return found


PRESETS = presets()


def tile(shape, channels=2):
    """An ellipsoid with texture, not symmetric, and its mask."""
    grid = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    mask = sum(g**2 for g in grid) < 0.6
    values = np.random.default_rng(0).uniform(-0.2, 1.3, (channels, *shape))
    return np.where(mask, values, 0).astype(np.float32), mask[None]


class PerSample:
    """A transform in batchgenerators' way: draws from numpy's global generator."""

    def __init__(self, change):
        self.change = change

    def __call__(self, **batch):
        data = batch["data"].copy()
        for index in range(len(data)):
            data[index] = self.change(data[index], batch.get("seg", [None] * len(data))[index])
        return batch | {"data": data}


def sharpness(limits, image, seg):
    weight = torch.from_numpy(np.random.uniform(*limits, 1).astype(np.float32))
    return sharpened(torch.from_numpy(image[None]), torch.from_numpy(seg[None] > 0.5), weight).numpy()[0]


def thick_slices(share, limits, image, seg):
    chance, millimetres, place, phase = np.random.uniform(size=4)
    dimensions = seg.ndim - 1
    slabs = Slabs(
        (limits[0] + millimetres * (limits[1] - limits[0])) / 2, min(int(place * dimensions), dimensions - 1), phase
    )
    if chance >= share:
        return image
    return thickly_sliced(torch.from_numpy(image), torch.from_numpy(seg > 0.5), slabs).numpy()


def bias_field(largest, image, _):
    amplitude = np.random.uniform(0, largest)
    image *= 1 + amplitude * smooth_field(np.random.uniform(-1, 1, (5,) * (image.ndim - 1)), image.shape[1:])
    return image


def noise(variance, values, _):
    deviation = math.sqrt(np.random.uniform(*variance))
    values += np.random.normal(0, deviation, values.shape)
    return values


@contextlib.contextmanager
def seeded(seed):
    word = int(np.random.SeedSequence(seed).generate_state(1)[0])
    states = np.random.get_state(), random.getstate()
    np.random.seed(word)
    random.seed(word)
    yield
    np.random.set_state(states[0])
    random.setstate(states[1])


def with_batchgenerators(config, image, mask, seed, mirror_axis):
    """Augmentation by batchgenerators' own transforms, drawing from the global generators."""
    angle = np.deg2rad(config.rotation_degrees)
    angles = {f"angle_{axis}": (-angle, angle) for axis in "xyz"}
    spatial = [
        SpatialTransform(
            image.shape[1:], patch_center_dist_from_border=None, do_elastic_deform=False, random_crop=False,
            do_rotation=angle > 0, do_scale=config.scale != (1.0, 1.0), scale=config.scale, order_data=1, order_seg=0,
            border_mode_data="constant", border_mode_seg="constant", **angles,
        )
    ]  # fmt: skip
    if config.mirror and mirror_axis is not None:
        spatial.append(MirrorTransform(axes=(mirror_axis,)))
    if config.sharpness != (0, 0):
        spatial.append(PerSample(functools.partial(sharpness, config.sharpness)))
    if config.thick_slices:
        spatial.append(PerSample(functools.partial(thick_slices, config.thick_slices, config.slice_mm)))
    if config.bias_field:
        spatial.append(PerSample(functools.partial(bias_field, config.bias_field)))
    inside = []
    if config.gamma != (1, 1):
        inside.append(GammaTransform(config.gamma))
    if config.brightness != (1, 1):
        inside.append(BrightnessMultiplicativeTransform(config.brightness))
    if config.contrast != (1, 1):
        inside.append(ContrastAugmentationTransform(config.contrast, preserve_range=False))
    if config.noise_variance[1]:
        inside.append(PerSample(functools.partial(noise, config.noise_variance)))
    with seeded(seed):
        batch = Compose(spatial)(data=image[None].copy(), seg=mask[None].astype(np.float32))
        moved = batch["seg"][0] > 0.5
        result = np.zeros_like(image)
        result[:, moved[0]] = Compose(inside)(data=batch["data"][:, :, moved[0]])["data"][0]
    return result, moved


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("shape", SHAPES, ids=["2D", "3D"])
def test_workers_do_what_batchgenerators_does_bit_by_bit(name, shape):
    image, mask = tile(shape)
    for mirror_axis in (0, None):
        augmenter = Augmenter(PRESETS[name], mirror_axis=mirror_axis)
        for seed in [(3, epoch, index) for epoch in range(2) for index in range(4)]:
            expected = with_batchgenerators(PRESETS[name], image, mask, seed, mirror_axis)
            found = augmenter(image, mask, seed)
            for array, reference in zip(found, expected, strict=True):
                assert array.dtype == reference.dtype
                np.testing.assert_array_equal(array, reference)


MIDDLE_AND_THIRD = {
    ("default", 2): [
        0.819555,
        0.021156,
        0.840308,
        -0.000439,
        0.840385,
        0.045569,
        0.42145,
        0.460814,
        0.454144,
        0.637137,
        0.405396,
        0.634461,
    ],
    ("default", 3): [
        -0.11196,
        1.338349,
        -0.061534,
        1.252117,
        -0.052023,
        1.161344,
        0.853966,
        0.095647,
        0.805155,
        0.13214,
        0.808629,
        0.190801,
    ],
    ("appearance", 2): [
        0.559567,
        0.183981,
        1.199043,
        -0.44893,
        1.163946,
        -0.284736,
        0.340855,
        0.55165,
        -0.248957,
        0.563493,
        0.584966,
        1.424158,
    ],
    ("appearance", 3): [
        -0.263242,
        1.854711,
        0.003355,
        1.28407,
        0.106199,
        1.48458,
        0.926109,
        -0.311004,
        0.869477,
        0.00181,
        1.373176,
        0.032169,
    ],
    ("best_t1", 2): [
        0.62275,
        0.524199,
        1.278639,
        -0.562659,
        1.289209,
        -0.351024,
        0.476302,
        0.624709,
        -0.039294,
        0.753131,
        0.375106,
        1.127548,
    ],
    ("best_t1", 3): [
        -0.128665,
        1.403582,
        0.211981,
        0.869853,
        -0.195798,
        1.538468,
        0.926654,
        -0.071387,
        0.717969,
        0.295534,
        1.185809,
        -0.060729,
    ],
    ("best_t1_large", 2): [
        0.614797,
        0.517611,
        1.296346,
        -0.570453,
        1.403673,
        -0.38059,
        0.48038,
        0.629639,
        -0.040584,
        0.751587,
        0.407997,
        1.215954,
    ],
    ("best_t1_large", 3): [
        -0.12992,
        1.423336,
        0.205657,
        0.843551,
        -0.196107,
        1.580485,
        0.902734,
        -0.072837,
        0.692202,
        0.284866,
        1.19244,
        -0.05481,
    ],
    ("full", 2): [
        0.517595,
        0.497911,
        0.644614,
        0.03369,
        0.593975,
        0.754848,
        0.366545,
        0.431193,
        0.670235,
        0.510233,
        0.459969,
        0.945958,
    ],
    ("full", 3): [
        -0.097752,
        1.703185,
        0.407295,
        0.840103,
        0.735407,
        0.809943,
        0.541924,
        0.291495,
        0.431654,
        0.361856,
        0.59702,
        0.531701,
    ],
}
"""Two voxels of three samples with two channels each, of the seeds (3, 1, 0) to (3, 1, 2)."""


@pytest.mark.parametrize(("name", "dimensions"), MIDDLE_AND_THIRD)
def test_tensors_keep_their_numbers(name, dimensions):
    ranges = {
        "default": AugmentationConfig(),
        "appearance": ObjectiveConfig().appearance,
        "best_t1": read_config(CONFIGS / "best_t1.yaml").objective.appearance,
        "best_t1_large": read_config(CONFIGS / "best_t1_large.yaml").objective.appearance,
        "full": FULL,
    }
    shape = SHAPES[dimensions - 2]
    batch = [torch.from_numpy(np.repeat(array[None], 3, 0)) for array in tile(shape)]
    x, _ = augment(*batch, ranges[name], mirror_axis=0, seeds=[(3, 1, index) for index in range(3)])
    places = [tuple(n // part for n in shape) for part in (2, 3)]
    found = np.concatenate([x.numpy()[(slice(None), slice(None), *place)].ravel() for place in places])
    np.testing.assert_allclose(found, MIDDLE_AND_THIRD[name, dimensions], rtol=0, atol=1e-5)  # processors round apart
