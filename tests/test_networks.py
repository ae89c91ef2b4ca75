import getpass
import importlib
import subprocess
import sys

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from medvae.config import Config, NetworkConfig
from medvae.errors import MedvaeError
from medvae.imaging.planes import slices_of
from medvae.monai_import import import_monai
from medvae.networks.build import build, build_network
from medvae.networks.vae import ConvVAE
from tests.conftest import STANDARD_GRID

SMALL = {"widths": (4, 8, 8), "latent_size": 6, "squeeze": 4}
SPATIAL = {"latent": "spatial", "latent_size": 3}
KINDS = {
    "vae": {},
    "spatial": SPATIAL,
    "instance": {"normalisation": "instance", "activation": "silu"},
    "residual": SPATIAL | {"normalisation": "group", "activation": "gelu", "residual_blocks": 2},
    "autoencoder_kl": SPATIAL | {
        "kind": "autoencoder_kl", "normalisation": "group", "activation": "silu", "residual_blocks": 1
    },
    "unet": {"kind": "unet"},
    "unet_residual": {"kind": "unet", "normalisation": "group", "activation": "silu", "residual_blocks": 2},
}  # fmt: skip
SIZES = [(32, 48), (16, 24, 32)]


def network(size=(32, 48), channels=1, **options) -> nn.Module:
    torch.manual_seed(0)
    return build(NetworkConfig(**(SMALL | options)), size, channels).eval()


