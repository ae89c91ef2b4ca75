"""Which sequence a scan is of: what is declared is heeded, what it looks like is compared with it."""

import json
import shutil

import numpy as np
import pytest
from typer.testing import CliRunner

from medvae.cli import app
from medvae.config import Config, PreparationConfig
from medvae.detection.detector import Detector
from medvae.detection.ensemble import load_detector
from medvae.errors import MedvaeError
from medvae.fitting import fit, fit_ensemble
from medvae.imaging.volume import read_volume, write_volume
from medvae.manifest import Case, Manifest, read_manifest, write_manifest
from medvae.modality import UNKNOWN, modality_name, modality_of_file, places_of, same_modalities
from medvae.prediction import predict, scans_of_files, scans_of_manifest
from medvae.preparation.contrast import tissue_contrast, unlike
from medvae.preparation.prepare import prepare_case, prepare_scan
from medvae.recalibration import healthy_scans, recalibrate
from medvae.training.run_folder import record_cohort
from tests.conftest import make_brain


@pytest.mark.parametrize(
    ("spellings", "name"),
    [
        ("T1 t1 T1w t1n T1-weighted MPRAGE MP-RAGE t1_mprage", "T1"),
        ("t1c t1ce T1Gd t1post T1wCE", "T1c"),
        ("T2 t2 T2w T2-TSE", "T2"),
        ("FLAIR flair T2-FLAIR t2f T2w_FLAIR 3D-FLAIR", "FLAIR"),
        ("PD pd PDw", "PD"),
        ("T2star T2* T2starw", "T2star"),
        ("swi SWI", "SWI"),
    ],
)
def test_spellings_of_one_sequence_have_one_name(spellings, name):
    assert {modality_name(written) for written in spellings.split()} == {name}


@pytest.mark.parametrize("written", ["T1map", "b1000", "MRI", "perfusion", "T3", ""])
def test_an_unknown_name_stays_as_it_is_written(written):
    assert modality_name(written) == written


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("sub-01_FLAIR.nii.gz", "FLAIR"),
        ("sub-01_ses-2_acq-highres_run-1_T2w.nii.gz", "T2"),
        ("Brats18_2013_11_1_flair.nii.gz", "FLAIR"),
        ("BraTS-GLI-00000-000-t1c.nii.gz", "T1c"),
        ("IXI012-HH-1211-T1.nii.gz", "T1"),
        ("patient07_T2-FLAIR_brain.mgz", "FLAIR"),
        ("visit_t1_flair.nii", "FLAIR"),
        ("sub-01_ce-gadolinium_T1w.nii.gz", "T1c"),
        ("sub-01_space-T1w_mask.nii.gz", None),
        ("sub-T2_desc-T1w_brain.nii.gz", None),
        ("scan.nii.gz", None),
        ("t1map.nii.gz", None),
    ],
)
def test_a_file_is_of_the_sequence_that_its_name_ends_in(file, name):
    assert modality_of_file(file) == name


def test_sequences_are_found_in_any_order_and_missing_or_ambiguous_ones_are_not():
    assert places_of(("T1", "FLAIR"), ("FLAIR", "T2", "T1")) == [2, 0]
    assert places_of(("T1", "T1"), ("T1", "T1")) == [0, 1]
    assert places_of(("T1",), ("FLAIR",)) is None
    assert places_of(("T1",), ("T1", "T1", "FLAIR")) is None


def test_detectors_that_do_not_say_what_they_learned_fit_any_of_as_many_sequences():
    assert same_modalities(("T1",), (UNKNOWN,))
    assert not same_modalities(("T1", "FLAIR"), (UNKNOWN,))
    assert not same_modalities(("T1", "FLAIR"), ("FLAIR", "T1"))


def prepared(brain):
    return brain.astype(np.float32), brain > 0


def as_it_is(brain):
    return brain


def as_flair(brain):
    """Dark fluid, and white matter darker than grey matter."""
    return np.where(brain > 160, 320 - np.minimum(brain, 250.0), brain)


