"""What runs on a GPU keeps to it: scores, objectives and augmentation on a device that refuses the CPU's tensors."""

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from other_device import DEVICE, Elsewhere, other_device, placed

from medvae.augmentation.batches import augment
from medvae.augmentation.options import AugmentationConfig
from medvae.config import Config
from medvae.config.learning import LesionConfig
from medvae.config.methods import OBJECTIVES, SCORES
from medvae.detection.detector import Detector
from medvae.lesions.synthesis import KINDS, insert_lesions
from medvae.networks.build import build_network
from medvae.normative.inputs import Inputs, NetworkInputs
from medvae.preparation.prepare import prepare_case
from medvae.sampling.tiles import validation_tiles
from medvae.scoring.volume import reconstruct_volume, score_volume
from medvae.training.objectives.base import generator_of, objective_of
from medvae.training.objectives.geco import Geco
from medvae.training.snapshots import draw_reconstructions

EVERYTHING = {
    "rotation_degrees": 8, "bias_field": 0.3, "contrast": [0.8, 1.2], "sharpness": [-1, 1], "thick_slices": 1,
    "noise_variance": [0.0001, 0.001], "backend": "tensor",
}  # fmt: skip
SEGMENTER = {"kind": "segmenter", "widths": [4, 8], "normalisation": "instance", "residual_blocks": 1}
TILE = {"slice": (80, 96), "patch": (16, 16, 16)}


@pytest.fixture(autouse=True)
def another_device(monkeypatch):
    with other_device(monkeypatch):
        yield


def config_of(kind="slice", **sections):
    network = {"widths": [4, 8], "latent_size": 4, "squeeze": 2}
    sampling = {"kind": kind, "batch_size": 2, "workers": 0, "patch_size": [16, 16, 16]}
    return Config.model_validate({"name": "small", "sampling": sampling, "network": network} | sections)


def tiles(kind, channels=1):
    generator = torch._C.Generator().manual_seed(0)
    x = torch.rand(2, channels, *TILE[kind], generator=generator)
    mask = torch.zeros(2, 1, *TILE[kind], dtype=torch.bool)
    mask[(slice(None), slice(None), *[slice(3, -3)] * len(TILE[kind]))] = True
    return x * mask, mask


def there(*tensors):
    return tuple(tensor.to(DEVICE) for tensor in tensors)


def test_the_device_refuses_what_a_gpu_refuses():
    x, y = torch.ones(2), torch.ones(2).to(DEVICE)
    assert y.device == DEVICE
    assert torch.zeros(2, device=y.device).device == DEVICE
    assert type(y.cpu()) is type(y.to("cpu")) is torch.Tensor
    with pytest.raises(RuntimeError, match="same device"):
        x + y
    with pytest.raises(RuntimeError, match="same device"):
        torch.stack([x, y])
    with pytest.raises(RuntimeError, match="same device"):
        x[y > 0]
    with pytest.raises(TypeError, match="to numpy"):
        y.numpy()
    with pytest.raises(TypeError, match="float64"):
        torch.ones(2, dtype=torch.float64).to(DEVICE)
    with pytest.raises(TypeError, match="float64"):
        y.double()
    with pytest.raises(RuntimeError, match="generator"):
        torch.rand(2, device=DEVICE, generator=torch.Generator())
    assert torch.rand(2, device=DEVICE, generator=torch.Generator(DEVICE).manual_seed(1)).device == DEVICE


NETWORK_SCORES = [name for name, kind in SCORES.items() if kind.needs_network]


@pytest.mark.parametrize("kind", ["slice", "patch"])
@pytest.mark.parametrize("name", [*NETWORK_SCORES, "noisy gradient"])
def test_every_score_is_the_same_on_another_device(name, kind):
    options = {"kind": name, "restoration_steps": 2, "context_side": 32 if kind == "slice" else 16, "context_shifts": 1}
    sections = {"score": options, "objective": {"kind": "vae"}}
    if name == "noisy gradient":
        sections["score"] = {"kind": "kl_gradient", "smoothgrad_draws": 2}
    if SCORES.get(name) and SCORES[name].needs_segmenter:
        sections |= {"network": SEGMENTER, "objective": {"kind": "discrepancy"}}
        options["polarity"] = "bright"
    config = config_of(kind, **sections)
    image = np.zeros((1, *config.grid.shape), np.float32)
    image[0, 30:50, 30:50, 36:40] = np.random.default_rng(0).random((20, 20, 4))
    network = build_network(config, 1).eval().requires_grad_(False)
    scales = (1.0,) * len(config.score.parts) if name in ("product", "sum") else ()
    expected = score_volume(config, network, image, image[0] > 0, scales)
    elsewhere = placed(deepcopy(network))
    found = score_volume(config, elsewhere, image, image[0] > 0, scales)
    assert next(elsewhere.parameters()).device == DEVICE
    np.testing.assert_array_equal(found, expected)
    assert expected.any()
    if "network" not in sections:
        assert reconstruct_volume(config, elsewhere, image, image[0] > 0).any()


