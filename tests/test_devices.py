"""Devices by name: what a user asks for is checked first, told when it is not there, and used when it is."""

import pytest
import torch

from medvae import devices
from medvae.config import Config
from medvae.detection.ensemble import load_detector
from medvae.devices import find_device
from medvae.errors import MedvaeError, MedvaeWarning
from medvae.fitting import fit, fit_ensemble
from medvae.prediction import predict, scans_of_manifest
from medvae.recalibration import healthy_scans, recalibrate
from medvae.training.accelerator import accelerator_on

SMALL = {
    "name": "small",
    "sampling": {"batch_size": 8, "workers": 0},
    "network": {"widths": [4, 8, 8], "latent_size": 8, "squeeze": 4},
    "training": {"steps": 2, "validate_every": 100},
}


def gpus(monkeypatch, count):
    """A machine with so many GPUs, as far as PyTorch tells."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"GPU number {index}")


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch):
    gpus(monkeypatch, 0)


@pytest.mark.parametrize("name", ["gpu", "CUDA", "cuda:", "cuda:-1", "cuda:0.5", "", "cpu:0 "])
def test_a_name_that_is_none_is_told_with_those_that_are(name):
    with pytest.raises(MedvaeError, match=r"is not known. Expected: auto, cpu, cuda, cuda:1 .* or mps"):
        find_device(name)


def test_auto_is_a_gpu_where_there_is_one(monkeypatch):
    assert find_device() == torch.device("cpu")
    gpus(monkeypatch, 1)
    assert find_device() == torch.device("cuda")
    assert find_device("cpu") == torch.device("cpu")


def test_a_gpu_that_is_not_there_is_told_in_a_sentence(monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(MedvaeError, match=r'device "cuda": .* a build without CUDA .* Take auto or cpu'):
        find_device("cuda")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    with pytest.raises(MedvaeError, match="no GPU is seen"):
        find_device("cuda:0")
    gpus(monkeypatch, 2)
    assert find_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(MedvaeError, match=r"has cuda:0 \(GPU number 0\), cuda:1 \(GPU number 1\). Take one of them"):
        find_device("cuda:2")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(MedvaeError, match='"mps": this machine has no GPU of Apple'):
        find_device("mps")


def test_training_runs_where_it_is_told_and_the_next_one_again_where_accelerate_chooses(monkeypatch):
    chosen = accelerator_on("auto", "no").device
    gpus(monkeypatch, 2)
    assert accelerator_on("cuda:1", "no").device == torch.device("cuda", 1)
    assert accelerator_on("cpu", "no").device == torch.device("cpu")
    gpus(monkeypatch, 0)
    assert accelerator_on("auto", "no").device == chosen


def test_several_processes_do_not_share_one_gpu(monkeypatch):
    gpus(monkeypatch, 2)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(MedvaeError, match="one GPU for several processes"):
        accelerator_on("cuda:1", "no")


def test_a_device_that_is_missing_is_told_before_anything_is_done(cohort, tmp_path, prepared):
    detector = fit(Config.model_validate(SMALL), cohort, tmp_path / "run", device="cpu", cache=prepared, quiet=True)
    assert detector.device == "cpu"
    assert load_detector(tmp_path / "run", device="cpu").device == "cpu"
    run, out, missing = tmp_path / "run", tmp_path / "out", {"device": "cuda", "quiet": True}
    with pytest.raises(MedvaeError, match='device "cuda"'):
        fit(Config.model_validate(SMALL), cohort, out, **missing)
    with pytest.raises(MedvaeError, match='device "cuda"'):
        predict(detector, scans_of_manifest(cohort), out, **missing)
    with pytest.raises(MedvaeError, match='device "cuda"'):
        recalibrate(run, healthy_scans(cohort), out, **missing)
    with pytest.raises(MedvaeError, match='device "cuda"'):
        fit_ensemble([run, run], cohort, out, **missing)
    with pytest.raises(MedvaeError, match='device "cuda"'):
        load_detector(run, device="cuda")
    assert not out.exists()


def test_networks_are_moved_to_the_device(cohort, tmp_path, monkeypatch, prepared):
    detector = fit(Config.model_validate(SMALL), cohort, tmp_path / "run", cache=prepared, quiet=True)
    monkeypatch.setattr("medvae.detection.detector.find_device", lambda name: torch.device("meta"))
    assert load_detector(tmp_path / "run", device="cuda").device == "meta"
    assert detector.on("cuda").device == "meta"


def test_what_is_chosen_is_told_to_whoever_asks_for_more(caplog):
    with caplog.at_level("DEBUG", logger="medvae"):
        devices.find_device("cpu")
    assert "device: cpu" in caplog.text


@pytest.mark.parametrize("name", ["auto", "cpu"])
def test_a_processor_without_bfloat16_is_given_float32_with_a_word(monkeypatch, name):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    with pytest.warns(MedvaeWarning, match="no instructions for bfloat16, so float32 is used"):
        assert accelerator_on(name, "bf16").mixed_precision == "no"


def test_a_processor_with_bfloat16_uses_it(monkeypatch, recwarn):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    assert accelerator_on("cpu", "bf16").mixed_precision == "bf16"
    assert accelerator_on("cpu", "no").mixed_precision == "no"
    assert not [warning for warning in recwarn if "bfloat16" in str(warning.message)]


def test_a_detector_on_the_gpu_of_apple_is_found_again_by_the_name_that_its_tensors_say(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert find_device("mps:0") == torch.device("mps", 0)
    with pytest.raises(MedvaeError, match="is not known"):
        find_device("mps:1")