def as_t2(brain):
    """Everything the other way round."""
    return np.where(brain > 0, 256.0 - brain, 0)


def test_a_brain_looks_like_its_sequence_whatever_its_intensity_scale():
    image, mask = prepared(make_brain(3))
    for name, made in {"T1": image, "FLAIR": as_flair(image), "T2": as_t2(image)}.items():
        assert unlike(name, made, mask) is None
        found = tissue_contrast(made, mask)
        again = tissue_contrast(np.exp(made / 100), mask)
        assert (again.white, again.fluid) == (found.white, found.fluid)
        assert unlike("PD", made, mask) is None
        assert unlike("unknown", made, mask) is None
    assert unlike("T1c", image, mask) is None


@pytest.mark.parametrize(
    ("made", "taken_for", "looks_like"),
    [
        (as_flair, "T1", "FLAIR"),
        (as_t2, "T1", "T2"),
        (as_t2, "FLAIR", "T2"),
        (as_it_is, "FLAIR", "T1"),
        (as_it_is, "T2", "T1"),
    ],
)
def test_a_brain_of_another_sequence_is_told(made, taken_for, looks_like):
    image, mask = prepared(make_brain(4))
    told = unlike(taken_for, made(image), mask)
    assert told.startswith(f"this scan looks like {looks_like}, not like {taken_for}: white matter is brighter than")
    assert "check its sequence" in told


def test_of_a_part_of_a_brain_nothing_is_said():
    image, mask = prepared(make_brain(4))
    mask = mask & (np.arange(80) < 20)
    assert tissue_contrast(as_t2(image), mask) is None
    assert unlike("T1", as_t2(image), mask) is None


def test_measured_t1_and_flair_of_a_patient_are_told_apart(repository, prepared):
    for name, expected in (("t1", ("T1", "FLAIR")), ("flair_ms", ("FLAIR", "T1"))):
        cohort = read_manifest(repository / "data_manifests" / f"included_{name}.json")
        volume = prepare_case(cohort, cohort.case("patient26"), PreparationConfig(), cache=prepared)
        assert unlike(expected[0], volume.image[0], volume.mask) is None
        assert f"looks like {expected[0]}, not like {expected[1]}" in unlike(expected[1], volume.image[0], volume.mask)


NORMATIVE = {
    "network": None,
    "score": {"kind": "intensity", "polarity": "dark", "smoothing_mm": 2, "normative": True},
}


@pytest.fixture(scope="module")
def pair(cohort, tmp_path_factory):
    """The cohort with a FLAIR of everybody."""
    folder = tmp_path_factory.mktemp("pair")
    cases = []
    for case in cohort.cases:
        t1 = read_volume(cohort.images(case)[0])
        write_volume(folder / f"{case.id}_f.nii.gz", as_flair(t1.array).astype(np.float32), t1)
        shutil.copy(cohort.images(case)[0], folder / f"{case.id}_1.nii.gz")
        images = [f"{case.id}_1.nii.gz", f"{case.id}_f.nii.gz"]
        cases.append(Case(id=case.id, image=images, split=case.split))
    manifest = Manifest(name="pair", modality={"0": "t1w", "1": "flair"}, cases=cases)
    return read_manifest(write_manifest(manifest, folder / "pair.json"))


@pytest.fixture(scope="module")
def runs(cohort, pair, tmp_path_factory, prepared):
    folder = tmp_path_factory.mktemp("runs")
    fit(Config.model_validate({"name": "t1", **NORMATIVE}), cohort, folder / "t1", cache=prepared, quiet=True)
    fit(Config.model_validate({"name": "both", **NORMATIVE}), pair, folder / "both", cache=prepared, quiet=True)
    flair = pair.with_modalities(("FLAIR",))
    fit(Config.model_validate({"name": "flair", **NORMATIVE}), flair, folder / "flair", cache=prepared, quiet=True)
    return folder


