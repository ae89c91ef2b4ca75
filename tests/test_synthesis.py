"""Lesions for a network to learn from: where they are told to be, and nowhere else."""

import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from medvae.config import Config, LesionConfig, ObjectiveConfig
from medvae.lesions.synthesis import KINDS, insert_lesions
from medvae.networks.segmenter import Segmentation
from medvae.scoring.discrepancy import discrepancy
from medvae.training.corruptions import corrupt
from medvae.training.objectives.base import objective_of
from medvae.training.objectives.discrepancy import discrepancy_loss, lesion_weights

SHAPES = [(48, 40), (40, 48, 36)]
SEGMENTER = {
    "name": "a",
    "network": {"kind": "segmenter", "widths": [4, 8]},
    "objective": {"kind": "discrepancy"},
    "score": {"kind": "discrepancy", "polarity": "bright"},
}


def tiles(shape, count=3, seed=0):
    """Textured ellipsoids."""
    grid = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    mask = np.broadcast_to(sum(g**2 for g in grid) < 0.8, (count, 1, *shape)).copy()
    values = np.random.default_rng(seed).uniform(0.3, 0.9, (count, 1, *shape)) * mask
    return torch.from_numpy(values.astype(np.float32)), torch.from_numpy(mask)


@pytest.mark.parametrize("shape", SHAPES, ids=["2D", "3D"])
@pytest.mark.parametrize("kind", KINDS)
def test_lesions_change_the_brain_where_the_truth_says_and_hardly_elsewhere(shape, kind):
    x, mask = tiles(shape)
    before = x.clone()
    options = LesionConfig(count=(1, 3), radius_mm=(6, 12), kinds=(kind,))
    corrupted, truth = insert_lesions(x, mask, options, (1, 2))
    assert torch.equal(x, before)
    assert truth.flatten(1).any(1).all()
    assert not (truth & ~mask).any()
    change = (corrupted - x).abs()
    assert not change[~mask].any()
    assert change[truth].mean() > 0.02
    assert change[mask & ~truth].mean() < 0.25 * change[truth].mean()
    assert torch.isfinite(corrupted).all()


def test_kinds_do_what_they_are_called():
    x, mask = tiles((40, 48, 36), count=6)
    for kind, sign in (("dark", -1), ("oedema", -1), ("bright", 1)):
        corrupted, _ = insert_lesions(x, mask, LesionConfig(count=(1, 2), kinds=(kind,)), (3,))
        change = (corrupted - x) * sign
        assert change.max() > 0.02
        assert change.min() >= 0
    textured, truth = insert_lesions(x, mask, LesionConfig(radius_mm=(15, 20), kinds=("texture",)), (3,))
    assert abs(float((textured - x)[truth].mean())) < 0.3 * float((textured - x)[truth].abs().mean())


@pytest.mark.parametrize("kind", ["dark", "bright", "grey", "foreign", "texture", "ring", "oedema"])
def test_faintness_makes_the_same_lesions_weaker(kind):
    x, mask = tiles((32, 32, 32), count=6)
    options = {"count": (1, 1), "radius_mm": (8, 12), "kinds": (kind,)}
    (plain, truth), (faint, same) = (
        insert_lesions(x, mask, LesionConfig(**options, faintness=power), (5,)) for power in (1, 4)
    )
    assert torch.equal(truth, same)
    assert (faint - x)[truth].abs().mean() < 0.8 * (plain - x)[truth].abs().mean()


def test_smooth_takes_detail_and_leaves_the_mean():
    x, mask = tiles((40, 48, 36), count=4)
    smoothed, truth = insert_lesions(x, mask, LesionConfig(radius_mm=(15, 20), kinds=("smooth",)), (3,))
    assert smoothed[truth].std() < 0.8 * x[truth].std()
    assert smoothed[truth].mean() == pytest.approx(float(x[truth].mean()), rel=0.03)


def test_warp_moves_tissue_without_making_any():
    ramp = torch.linspace(0.2, 0.8, 48).reshape(1, 1, 48, 1, 1).expand(4, 1, 48, 48, 48).contiguous()
    mask = torch.ones(4, 1, 48, 48, 48, dtype=torch.bool)
    warped, truth = insert_lesions(ramp, mask, LesionConfig(count=(1, 1), radius_mm=(12, 16), kinds=("warp",)), (1,))
    assert truth.any()
    assert float(warped.max()) <= 0.8001
    assert float(warped.min()) >= 0.2 * 0.75  # its core may be darker by a quarter
    slope = torch.diff(warped, dim=2)
    assert (slope > -0.02).float().mean() > 0.99  # nothing folds: what was in front stays in front
    assert slope.max() > 2 * float(torch.diff(ramp, dim=2).max())  # where it is pushed together


