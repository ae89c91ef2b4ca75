"""Reconstruct, then discriminate: a segmenter that is shown what a trained network makes of the scan."""

import shutil

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from medvae.config import Config, NetworkConfig
from medvae.detection.detector import Detector
from medvae.errors import MedvaeError
from medvae.fitting import fit
from medvae.networks.build import build
from medvae.networks.densities import kl_divergence
from medvae.networks.segmenter import TYPICAL_RATIO, Segmenter
from medvae.preparation.prepare import prepare_healthy
from medvae.training.loop import train
from medvae.training.objectives import discrepancy

SAMPLING = {"kind": "patch", "patch_size": [48, 48, 48], "patch_overlap": 0, "batch_size": 1, "workers": 0}
KEPT = {"gamma": [1, 1], "brightness": [1, 1], "noise_variance": [0, 0]}
VAE = {"widths": [4, 8, 8], "latent_size": 8, "squeeze": 4}
SEGMENTER = {"kind": "segmenter", "widths": [4, 8], "normalisation": "instance", "atlas": True, "mirror": True}
BOTH = ["residual", "kl_gradient"]


def first(**more):
    content = {"name": "first", "sampling": SAMPLING, "network": VAE, "training": {"steps": 2}}
    return Config.model_validate(content | more)


def second(run, shows=BOTH, **more):
    content = {
        "name": "second", "sampling": SAMPLING, "augmentation": KEPT,
        "network": SEGMENTER | {"reconstructor": {"run": str(run), "shows": shows}},
        "objective": {"kind": "discrepancy"},
        "training": {"steps": 3, "ema_decay": 0.9}, "score": {"kind": "discrepancy", "polarity": "bright"},
    }  # fmt: skip
    return Config.model_validate(content | more)


@pytest.fixture(scope="module")
def run(cohort, tmp_path_factory, prepared):
    folder = tmp_path_factory.mktemp("reconstructor") / "first"
    fit(first(), cohort, folder, cache=prepared, quiet=True)
    return folder


def test_it_sees_the_residual_and_the_gradient_inside_the_brain():
    torch.manual_seed(0)
    reconstructor = build(NetworkConfig(**VAE), (16, 16, 16), 1).eval()
    network = Segmenter((16, 16, 16), widths=(4, 8), reconstructor=reconstructor, shows=BOTH).eval()
    seen = []
    network.network.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    scan = torch.rand(2, 1, 16, 16, 16) + 0.1
    scan[:, :, :4] = 0
    with torch.no_grad():
        network(scan)
    shown = seen[0]
    assert shown.shape == (2, 3, 16, 16, 16)
    assert torch.equal(shown[:, :1], scan)
    brain = scan != 0
    torch.testing.assert_close(shown[:, 1:2], (scan - reconstructor(scan).reconstruction) * brain)
    x = scan.clone().requires_grad_(True)
    (slope,) = torch.autograd.grad(kl_divergence(*reconstructor.encode(x)).sum(), x)
    slope = slope.abs() * brain
    mean = torch.stack([part[inside].mean() for part, inside in zip(slope, brain, strict=True)])
    torch.testing.assert_close(shown[:, 2:], slope / mean.view(-1, 1, 1, 1, 1) / TYPICAL_RATIO)


def test_the_reconstructor_stays_as_it_was_and_comes_with_the_detector(run, cohort, tmp_path, prepared):
    reconstructor = tmp_path / "first"
    shutil.copytree(run, reconstructor)
    made = fit(second(reconstructor), cohort, tmp_path / "second", cache=prepared, quiet=True)
    weights = load_file(tmp_path / "second" / "detector" / "network.safetensors")
    for name, tensor in load_file(run / "detector" / "network.safetensors").items():
        assert torch.equal(weights[f"reconstructor.{name}"], tensor)
    again = fit(second(reconstructor), cohort, tmp_path / "second", resume=True, cache=prepared, quiet=True)
    assert again.fingerprint == made.fingerprint
    shutil.rmtree(reconstructor)
    loaded = Detector.load(tmp_path / "second")
    volume = prepare_healthy(cohort, "validation", loaded.config.preparation, cache=prepared, quiet=True)[0]
    assert np.array_equal(made.score(volume), loaded.score(volume))


