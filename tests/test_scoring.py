"""Every score: right by definition, and the same alone and in company."""

import numpy as np
import pytest
import torch

from medvae.config import Config
from medvae.config.methods import SCORES as DECLARED
from medvae.imaging.planes import PLANE_AXIS
from medvae.imaging.smoothing import smooth_in_mask
from medvae.networks.build import build_network
from medvae.networks.gradients import gradient, smooth_gradient
from medvae.networks.interface import VAEOutput
from medvae.networks.vae import ConvVAE
from medvae.scoring.context import _patterns, context_residual
from medvae.scoring.intensity import equalized_intensity
from medvae.scoring.registry import Scored, score
from medvae.scoring.residual import residual, squared_residual
from medvae.scoring.restoration import restoration
from medvae.scoring.tiling import score_slices
from medvae.scoring.volume import score_volume

SCORES = {
    "residual": residual,
    "squared_residual": squared_residual,
    "kl": lambda *a: gradient(*a, term="kl"),
    "reconstruction": lambda *a: gradient(*a, term="reconstruction"),
    "elbo": lambda *a: gradient(*a, term="elbo"),
    "smooth_gradient": lambda *a: smooth_gradient(*a, draws=2),
    "restoration": lambda *a: restoration(*a, steps=3),
    "context": lambda *a: context_residual(*a, side=8),
}


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return ConvVAE((32, 32), widths=(4, 8), latent_size=5, squeeze=4).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def tiles():
    torch.manual_seed(1)
    mask = torch.zeros(5, 1, 32, 32, dtype=torch.bool)
    mask[:, :, 5:27, 4:29] = True
    return torch.rand(5, 1, 32, 32) * mask, mask


