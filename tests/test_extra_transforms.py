import subprocess
import sys

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from medvae.augmentation import batches
from medvae.augmentation.augmenter import Augmenter
from medvae.augmentation.foreign import require_usable
from medvae.config import AugmentationConfig, Config, PreparationConfig, dump_config, read_config
from medvae.errors import MedvaeError
from medvae.preparation.prepare import prepare_case
from medvae.sampling.patches import PatchDataset
from medvae.sampling.slices import SliceDataset
from medvae.sampling.tiles import require_named
from medvae.schema import parse

STILL = {
    "rotation_degrees": 0, "scale": (1, 1), "mirror": False, "gamma": (1, 1), "brightness": (1, 1),
    "noise_variance": (0, 0),
}  # fmt: skip
GIBBS = {"transform": "monai.transforms.RandGibbsNoise", "prob": 1.0, "alpha": [0.3, 0.7]}
FLIP = {"transform": "monai.transforms.RandFlip", "prob": 0.5, "spatial_axis": 0}
RICIAN = {"transform": "batchgenerators.transforms.noise_transforms.RicianNoiseTransform", "noise_variance": [0.1, 0.2]}
TURN = {
    "transform": "batchgenerators.transforms.spatial_transforms.SpatialTransform", "patch_size": None,
    "random_crop": False, "do_elastic_deform": False, "do_scale": False, "angle_x": [0.3, 0.5],
}  # fmt: skip
CROPS = "batchgenerators.transforms.crop_and_pad_transforms"
KINDS = {
    "monai": GIBBS,
    "monai dictionary": GIBBS | {"transform": "monai.transforms.RandGibbsNoised", "keys": "image"},
    "monai, moving": FLIP,
    "monai dictionary, moving": FLIP | {"transform": "monai.transforms.RandFlipd", "keys": ["image", "mask"]},
    "batchgenerators": RICIAN,
    "batchgenerators, moving": TURN,
}
MOVING = [kind for kind in KINDS if "moving" in kind]
SHAPES = [(24, 30), (16, 20, 12)]
backends = pytest.mark.parametrize("backend", ["batchgenerators", "tensor"])
shapes = pytest.mark.parametrize("shape", SHAPES, ids=["2D", "3D"])
kinds = pytest.mark.parametrize("kind", KINDS)


