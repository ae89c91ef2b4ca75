"""The programs that make and choose the detector that comes with medvae, run small."""

import importlib
import runpy
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.numpy import load_file
from scipy import ndimage

from medvae.config import Config, PreparationConfig
from medvae.detection.ensemble import Ensemble, load_detector
from medvae.errors import MedvaeError
from medvae.fitting import fit
from medvae.manifest import read_manifest, write_manifest
from medvae.preparation.prepare import prepare_case, prepare_healthy

REPOSITORY = Path(__file__).resolve().parents[1]
PRETRAINED = runpy.run_path(str(REPOSITORY / "pipelines" / "make_pretrained.py"))
VALIDATION = runpy.run_path(str(REPOSITORY / "pipelines" / "validation_lesions.py"))
INCLUDED = REPOSITORY / "data_manifests" / "included_t1.json"
LANDMARKS = {"preparation": {"intensity": "landmarks"}}
TINY = {
    "sampling": {"kind": "patch", "patch_size": [48, 48, 48], "patch_overlap": 0, "batch_size": 1, "workers": 0},
    "augmentation": {"gamma": [1, 1], "brightness": [1, 1], "noise_variance": [0, 0]},
    "network": {"kind": "segmenter", "widths": [4, 8], "normalisation": "instance", "atlas": True},
    "objective": {"kind": "discrepancy"},
    "training": {"steps": 2},
    "score": {"kind": "discrepancy", "polarity": "bright"},
}


@pytest.fixture(scope="module")
def brain():
    included = read_manifest(INCLUDED)
    case = included.of_split("validation", healthy=True)[0]
    return prepare_case(included, case, PreparationConfig(intensity="white_matter", clip=None))


@pytest.fixture(scope="module")
def lesions(brain):
    return {kind: (image, truth) for kind, image, truth in VALIDATION["lesions_of"](brain, 0)}


def test_every_form_and_size_has_the_volume_it_is_called_by(brain, lesions):
    sizes = VALIDATION["SIZES_ML"]
    assert len(lesions) == len(VALIDATION["FORMS"]) * len(sizes) + VALIDATION["REPEATS_OF_MS"]
    for kind, (image, truth) in lesions.items():
        assert image.shape == truth.shape == brain.mask.shape
        assert not (truth & ~brain.mask).any()
        size = kind.split(", ")[1]
        if size in sizes:
            low, high = sizes[size]
            assert low <= truth.sum() * 0.008 <= high


def test_what_is_far_from_a_lesion_is_untouched_and_the_lesion_is_not(brain, lesions):
    for kind, (image, truth) in lesions.items():
        change = np.abs(image - brain.image[0])
        far = ndimage.distance_transform_edt(~truth) > (25 if kind.startswith("mass") else 15)
        assert change[far & brain.mask].max() < 0.02, kind
        assert change[truth].mean() > 0.015, kind


def test_lesions_are_the_same_each_time_and_differ_between_people(brain, lesions):
    for person, alike in ((0, True), (1, False)):
        for kind, _, truth in islice(VALIDATION["lesions_of"](brain, person), 3):
            assert np.array_equal(lesions[kind][1], truth) == alike


