import math

import pytest
import torch
from torch import distributions

from medvae.config import Config, ObjectiveConfig
from medvae.config.methods import OBJECTIVES
from medvae.networks.build import build_network
from medvae.networks.densities import free_nats_divergence, kl_divergence, negative_log_likelihood
from medvae.networks.interface import VAEOutput
from medvae.networks.vae import ConvVAE
from medvae.training.corruptions import blank_squares, coarse_noise
from medvae.training.objectives.base import objective, objective_of
from medvae.training.objectives.context import cevae_loss
from medvae.training.objectives.denoising import denoising_loss
from medvae.training.objectives.elbo import vae_loss
from medvae.training.objectives.geco import Geco


@pytest.fixture
def tiles():
    torch.manual_seed(0)
    mask = torch.zeros(4, 1, 32, 32, dtype=torch.bool)
    mask[:, :, 6:26, 4:28] = True
    return torch.rand(4, 1, 32, 32) * mask, mask


@pytest.fixture
def model():
    torch.manual_seed(1)
    return ConvVAE((32, 32), widths=(4, 8), latent_size=5, squeeze=4)


def test_kl_equals_torch_distributions_and_monte_carlo():
    torch.manual_seed(0)
    mean, log_variance = torch.randn(3, 7), torch.randn(3, 7)
    posterior = distributions.Normal(mean, torch.exp(0.5 * log_variance))
    prior = distributions.Normal(0, 1)
    exact = distributions.kl_divergence(posterior, distributions.Normal(torch.zeros(3, 7), torch.ones(3, 7))).sum(1)
    torch.testing.assert_close(kl_divergence(mean, log_variance), exact, rtol=1e-5, atol=1e-5)
    z = posterior.sample((200_000,))
    sampled = (posterior.log_prob(z) - prior.log_prob(z)).sum(-1).mean(0)
    torch.testing.assert_close(kl_divergence(mean, log_variance), sampled, rtol=0.02, atol=0.02)


def test_kl_takes_the_log_of_the_variance_not_of_the_standard_deviation():
    # N(0, 4): log variance log 4; closed form ½ (4 − 1 − log 4)
    found = kl_divergence(torch.zeros(1, 1), torch.full((1, 1), math.log(4.0)))
    assert float(found) == pytest.approx(0.5 * (4 - 1 - math.log(4)))


@pytest.mark.parametrize("likelihood", ["laplace", "gaussian"])
def test_likelihood_equals_torch_distributions_inside_the_mask_only(tiles, likelihood):
    x, mask = tiles
    reconstruction = x + 0.1 * torch.randn_like(x)
    family = {"laplace": distributions.Laplace, "gaussian": distributions.Normal}[likelihood]
    expected = -(family(reconstruction, 0.2).log_prob(x) * mask).flatten(1).sum(1)
    found = negative_log_likelihood(x, reconstruction, mask, likelihood=likelihood, scale=0.2)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)
    outside = torch.where(mask, reconstruction, torch.full_like(x, 9.0))
    torch.testing.assert_close(
        negative_log_likelihood(x, outside, mask, likelihood=likelihood, scale=0.2), found
    )  # fmt: skip


def test_elbo_is_a_sum_per_sample_in_nats(tiles, model):
    x, mask = tiles
    noise = torch.randn(4, 5)
    terms = vae_loss(model, x, mask, noise, beta=2.0, scale=0.2)
    output = model(x, noise)
    by_hand = sum(
        negative_log_likelihood(x[i : i + 1], output.reconstruction[i : i + 1], mask[i : i + 1], scale=0.2)
        + 2.0 * kl_divergence(output.mean[i : i + 1], output.log_variance[i : i + 1])
        for i in range(4)
    )
    torch.testing.assert_close(terms.total * mask.sum(), by_hand[0], rtol=1e-4, atol=1e-2)
    torch.testing.assert_close(terms.total, terms.reconstruction + 2.0 * terms.kl)


def test_context_squares_lie_in_the_brain_and_are_never_empty(tiles):
    x, mask = tiles
    for seed in range(50):
        before = x.clone()
        corrupted, blanked = blank_squares(x, mask, torch.Generator().manual_seed(seed), side=(0.05, 0.3))
        assert torch.equal(x, before)
        assert not (blanked & ~mask).any()
        assert blanked.flatten(1).any(1).all()
        assert torch.equal(torch.where(blanked, 0, corrupted), torch.where(blanked, 0, x))


def test_context_squares_do_not_take_away_each_other(tiles):
    x, mask = tiles
    one = [blank_squares(x, mask, torch.Generator().manual_seed(s), count=(1, 1))[1].sum() for s in range(100)]
    five = [blank_squares(x, mask, torch.Generator().manual_seed(s), count=(5, 5))[1].sum() for s in range(100)]
    assert sum(five) > 2.5 * sum(one)