@pytest.mark.parametrize("name", SCORES)
def test_a_tile_scores_the_same_alone_and_in_any_batch(network, tiles, name):
    x, mask = tiles
    together = SCORES[name](network, x, mask)
    assert together.shape == (5, 32, 32)
    assert torch.equal(together * mask[:, 0], together)
    alone = torch.cat([SCORES[name](network, x[i : i + 1], mask[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-6 * float(together.abs().max()))
    mixed = SCORES[name](network, torch.cat([x[2:3], 9 * x[3:4]]), mask[2:4])
    torch.testing.assert_close(mixed[0], together[2], rtol=1e-4, atol=1e-6 * float(together.abs().max()))


@pytest.mark.parametrize("term", ["kl", "reconstruction", "elbo"])
def test_gradient_equals_finite_differences(network, tiles, term):
    double = ConvVAE((32, 32), widths=(4, 8), latent_size=5, squeeze=4)
    double.load_state_dict(network.state_dict())
    double = double.double().eval().requires_grad_(False)
    double.encode = lambda x: double.to_latent(double.encoder(x).flatten(1)).chunk(2, dim=1)  # without the float32 cast
    x, mask = tiles[0][:1].double(), tiles[1][:1]

    def loss(image):
        mean, log_variance = double.encode(image)
        kl = -0.5 * (1 + log_variance - mean**2 - log_variance.exp()).sum()
        rec = (0.5 * ((image - double.decode(mean)) / 0.1) ** 2 * mask).sum()
        return {"kl": kl, "reconstruction": rec, "elbo": rec + 1.5 * kl}[term]

    options = {"term": term, "likelihood": "gaussian", "scale": 0.1, "beta": 1.5}
    found = gradient(double, x, mask, **options)
    step = 1e-5
    for place in [(8, 9), (15, 20), (24, 6)]:
        up, down = x.clone(), x.clone()
        up[0, 0][place] += step
        down[0, 0][place] -= step
        expected = abs(float(loss(up) - loss(down)) / (2 * step))
        assert float(found[0][place]) == pytest.approx(expected, rel=2e-3, abs=1e-5)


def test_gradient_scales_with_the_loss(network, tiles):
    wide = gradient(network, *tiles, term="reconstruction", scale=0.2)
    narrow = gradient(network, *tiles, term="reconstruction", scale=0.1)
    torch.testing.assert_close(narrow, 2 * wide, rtol=1e-4, atol=1e-4)


def test_gradient_leaves_no_trace(network, tiles):
    x, mask = tiles[0].clone(), tiles[1]
    gradient(network, x, mask)
    assert not x.requires_grad
    assert all(p.grad is None for p in network.parameters())


def test_smooth_gradient_without_noise_is_the_gradient(network, tiles):
    torch.testing.assert_close(smooth_gradient(network, *tiles, draws=3, noise=0.0), gradient(network, *tiles))


def test_smooth_gradient_converges_with_the_square_root_of_the_draws(network, tiles):
    x, mask = tiles[0][:1], tiles[1][:1]
    best = smooth_gradient(network, x, mask, draws=500, noise=0.2, seed=77)

    def error(draws):
        runs = [smooth_gradient(network, x, mask, draws=draws, noise=0.2, seed=s) - best for s in range(1, 9)]
        return float(torch.stack(runs).square().mean().sqrt())

    assert error(4) / error(36) == pytest.approx(3, rel=0.4)  # independent draws; a random walk would not converge


def test_residual_is_scan_minus_reconstruction(network, tiles):
    x, mask = tiles
    expected = (x - network(x).reconstruction)[:, 0] * mask[:, 0]
    torch.testing.assert_close(residual(network, x, mask), expected)
    torch.testing.assert_close(squared_residual(network, x, mask), expected**2)


@pytest.mark.parametrize("shape", [(32, 48), (16, 24, 20)])
def test_each_shifted_grid_blanks_every_voxel_once(shape):
    total = sum(p.int() for p in _patterns(torch.Size(shape), 8, 2, 3, torch.device("cpu")))
    assert total.min() == total.max() == 3 ** len(shape)


def test_patches_blanked_together_lie_apart():
    pattern = next(_patterns(torch.Size((48, 48)), 8, 3, 1, torch.device("cpu")))
    columns = np.flatnonzero(pattern.any(0).numpy())
    assert columns.tolist() == [*range(8), *range(24, 32)]


def test_context_score_never_sees_the_voxel_it_judges(tiles):
    """A network that copies its input: the residual is the scan minus the fill, whatever the scan holds there."""

    class Copy(torch.nn.Module):
        def forward(self, x):
            from medvae.networks.interface import VAEOutput

            return VAEOutput(x, x, x)

    x, mask = tiles
    found = context_residual(Copy(), x, mask, side=8, fill=0.25)
    torch.testing.assert_close(found, ((x - 0.25) * mask)[:, 0])
    constant = torch.full_like(x, 0.25)
    assert (context_residual(Copy(), constant, mask, side=8, fill=0.25) == 0).all()


def test_equalized_intensity_is_the_share_of_darker_voxels():
    rng = np.random.default_rng(0)
    mask = rng.random((6, 7, 8)) < 0.7
    image = rng.permutation(mask.size).reshape(1, *mask.shape).astype(np.float32)
    score = equalized_intensity(image, mask)
    values = image[0][mask]
    np.testing.assert_allclose(score[mask], [(values <= v).mean() for v in values], rtol=1e-6)
    assert (score[~mask] == 0).all()
    np.testing.assert_array_equal(score, equalized_intensity(np.exp(image / 100), mask))


def test_what_surrounds_a_voxel_is_added_to_its_score():
    rng = np.random.default_rng(0)
    mask = rng.random((12, 13, 14)) < 0.8
    image = rng.standard_normal((1, *mask.shape)).astype(np.float32)
    plain = {"name": "x", "network": None, "score": {"kind": "intensity", "polarity": "bright"}}
    around = {"score": plain["score"] | {"surround_mm": 4, "surround_weight": 3}}
    alone, found = (score_volume(Config.model_validate(plain | more), None, image, mask) for more in ({}, around))
    np.testing.assert_allclose(found, alone + 3 * smooth_in_mask(alone, mask, [2, 2, 2]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_tiling_of_the_identity_is_the_identity(plane):
    rng = np.random.default_rng(0)
    mask = rng.random((32, 48, 32)) < 0.5
    mask[:, :, 5:9] = False
    image = rng.standard_normal((1, 32, 48, 32)).astype(np.float32)
    network = torch.nn.Linear(1, 1)
    found = score_slices(network, lambda n, x, m: x[:, 0] * m[:, 0], image, mask, plane, batch_size=7)
    np.testing.assert_array_equal(found, image[0] * mask)
    wide = score_slices(network, lambda n, x, m: x[:, 0] * m[:, 0], image, mask, plane, shape=(64, 64), batch_size=7)
    np.testing.assert_array_equal(wide, found)
    shown = score_slices(network, lambda n, x, m: x.sum(1) * m[:, 0], image, mask, plane, neighbours=1)
    axis = PLANE_AXIS[plane]
    ends = np.pad(image[0], [(1, 1) if a == axis else (0, 0) for a in range(3)])
    near = sum(ends.take(range(offset, offset + mask.shape[axis]), axis) for offset in range(3))
    np.testing.assert_allclose(shown, near * mask, rtol=1e-5, atol=1e-6)


def test_restoration_lowers_what_it_minimises_and_stays_put_without_steps_of_size(network, tiles):
    from medvae.networks.densities import kl_divergence, negative_log_likelihood

    x, mask = tiles

    def loss(image):
        output = network(image)
        kl = kl_divergence(output.mean, output.log_variance)
        return negative_log_likelihood(image, output.reconstruction, mask, scale=0.1) + kl

    change = restoration(network, x, mask, steps=20, step_size=0.005, total_variation=0.0)
    restored = x - change[:, None]
    assert (loss(restored) < loss(x)).all()
    assert (restoration(network, x, mask, step_size=0.0) == 0).all()


def test_total_variation_makes_the_change_smoother(network, tiles):
    rough, smooth = (restoration(network, *tiles, total_variation=weight) for weight in (0.0, 20.0))

    def roughness(change):
        return float(change.diff(dim=1).abs().mean() / change.abs().mean())

    assert roughness(smooth) < roughness(rough)


SHIFTED = {name: SCORES[name] for name in ("residual", "squared_residual", "kl", "reconstruction", "elbo", "context")}


@pytest.mark.parametrize("name", SHIFTED)
def test_a_shift_of_the_tile_by_the_stride_shifts_its_score(name):
    torch.manual_seed(5)
    model = ConvVAE((80, 80), widths=(4, 8), latent="spatial", latent_size=3).eval().requires_grad_(False)
    x, mask = torch.zeros(1, 1, 80, 80), torch.zeros(1, 1, 80, 80, dtype=torch.bool)
    mask[:, :, 32:46, 30:44] = True
    x[mask] = torch.rand(int(mask.sum()))
    shift = (8, -16)  # multiples of the network's stride (4) and of the blanked patches' side (8)
    found = SHIFTED[name](model, x, mask)
    moved = SHIFTED[name](model, *(t.roll(shift, (2, 3)) for t in (x, mask)))
    assert found.abs().max() > 0
    torch.testing.assert_close(moved, found.roll(shift, (1, 2)), rtol=1e-4, atol=1e-5 * float(found.abs().max()))


def test_context_score_of_a_constant_image_is_zero_where_the_network_knows_the_constant():
    class Constant(torch.nn.Module):
        def forward(self, x, noise=None):
            return VAEOutput(torch.full_like(x, 0.4))

    mask = torch.zeros(1, 1, 32, 32, dtype=torch.bool)
    mask[:, :, 4:28, 6:25] = True
    assert not context_residual(Constant(), 0.4 * mask, mask, side=8).any()
    brighter = context_residual(Constant(), 0.5 * mask, mask, side=8)
    torch.testing.assert_close(brighter, 0.1 * mask[:, 0].float())


@pytest.mark.parametrize("name", ["residual", "squared_residual", "kl", "elbo", "context", "restoration"])
def test_train_and_eval_mode_give_one_score(network, tiles, name):
    found = SCORES[name](network, *tiles)
    network.train()
    try:
        assert torch.equal(SCORES[name](network, *tiles), found)
    finally:
        network.eval()


def test_every_declared_score_is_implemented_and_no_other():
    assert score.names() == set(DECLARED)
    with pytest.raises(LookupError, match="not declared"):
        score("guesswork")
    with pytest.raises(LookupError, match="implemented twice"):
        score("residual")


COMPANY = {
    "segments": {
        "network": {"kind": "segmenter", "widths": [4, 8]},
        "objective": {"kind": "discrepancy"},
    },
    "reconstructs": {"network": {"widths": [4, 8], "latent_size": 3, "squeeze": 2}},
    "none": {"network": None},
}


def config_of(name):
    """A small config around a score, as its declaration asks for."""
    kind = DECLARED[name]
    company = "segments" if kind.needs_segmenter else "reconstructs" if kind.needs_network else "none"
    options = {"kind": name, "context_side": 8, "context_spacing": 2, "context_shifts": 1, "restoration_steps": 2}
    options |= {"polarity": "bright"} if kind.values == "logit" else {}
    return Config.model_validate({"name": "a", "score": options, **COMPANY[company]})


@pytest.mark.parametrize("name", DECLARED)
def test_every_score_keeps_what_its_declaration_says(name):
    rng, kind, config = np.random.default_rng(3), DECLARED[name], config_of(name)
    mask = np.zeros((80, 96, 80), dtype=bool)
    mask[30:50, 30:60, 40:42] = True
    image = (rng.random((1, *mask.shape)) * mask).astype(np.float32)
    made = build_network(config, 1).eval().requires_grad_(False) if kind.needs_network else None
    found = score[name](Scored(config, made, image, mask, part_scales=(0.5, 2.0)))
    assert found.shape == mask.shape
    assert np.isfinite(found).all()
    assert (found[~mask] == 0).all()
    assert found[mask].std() > 0
    assert kind.values != "magnitude" or found.min() >= 0


def test_a_combined_score_is_made_of_its_scaled_parts():
    parts = [{"kind": "residual"}, {"kind": "squared_residual"}]
    mask = np.zeros((80, 96, 80), dtype=bool)
    mask[30:50, 30:60, 40:41] = True
    image = (np.random.default_rng(3).random((1, *mask.shape)) * mask).astype(np.float32)
    config = Config.model_validate(
        {"name": "a", "score": {"kind": "sum", "parts": parts}, "network": COMPANY["reconstructs"]["network"]}
    )
    scan = Scored(config, build_network(config, 1).eval(), image, mask, part_scales=(0.5, 2.0))
    first, second = np.abs(score["residual"](scan)), score["squared_residual"](scan)
    np.testing.assert_allclose(score["sum"](scan), first / 0.5 + second / 2, rtol=1e-6)
    np.testing.assert_allclose(score["product"](scan), first / 0.5 * second / 2, rtol=1e-6)