def tile(shape, channels=2):
    """An ellipsoid with texture, not symmetric, and its mask."""
    grid = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    mask = sum(g**2 for g in grid) < 0.6
    mask[: shape[0] // 4] = False
    values = np.random.default_rng(0).uniform(0.2, 1.3, (channels, *shape))
    return np.where(mask, values, 0).astype(np.float32), mask[None]


def augment(backend, image, mask, seeds, *extra, **ranges):
    config = AugmentationConfig(extra=extra, **(STILL | ranges))
    if backend == "batchgenerators":
        augmenter = Augmenter(config, mirror_axis=0)
        images, masks = zip(*(augmenter(image, mask, seed) for seed in seeds), strict=True)
        return np.stack(images), np.stack(masks)
    batch = (torch.from_numpy(np.repeat(array[None], len(seeds), 0)) for array in (image, mask))
    x, inside = batches.augment(*batch, config, mirror_axis=0, seeds=seeds)
    return x.numpy(), inside.numpy()


def keys(count):
    return [(0, 1, index) for index in range(count)]


@pytest.fixture(scope="module")
def volumes(cohort):
    return [prepare_case(cohort, case, PreparationConfig()) for case in cohort.cases[:2]]


@backends
@shapes
@kinds
def test_sample_depends_on_its_seed_only(backend, shape, kind):
    image, mask = tile(shape)
    before = image.copy(), mask.copy()
    x, inside = augment(backend, image, mask, keys(6), KINDS[kind])
    np.random.seed(3)
    torch.manual_seed(3)
    state = np.random.get_state()[1].tolist()
    for index in (4, 1):
        alone, inside_alone = augment(backend, image, mask, keys(6)[index : index + 1], KINDS[kind])
        np.testing.assert_array_equal(alone[0], x[index])
        np.testing.assert_array_equal(inside_alone[0], inside[index])
    assert np.random.get_state()[1].tolist() == state
    assert len({sample.tobytes() for sample in x}) > 1
    np.testing.assert_array_equal(image, before[0])
    np.testing.assert_array_equal(mask, before[1])


@shapes
@kinds
def test_both_backends_do_the_same(shape, kind):
    image, mask = tile(shape)
    workers, tensors = (augment(b, image, mask, keys(3), KINDS[kind]) for b in ("batchgenerators", "tensor"))
    for one, other in zip(workers, tensors, strict=True):
        np.testing.assert_array_equal(one, other)


@backends
@shapes
@kinds
def test_background_is_zero_and_the_mask_moves_with_the_image_alone(backend, shape, kind):
    image, mask = tile(shape)
    x, inside = augment(backend, image, mask, keys(8), KINDS[kind])
    assert (x.dtype, inside.dtype) == (np.float32, np.bool_)
    assert not x[np.repeat(~inside, 2, axis=1)].any()
    moved = [not np.array_equal(region, mask) for region in inside]
    assert any(moved) == (kind in MOVING)
    if "Flip" in KINDS[kind]["transform"]:
        assert 0 < sum(moved) < 8
        for sample, region, flipped in zip(x, inside, moved, strict=True):
            np.testing.assert_array_equal(sample, image[:, ::-1] if flipped else image)
            np.testing.assert_array_equal(region, mask[:, ::-1] if flipped else mask)


@backends
def test_several_follow_each_other_and_the_ranges_keep_their_draws(backend):
    image, mask = tile(SHAPES[0])
    ranges = {"gamma": (0.7, 1.4), "rotation_degrees": 10, "noise_variance": (0, 0.01)}
    plain, inside = augment(backend, image, mask, keys(3), **ranges)
    x, _ = augment(backend, image, mask, keys(3), GIBBS, FLIP, **ranges)
    for sample, after, region, seed in zip(plain, x, inside, keys(3), strict=True):
        alone, _ = augment(backend, sample, region, [seed], GIBBS, FLIP)
        np.testing.assert_allclose(after, alone[0], atol=1e-6)
    twice, _ = augment(backend, image, mask, keys(1), RICIAN, RICIAN)
    once, inside = augment(backend, image, mask, keys(1), RICIAN)
    other, _ = augment(backend, once[0], inside[0], keys(1), RICIAN)
    assert (twice != other).any()  # the second has a seed of its own


@pytest.mark.parametrize("patches", [False, True])
def test_worker_processes_do_not_matter(volumes, patches):
    augmenter = Augmenter(AugmentationConfig(extra=[GIBBS, RICIAN, FLIP]), mirror_axis=0)
    if patches:
        tiles = PatchDataset(volumes, (16, 16, 16), per_volume=2, augmenter=augmenter)
    else:
        tiles = SliceDataset(volumes, ["axial"], min_brain_fraction=0.02, augmenter=augmenter)
    order = [(epoch, index) for epoch in range(2) for index in range(3)]
    one, two = (list(DataLoader(tiles, 2, sampler=order, num_workers=count)) for count in (0, 2))
    for left, right in zip(one, two, strict=True):
        assert torch.equal(left[0], right[0])
        assert torch.equal(left[1], right[1])


def test_brain_that_would_leave_the_tile_is_not_moved():
    image, mask = np.zeros((1, 20, 20), np.float32), np.zeros((1, 20, 20), bool)
    image[0, 0, 0], mask[0, 0, 0] = 1, True
    away = {
        "transform": "monai.transforms.Affine",
        "translate_params": [30, 30],
        "padding_mode": "zeros",
        "image_only": True,
    }
    x, inside = augment("tensor", image, mask, keys(1), away)
    assert inside[0, 0, 0, 0]
    assert x[0, 0, 0, 0] == 1


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("monai.transforms.RandGibsNoise", r'Did you mean "monai\.transforms\.RandGibbsNoise"\?'),
        ("monai.transforms.RandGibsNoised", r'Did you mean "monai\.transforms\.RandGibbsNoised"\?'),
        (
            "batchgenerators.transforms.RicianNoiseTransform",
            r'mean "batchgenerators\.transforms\.noise_transforms\.Ric',
        ),
        ("monai.transforms.intensity.array.RandFlip", r'Did you mean "monai\.transforms\.RandFlip"\?'),
        ("os.system", r'"os\.system" is not from an allowed package'),
        ("monai.data.CacheDataset", "not from an allowed package"),
        ("monai.transforms_of_mine.Evil", "not from an allowed package"),
        ("RandFlip", "not from an allowed package"),
        ("monai.transforms.xyzzy", "Look one up"),
    ],
)
def test_unknown_names_and_other_packages_are_refused_when_the_config_is_read(name, told):
    content = {"name": "a", "augmentation": {"extra": [GIBBS, {"transform": name}]}}
    with pytest.raises(MedvaeError, match=r'run\.yaml: "augmentation\.extra\.1\.transform"') as error:
        parse(Config, content, "run.yaml")
    assert error.match(told)