def test_lesions_that_follow_tissue_stop_at_fluid():
    x, mask = tiles((40, 48, 36), count=6)
    x[:, :, :20] *= 0.1
    options = {"count": (2, 3), "radius_mm": (8, 14), "kinds": ("bright",), "white_matter": 0.0}
    _, all_over = insert_lesions(x, mask, LesionConfig(**options), (5,))
    _, followed = insert_lesions(x, mask, LesionConfig(**options, follows_tissue=1.0), (5,))
    dark = lambda truth: float(truth[:, :, :20].sum() / truth.sum())  # noqa: E731
    assert dark(all_over) > 0.2
    assert dark(followed) < 0.3 * dark(all_over)


def test_cores_add_a_second_content_inside_the_same_truth():
    x, mask = torch.full((40, 1, 28, 28, 28), 0.6), torch.ones(40, 1, 28, 28, 28, dtype=torch.bool)
    options = {"count": (1, 1), "radius_mm": (10, 12), "kinds": ("bright", "dark")}
    plain, _ = insert_lesions(x, mask, LesionConfig(**options), (2,))
    cored, truth = insert_lesions(x, mask, LesionConfig(**options, cores=1.0), (2,))

    def both(found):
        return sum(bool((one > 0.62).any() and (one < 0.58).any()) for one in found)

    assert both(plain) == 0
    assert both(cored) >= 2
    assert not ((cored != x) & ~truth).flatten(1).sum(1).gt(3 * truth.flatten(1).sum(1)).any()


def test_the_same_seed_gives_the_same_lesions_and_another_gives_others():
    x, mask = tiles((48, 40))
    first, second, other = (insert_lesions(x, mask, LesionConfig(count=(2, 3)), seed) for seed in ((1,), (1,), (2,)))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    assert not torch.equal(first[1], other[1])


def test_sizes_follow_the_asked_radius():
    x, mask = torch.full((8, 1, 48, 48, 48), 0.6), torch.ones(8, 1, 48, 48, 48, dtype=torch.bool)
    for radius in (6.0, 12.0):
        options = LesionConfig(count=(1, 1), radius_mm=(radius, radius), kinds=("grey",))
        found = [insert_lesions(x, mask, options, (seed,))[1].flatten(1).sum(1) for seed in range(4)]
        volumes = torch.cat(found).float() * 0.008  # ml
        expected = 4 / 3 * math.pi * (radius / 10) ** 3
        assert 0.6 * expected < float(volumes[volumes > 0].median()) < 1.6 * expected


def test_textures_are_of_several_finenesses():
    """Correlation of neighbours in the changed voxels: low in fine grain, high in blotches."""
    x, mask = torch.full((1, 1, 48, 48, 48), 0.6), torch.ones(1, 1, 48, 48, 48, dtype=torch.bool)
    alike = []
    for seed in range(30):
        options = LesionConfig(count=(1, 1), radius_mm=(16, 18), kinds=("texture",))
        corrupted, truth = insert_lesions(x, mask, options, (seed,))
        pairs = truth[0, 0, 1:] & truth[0, 0, :-1]
        change = (corrupted - x)[0, 0]
        alike.append(np.corrcoef(change[1:][pairs], change[:-1][pairs])[0, 1])
    assert min(alike) < 0.45
    assert max(alike) > 0.8


def test_lesions_are_placed_in_the_bright_half_as_often_as_asked():
    x, mask = tiles((40, 48, 36), count=8)
    x[:, :, :20] *= 0.3  # one hemisphere is dark
    options = {"count": (3, 3), "radius_mm": (3, 4), "kinds": ("grey",)}

    def share(white_matter):
        _, truth = insert_lesions(x, mask, LesionConfig(**options, white_matter=white_matter), (5,))
        return float(truth[:, :, 20:].sum() / truth.sum())

    assert share(1.0) > 0.95
    assert 0.3 < share(0.0) < 0.7


def test_a_tile_may_stay_healthy_and_a_range_without_lesions_is_refused():
    x, mask = tiles((48, 40), count=8)
    _, truth = insert_lesions(x, mask, LesionConfig(count=(0, 1)), (0,))
    assert 0 < int(truth.flatten(1).any(1).sum()) < 8
    for wrong in ({"count": (0, 0)}, {"count": (3, 2)}, {"radius_mm": (0.5, 3)}, {"kinds": ()}, {"kinds": ("tumour",)}):
        with pytest.raises(ValidationError):
            LesionConfig.model_validate(wrong)


def test_the_look_of_the_scan_changes_with_its_lesions_but_the_truth_does_not():
    x, mask = tiles((40, 48, 36))
    options = ObjectiveConfig(kind="discrepancy")
    corrupted, truth = corrupt(options, x, mask, (4, 2))
    _, expected = insert_lesions(x, mask, options.lesions, (4, 2, 1))
    assert torch.equal(truth, expected)
    healthy = mask & ~truth
    assert (corrupted - x)[healthy].abs().mean() > 0.02
    assert not corrupted[~mask].any()


class Oracle(torch.nn.Module):
    def __init__(self, logits):
        super().__init__()
        self.logits = logits

    def forward(self, x):
        return Segmentation(self.logits)