def sidecar_of(prediction):
    return json.loads(prediction.mask.with_name(prediction.mask.name.replace(".nii.gz", ".json")).read_text())


def test_run_and_detector_say_which_sequences_they_have_learned(runs):
    for name, modalities in {"t1": ["T1"], "both": ["T1", "FLAIR"], "flair": ["FLAIR"]}.items():
        assert Detector.load(runs / name).modalities == tuple(modalities)
        assert json.loads((runs / name / "detector" / "calibration.json").read_text())["modalities"] == modalities
        assert json.loads((runs / name / "cohort.json").read_text())["modalities"] == modalities


def test_a_file_that_says_it_is_of_another_sequence_is_refused(runs, cohort, tmp_path):
    source = cohort.images(cohort.case("sub06"))[0]
    for name in ("sub06_FLAIR.nii.gz", "sub06_t2.nii.gz", "sub06.nii.gz", "sub06_T1w.nii.gz"):
        shutil.copy(source, tmp_path / name)
    predictions, failures = predict(
        Detector.load(runs / "t1"), scans_of_files(sorted(tmp_path.glob("*.nii.gz"))), tmp_path / "out", quiet=True
    )
    assert [item.id for item in predictions] == ["sub06", "sub06_T1w"]
    assert set(failures) == {"sub06_FLAIR", "sub06_t2"}
    for words in ("is FLAIR by the name of its file", 'detector "t1" was trained on T1', "rename the file"):
        assert words in failures["sub06_FLAIR"]
    assert sidecar_of(predictions[0])["Modalities"] == sidecar_of(predictions[1])["Modalities"] == ["T1"]


def test_a_manifest_of_another_sequence_is_refused_and_named(runs, pair, tmp_path, prepared):
    flair = pair.with_modalities(("FLAIR",))
    _, failures = predict(Detector.load(runs / "t1"), scans_of_manifest(flair), tmp_path / "out", quiet=True)
    assert set(failures) == {"sub06", "sub07"}
    assert f"is FLAIR by {pair.path}" in failures["sub06"]
    assert "was trained on T1: T1 is missing" in failures["sub06"]
    with pytest.raises(MedvaeError, match=r'case "sub04": .* is FLAIR by .* was trained on T1'):
        recalibrate(runs / "t1", healthy_scans(flair), tmp_path / "new", cache=prepared, quiet=True)
    only = pair.with_modalities(("T1",))
    _, failures = predict(Detector.load(runs / "both"), scans_of_manifest(only), tmp_path / "both", quiet=True)
    assert "was trained on T1, FLAIR: FLAIR is missing" in failures["sub06"]


def test_sequences_in_any_order_are_brought_into_the_detectors(runs, pair, tmp_path):
    turned = pair.with_modalities(("FLAIR", "T1"))
    for name, ordered in (("both", pair), ("t1", pair.with_modalities(("T1",)))):
        detector = Detector.load(runs / name)
        expected, _ = predict(detector, scans_of_manifest(ordered), tmp_path / name / "as_learned", quiet=True)
        found, failures = predict(detector, scans_of_manifest(turned), tmp_path / name / "turned", quiet=True)
        assert not failures
        for one, other in zip(expected, found, strict=True):
            assert one.map.read_bytes() == other.map.read_bytes()
            assert sidecar_of(one)["Modalities"] == sidecar_of(other)["Modalities"] == list(detector.modalities)
            assert sidecar_of(one)["Sources"] == sidecar_of(other)["Sources"]
        again, _ = predict(detector, scans_of_manifest(turned), tmp_path / name / "turned", quiet=True)
        assert again == found


