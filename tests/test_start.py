"""Trainings that go on from a finished detector."""

import pytest
import torch
from pydantic import ValidationError

from medvae.config import Config
from medvae.detection.detector import Detector, find_detector
from medvae.detection.ensemble import load_single
from medvae.errors import MedvaeError
from medvae.fitting import fit, fit_ensemble
from medvae.manifest import Manifest
from medvae.training.run_folder import trained_on

PATCHES = {"kind": "patch", "patch_size": [48, 48, 48], "patch_overlap": 0, "batch_size": 1, "workers": 0}
KEPT = {"gamma": [1, 1], "brightness": [1, 1], "noise_variance": [0, 0]}
SEGMENTER = {"kind": "segmenter", "widths": [4, 8], "normalisation": "instance", "atlas": True}


def config(name, start=None, *, steps=0, **more):
    content = {
        "name": name, "preparation": {"intensity": "landmarks"}, "sampling": PATCHES, "augmentation": KEPT,
        "network": SEGMENTER, "objective": {"kind": "discrepancy"},
        "training": {"steps": steps, "start_from": start and str(start)},
        "score": {"kind": "discrepancy", "polarity": "bright"},
    }  # fmt: skip
    return Config.model_validate(content | more)


@pytest.fixture(scope="module")
def run(cohort, tmp_path_factory, prepared):
    folder = tmp_path_factory.mktemp("start") / "first"
    fit(config("first", steps=2), cohort, folder, cache=prepared, quiet=True)
    return folder


def others(cohort: Manifest) -> Manifest:
    """The cohort without one of its training scans: another mean, SD and intensity scale."""
    return cohort.model_copy(update={"cases": [case for case in cohort.cases if case.id != "sub00"]})


def weights(detector):
    return detector.network.state_dict()


def test_training_starts_with_the_weights_atlas_and_scale_of_the_detector(run, cohort, tmp_path, prepared):
    first, made = (
        Detector.load(run),
        fit(config("on", run), others(cohort), tmp_path / "on", cache=prepared, quiet=True),
    )
    anew = fit(config("anew"), others(cohort), tmp_path / "anew", cache=prepared, quiet=True)
    assert all(torch.equal(value, weights(made)[name]) for name, value in weights(first).items())
    assert not all(torch.equal(value, weights(anew)[name]) for name, value in weights(first).items())
    assert made.scale == first.scale != anew.scale
    assert made.atlas.equals(first.atlas)
    assert not anew.atlas.equals(first.atlas)


def test_it_learns_from_there_and_goes_on_when_it_was_stopped(run, cohort, tmp_path, prepared):
    whole = fit(config("on", run, steps=2), cohort, tmp_path / "whole", cache=prepared, quiet=True)
    assert not all(torch.equal(value, weights(whole)[name]) for name, value in weights(Detector.load(run)).items())
    again = fit(config("on", run, steps=2), cohort, tmp_path / "whole", cache=prepared, quiet=True, resume=True)
    assert all(torch.equal(value, weights(again)[name]) for name, value in weights(whole).items())


def test_scans_that_the_first_one_learned_from_are_learned_from(run, cohort, tmp_path, prepared):
    fit(config("on", run), others(cohort), tmp_path / "on", cache=prepared, quiet=True)
    assert trained_on(tmp_path / "on") == trained_on(run)
    assert len(trained_on(run)) == 4


def test_they_never_set_thresholds(run, cohort, tmp_path, prepared):
    cases = [replace_split(case, "validation") if case.id == "sub00" else case for case in cohort.cases]
    with pytest.raises(MedvaeError, match="was trained on it"):
        fit(config("on", run), cohort.model_copy(update={"cases": cases}), tmp_path / "on", cache=prepared, quiet=True)


def replace_split(case, split):
    return case.model_copy(update={"split": split})