@pytest.mark.parametrize(
    ("extra", "told"),
    [
        (GIBBS | {"alfa": 1}, r"RandGibbsNoise\(prob=1\.0, alpha=\(0\.3, 0\.7\), alfa=1\) cannot be made"),
        ({"transform": "monai.transforms.Zoom", "zoom": 2, "keep_size": False}, "keeps the shape"),
        ({"transform": "monai.transforms.RandSpatialCrop", "roi_size": 8}, "none of MONAI's intensity"),
        ({"transform": "monai.transforms.Compose"}, "none of MONAI's intensity"),
        ({"transform": "monai.transforms.RandTorchVision", "name": "ColorJitter"}, "none of MONAI's intensity"),
        ({"transform": "monai.transforms.RandFlipd", "keys": "image"}, r"\['image', 'mask'\] was expected"),
        ({"transform": "monai.transforms.RandGibbsNoised", "keys": ["image", "mask"]}, r"\['image'\] was expected"),
        ({"transform": "monai.transforms.RandRotate90", "prob": 1.0}, "keeps the shape"),
        ({"transform": "monai.transforms.RandFlip", "prob": 1.0, "spatial_axis": 5}, "failed on an image of shape"),
        ({"transform": f"{CROPS}.CenterCropTransform", "crop_size": 9}, "keeps the shape"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_told_before_training(extra, told):
    config = Config(name="a", augmentation={"extra": [extra]})
    with pytest.raises(MedvaeError, match=told):
        require_named(config)
    require_named(Config(name="a", augmentation={"extra": [extra], "enabled": False}))


@pytest.mark.parametrize("extra", [FLIP, KINDS["monai dictionary, moving"], TURN])
def test_truth_is_not_left_behind(extra):
    extra = AugmentationConfig(extra=[extra]).extra
    with pytest.raises(MedvaeError, match="the truth would stay behind"):
        require_usable(extra, (24, 30), may_move=False)


def test_atlas_refuses_transforms_of_scan_and_atlas_alike():
    network = {"kind": "segmenter", "atlas": True}
    kept = STILL | {"extra": [GIBBS]}
    with pytest.raises(ValueError, match="leave extra of augmentation off"):
        Config(name="a", network=network, augmentation=kept)


def test_config_is_read_without_either_library_and_written_as_it_was_read(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(dump_config(Config(name="a", augmentation={"extra": [GIBBS, RICIAN]})))
    assert "transform: monai.transforms.RandGibbsNoise" in path.read_text()
    config = read_config(path)
    assert [extra.arguments for extra in config.augmentation.extra] == [
        {"prob": 1.0, "alpha": (0.3, 0.7)},
        {"noise_variance": (0.1, 0.2)},
    ]
    program = (
        "import sys; from medvae.config import read_config; read_config(sys.argv[1]); "
        "sys.exit(str({'torch', 'monai', 'batchgenerators'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, check=False)
    assert found.stderr.strip() == "set()"