def test_only_detectors_of_the_same_sequences_are_averaged(runs, pair, cohort, tmp_path, prepared):
    with pytest.raises(MedvaeError, match=r"flair was trained on FLAIR, t1 on T1: only detectors of the same"):
        fit_ensemble([runs / "t1", runs / "flair"], cohort, tmp_path / "mixed", cache=prepared, quiet=True)
    turned = pair.with_modalities(("FLAIR", "T1"))
    ensemble = fit_ensemble([runs / "t1", runs / "t1"], turned, tmp_path / "twice", cache=prepared, quiet=True)
    assert ensemble.modalities == ("T1",)
    assert {member.modalities for member in load_detector(tmp_path / "twice").members.values()} == {("T1",)}
    assert json.loads((tmp_path / "twice" / "cohort.json").read_text())["modalities"] == ["T1"]
    with pytest.raises(MedvaeError, match=r"names FLAIR; T1 was expected"):
        fit_ensemble(
            [runs / "t1", runs / "t1"], pair.with_modalities(("FLAIR",)), tmp_path / "none", cache=prepared, quiet=True
        )


def test_a_detector_of_an_earlier_version_takes_any_sequence(runs, pair, tmp_path):
    shutil.copytree(runs / "t1" / "detector", tmp_path / "old")
    content = json.loads((tmp_path / "old" / "calibration.json").read_text())
    del content["modalities"]
    (tmp_path / "old" / "calibration.json").write_text(json.dumps(content | {"channels": 1}))
    old = Detector.load(tmp_path / "old")
    assert old.modalities == (UNKNOWN,)
    fingerprint = old.fingerprint
    flair = scans_of_manifest(pair.with_modalities(("FLAIR",)))[:1]
    (item,), failures = predict(old, flair, tmp_path / "out", quiet=True)
    assert not failures
    assert item.notes == ()
    assert sidecar_of(item)["Modalities"] == ["FLAIR"]
    (tmp_path / "old.json").write_text('{"modalities": ["T1"]}')
    declared = Detector.load(tmp_path / "old")
    assert declared.modalities == ("T1",)
    assert declared.fingerprint == fingerprint  # the same files give the same maps


def test_a_run_is_not_resumed_under_another_name_of_its_sequence(runs, cohort):
    renamed = cohort.model_copy(update={"modality": {"0": "T2"}})
    renamed._path = cohort.path
    with pytest.raises(MedvaeError, match=r"was started with T1, and .* calls the same scans T2 now"):
        record_cohort(runs / "t1", renamed)


def test_a_scan_that_looks_like_another_sequence_is_announced_and_predicted_all_the_same(runs, pair, tmp_path):
    scan = tmp_path / "scan.nii.gz"
    shutil.copy(pair.images(pair.case("sub06"))[1], scan)
    detector = Detector.load(runs / "t1")
    (item,), failures = predict(detector, scans_of_files([scan]), tmp_path / "out", quiet=True)
    assert not failures
    assert len(item.notes) == 1
    assert item.notes[0].startswith("this scan looks like FLAIR, not like T1")
    assert sidecar_of(item)["Notes"] == list(item.notes)
    (again,), _ = predict(detector, scans_of_files([scan]), tmp_path / "out", quiet=True)
    assert again == item
    volume = prepare_scan([scan], detector.config.preparation)
    np.testing.assert_array_equal(read_volume(item.map).array, volume.restore(detector.anomaly_map(volume)))

    command = ["predict", str(runs / "t1"), str(scan), "--out", str(tmp_path / "cli"), "--no-pictures", "-q"]
    told = CliRunner().invoke(app, [*command, "--no-workspaces"])
    assert told.exit_code == 0
    assert f"note: scan: {item.notes[0]}" in told.stderr
    (quiet,), _ = predict(detector, scans_of_manifest(pair)[:1], tmp_path / "t1", quiet=True)
    assert quiet.notes == ()
    assert "Notes" not in sidecar_of(quiet)


def test_the_packaged_detector_is_for_t1_and_its_files_are_what_they_were():
    detector = load_detector("t1-2mm")
    assert detector.modalities == ("T1",)
    assert {member.modalities for member in detector.members.values()} == {("T1",)}
    assert detector.fingerprint == "9f0aa4608c135092d3e2147a7ea4ba5ed96a60ff671ef4a2c6419e35eec9cb2c"