def test_training_goes_on_where_it_was_stopped(run, cohort, tmp_path, prepared):
    whole = fit(second(run), cohort, tmp_path / "whole", cache=prepared, quiet=True)
    config = second(run, training={"steps": 3, "ema_decay": 0.9, "checkpoint_every": 1})
    calls = []

    def stop(*arguments, **options):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    real = discrepancy.discrepancy_loss
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(discrepancy, "discrepancy_loss", stop)
        with pytest.raises(KeyboardInterrupt):
            fit(config, cohort, tmp_path / "stopped", cache=prepared, quiet=True)
    resumed = fit(config, cohort, tmp_path / "stopped", resume=True, cache=prepared, quiet=True)
    for name, tensor in whole.network.state_dict().items():
        torch.testing.assert_close(resumed.network.state_dict()[name], tensor)


@pytest.mark.parametrize(
    ("change", "shows", "said"),
    [
        ({"preparation": {"clip": None}}, BOTH, r"preparation\.clip"),
        ({"sampling": SAMPLING | {"patch_size": [32, 32, 32]}}, BOTH, "shape of a tile"),
        ({"sampling": {"kind": "slice"}}, BOTH, r"sampling\.kind"),
    ],
)
def test_a_reconstructor_of_other_scans_or_tiles_is_refused(run, cohort, tmp_path, change, shows, said, prepared):
    with pytest.raises(MedvaeError, match=said):
        fit(second(run, shows, **change), cohort, tmp_path / "second", cache=prepared, quiet=True)
    assert not (tmp_path / "second").exists()


def test_a_reconstructor_that_cannot_show_what_is_asked_is_refused(cohort, tmp_path, prepared):
    dae = {"network": {"kind": "unet", "widths": [4, 8]}, "objective": {"kind": "dae"}, "score": {"kind": "residual"}}
    fit(first(**dae), cohort, tmp_path / "dae", cache=prepared, quiet=True)
    with pytest.raises(MedvaeError, match="no KL divergence"):
        fit(second(tmp_path / "dae"), cohort, tmp_path / "second", cache=prepared, quiet=True)
    fit(second(tmp_path / "dae", ["residual"]), cohort, tmp_path / "second", cache=prepared, quiet=True)
    with pytest.raises(MedvaeError, match="no network that reconstructs"):
        fit(second(tmp_path / "second"), cohort, tmp_path / "third", cache=prepared, quiet=True)
    with pytest.raises(MedvaeError, match=r"network\.reconstructor\.run.*no detector"):
        fit(second(tmp_path / "nowhere"), cohort, tmp_path / "third", cache=prepared, quiet=True)


def test_a_reconstructor_without_shading_needs_a_network_that_sees_none(cohort, tmp_path, prepared):
    dae = {"network": {"kind": "unet", "widths": [4, 8], "bias_field": "removed"}, "objective": {"kind": "dae"}}
    fit(first(**dae, score={"kind": "residual"}), cohort, tmp_path / "dae", cache=prepared, quiet=True)
    alone = SEGMENTER | {"atlas": False, "mirror": False, "reconstructor": {"run": str(tmp_path / "dae")}}
    with pytest.raises(MedvaeError, match=r"Add network\.atlas"):
        fit(second(tmp_path / "dae", network=alone), cohort, tmp_path / "second", cache=prepared, quiet=True)
    fit(second(tmp_path / "dae", ["residual"]), cohort, tmp_path / "second", cache=prepared, quiet=True)


def test_a_reconstructor_that_learned_from_validation_scans_is_refused(run, cohort, tmp_path, prepared):
    moved = {"sub00": "validation", "sub04": "train"}
    cases = [case.model_copy(update={"split": moved.get(case.id, case.split)}) for case in cohort.cases]
    with pytest.raises(MedvaeError, match=r'"sub00" would set the thresholds'):
        fit(second(run), cohort.model_copy(update={"cases": cases}), tmp_path / "second", cache=prepared, quiet=True)


def test_only_a_segmenter_has_a_reconstructor_and_training_needs_it(run, cohort, tmp_path, prepared):
    with pytest.raises(ValidationError, match="shown a reconstructor"):
        NetworkConfig(reconstructor={"run": "somewhere"})
    volumes = prepare_healthy(cohort, "train", first().preparation, cache=prepared, quiet=True)
    network = SEGMENTER | {"atlas": False, "mirror": False, "reconstructor": {"run": str(run)}}
    with pytest.raises(MedvaeError, match="a trained network is to be shown"):
        train(second(run, network=network), volumes, [], tmp_path / "run", quiet=True)
