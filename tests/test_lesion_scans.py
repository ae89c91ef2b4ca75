"""Scans with lesions, bent onto the atlas with them: what is learned from, and that it is what is judged later."""

import json

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from medvae.config import Config
from medvae.detection.detector import Detector
from medvae.imaging.planes import padded, slices_of, with_neighbours
from medvae.networks.build import build_network
from medvae.normative.inputs import NetworkInputs
from medvae.preparation.prepare import prepare_healthy
from medvae.sampling.lesion_scans import BLOCK, FixedPatches, LesionScans, LesionSlices, MixedPatches, lesion_scans
from medvae.training.corruptions import with_lesions
from medvae.training.loop import train

TINY = {
    "name": "tiny",
    "sampling": {"kind": "patch", "patch_size": [48, 48, 48], "batch_size": 2, "patches_per_volume": 2, "workers": 0},
    "augmentation": {"rotation_degrees": 0, "scale": [1, 1], "gamma": [1, 1], "brightness": [1, 1],
                     "noise_variance": [0, 0], "mirror": False},
    "network": {"kind": "segmenter", "widths": [4, 8], "normalisation": "instance", "atlas": True, "mirror": True,
                "deformable": True, "detail": 2},
    "objective": {"kind": "discrepancy"},
    "training": {"steps": 2, "warmup_steps": 0, "log_every": 1},
    "score": {"kind": "discrepancy", "polarity": "bright"},
}  # fmt: skip
UNBENT = TINY | {"network": TINY["network"] | {"deformable": False}}
WHOLE = {"kind": "patch", "patch_size": [80, 96, 80], "patches_per_volume": 1, "workers": 0}
STILL = {"rotation_degrees": 0, "scale": [1, 1], "gamma": [1, 1], "brightness": [1, 1], "noise_variance": [0, 0],
         "mirror": False}  # fmt: skip
NONE = {"count": [0, 1], "kinds": ["warp"], "radius_mm": [1, 1]}  # a push of half a voxel is taken back
HEALTHY = {"kind": "discrepancy", "lesions": NONE, "appearance": STILL}


def shown(cohort, options):
    """The three scans that an atlas needs, as the network of a config is shown them."""
    config = Config.model_validate(options)
    plain = prepare_healthy(cohort, "train", config.preparation, quiet=True)[:3]
    inputs = NetworkInputs.fit(config.network, 1, plain)
    return [inputs.shown(volume) for volume in plain]


@pytest.fixture(scope="module")
def volumes(cohort):
    return shown(cohort, TINY)


@pytest.fixture(scope="module")
def unbent(cohort):
    """For what does not depend on how the atlas is brought to a scan: bending it takes most of the time."""
    return shown(cohort, UNBENT)


def test_a_scan_that_was_left_healthy_is_what_a_detector_would_see(volumes):
    config = Config.model_validate(TINY | {"sampling": WHOLE, "objective": HEALTHY})
    x, mask = LesionScans(volumes, config)[0, 1]
    assert x.shape == (1, 6, 80, 96, 80)  # scan, mean, SD, mirrored, log-Jacobian, truth
    assert not x[0, -1].any()
    assert np.array_equal(mask[0, 0], volumes[1].mask)
    expected = torch.from_numpy(volumes[1].image)
    same = [0, 1, 2, 4]
    torch.testing.assert_close(x[0, same], expected[same], atol=1e-5, rtol=0)
    seen = expected[3] > 0.1  # the other one's bias field is known by a ratio
    torch.testing.assert_close(x[0, 3][seen], expected[3][seen], atol=0.02, rtol=0)


def test_lesions_change_what_is_bent_and_the_truth_says_where(volumes):
    kinds = {"lesions": {"count": [3, 3], "kinds": ["dark"], "radius_mm": [10, 14]}}
    config = Config.model_validate(TINY | {"sampling": WHOLE, "objective": HEALTHY | kinds})
    x, mask = LesionScans(volumes, config)[0, 1]
    truth, healthy = x[0, -1] > 0, torch.from_numpy(volumes[1].image)
    assert truth.any()
    assert not (truth & ~mask[0, 0]).any()
    assert float((x[0, 0] - healthy[0])[truth].mean()) < -0.03
    assert float((x[0, 1] - healthy[1])[truth].abs().mean()) > 0.005  # the field has seen them


def test_random_numbers_depend_on_seed_epoch_and_index_alone(unbent):
    scans = LesionScans(unbent, Config.model_validate(UNBENT))
    again = LesionScans(unbent, Config.model_validate(UNBENT))
    patches, _ = scans[1, 1]
    assert torch.equal(patches, again[1, 1][0])
    assert not torch.equal(patches, scans[2, 1][0])
    assert not torch.equal(patches, scans[1, 0][0])
    fixed = FixedPatches(scans)
    assert len(fixed) == 2 * len(unbent)
    assert torch.equal(fixed[0, 3][0], scans[0, 1][0][1])