def test_a_member_of_an_ensemble_is_named_by_its_folder(run, cohort, tmp_path, prepared):
    other = fit(config("second", steps=1), cohort, tmp_path / "second", cache=prepared, quiet=True)
    fit_ensemble([run, tmp_path / "second"], cohort, tmp_path / "both", cache=prepared, quiet=True)
    member = tmp_path / "both" / "detector" / "members" / "second"
    made = fit(config("on", member), cohort, tmp_path / "on", cache=prepared, quiet=True)
    assert all(torch.equal(value, weights(made)[name]) for name, value in weights(other).items())
    assert trained_on(member) == trained_on(run)
    with pytest.raises(MedvaeError, match=r"is an ensemble\. Name one of its members \(first, second\)"):
        fit(config("on", tmp_path / "both"), cohort, tmp_path / "wrong", cache=prepared, quiet=True)


def test_a_member_of_a_detector_that_comes_with_medvae_is_known_by_name():
    member = load_single("t1-2mm/members/patients_small_t1", device="cpu")
    assert member.config.name == "patients_small_t1"
    assert member.atlas is not None
    with pytest.raises(MedvaeError, match="holds no detector"):
        find_detector("t1-2mm/members/no_such_one")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"network": SEGMENTER | {"widths": [4, 4]}}, r"network.widths: \(4, 8\), and here it is \(4, 4\)"),
        ({"preparation": {"intensity": "percentile"}}, "preparation.intensity"),
        ({"sampling": PATCHES | {"patch_size": [32, 32, 32]}}, "the shape of a tile"),
    ],
)
def test_what_does_not_fit_is_said(run, cohort, tmp_path, change, said, prepared):
    with pytest.raises(MedvaeError, match=said):
        fit(config("on", run, **change), cohort, tmp_path / "on", cache=prepared, quiet=True)
    assert not (tmp_path / "on").exists() or not any((tmp_path / "on").iterdir())


def test_its_weights_alone_serve_another_sequence_prepared_otherwise(run, cohort, tmp_path, prepared):
    flair = others(cohort).model_copy(update={"modality": {"0": "FLAIR"}})
    with pytest.raises(MedvaeError, match="start_weights_only"):
        fit(config("on", run), flair, tmp_path / "on", cache=prepared, quiet=True)
    options = {"steps": 0, "start_from": str(run), "start_weights_only": True}
    changed = config("on", preparation={"intensity": "percentile"}, training=options)
    first, made = Detector.load(run), fit(changed, flair, tmp_path / "on", cache=prepared, quiet=True)
    assert all(torch.equal(value, weights(made)[name]) for name, value in weights(first).items())
    assert made.scale is None
    assert not made.atlas.equals(first.atlas)
    assert made.modalities == ("FLAIR",)
    assert trained_on(tmp_path / "on") == trained_on(run)
    both = cohort.model_copy(update={"modality": {"0": "T1", "1": "FLAIR"}})
    with pytest.raises(MedvaeError, match="sees 1 sequences of a scan"):
        fit(changed, both, tmp_path / "both", cache=prepared, quiet=True)


def test_a_detector_without_a_network_cannot_be_gone_on_with(cohort, tmp_path, prepared):
    plain = Config.model_validate({"name": "plain", "network": None, "score": {"kind": "intensity"}})
    fit(plain, cohort, tmp_path / "plain", cache=prepared, quiet=True)
    with pytest.raises(MedvaeError, match="has no network"):
        fit(config("on", tmp_path / "plain"), cohort, tmp_path / "on", cache=prepared, quiet=True)
    with pytest.raises(ValidationError, match="network is null, so there is no training to go on with"):
        Config.model_validate(plain.model_dump() | {"training": {"start_from": "t1-2mm"}})
    with pytest.raises(MedvaeError, match=r"training\.start_from: .* holds no detector"):
        fit(config("on", tmp_path / "nothing"), cohort, tmp_path / "on", cache=prepared, quiet=True)