@pytest.mark.parametrize("kind", ["slice", "patch"])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_is_the_same_on_another_device(name, kind):
    sections = {"objective": {"kind": name}}
    if name == "discrepancy":
        sections = {
            "objective": {"kind": name, "balance": 0.5, "appearance": EVERYTHING},
            "network": SEGMENTER, "score": {"kind": name, "polarity": "bright"},
        }  # fmt: skip
    elif name == "dae":
        sections["network"] = {"kind": "unet", "widths": [4, 8]}
    config = config_of(kind, **sections)
    x, mask = tiles(kind)
    network = build_network(config, 1)
    made = []
    for model, (tile, brain) in ((network, (x, mask)), (placed(deepcopy(network)), there(x, mask))):
        objective = objective_of(config.objective)
        terms = objective.training_terms(model, tile, brain, (0, 1), 1)
        terms.total.backward()
        with torch.no_grad():
            watched = objective.validation_terms(model, tile, brain, (0, 2))
        assert all(term.device == tile.device for term in (*watched.values(), terms.total))
        made.append([float(term.detach()) for term in (*terms, *watched.values()) if term is not None])
    assert made[0] == made[1]


@pytest.mark.parametrize("kind", ["slice", "patch"])
def test_augmentation_is_the_same_on_another_device(kind):
    extra = [{"transform": "monai.transforms.RandGibbsNoise", "prob": 1.0},
             {"transform": "batchgenerators.transforms.noise_transforms.RicianNoiseTransform"}]  # fmt: skip
    config = AugmentationConfig.model_validate(EVERYTHING | {"extra": extra})
    x, mask = tiles(kind, channels=2)
    seeds = [(0, 0, 1), (0, 0, 2)]
    expected = augment(x, mask, config, mirror_axis=0, seeds=seeds)
    found = augment(*there(x, mask), config, mirror_axis=0, seeds=seeds)
    for one, other in zip(found, expected, strict=True):
        assert one.device == DEVICE
        torch.testing.assert_close(one.cpu(), other)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("kind", ["slice", "patch"])
def test_lesions_are_inserted_where_the_tiles_are(name, kind):
    options = LesionConfig(kinds=[name], count=(3, 3), radius_mm=(4, 12), cores=1, follows_tissue=0.5, white_matter=0.5)
    x, mask = tiles(kind)
    expected = insert_lesions(x, mask, options, (0, 1))
    found = insert_lesions(*there(x, mask), options, (0, 1))
    assert all(torch.equal(one.cpu(), other) for one, other in zip(found, expected, strict=True))
    assert expected[1].any()


@pytest.mark.parametrize("kind", ["slice", "patch"])
def test_all_that_a_network_is_shown_is_made_where_the_tiles_are(kind):
    shown = {"atlas": True, "mirror": True, "texture": True, "detail": 4, "deformable": kind == "patch"}
    reconstructor = {"run": "none", "shows": ["residual", "kl_gradient"],
                     "network": {"widths": [4, 8], "latent_size": 4, "squeeze": 2}}  # fmt: skip
    network = SEGMENTER | shown | {"reconstructor": reconstructor}
    objective = {"kind": "discrepancy"}
    augmentation = {
        "gamma": [1, 1],
        "brightness": [1, 1],
        "noise_variance": [0, 0],
        "rotation_degrees": 0,
        "scale": [1, 1],
    }
    score = {"kind": "discrepancy", "polarity": "bright"}
    config = config_of(kind, network=network, objective=objective, score=score, augmentation=augmentation)
    count = Inputs.of(config.network, 1).channels.count
    x, mask = tiles(kind, channels=count)
    model = build_network(config, 1).eval()
    expected = model(x).logits
    elsewhere = placed(deepcopy(model))
    assert torch.equal(elsewhere(*there(x)).logits.cpu(), expected)
    terms = objective_of(config.objective).training_terms(elsewhere, *there(x, mask), (0, 1), 0)
    assert terms.total.device == DEVICE


def test_beta_is_adapted_where_the_loss_is():
    geco = Geco(1.0, 0.5, 0.1, DEVICE)
    geco.restore(geco.state())
    geco.update(torch.tensor(0.7, device=DEVICE))
    assert geco.beta.device == DEVICE
    assert torch.rand(3, generator=generator_of((0, 1), DEVICE), device=DEVICE).device == DEVICE


def test_pictures_and_files_are_made_of_a_network_that_is_elsewhere(cohort, tmp_path, prepared):
    config = config_of()
    volume = prepare_case(cohort, cohort.of_split("validation")[0], config.preparation, cache=prepared)
    network = build_network(config, 1).eval().requires_grad_(False)
    held_out = validation_tiles(config, [NetworkInputs(Inputs.of(config.network, 1)).shown(volume)])
    detector = Detector.calibrate(config, network, [volume], [volume], device="cpu")
    elsewhere = replace(detector, network=placed(deepcopy(network)))
    assert elsewhere.device == "cuda:0"
    assert draw_reconstructions(elsewhere.network, held_out, config, tmp_path / "drawn.png").exists()
    np.testing.assert_array_equal(elsewhere.score(volume), detector.score(volume))
    elsewhere.write(tmp_path / "detector")
    assert Detector.load(tmp_path / "detector", device="cpu").device == "cpu"
    assert isinstance(next(elsewhere.network.parameters()), Elsewhere)