def test_mirrored_augmentation_turns_all_alike(unbent):
    options = UNBENT | {"sampling": WHOLE, "objective": HEALTHY}
    plain = LesionScans(unbent, Config.model_validate(options))
    turning = LesionScans(
        unbent, Config.model_validate(options | {"augmentation": TINY["augmentation"] | {"mirror": True}})
    )
    found = []
    for epoch in range(6):
        (x, mask), (y, turned) = plain[epoch, 0], turning[epoch, 0]
        found.append(torch.equal(x.flip(2), y) and torch.equal(mask.flip(2), turned))
        assert found[-1] or torch.equal(x, y)
    assert set(found) == {True, False}


class Numbers(LesionScans):
    """Scans whose patches say which they are."""

    def __init__(self, patches: int) -> None:
        self.patches = patches

    def __getitem__(self, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.arange(self.patches).reshape(-1, 1) + 100 * number
        return x, x > -1


@pytest.mark.parametrize("start", [0, 3, 4, 10])
def test_blocks_are_mixed_and_any_step_can_be_the_first(start):
    mixed = MixedPatches(Numbers(4), batch=6, seed=1)
    assert mixed.steps == BLOCK * 4 // 6

    def steps(start: int, stop: int) -> list[list[int]]:
        first, last = mixed.scans_of(start, stop)
        loader = (Numbers(4)[n] for n in range(first, last))
        return [x.flatten().tolist() for x, _ in mixed.batches(loader, start, stop)]

    whole = steps(0, 11)
    assert len(whole) == 11
    assert whole[start:] == steps(start, 11)
    block = sorted(patch for step in whole[: mixed.steps] for patch in step)
    assert block == [100 * scan + patch for scan in range(BLOCK) for patch in range(4)]
    assert len({n // 100 for n in whole[0]}) > 1


def test_a_batch_may_be_larger_than_the_patches_of_a_block():
    mixed = MixedPatches(Numbers(2), batch=15, seed=1)
    first, last = mixed.scans_of(0, 2)
    loader = (Numbers(2)[n] for n in range(first, last))
    batches = [x.flatten().tolist() for x, _ in mixed.batches(loader, 0, 2)]
    assert [len(set(batch)) for batch in batches] == [15, 15]


def test_the_number_of_workers_does_not_matter(unbent, tmp_path):
    plain, weights = [volume.volume for volume in unbent], []
    for workers in (0, 2):
        config = Config.model_validate(UNBENT | {"sampling": TINY["sampling"] | {"workers": workers}})
        weights.append(train(config, plain, [], tmp_path / str(workers), quiet=True).state_dict())
    for name, expected in weights[0].items():
        assert torch.equal(expected, weights[1][name]), name


def test_network_is_told_what_is_wrong_from_tiles_that_have_lesions(volumes):
    config = Config.model_validate(TINY)
    network = build_network(config, 1)
    x, mask = LesionScans(volumes, config)[0, 0]
    seen, truth = with_lesions(config.objective, network, x, mask, (0,))
    assert torch.equal(seen, x[:, :-1])
    assert torch.equal(truth, x[:, -1:] > 0)
    assert network(seen).logits.shape == truth.shape


def test_six_steps_equal_three_a_stop_and_three_more_and_the_detector_comes_back(volumes, tmp_path, hasty_bending):
    config = Config.model_validate(TINY | {"training": TINY["training"] | {"steps": 6, "checkpoint_every": 3}})
    plain, inputs, run = [volume.volume for volume in volumes], volumes[0].inputs, tmp_path / "run"
    whole = train(config, plain, plain[:1], run, inputs=inputs, quiet=True)
    (run / "network.safetensors").unlink()  # as if it had been killed after the checkpoint of step 3
    assert json.loads((run / "checkpoints" / "latest" / "step.json").read_text())["step"] == 3
    again = train(config, plain, plain[:1], run, inputs=inputs, resume=True, quiet=True)
    for name, weights in whole.state_dict().items():
        assert torch.equal(weights, again.state_dict()[name]), name
    made = Detector.calibrate(config, whole, plain, plain[:1], atlas=inputs.atlas)
    loaded = made.save(tmp_path / "detector")
    assert np.array_equal(loaded.score(plain[0]), made.score(plain[0]))
    assert loaded.atlas.cover is not None


def test_what_does_not_fit_is_refused():
    for network, message in (
        ({"atlas": False, "mirror": False}, "deformable bends an atlas"),
        ({"kind": "unet", "atlas": False, "mirror": False, "deformable": False}, "last stage of detail"),
    ):
        with pytest.raises(ValidationError, match=message):
            Config.model_validate(TINY | {"network": TINY["network"] | network})
    with pytest.raises(ValidationError, match=r"augmentation\.rotation_degrees: 0"):
        Config.model_validate(TINY | {"augmentation": TINY["augmentation"] | {"rotation_degrees": 5}})
    with pytest.raises(ValidationError, match=r"sampling\.kind: patch"):
        Config.model_validate(TINY | {"sampling": {"kind": "slice"}})


SLICES = TINY | {
    "sampling": {"kind": "slice", "plane": "all", "batch_size": 4, "patches_per_volume": 9, "workers": 0},
    "network": {"kind": "segmenter", "widths": [4, 8], "neighbours": 1, "mirror": True},
    "objective": {"kind": "discrepancy", "patients": {"infarct": 1, "tumour": 0, "spots": 0, "foreign": 0},
                  "appearance": STILL},
}  # fmt: skip


@pytest.fixture(scope="module")
def alone(cohort):
    return shown(cohort, SLICES)


def test_slices_of_a_patient_lie_between_their_neighbours_and_beside_the_mirrored_ones(alone):
    scans = lesion_scans(alone, Config.model_validate(SLICES))
    x, mask = scans[0, 1]
    assert isinstance(scans, LesionSlices)
    assert x.shape == (9, 2 * 3 + 1, 96, 96)  # scan and mirrored scan, three slices each, and the truth
    assert mask.shape == (9, 1, 96, 96)
    assert mask.any(dim=(1, 2, 3)).all()
    assert not (x[:, -1:] > 0)[~mask].any()
    assert (x[:, -1] > 0).any(dim=(1, 2)).sum() >= 4  # two thirds hold a lesion
    for channel in (1, 4):  # the slice itself, and the same slice of the mirrored scan
        assert (x[:, channel][mask[:, 0]] != 0).float().mean() > 0.9
        assert not x[:, channel][~mask[:, 0]].any()
    again, other = scans[0, 1], scans[1, 1]
    assert torch.equal(x, again[0])
    assert not torch.equal(x, other[0])


def test_patches_of_a_patient_beside_the_atlas_that_was_bent_onto_it(volumes):
    patients = {"infarct": 1, "tumour": 0, "spots": 0, "foreign": 0, "infarct_ml": [60, 80], "stripping": 1}
    objective = {"kind": "discrepancy", "patients": patients, "appearance": STILL}
    x, mask = lesion_scans(volumes, Config.model_validate(TINY | {"sampling": WHOLE, "objective": objective}))[0, 1]
    assert x.shape == (1, 6, 80, 96, 80)  # scan, mean, SD, mirrored, log-Jacobian, truth
    truth, brain = x[0, -1] > 0, mask[0, 0]
    assert truth.any()
    assert not (truth & ~brain).any()
    assert not torch.equal(brain, torch.from_numpy(volumes[1].mask))  # another anatomy, and stripped badly
    assert not x[0, :-1, ~brain].any()
    assert (x[0, 0] - x[0, 1])[truth].mean() < (x[0, 0] - x[0, 1])[brain & ~truth].mean()  # darker than usual there


def test_a_network_for_slices_is_shown_what_its_training_showed(alone):
    config = Config.model_validate(SLICES | {"objective": HEALTHY | {"patients": {
        "infarct": 0, "tumour": 0, "spots": 0, "foreign": 0, "ventricles": 0, "atrophy": 0, "stripping": 0,
        "rotation_degrees": 0, "scale": 0, "deformation_mm": 0}}})  # fmt: skip
    x, _ = lesion_scans(alone, config, patches=40)[0, 0]
    shown = alone[0].image
    assert shown.shape == (2, 80, 96, 80)
    np.testing.assert_array_equal(shown[1], np.where(alone[0].mask, shown[0][::-1], 0))
    whole = [padded(with_neighbours(slices_of(shown, plane), range(n), 1), (96, 96))
             for plane, n in (("axial", 80), ("coronal", 96), ("sagittal", 80))]  # fmt: skip
    known = torch.from_numpy(np.concatenate(whole))
    for tile in x[:8, :-1]:
        assert float((known - tile).abs().amax(dim=(1, 2, 3)).min()) < 1e-4
    network = build_network(config, 1)
    assert network(x[:2, :-1]).logits.shape == (2, 1, 96, 96)


def test_a_run_on_slices_of_patients_is_the_same_when_it_is_repeated(cohort, tmp_path, prepared):
    config = Config.model_validate(SLICES | {"training": {"steps": 4, "warmup_steps": 0, "log_every": 1}})
    volumes = prepare_healthy(cohort, "train", config.preparation, cache=prepared, quiet=True)
    whole = train(config, volumes, volumes[:1], tmp_path / "whole", quiet=True)
    assert (tmp_path / "whole" / "reconstructions.png").is_file()
    again = train(config, volumes, volumes[:1], tmp_path / "again", quiet=True)
    for a, b in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