def test_loss_is_zero_for_the_truth_and_ignores_what_lies_outside_the_brain():
    x, mask = tiles((48, 40))
    truth = mask & (x > 0.8)
    right = torch.where(truth, 40.0, -40.0)
    terms = discrepancy_loss(Oracle(right), x, truth, mask)
    assert float(terms.total) == pytest.approx(0, abs=1e-4)
    assert float(terms.dice) == pytest.approx(1, abs=1e-4)
    noisy = torch.where(mask, right, torch.randn(right.shape) * 30)
    assert torch.equal(discrepancy_loss(Oracle(noisy), x, truth, mask).total, terms.total)
    unsure = discrepancy_loss(Oracle(torch.zeros_like(right)), x, truth, mask)
    assert float(unsure.reconstruction) == pytest.approx(math.log(2), rel=1e-5)


def test_a_voxel_of_a_small_lesion_counts_for_more_and_a_healthy_one_once():
    truth = torch.zeros(2, 1, 24, 24, 24, dtype=torch.bool)
    truth[0, 0, 2:4, 2:4, 2:4] = True  # 8 voxels
    truth[0, 0, 8:20, 8:20, 8:20] = True  # 1,728 voxels
    weights = lesion_weights(truth, 0.5)
    assert float(weights[0, 0, 2, 2, 2]) == 6  # √(300 / 8) is more
    assert float(weights[0, 0, 9, 9, 9]) == pytest.approx(0.5)
    assert float(lesion_weights(truth, 0.2)[0, 0, 2, 2, 2]) == pytest.approx(37.5**0.2)
    assert (weights[~truth] == 1).all()
    assert torch.equal(lesion_weights(truth[:, :, :, :, 3], 0.5)[1], torch.ones(1, 24, 24))

    mask, logits = torch.ones_like(truth), torch.zeros(truth.shape)
    plain, weighted = (discrepancy_loss(Oracle(logits), truth, truth, mask, balance=b) for b in (0.0, 0.5))
    expected = math.log(2) * float(weights.sum()) / weights.numel()
    assert float(weighted.reconstruction) == pytest.approx(expected, rel=1e-5)
    assert float(plain.reconstruction) == pytest.approx(math.log(2), rel=1e-5)
    small, large = logits - 40, logits - 40
    small[0, 0, 2:4, 2:4, 2:4], large[0, 0, 8:20, 8:20, 8:20] = 40, 40
    found = [[float(discrepancy_loss(Oracle(seen), truth, truth, mask, balance=b).dice) for seen in (small, large)]
             for b in (0.0, 0.5)]  # fmt: skip
    assert found[1][0] > 2 * found[0][0]
    assert found[1][1] < found[0][1]


def test_small_lesions_can_be_more_likely():
    x, mask = tiles((48, 48, 48))
    volumes = {}
    for smallness in (1.0, 3.0):
        options = LesionConfig(count=(1, 1), radius_mm=(4, 24), kinds=("dark",), smallness=smallness)
        volumes[smallness] = np.mean(
            [insert_lesions(x, mask, options, (seed,))[1].flatten(1).sum(1).float().mean() for seed in range(8)]
        )
    assert volumes[3.0] < 0.7 * volumes[1.0]


def test_every_step_has_other_lesions_and_a_step_repeated_the_same():
    x, mask = tiles((48, 40))
    model = Oracle(torch.zeros_like(x, requires_grad=True))
    objective = objective_of(ObjectiveConfig(kind="discrepancy"))
    losses = [objective.training_terms(model, x, mask, (0, step, 0), step) for step in (1, 1, 2)]
    assert torch.equal(losses[0].total, losses[1].total)
    assert not torch.equal(losses[0].total, losses[2].total)


def test_flipped_score_of_a_mirrored_scan_is_the_mirrored_score():
    class Uneven(torch.nn.Module):
        def forward(self, x):
            return Segmentation(x.roll(1, 2) + x)

    x, mask = tiles((48, 40))
    found = discrepancy(Uneven(), x, mask, flipped=True)
    mirrored = discrepancy(Uneven(), x.flip(2), mask.flip(2), flipped=True)
    torch.testing.assert_close(mirrored, found.flip(1))
    assert not torch.allclose(discrepancy(Uneven(), x, mask), found)
    assert not found[~mask[:, 0]].any()


@pytest.mark.parametrize("section", ["network", "objective", "score"])
def test_a_segmenter_its_objective_and_its_score_belong_together(section):
    assert Config.model_validate(SEGMENTER).network.kind == "segmenter"
    with pytest.raises(ValidationError, match="segments inserted lesions needs"):
        Config.model_validate({key: value for key, value in SEGMENTER.items() if key != section})
    with pytest.raises(ValidationError, match="write polarity: bright"):
        Config.model_validate(SEGMENTER | {"score": {"kind": "discrepancy"}})