def test_context_squares_reach_the_asked_size():
    mask = torch.ones(1, 1, 64, 64, dtype=torch.bool)
    x = torch.zeros(1, 1, 64, 64)
    shares = []
    for seed in range(400):
        _, blanked = blank_squares(
            x, mask, torch.Generator().manual_seed(seed), count=(1, 1), side=(0.25, 0.25)
        )  # fmt: skip
        rows, columns = blanked[0, 0].any(1).sum(), blanked[0, 0].any(0).sum()
        assert max(rows, columns) <= 17
        shares.append(max(rows, columns).item())
    assert max(shares) == 17  # 2 · 8 voxels to either side of the centre, and the centre


@pytest.mark.parametrize("fill", ["zero", "value", "noise"])
def test_context_branch_never_sees_what_was_blanked(tiles, model, fill):
    x, mask = tiles
    corrupted, blanked = blank_squares(x, mask, torch.Generator().manual_seed(3), fill=fill)
    changed = torch.where(blanked, x + 5.0, x)
    again, blanked_again = blank_squares(changed, mask, torch.Generator().manual_seed(3), fill=fill)
    assert torch.equal(blanked, blanked_again)
    assert torch.equal(corrupted, again)


def test_cevae_mixes_elbo_and_context_with_the_clean_target(tiles, model):
    x, mask = tiles
    corrupted, _ = blank_squares(x, mask, torch.Generator().manual_seed(0))
    noise = torch.randn(4, 5)
    terms = cevae_loss(model, x, corrupted, mask, noise, context_weight=0.3)
    elbo = vae_loss(model, x, mask, noise)
    restored = model.decode(model.encode(corrupted)[0])  # z = μ
    context = negative_log_likelihood(x, restored, mask).sum() / mask.sum()
    torch.testing.assert_close(terms.context, context)
    torch.testing.assert_close(terms.total, 0.7 * elbo.total + 0.3 * context)


def test_blanking_works_in_3d():
    mask = torch.zeros(2, 1, 12, 14, 16, dtype=torch.bool)
    mask[:, :, 3:9, 3:9, 3:9] = True
    x = torch.rand(2, 1, 12, 14, 16)
    _, blanked = blank_squares(x, mask, torch.Generator().manual_seed(0))
    assert blanked.flatten(1).any(1).all()
    assert not (blanked & ~mask).any()


def test_free_nats_charge_each_latent_dimension_at_least_their_allowance():
    torch.manual_seed(0)
    mean, log_variance = 0.3 * torch.randn(6, 4), torch.randn(6, 4)
    assert float(free_nats_divergence(mean, log_variance, 0.0)) == pytest.approx(
        float(kl_divergence(mean, log_variance).sum()), rel=1e-5
    )
    assert float(free_nats_divergence(torch.zeros(6, 4), torch.zeros(6, 4), 0.5)) == pytest.approx(6 * 4 * 0.5)
    mean.requires_grad_(True)
    free_nats_divergence(mean, log_variance, 100.0).backward()
    assert (mean.grad == 0).all()


@pytest.mark.parametrize("spatial", [(40, 48), (24, 32, 16)])
def test_coarse_noise_lies_in_the_brain_is_coarse_and_has_the_asked_spread(spatial):
    mask = torch.zeros(40, 1, *spatial, dtype=torch.bool)
    mask[:, :, 4:20] = True
    x = torch.rand(40, 1, *spatial)
    found = coarse_noise(x, mask, torch.Generator().manual_seed(0), cell=8, standard_deviation=0.2)
    noise = found - x
    assert (noise[~mask] == 0).all()
    inside = noise[:, :, 5:19]
    assert 0.05 < float(inside.std()) < 0.2  # linear interpolation between nodes takes away part of the variance
    steps = inside.diff(dim=3)
    assert float(steps.std()) < 0.4 * float(inside.std())
    again = coarse_noise(x, mask, torch.Generator().manual_seed(0), cell=8, standard_deviation=0.2)
    assert torch.equal(found, again)


def test_warm_up_raises_beta_from_nothing(tiles, model):
    x, mask = tiles
    options = ObjectiveConfig(kind="vae", beta=2.0, kl_warmup_steps=10)
    for step, factor in ((0, 0.1), (4, 0.5), (9, 1.0), (50, 1.0)):
        terms = objective_of(options).training_terms(model, x, mask, (0, 1), step)
        torch.testing.assert_close(terms.total, terms.reconstruction + 2.0 * factor * terms.kl)


def test_denoising_restores_the_clean_tile(tiles, model):
    x, mask = tiles
    terms = objective_of(ObjectiveConfig(kind="dae")).training_terms(model, x, mask, (0, 1), 0)
    assert terms.kl is None
    noisy = coarse_noise(x, mask, torch.Generator().manual_seed(1), cell=8, standard_deviation=0.2)
    by_hand = denoising_loss(model, x, noisy, mask, scale=0.2)
    expected = negative_log_likelihood(x, model(noisy).reconstruction, mask, scale=0.2).sum() / mask.sum()
    torch.testing.assert_close(by_hand.total, expected)


