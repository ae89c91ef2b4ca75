"""Fields that bend one image onto another: against closed forms, and on brains whose field is known."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from medvae.normative import deformation
from medvae.preparation.standard_brain import read_template

SHAPE = (24, 28, 20)


def smooth_field(seed: int, shape=SHAPE, largest=1.5, sigma=4) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    field = ndimage.gaussian_filter(rng.standard_normal((3, *shape)), (0, sigma, sigma, sigma)).astype(np.float32)
    return torch.from_numpy(field / np.abs(field).max() * largest)


def test_pull_is_linear_interpolation_at_the_displaced_places():
    image = np.random.default_rng(0).random((2, *SHAPE)).astype(np.float32)
    field = smooth_field(1)
    places = np.indices(SHAPE) + field.numpy()
    expected = [ndimage.map_coordinates(channel, places, order=1, mode="nearest") for channel in image]
    np.testing.assert_allclose(deformation.pull(torch.from_numpy(image), field), expected, atol=2e-5)


def test_smooth_is_a_gaussian_whose_rim_continues():
    image = np.random.default_rng(0).random((2, *SHAPE)).astype(np.float32)
    expected = [ndimage.gaussian_filter(channel, 1.5, mode="nearest", radius=5) for channel in image]
    np.testing.assert_allclose(deformation.smooth(torch.from_numpy(image), 1.5), expected, atol=1e-5)


def test_a_coarser_image_is_smoothed_and_shares_its_outermost_voxels():
    image = np.random.default_rng(1).random((2, *SHAPE), dtype=np.float32)
    shape = tuple(n // 2 for n in SHAPE)
    places = np.meshgrid(*(np.linspace(0, n - 1, m) for n, m in zip(SHAPE, shape, strict=True)), indexing="ij")
    smooth = [ndimage.gaussian_filter(channel, 0.8, mode="nearest", radius=3) for channel in image]
    expected = [ndimage.map_coordinates(channel, places, order=1) for channel in smooth]
    np.testing.assert_allclose(deformation._coarser(torch.from_numpy(image), shape, 0.8), expected, atol=1e-5)


def test_inverse_undoes_a_field():
    field = smooth_field(2)
    back = deformation.inverse(field)
    assert float(back.abs().max()) > 0.5
    inner = (slice(None), *(slice(3, -3),) * 3)
    there_and_back = deformation.pull(field, back) + back
    assert float(there_and_back[inner].abs().max()) < 0.01


def test_expanded_field_moves_by_the_same_share_of_the_image():
    coarse = torch.zeros(3, 11, 13, 9)
    coarse[1] = 1.0
    fine = deformation.expand(coarse, (21, 25, 17))
    assert torch.equal(fine[1], torch.full((21, 25, 17), 2.0))
    assert not fine[[0, 2]].any()


@pytest.mark.parametrize("factors", [(1.1, 1.1, 1.1), (0.8, 1.0, 1.3)])
def test_growth_of_a_stretch_is_its_volume(factors):
    """Where the atlas is looked up at places that lie closer together than the voxels, the scan's tissue is larger."""
    places = deformation.grid(SHAPE)
    field = places * (1 / torch.tensor(factors).reshape(3, 1, 1, 1) - 1)
    np.testing.assert_allclose(deformation.log_jacobian(field), np.log(np.prod(factors)), atol=1e-4)


def test_a_bent_brain_is_bent_back():
    template, mask = read_template()
    brain = torch.from_numpy(np.where(mask, template / template.max(), 0).astype(np.float32))[None]
    true = smooth_field(3, mask.shape, largest=4.0, sigma=8)
    bent = deformation.pull(brain, true)
    found = deformation.demons(bent, brain)
    assert found.shape == (3, *(n // 2 for n in mask.shape))
    whole = deformation.expand(found, mask.shape)
    inside = bent[0] > 0.1
    before, after = (float((bent - image).abs()[0][inside].mean()) for image in (brain, deformation.pull(brain, whole)))
    assert after < 0.5 * before
    assert float((whole - true).norm(dim=0)[inside].mean()) < 0.6 * float(true.norm(dim=0)[inside].mean())
    assert float(deformation.log_jacobian(found).abs().max()) < np.log(10)  # nothing folds


def test_brain_onto_itself_stays_where_it_is():
    template, mask = read_template()
    brain = torch.from_numpy(np.where(mask, template / template.max(), 0).astype(np.float32))[None]
    assert float(deformation.demons(brain, brain).abs().max()) < 1e-5