def test_detectors_are_compared_and_the_work_is_not_done_again(cohort, tmp_path, monkeypatch, capsys, prepared):
    for name, polarity in (("right", "dark"), ("wrong", "bright")):
        score = {"kind": "intensity", "polarity": polarity, "normative": True, "smoothing_mm": 0}
        config = Config.model_validate({"name": name, "network": None, "score": score, **LANDMARKS})
        fit(config, cohort, tmp_path / name, cache=prepared, quiet=True)
    monkeypatch.syspath_prepend(REPOSITORY / "pipelines")
    names = VALIDATION["main"].__globals__
    monkeypatch.setitem(names, "SIZES_ML", {"medium": (2.0, 8.0)})
    monkeypatch.setitem(names, "REPEATS_OF_MS", 1)
    monkeypatch.setattr(np, "savez_compressed", np.savez)  # as good, and done at once
    monkeypatch.setattr("medvae.evaluation.free_response.THRESHOLDS", 10)
    found = [str(tmp_path / "right"), str(tmp_path / "wrong")]
    out = tmp_path / "out"
    VALIDATION["main"](found, cohort.path, tmp_path / "cache", out)
    rows = [line.split("|")[1:-1] for line in (out / "table.md").read_text().splitlines()[2:]]
    header = (out / "table.md").read_text().splitlines()[0].split("|")[1:-1]
    ap = [dict(zip((word.strip() for word in header), row, strict=True)) for row in rows]
    assert float(ap[0]["MS-like"]) > 2 * float(ap[1]["MS-like"])  # lesions of MS are dark on T1
    assert float(ap[1]["bright"]) > 2 * float(ap[0]["bright"])
    expected = (float(ap[0]["MS-like"]) + np.mean([float(ap[0][form]) for form in VALIDATION["FORMS"]])) / 2
    assert float(ap[0]["to choose by"]) == pytest.approx(expected, abs=2e-3)
    made = {path: path.stat().st_mtime_ns for path in out.rglob("*.npz")}
    VALIDATION["main"](found, cohort.path, tmp_path / "cache", out)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.npz")} == made
    masks = importlib.import_module("validation_masks")
    monkeypatch.setattr(masks, "RULES", (masks.Rule(0.01, 0.01), masks.Rule(0.001, 0.01), masks.Rule(0.01, 0.01, 1e3)))
    masks.main(found[:1], cohort.path, tmp_path / "cache", out)
    lines = (out / "masks.md").read_text().splitlines()
    plain, certain, nothing = ([cell.strip() for cell in line.split("|")[1:-1]] for line in lines[4:7])
    assert float(plain[3]) > float(certain[3]) > float(nothing[3]) == 0
    dice, f1, share = map(float, plain[4].split())
    assert min(dice, f1, share) > 0
    assert max(dice, f1, share) <= 1
    assert nothing[4] == "0.000 0.000 0.000"
    cut, whole = (line.split("|")[2:-1] for line in lines[-2:])
    assert 0 <= float(cut[0]) <= float(whole[0]) <= 1
    changes = importlib.import_module("validation_changes")
    monkeypatch.setattr(changes, "ASKED", ("as it is", "noise of 5 %"))
    changes.main(found, cohort.path, tmp_path / "cache", out)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in (out / "changes.md").read_text().splitlines()]
    table = {(row[0], row[1]): dict(zip(rows[0], row, strict=True)) for row in rows[2:]}
    assert len(table) == len(changes.ASKED) * 2
    plain, noisy = (table[change, found[0]] for change in ("as it is", "noise of 5 %"))
    assert plain["MS-like"] != noisy["MS-like"]
    assert plain["flagged where 1.0% is asked"] == "1.00%" != noisy["flagged where 1.0% is asked"]
    one = [case for case in cohort.cases if case.id != "sub04"]
    smaller = write_manifest(cohort.model_copy(update={"cases": one}), cohort.path.parent / "one.json")
    VALIDATION["main"](found[:1], smaller, tmp_path / "cache", out)
    assert len(list(out.glob("*/scans"))) == 2  # another cohort has scans of its own


def test_a_detector_without_landmarks_is_refused(cohort, tmp_path, prepared):
    fit(
        Config.model_validate({"name": "a", "network": None, "score": {"kind": "intensity"}}),
        cohort,
        tmp_path / "a",
        cache=prepared,
    )
    with pytest.raises(MedvaeError, match="landmarks"):
        VALIDATION["main"]([str(tmp_path / "a")], cohort.path, None, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


def write_config(name, folder):
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump({"name": name, **LANDMARKS, **TINY}))
    return path


