"""A network of MONAI by its name in a config."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from medvae.config import Config, dump_config, read_config
from medvae.config.backbone import BackboneConfig
from medvae.detection.detector import Detector
from medvae.errors import MedvaeError
from medvae.fitting import fit
from medvae.networks.build import build_network, load_network, require_backbone
from medvae.preparation.prepare import prepare_case
from medvae.schema import parse
from medvae.training.checkpoints import as_safetensors

NETS = "monai.networks.nets"
SEG = {"target": f"{NETS}.SegResNet", "options": {"init_filters": 8, "blocks_down": [1, 1], "blocks_up": [1]}}
PATCH = {"kind": "patch", "patch_size": [16, 16, 16], "patch_overlap": 0, "patches_per_volume": 2, "batch_size": 2,
         "workers": 0}  # fmt: skip
FINDS = {
    "objective": {"kind": "discrepancy"}, "score": {"kind": "discrepancy", "polarity": "bright"},
    "augmentation": {"enabled": False},
}  # fmt: skip
RESTORES = {"objective": {"kind": "dae"}, "score": {"kind": "residual"}}


def config(backbone, kind="segmenter", **more):
    own = FINDS if kind == "segmenter" else RESTORES
    content = {"name": "switched", "sampling": PATCH, **own, "training": {"steps": 2, "validate_every": 100}}
    network = {"kind": kind, "backbone": backbone} | more.pop("network", {})
    return parse(Config, content | {"network": network} | more, "test")


@pytest.mark.parametrize(
    ("target", "options"),
    [
        ("UNet", {"channels": [4, 8, 8], "strides": [2, 2]}),
        ("SegResNet", {"init_filters": 8}),
        ("BasicUNet", {"features": [8] * 6}),
        ("AttentionUnet", {"channels": [4, 8], "strides": [2]}),
        ("DynUNet", {"kernel_size": [3, 3, 3], "strides": [1, 2, 2], "upsample_kernel_size": [2, 2]}),
    ],
)
@pytest.mark.parametrize("kind", ["segmenter", "unet"])
@pytest.mark.parametrize("sampling", [PATCH | {"patch_size": [32, 32, 32]}, {"plane": "axial"}], ids=["3D", "2D"])
def test_networks_of_monai_work_on_patches_and_slices(target, options, kind, sampling):
    made = config({"target": f"{NETS}.{target}", "options": options}, kind, sampling=sampling)
    require_backbone(made, 1)
    network = build_network(made, 2).eval()
    tile = torch.rand(2, 2, *made.tile_shape)
    found = network(tile)[0]
    assert found.shape == (2, 1 if kind == "segmenter" else 2, *made.tile_shape)
    torch.testing.assert_close(found[:1], network(tile[:1])[0], atol=1e-5, rtol=1e-4)  # batch mates do not matter


def test_a_segmenter_begins_with_rare_lesions_whatever_its_inside():
    probability = torch.sigmoid(build_network(config(SEG), 1).eval()(torch.zeros(1, 1, 16, 16, 16)).logits)
    assert 0.005 < probability.mean() < 0.08


def test_a_run_with_a_backbone_trains_predicts_and_loads_again(cohort, tmp_path, prepared):
    made = config(SEG, network={"mirror": True, "detail": 4})
    detector = fit(made, cohort, tmp_path / "run", cache=prepared, quiet=True)
    again = Detector.load(tmp_path / "run")
    volume = prepare_case(cohort, cohort.case("sub07"), made.preparation, cache=prepared)
    np.testing.assert_array_equal(detector.score(volume), again.score(volume))
    assert read_config(tmp_path / "run" / "config.yaml").network.backbone == made.network.backbone


def test_the_config_comes_back_from_its_file(tmp_path):
    made = config(SEG)
    (tmp_path / "config.yaml").write_text(dump_config(made))
    assert read_config(tmp_path / "config.yaml") == made


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("os.system", r"is not a network of MONAI: name one of monai\.networks\.nets"),
        ("monai.bundle.run", "is not a network of MONAI"),
        ("monai.networks.nets", "is not a network of MONAI"),
        ("monai.networks.netsX.UNet", "is not a network of MONAI"),
        (f"{NETS}.SegResnet", r'Did you mean "monai\.networks\.nets\.SegResNet"'),
        (f"{NETS}.unet.importlib", "there is no"),
        (f"{NETS}.__builtins__.eval", "there is no"),
    ],
)
def test_only_networks_of_monai_may_be_named(name, told):
    with pytest.raises(MedvaeError, match=told):
        config({"target": name})


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"in_channels": 3}, "follows from the tiles"),
        ({"pretrained": True}, "would download weights"),
        ({"pretrained_url": "https://example.org/weights.pt"}, "would download weights"),
        ({"init_filters": 10**6}, "at most 2048"),
        ({"channels": [4, [10**6]]}, "at most 2048"),
        ({"blocks_down": [1] * 100}, "at most 64"),
    ],
)
def test_options_that_fetch_or_fill_memory_are_refused(options, told):
    with pytest.raises(MedvaeError, match=told):
        config({"target": f"{NETS}.SegResNet", "options": options})


@pytest.mark.parametrize(
    ("target", "options", "told"),
    [
        ("HoVerNet", {}, "has no out_channels"),
        ("EfficientNetBN", {"model_name": "efficientnet-b0"}, "has no out_channels"),
        ("SegResNet", {"nonsense": 1}, r"SegResNet\(nonsense=1\) cannot be made.*nonsense"),
        ("UNet", {}, "cannot be made"),
        ("VNet", {}, r"drops units by chance.*Set its dropout to 0"),
        ("SegResNetVAE", {"input_image_size": [32, 32, 32]}, "makes a result of type tuple"),
        ("DenseNet121", {}, "makes a result of shape 1×1 of tiles 1×1×32×32×32; a tensor of 1×1×32×32×32"),
    ],
)
def test_what_does_not_fit_is_told_before_any_scan_is_prepared(target, options, told):
    made = config({"target": f"{NETS}.{target}", "options": options}, sampling=PATCH | {"patch_size": [32, 32, 32]})
    with pytest.raises(MedvaeError, match=told):
        require_backbone(made, 1)


def test_a_tile_that_the_network_cannot_halve_is_told():
    deep = {"target": f"{NETS}.SegResNet", "options": {"init_filters": 8, "blocks_down": [1] * 7, "blocks_up": [1] * 6}}
    with pytest.raises(MedvaeError, match=r"fails on a tile of 16×16×16|makes a result of shape"):
        require_backbone(config(deep), 1)


def test_a_vae_has_no_backbone():
    with pytest.raises(MedvaeError, match='a backbone is the inside of kind "unet" or "segmenter", not "vae"'):
        parse(Config, {"name": "x", "network": {"kind": "vae", "backbone": SEG}}, "test")


def test_weights_of_another_network_are_refused(tmp_path):
    weights = tmp_path / "network.safetensors"
    weights.write_bytes(as_safetensors(build_network(config(SEG), 1)))
    load_network(config(SEG), 1, weights)
    with pytest.raises(MedvaeError, match="does not fit the network of the config"):
        load_network(
            config(SEG | {"options": {"init_filters": 8, "blocks_down": [1, 2], "blocks_up": [1]}}), 1, weights
        )


def test_reading_a_config_imports_no_monai():
    code = (
        "import sys; from medvae.config.backbone import BackboneConfig; "
        f"BackboneConfig(target='{NETS}.UNet'); print('monai' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"


def test_lists_and_words_are_options():
    options = {"norm": ["instance", {"affine": True}], "act": "relu", "strides": [2], "bias": False, "dropout": 0.0}
    assert BackboneConfig(target=f"{NETS}.UNet", options=options).options == options
