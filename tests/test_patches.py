import numpy as np
import pytest
import torch

from medvae.imaging.grid import DEFAULT_GRID
from medvae.imaging.volume import Geometry, Volume
from medvae.preparation.prepared import InMemory, PreparedVolume
from medvae.sampling.patches import PatchDataset, patch_corner
from medvae.scoring.tiling import score_patches

NETWORK = torch.nn.Linear(1, 1)


@pytest.fixture(scope="module")
def volume():
    rng = np.random.default_rng(0)
    mask = np.zeros((30, 34, 28), bool)
    mask[6:25, 5:30, 4:25] = True
    image = (rng.random((2, *mask.shape)) * mask).astype(np.float32)
    source = Volume(image[0], Geometry(np.eye(4), mask.shape))
    return PreparedVolume(InMemory(image, mask, mask), source.placement, np.eye(4), False, grid=DEFAULT_GRID)


@pytest.mark.parametrize("overlap", [0.0, 0.5])
@pytest.mark.parametrize("size", [(16, 16, 16), (30, 34, 28), (8, 20, 12), (32, 16, 16)])
def test_tiling_of_the_identity_is_the_identity(volume, size, overlap):
    found = score_patches(NETWORK, lambda n, x, m: (x * m)[:, 1], volume.image, volume.mask, size, overlap=overlap)
    np.testing.assert_allclose(found, volume.image[1], atol=1e-6)


def test_result_does_not_depend_on_the_batch_size(volume):
    def score(network, x, mask):
        return torch.nn.functional.avg_pool3d(x[:, :1], 3, 1, 1)[:, 0] * mask[:, 0]

    one, four = (score_patches(NETWORK, score, volume.image, volume.mask, (16,) * 3, batch_size=n) for n in (1, 4))
    np.testing.assert_allclose(one, four, atol=1e-6)


def test_patches_hold_brain_and_lie_inside_the_volume(volume):
    tiles = PatchDataset([volume], (12, 10, 8), per_volume=20, seed=1)
    corners = set()
    for index in range(20):
        image, mask = tiles[0, index]
        assert image.shape == (2, 12, 10, 8)
        assert mask.shape == (1, 12, 10, 8)
        assert mask.any()
        assert torch.equal(image, tiles[0, index][0])
        corners.add(float(image.sum()))
    assert len(corners) > 10
    assert not torch.equal(tiles[0, 0][0], tiles[1, 0][0])


def test_patch_as_large_as_the_volume_is_the_volume(volume):
    image, mask = PatchDataset([volume], volume.mask.shape)[0, 0]
    np.testing.assert_array_equal(image, volume.image)
    np.testing.assert_array_equal(mask[0], volume.mask)


def test_corner_is_moved_inwards():
    assert patch_corner((0, 15, 29), (10, 10, 10), (30, 30, 30)) == (0, 10, 20)