class LinearGaussian(torch.nn.Module):
    """x = W z + b + σ ε with orthogonal columns of W, and its exact posterior, which is then diagonal."""

    def __init__(self, size, latent, scale):
        super().__init__()
        columns, _ = torch.linalg.qr(torch.randn(math.prod(size), latent, dtype=torch.float64))
        self.weight = columns * torch.linspace(0.5, 2.0, latent, dtype=torch.float64)
        self.offset = torch.randn(math.prod(size), dtype=torch.float64)
        self.variance = 1 / (1 + self.weight.square().sum(0) / scale**2)
        self.size, self.scale = size, scale

    def forward(self, x, noise):
        centred = x.flatten(1) - self.offset
        mean = centred @ self.weight * self.variance / self.scale**2
        z = mean + self.variance.sqrt() * noise
        decoded = (z @ self.weight.T + self.offset).reshape(x.shape)
        return VAEOutput(decoded, mean, self.variance.log().expand_as(mean))

    def log_evidence(self, x):
        covariance = self.weight @ self.weight.T + self.scale**2 * torch.eye(len(self.offset), dtype=torch.float64)
        return torch.distributions.MultivariateNormal(self.offset, covariance).log_prob(x.flatten(1))


def test_elbo_of_a_linear_gaussian_model_is_its_log_evidence():
    torch.manual_seed(4)
    model = LinearGaussian((4, 5), latent=3, scale=0.7)
    x = torch.randn(1, 1, 4, 5, dtype=torch.float64)
    mask = torch.ones(1, 1, 4, 5, dtype=torch.bool)
    options = {"likelihood": "gaussian", "scale": 0.7}
    # ±√L along each latent axis have a standard normal's mean and covariance: exact for a quadratic
    points = math.sqrt(3) * torch.cat([torch.eye(3), -torch.eye(3)]).double()
    losses = [vae_loss(model, x, mask, point[None], **options).total * x.numel() for point in points]
    expected = -float(model.log_evidence(x))
    assert float(torch.stack(losses).mean()) == pytest.approx(expected, rel=1e-5)
    model.variance = model.variance * 1.5  # any other posterior is worse
    worse = [vae_loss(model, x, mask, point[None], **options).total * x.numel() for point in points]
    assert float(torch.stack(worse).mean()) > expected + 1e-3


def test_geco_finds_the_beta_that_reaches_its_target():
    # a trade-off with a known answer: the reconstruction term r minimises r + β / r, so r = √β
    constraint = Geco(beta=9.0, target=0.5, speed=0.05)
    for _ in range(3000):
        constraint.update(constraint.beta.sqrt())
    assert float(constraint.beta) == pytest.approx(0.25, rel=0.02)


def test_geco_goes_on_from_its_state():
    whole, before, after = (Geco(beta=2.0, target=0.1, speed=0.2) for _ in range(3))
    for value in (0.7, 0.4):
        whole.update(torch.tensor(value))
        before.update(torch.tensor(value))
    after.restore(before.state())
    for value in (0.3, -0.2):
        whole.update(torch.tensor(value))
        after.update(torch.tensor(value))
    assert after.state() == whole.state()
    assert float(after.beta) < 2.0  # the reconstruction was worse than the target


def test_every_declared_objective_is_implemented_and_no_other():
    assert objective.names() == set(OBJECTIVES)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_trains_and_measures_a_network_that_fits_it(name):
    kind = OBJECTIVES[name]
    network = {"widths": [4, 8], "latent_size": 5, "squeeze": 4}
    score = {"kind": "residual"}
    if kind.needs_segmenter:
        network, score = {"kind": "segmenter", "widths": [4, 8]}, {"kind": "discrepancy", "polarity": "bright"}
    config = Config.model_validate({"name": "a", "network": network, "objective": {"kind": name}, "score": score})
    model, made = build_network(config, 1), objective_of(config.objective)
    x = torch.rand(2, 1, *config.tile_shape)
    mask = torch.zeros_like(x, dtype=torch.bool)
    mask[:, :, 20:60, 20:70] = True
    found, again, other = (made.training_terms(model, x * mask, mask, (0, step), step) for step in (3, 3, 4))
    assert torch.equal(found.total, again.total)
    assert not torch.equal(found.total, other.total)
    assert (found.kl is not None) == kind.needs_posterior
    found.total.backward()
    assert any(p.grad is not None and p.grad.any() for p in model.parameters())
    with torch.no_grad():
        measured = made.validation_terms(model.eval(), x * mask, mask, (0, 0))
        alone = [made.validation_terms(model, x[i : i + 1] * mask[:1], mask[:1], (0, 0)) for i in range(2)]
    assert float(measured["reconstruction"]) != 0
    if not kind.needs_segmenter:  # a sum over tiles; lesions depend on a tile's place in the batch
        both = sum(terms["reconstruction"] for terms in alone)
        torch.testing.assert_close(measured["reconstruction"], both, rtol=1e-4, atol=1e-2)
