import pytest
import torch

from medvae.networks.vae import ConvVAE


def network(size=(32, 48), **options) -> ConvVAE:
    torch.manual_seed(0)
    return ConvVAE(size, **({"widths": (4, 8, 8), "latent_size": 6, "squeeze": 4} | options)).eval()


@pytest.mark.parametrize("size", [(32, 48), (16, 24, 32)])
@pytest.mark.parametrize("channels", [1, 2])
def test_shapes_in_2d_and_3d(size, channels):
    x = torch.randn(3, channels, *size)
    output = network(size, channels=channels)(x)
    assert output.reconstruction.shape == x.shape
    assert output.mean.shape == output.log_variance.shape == (3, 6)


def test_train_and_eval_mode_agree():
    model, x, noise = network(), torch.randn(2, 1, 32, 48), torch.randn(2, 6)
    evaluated = model.eval()(x, noise)
    trained = model.train()(x, noise)
    for a, b in zip(evaluated, trained, strict=True):
        assert torch.equal(a, b)


def test_output_does_not_depend_on_batch_mates():
    model, x = network(), torch.randn(5, 1, 32, 48)
    torch.testing.assert_close(model(x).reconstruction[2:3], model(x[2:3]).reconstruction, atol=1e-6, rtol=1e-5)


def test_noise_moves_the_latent_by_its_standard_deviation():
    model, x = network(), torch.randn(1, 1, 32, 48)
    mean, log_variance = model.encode(x)
    noise = torch.randn(1, 6)
    z = mean + torch.exp(0.5 * log_variance) * noise
    assert torch.equal(model(x, noise).reconstruction, model.decode(z))
    assert torch.equal(model(x).reconstruction, model.decode(mean))


def test_size_that_cannot_be_halved_is_refused():
    with pytest.raises(ValueError, match="divisible by 8"):
        network((30, 48))


def test_log_variance_is_clamped():
    model = network()
    torch.nn.init.constant_(model.to_latent.bias, 1e4)
    assert model.encode(torch.zeros(1, 1, 32, 48))[1].max() <= 8