def test_two_configs_are_packed_as_an_ensemble_in_half_precision(cohort, runs, tmp_path, prepared):
    out = tmp_path / "packed" / "t1"
    PRETRAINED["main"](cohort.path, [write_config(name, tmp_path) for name in ("even", "faint")], prepared, runs, out)
    packed = load_detector(out)
    assert isinstance(packed, Ensemble)
    assert packed.config.name == "t1"
    assert list(packed.members) == ["even", "faint"]
    for weights in out.rglob("network.safetensors"):
        assert {array.dtype.name for array in load_file(weights).values()} == {"float16"}
    volumes = prepare_healthy(
        cohort, "validation", packed.config.preparation, scale=packed.scale, cache=prepared, quiet=True
    )
    values = np.concatenate([packed.score(volume)[volume.mask] for volume in volumes])
    for point in packed.points:  # thresholds are those of the rounded weights
        assert np.mean(values > point.threshold) <= point.false_positive_rate
    assert (out / "cohort.json").is_file()


def test_members_of_a_finished_detector_are_kept_beside_a_new_one(cohort, runs, prepared, tmp_path):
    first, second = (write_config(name, tmp_path) for name in ("even", "faint"))
    PRETRAINED["main"](cohort.path, [first], prepared, runs, tmp_path / "even")
    PRETRAINED["main"](
        cohort.path, [second], prepared, runs, tmp_path / "new" / "both", keep=str(tmp_path / "even"),
        kept_set=["score.surround_mm=8"], weights=[3, 1],
    )  # fmt: skip
    kept, packed = load_detector(tmp_path / "even"), load_detector(tmp_path / "new" / "both")
    assert (packed.config.name, list(packed.members), packed.weights) == ("both", ["even", "faint"], (3, 1))
    member = packed.members["even"]
    assert member.config.score == kept.config.score.model_copy(update={"surround_mm": 8.0})
    for name, weights in kept.network.state_dict().items():
        assert torch.equal(weights, member.network.state_dict()[name])
    assert member.points[0].threshold != kept.points[0].threshold  # of the changed score


def test_one_config_is_packed_as_a_detector_of_the_folders_name(cohort, runs, prepared, tmp_path):
    config = write_config("even", tmp_path)
    PRETRAINED["main"](cohort.path, [config], prepared, runs, tmp_path / "t1")
    assert load_detector(tmp_path / "t1").config.name == "t1"
    with pytest.raises(MedvaeError, match="one name"):
        PRETRAINED["main"](cohort.path, [config, config], prepared, runs, tmp_path / "t2")
    assert not (tmp_path / "t2").exists()


def test_what_only_another_goes_on_from_is_trained_and_not_packed(cohort, runs, prepared, tmp_path):
    first, second = write_config("even", tmp_path), tmp_path / "onwards.yaml"
    on = {"training": TINY["training"] | {"start_from": str(runs / "even")}}
    second.write_text(yaml.safe_dump({"name": "onwards", **LANDMARKS, **TINY, **on}))
    PRETRAINED["main"](cohort.path, [first, second], prepared, runs, tmp_path / "t1", without=["even"])
    packed = load_detector(tmp_path / "t1")
    assert packed.config.name == "t1"
    assert packed.config.training.start_from == str(runs / "even")
    PRETRAINED["main"](
        cohort.path, [second, write_config("faint", tmp_path)], prepared, runs, tmp_path / "t2",
        keep=str(tmp_path / "t1"), without=["t1"],
    )  # fmt: skip
    assert list(load_detector(tmp_path / "t2").members) == ["onwards", "faint"]


def test_who_is_to_be_no_member_must_be_one(cohort, runs, tmp_path):
    config = write_config("even", tmp_path)
    with pytest.raises(MedvaeError, match="--without evne: there is no such member; there are even"):
        PRETRAINED["main"](cohort.path, [config], None, runs, tmp_path / "t1", without=["evne"])
    with pytest.raises(MedvaeError, match="nothing is left to pack"):
        PRETRAINED["main"](cohort.path, [config], None, runs, tmp_path / "t1", without=["even"])