def noise_for(model, batch, seed=2):
    return torch.randn(model.noise_shape(batch), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", KINDS)
def test_shapes_in_2d_and_3d(size, kind):
    model, x = network(size, channels=2, **KINDS[kind]), torch.randn(3, 2, *size)
    noise = noise_for(model, 3)
    output = model(x, noise)
    assert output.reconstruction.shape == x.shape
    if kind.startswith("unet"):
        assert output.mean is None
        assert output.log_variance is None
        assert noise.numel() == 0
        return
    stride = 4 if kind == "autoencoder_kl" else 8
    dense = kind in ("vae", "instance")
    expected = (3, 6) if dense else (3, 3, *(n // stride for n in size))
    assert output.mean.shape == output.log_variance.shape == noise.shape == expected
    assert output.mean.dtype == output.log_variance.dtype == torch.float32


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", KINDS)
def test_output_does_not_depend_on_batch_mates(size, kind):
    model, x = network(size, **KINDS[kind]), torch.randn(3, 1, *size)
    x[0] *= 100  # a bright batch mate would show in any statistic over the batch
    for together, alone in zip(model(x), model(x[2:3]), strict=True):
        if together is not None:
            torch.testing.assert_close(together[2:3], alone, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_train_and_eval_mode_agree(kind):
    model, x = network(**KINDS[kind]), torch.randn(2, 1, 32, 48)
    noise = noise_for(model, 2)
    evaluated = model.eval()(x, noise)
    trained = model.train()(x, noise)
    for a, b in zip(evaluated, trained, strict=True):
        assert (a is None and b is None) or torch.equal(a, b)


@pytest.mark.parametrize("kind", ["vae", "spatial", "residual", "autoencoder_kl"])
def test_noise_moves_the_latent_by_its_standard_deviation(kind):
    model, x = network(**KINDS[kind]), torch.randn(1, 1, 32, 48)
    mean, log_variance = model.encode(x)
    noise = noise_for(model, 1)
    z = mean + torch.exp(0.5 * log_variance) * noise
    assert torch.equal(model(x, noise).reconstruction, model.decode(z))
    assert torch.equal(model(x).reconstruction, model.decode(mean))


@pytest.mark.parametrize("kind", KINDS)
def test_every_weight_and_every_voxel_has_a_gradient(kind):
    model, x = network(**KINDS[kind]), torch.rand(2, 1, 32, 48, requires_grad=True)
    output = model(x, noise_for(model, 2))
    loss = (output.reconstruction - x.detach()).square().sum()
    if output.mean is not None:
        loss = loss + output.mean.square().sum() + output.log_variance.square().sum()
    loss.backward()
    assert x.grad.abs().min() > 0
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters() if p.ndim > 1)


@pytest.mark.parametrize("kind", KINDS)
def test_a_volume_of_equal_slices_is_treated_like_its_slice(kind):
    # A strided layer cannot have an axis of one voxel, but it can have one along which nothing changes: kernels that
    # see one slice on the way down, and fill both slices on the way up, are the 2D network at every slice.
    flat, deep = network((32, 48), **KINDS[kind]), network((32, 48, 8), **KINDS[kind])
    with torch.no_grad():
        for a, b in zip(flat.modules(), deep.modules(), strict=True):
            for name, weight in a.named_parameters(recurse=False):
                target = getattr(b, name)
                if target.ndim == weight.ndim:
                    target.copy_(weight)
                    continue
                taps = [0] if target.shape[-1] == 1 else [1, 2] if isinstance(b, nn.ConvTranspose3d) else [1]
                target.zero_()
                for tap in taps:
                    target[..., tap] = weight
    x = torch.rand(2, 1, 32, 48)
    expected, found = flat(x), deep(x[..., None].expand(-1, -1, -1, -1, 8))
    for a, b in zip(expected, found, strict=True):
        if a is not None:
            a = a[..., None].expand_as(b) if b.ndim > a.ndim else a
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("vae", "instance")])
def test_weights_without_a_dense_latent_fit_tiles_of_any_size(kind):
    patch, volume = network((16, 16, 16), **KINDS[kind]), network((32, 16, 24), **KINDS[kind])
    volume.load_state_dict(patch.state_dict())
    x = torch.rand(1, 1, 32, 16, 24)
    assert torch.equal(patch(x).reconstruction, volume(x).reconstruction)


def test_no_block_works_at_full_resolution():
    model, seen = network(**KINDS["residual"]), []
    for module in model.modules():
        if type(module).__name__ == "ResBlock":
            module.register_forward_hook(lambda _, inputs, __: seen.append(tuple(inputs[0].shape[2:])))
    model(torch.randn(1, 1, 32, 48))
    down = [(16, 24)] * 2 + [(8, 12)] * 2 + [(4, 6)] * 2
    assert seen == down + down[::-1]


def test_default_network_is_what_trained_weights_expect():
    torch.manual_seed(0)
    model = build(NetworkConfig(), (80, 96), 1)
    generator = torch.Generator().manual_seed(1)
    x, noise = torch.rand(2, 1, 80, 96, generator=generator), torch.randn(2, 128, generator=generator)
    with torch.no_grad():
        output = model(x, noise)
    layers_of = {"encoder": (0, 2, 4, 6, 8), "decoder": (0, 2, 4, 6, 8)}
    keys = {f"{part}.{k}.{p}" for part, ks in layers_of.items() for k in ks for p in ("weight", "bias")}
    keys |= {f"{part}.{p}" for part in ("to_latent", "from_latent") for p in ("weight", "bias")}
    assert set(model.state_dict()) == keys
    assert sum(p.numel() for p in model.parameters()) == 723_137
    assert float(output.reconstruction.double().sum()) == pytest.approx(450.168797, abs=1e-2)
    assert float(output.mean.double().sum()) == pytest.approx(-0.443675, abs=1e-3)


def test_plain_vae_does_not_import_monai():
    code = (
        "import sys; from medvae.networks.build import build; from medvae.config import NetworkConfig; "
        "build(NetworkConfig(latent='spatial', normalisation='group'), (32, 32, 32), 1); "
        "sys.exit('monai' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0


def test_missing_monai_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "monai.networks.nets", None)
    with pytest.raises(MedvaeError, match="pip install monai"):
        import_monai("networks.nets")


def test_monai_is_imported_for_a_user_without_a_name(monkeypatch):
    def unknown(uid):
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    pwd = pytest.importorskip("pwd")
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(importlib, "import_module", lambda _: getpass.getuser())  # as MONAI does
    assert import_monai("config") == "user"
    with pytest.raises((KeyError, OSError)):  # and nothing has changed for others
        getpass.getuser()


@pytest.mark.parametrize(
    ("size", "options", "words"),
    [
        ((30, 48), {}, r"30×48 voxels cannot be halved 3 times: .* divisible by 8"),
        ((30, 48), KINDS["unet"], "divisible by 8"),
        ((30, 48), KINDS["autoencoder_kl"], "divisible by 4"),
        ((64,), {}, "two or three axes"),
        ((8, 8), KINDS["instance"], "single voxel of a tile of 8×8. Write normalisation: group"),
        ((160, 192, 160), {"latent_size": 512, "squeeze": 128}, r"1,887 million weights.* latent: spatial, .*squeeze"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_fix(size, options, words):
    with pytest.raises(ValueError, match=words):
        network(size, **options)


def test_weights_of_a_dense_latent_are_counted_as_built():
    with pytest.raises(ValueError, match="51 million"):
        network((128, 128, 64), latent_size=128, squeeze=65)
    model = ConvVAE((32, 48), **SMALL)
    features = 4 * 4 * 6
    assert model.to_latent.weight.numel() + model.from_latent.weight.numel() == 3 * features * 6


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"widths": ()}, "at least 1 item"),
        ({"widths": (4, 0)}, "each at least 1"),
        ({"kind": "autoencoder_kl"}, "latent: spatial, normalisation: group, activation: silu, residual_blocks: 1"),
        (KINDS["autoencoder_kl"] | {"activation": "gelu"}, "write activation: silu"),
        ({"kind": "transformer"}, "autoencoder_kl"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options, words):
    with pytest.raises(ValidationError, match=words):
        NetworkConfig(**options)


@pytest.mark.parametrize(
    ("score", "words"),
    [
        ({"kind": "kl_gradient"}, 'score.kind "kl_gradient" needs a KL'),
        ({"kind": "elbo_gradient"}, 'score.kind "elbo_gradient" needs a KL'),
        ({"kind": "product"}, 'score.parts "kl_gradient" needs a KL'),
        ({"kind": "sum", "parts": [{"kind": "residual"}, {"kind": "elbo_gradient"}]}, 'score.parts "elbo_gradient"'),
    ],
)
def test_scores_of_the_posterior_are_refused_without_one(score, words):
    with pytest.raises(ValidationError, match=words):
        Config.model_validate(
            {"name": "a", "network": {"kind": "unet"}, "objective": {"kind": "dae"}, "score": score}
        )  # fmt: skip
    with pytest.raises(ValidationError, match=f"{words}.*does not train"):
        Config.model_validate({"name": "a", "objective": {"kind": "dae"}, "score": score})
    kept = Config.model_validate({"name": "a", "score": score})
    assert kept.network.kind == "vae"


@pytest.mark.parametrize("kind", ["vae", "cevae"])
def test_objectives_of_the_posterior_are_refused_without_one(kind):
    with pytest.raises(ValidationError, match=r"write objective\.kind: dae"):
        Config.model_validate({"name": "a", "network": {"kind": "unet"}, "objective": {"kind": kind}})


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"network": {"widths": [4] * 6}}, "80×96 voxels cannot be halved 6 times: .*divisible by 64"),
        ({"sampling": {"kind": "patch", "patch_size": [40, 48, 40]}}, "40×48×40 voxels cannot be halved 4 times"),
        (
            {"sampling": {"kind": "patch", "patch_size": [80] * 3}, "network": {"latent_size": 1024, "squeeze": 256}},
            "98 million weights",
        ),
    ],
)  # fmt: skip
def test_a_network_that_does_not_fit_the_tile_is_refused_when_the_config_is_read(content, words):
    with pytest.raises(ValidationError, match=words):
        Config.model_validate({"name": "a"} | content)


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_the_tile_shape_of_a_config_is_that_of_the_slices(plane):
    config = Config.model_validate({"name": "a", "sampling": {"plane": plane}})
    volume = np.empty(STANDARD_GRID.shape)
    assert config.tile_shape == slices_of(volume, plane).shape[1:]
    model = build_network(config, 1)
    assert model(torch.zeros(1, 1, *config.tile_shape)).reconstruction.shape[2:] == slices_of(volume, plane)[0].shape


def test_log_variance_is_clamped():
    model = network()
    torch.nn.init.constant_(model.to_latent.bias, 1e4)
    assert model.encode(torch.zeros(1, 1, 32, 48))[1].max() <= 8


def test_log_variance_of_autoencoder_kl_is_clamped():
    model = network(**KINDS["autoencoder_kl"])
    torch.nn.init.constant_(model.network.quant_conv_log_sigma.conv.bias, 1e4)
    assert model.encode(torch.zeros(1, 1, 32, 48))[1].max() == 8
