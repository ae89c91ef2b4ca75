"""Healthy scans made into patients: what changes, what the truth says, and what it must not say."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy import ndimage

from medvae import fitting
from medvae.config import Config, LesionConfig, PatientConfig
from medvae.errors import MedvaeError
from medvae.imaging.grid import GRIDS
from medvae.lesions.patients import make_patient
from medvae.lesions.patients.deformation import Swelling, deform, ventricles
from medvae.lesions.patients.hosts import strip_badly, widen_fluid
from medvae.lesions.patients.infarct import Infarct
from medvae.lesions.patients.outlines import Outlines, read_outlines
from medvae.lesions.patients.scene import Scene, neighbourhood, smoothed
from medvae.lesions.patients.spots import Spots
from medvae.lesions.patients.tumour import Tumour

VOXEL_MM = 4.0
STILL = {"rotation_degrees": 0, "scale": 0, "deformation_mm": 0, "ventricles": 0, "atrophy": 0, "stripping": 0}
NONE = {"tumour": 0, "infarct": 0, "spots": 0, "foreign": 0}


@pytest.fixture(scope="module")
def head():
    """A ball of white matter with a grey rim, fluid around it and a ventricle in it: image and mask."""
    places = np.stack(np.meshgrid(*(np.arange(n) for n in (40, 48, 40)), indexing="ij")).astype(np.float64)
    middle = np.array([20, 24, 20]).reshape(3, 1, 1, 1)
    radius = np.sqrt(((places - middle) ** 2).sum(0))
    brain = radius < 17
    image = np.select([radius < 3, radius < 13, radius < 15.5, brain], [0.1, 0.85, 0.55, 0.08], 0.0)
    noise = np.random.default_rng(0).normal(0, 0.01, brain.shape)
    image = np.where(brain, np.clip(image + noise, 0.01, None), 0).astype(np.float32)
    return torch.from_numpy(image[None]), torch.from_numpy(brain)


def scene(head, seed=0):
    return Scene.of(*head, (seed,), VOXEL_MM)


@pytest.mark.parametrize("only", ["tumour", "infarct", "spots", "foreign"])
def test_every_disease_changes_the_scan_where_the_truth_is(head, only):
    options = PatientConfig(**STILL | NONE | {only: 1})
    image, mask = head
    found = 0
    for seed in range(4):
        sick, brain, truth = make_patient(image, mask, options, LesionConfig(count=(2, 3)), (seed,), VOXEL_MM)
        assert torch.equal(brain, mask)
        assert not (truth & ~brain).any()
        assert not sick[:, ~brain].any()
        assert torch.isfinite(sick).all()
        if truth.any():
            change = (sick - image)[0].abs()
            found += 1
            assert change[truth].mean() > 3 * change[brain & ~truth].mean()
    assert found >= 3


def test_the_same_seed_makes_the_same_patient_and_leaves_the_healthy_one_alone(head):
    image, mask = head
    before = image.clone(), mask.clone()
    options, lesions = PatientConfig(), LesionConfig()
    first, again, other = (
        make_patient(image, mask, options, lesions, seed, VOXEL_MM) for seed in [(3, 1), (3, 1), (3, 2)]
    )
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])
    assert torch.equal(image, before[0])
    assert torch.equal(mask, before[1])


def test_what_is_no_lesion_is_not_in_the_truth(head):
    options = PatientConfig(**NONE, ventricles=1, atrophy=1, stripping=1)
    for seed in range(5):
        sick, brain, truth = make_patient(*head, options, LesionConfig(), (seed,), VOXEL_MM)
        assert not truth.any()
        assert float((sick - head[0]).abs().mean()) > 1e-3
        assert not sick[:, ~brain].any()


@pytest.mark.parametrize("volume", [20.0, 60.0])
def test_a_tumour_has_the_volume_that_was_asked_for(head, volume):
    for seed in range(3):
        at = scene(head, seed)
        Tumour(at.place(), volume, 0.6, 0.0).insert(at)
        assert float(at.truth.sum()) * VOXEL_MM**3 / 1000 == pytest.approx(volume, rel=0.25)


def test_oedema_darkens_white_matter_more_than_grey_matter(head):
    white, grey = [], []
    for seed in range(12):
        at = scene(head, seed)
        Tumour((20, 24, 30), 60.0, 0.1, 0.0).insert(at)
        darker = (head[0] - at.image)[0]
        outside = at.truth & (darker < 0.2)
        white.append(float(darker[outside & (head[0][0] > 0.75)].mean()))
        grey.append(float(darker[outside & (head[0][0] < 0.65) & (head[0][0] > 0.45)].mean()))
    assert np.nanmean(white) > 2 * max(np.nanmean(grey), 0)


def test_an_infarct_is_darker_than_tissue_and_about_as_large_as_asked(head):
    at = scene(head)
    Infarct((20, 24, 31), 30.0, False, ()).insert(at)
    changed = (head[0] - at.image)[0][at.truth]
    assert float(changed.mean()) > 0.05
    assert float(at.truth.sum()) * VOXEL_MM**3 / 1000 == pytest.approx(30, rel=0.1)


def test_spots_are_small_dark_and_in_white_matter():
    head = torch.full((1, 30, 30, 30), 0.85), torch.ones(30, 30, 30, dtype=torch.bool)
    head[0][0, :15] = 0.5
    head[0][0, :3] = 0.1
    at = Scene.of(*head, (1,), 1.0)
    Spots((2.0,) * 12).insert(at)
    _, count = ndimage.label(at.truth.numpy())
    assert 5 <= count <= 12
    assert float((at.image - head[0])[0][at.truth].max()) < 0
    assert at.truth[15:].sum() > 3 * at.truth[:15].sum()


def test_a_swelling_keeps_its_centre_pushes_outwards_and_does_not_fold():
    line = torch.arange(64, dtype=torch.float32)
    ramp = line.reshape(1, 64, 1, 1).expand(1, 64, 12, 12).contiguous() + 1
    options = PatientConfig(**STILL)
    for strength in (0.6, -0.6, 0.95):
        at = Scene.of(ramp, torch.ones(64, 12, 12, dtype=torch.bool), (0,), 1.0)
        deform(at, options, [Swelling((31.5, 5.5, 5.5), 10, strength)])
        along = at.image[0, :, 6, 6] - 1
        assert (along.diff() > 0).all()
        assert float((along[31] + along[32]) / 2) == pytest.approx(31.5, abs=0.2)
        if strength > 0:
            assert float(along[41]) < 41
            assert float(along[21]) > 21
        else:
            assert float(along[41]) > 41


def test_without_a_deformation_the_scan_stays_where_it_is(head):
    at = scene(head)
    deform(at, PatientConfig(**STILL), [])
    torch.testing.assert_close(at.image, head[0], atol=1e-5, rtol=0)
    assert torch.equal(at.mask, head[1])


def test_a_deformed_brain_has_no_dark_rim(head):
    image = torch.full_like(head[0], 0.7) * head[1]
    at = Scene.of(image, head[1], (2,), VOXEL_MM)
    deform(at, PatientConfig(**STILL | {"deformation_mm": 4, "rotation_degrees": 10, "scale": 0.1}), ventricles(at))
    torch.testing.assert_close(at.image[0][at.mask], torch.full((int(at.mask.sum()),), 0.7), atol=1e-4, rtol=0)


def test_wider_sulci_only_darken_and_only_beside_fluid(head):
    at = scene(head)
    widen_fluid(at)
    change = (at.image - head[0])[0]
    assert float(change.max()) <= 1e-6
    assert float(change.min()) < -0.1
    assert float(change[17:24, 21:28, 27:30].abs().max()) < 0.05  # in the middle of white matter


def test_stripping_errors_add_and_take_but_keep_most_of_the_brain(head):
    added = taken = 0
    for seed in range(12):
        at = scene(head, seed)
        at.truth[20, 24, 20:36] = True
        strip_badly(at)
        added += int((at.mask & ~head[1]).sum())
        taken += int((~at.mask & head[1]).sum())
        assert at.mask.sum() > 0.6 * head[1].sum()
        assert not (at.truth & ~at.mask).any()
        assert (at.image[0][at.mask & ~head[1]] > 0).all()
    assert added > 100
    assert taken > 100


def test_neighbourhood_and_mean_are_those_of_scipy():
    mask = np.random.default_rng(0).random((7, 8, 9)) < 0.1
    np.testing.assert_array_equal(neighbourhood(torch.from_numpy(mask)).numpy(), ndimage.binary_dilation(mask))
    values = np.random.default_rng(1).random((7, 8, 9)).astype(np.float32)
    inner = (slice(1, -1),) * 3
    wanted = ndimage.uniform_filter(values, 3)[inner]
    np.testing.assert_allclose(smoothed(torch.from_numpy(values)).numpy()[inner], wanted, rtol=1e-5)


@pytest.mark.parametrize(("change", "message"), [
    ({"tumour": 0.7, "infarct": 0.5}, "their sum exceeds 1"),
    ({"tumour_ml": (5, 1)}, "tumour_ml must be a range"),
    ({"spot_mm": (0, 1)}, "spot_mm must be a range"),
])  # fmt: skip
def test_impossible_patients_are_refused(change, message):
    with pytest.raises(ValidationError, match=message):
        PatientConfig(**change)


STILL_TILES = {"rotation_degrees": 0, "scale": [1, 1], "gamma": [1, 1], "brightness": [1, 1], "noise_variance": [0, 0]}
RUN = {
    "name": "x", "network": {"kind": "segmenter", "neighbours": 1},
    "score": {"kind": "discrepancy", "polarity": "bright"}, "augmentation": STILL_TILES,
    "objective": {"kind": "discrepancy", "patients": {}},
}  # fmt: skip


@pytest.mark.parametrize(("change", "message"), [
    ({"objective": {"kind": "discrepancy"}}, "add objective.patients"),
    ({"sampling": {"kind": "patch", "patch_size": [32, 32, 32]}}, "are those of slices"),
    ({"augmentation": {}}, "leave rotation_degrees"),
    ({"network": {"kind": "vae"}, "objective": {"kind": "vae", "patients": {}}, "score": {}}, "remove patients"),
    ({"network": {"kind": "vae", "neighbours": 1}}, "remove neighbours"),
])  # fmt: skip
def test_runs_that_cannot_make_patients_are_refused(change, message):
    Config.model_validate(RUN)
    with pytest.raises(ValidationError, match=message):
        Config.model_validate(RUN | change)


@pytest.fixture
def outlines():
    masks = (np.ones((3, 4, 2), bool), np.arange(12).reshape(2, 3, 2) % 3 == 0)
    return Outlines(masks, ((0, 5, 6), (8, 8, 8)), (10, 12, 10))


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize(
    ("corner", "shape"), [((0, 0, 0), (10, 12, 10)), ((1, 6, 7), (8, 4, 3)), ((-3, 20, 0), (2, 2, 2))]
)
def test_an_outline_lies_where_it_lay_on_the_grid(outlines, corner, shape, mirrored):
    for index in range(2):
        whole = np.zeros((60, 60, 60), bool)  # the grid, with room around it
        first, mask = outlines.corners[index], outlines.masks[index]
        grid = np.zeros(outlines.shape, bool)
        grid[tuple(slice(f, f + n) for f, n in zip(first, mask.shape, strict=True))] = mask
        whole[20:30, 20:32, 20:30] = grid[::-1] if mirrored else grid
        expected = whole[tuple(slice(20 + c, 20 + c + n) for c, n in zip(corner, shape, strict=True))]
        np.testing.assert_array_equal(outlines.placed(index, corner, shape, mirrored=mirrored), expected)


def test_outlines_come_back_from_their_file_and_others_are_refused(outlines, tmp_path):
    grid = GRIDS["mni152-2mm"]
    outlines.save(tmp_path / "tiny.npz")
    replace(outlines, shape=grid.shape).save(tmp_path / "a.npz")
    again = read_outlines(tmp_path / "a.npz", grid)
    assert again.corners == outlines.corners
    assert all(np.array_equal(a, b) for a, b in zip(again.masks, outlines.masks, strict=True))
    with pytest.raises(MedvaeError, match="lies on a grid of \\(10, 12, 10\\)"):
        read_outlines(tmp_path / "tiny.npz", grid)
    with pytest.raises(MedvaeError, match="no such file"):
        read_outlines(tmp_path / "b.npz", grid)
    (tmp_path / "c.npz").write_text("no outlines")
    with pytest.raises(MedvaeError, match="holds no outlines"):
        read_outlines(tmp_path / "c.npz", grid)


def test_missing_outlines_are_told_before_any_scan_is_prepared(cohort, tmp_path, monkeypatch):
    monkeypatch.setattr(fitting, "prepare_training", lambda *_, **__: pytest.fail("scans were prepared"))
    patients = {"kind": "discrepancy", "patients": {"outlines": "nowhere.npz"}}
    with pytest.raises(MedvaeError, match=r"nowhere\.npz: there is no such file"):
        fitting.fit(Config.model_validate(RUN | {"objective": patients}), cohort, tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_an_infarct_has_the_outline_of_a_real_one(head):
    real = np.zeros((40, 48, 40), bool)
    real[24:30, 20:30, 18:30] = True
    at = scene(head, 3)
    Infarct((27, 25, 24), real.sum() * VOXEL_MM**3 / 1000, False, (), torch.from_numpy(real)).insert(at)
    found = at.truth.numpy()
    assert 2 * (found & real).sum() / (found.sum() + real.sum()) > 0.8


def test_included_outlines_are_infarcts_on_the_standard_grid():
    path = Path(__file__).resolve().parents[1] / "data_manifests" / "included" / "stroke_outlines.npz"
    found = read_outlines(path, GRIDS["mni152-2mm"])
    volumes = [mask.sum() * 0.008 for mask in found.masks]
    assert len(found) == 131
    assert 2 < min(volumes) < 10 < 250 < max(volumes) < 450


SHOWN = {"FLAIR": (0.1, 1.0, 1.3), "T2": (3.0, 1.0, 1.5)}
"""Fluid, white and grey matter, as a scanner of that sequence shows them."""


def in_sequence(head, sequence):
    """The ball of `head` in another sequence, 0 around the brain."""
    image, mask = head
    fluid, white, grey = SHOWN[sequence]
    seen = np.interp(image.numpy(), [0.1, 0.55, 0.85], [fluid, grey, white])
    return torch.from_numpy(np.where(mask.numpy(), seen, 0).astype(np.float32)), mask


@pytest.mark.parametrize("sequence", ["FLAIR", "T2"])
def test_tissues_are_known_in_every_sequence(head, sequence):
    image, mask = in_sequence(head, sequence)
    made = Scene.of(image, mask, (0,), VOXEL_MM, sequence=sequence)
    fluid, white, grey = SHOWN[sequence]
    share = (grey - fluid) / (white - fluid)
    assert float(made.level(0)) == pytest.approx(fluid, abs=0.15 * abs(white - fluid))
    assert float(made.level(1)) == pytest.approx(white, abs=0.1)
    assert made.towards_fluid(0.25).sum() < 0.35 * mask.sum()
    deep, rim = made.white[20, 24, 10], made.white[20, 24, 20 - 14]
    assert float(deep) > 0.8 > float(rim), share


@pytest.mark.parametrize("sequence", ["FLAIR", "T2"])
@pytest.mark.parametrize("only", ["tumour", "spots"])
def test_lesions_are_bright_on_flair_and_t2(head, sequence, only):
    image, mask = in_sequence(head, sequence)
    options = PatientConfig(**STILL | NONE | {only: 1, "sequence": sequence})
    changes = []
    for seed in range(8):
        sick, _, truth = make_patient(image, mask, options, LesionConfig(), (seed,), VOXEL_MM)
        tissue = truth & (image[0] < 1.6 if sequence == "T2" else image[0] > 0.9)
        if tissue.any():
            changes.append(float((sick - image)[0][tissue].mean()))
    assert len(changes) >= 5
    assert np.mean(changes) > 0.15
    assert np.mean(np.array(changes) > 0) > 0.7


def test_wide_sulci_are_filled_with_bright_fluid_on_t2(head):
    image, mask = in_sequence(head, "T2")
    made = Scene.of(image, mask, (1,), VOXEL_MM, sequence="T2")
    widen_fluid(made)
    assert float((made.image - image).min()) > -1e-4
    assert float((made.image - image).max()) > 0.3


def test_t1_needs_no_curve(head):
    made = scene(head)
    assert torch.equal(made.lesion(0.3), made.level(0.3))
