"""Several sequences of a person, joined."""

import json
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

import medvae
from medvae.cli import app
from medvae.config import Config
from medvae.detection import by_sequence as choosing
from medvae.detection.by_sequence import is_joint, joint_detector
from medvae.detection.detector import Detector
from medvae.detection.joined import POINT, Joined, joined_map, way_to
from medvae.detection.scan import Scan, scan_of, scans_of_people
from medvae.errors import MedvaeError
from medvae.evaluation.options import EvaluationOptions
from medvae.evaluation.study import evaluate
from medvae.imaging.volume import Geometry, read_volume, resample, write_volume
from medvae.manifest import Case, Manifest, read_manifest, write_manifest
from medvae.prediction import predict, scans_of_manifest
from tests.conftest import STANDARD_GRID, make_brain

RANKS = {
    "network": None,
    "preparation": {"registration": "if_possible", "clip": None},
    "score": {"kind": "brightness_rank", "polarity": "bright", "smoothing_mm": 2},
    "calibration": {"ranks": [0.9], "mask_at": "rank_0.9"},
}


def ranks(sequence):
    return Detector.of_ranks(Config.model_validate({"name": f"ranks_{sequence}", **RANKS}), [sequence])


@pytest.fixture
def joint():
    return Joined.of({"FLAIR": ranks("FLAIR"), "T2": ranks("T2")})


@pytest.fixture
def patient(tmp_path):
    """FLAIR and T2 of a person, with a lesion that is bright on both; a spot that is bright on one. The manifest."""
    brain = make_brain(3).astype(np.float32)
    lesion, spot = (np.zeros(brain.shape, bool) for _ in range(2))
    lesion[26:34, 44:52, 44:52] = spot[46:52, 44:50, 46:52] = True
    flair, t2 = (np.where(brain > 0, np.minimum(brain, 200), 0) for _ in range(2))
    flair[lesion], t2[lesion] = 240, 240
    t2[spot] = 250
    for name, array in {"flair": flair, "t2": t2}.items():
        write_volume(tmp_path / f"{name}.nii.gz", array.astype(np.uint8), STANDARD_GRID)
    write_volume(tmp_path / "lesion.nii.gz", lesion.astype(np.uint8), STANDARD_GRID)
    case = Case(id="p", image=["flair.nii.gz", "t2.nii.gz"], label="lesion.nii.gz", split="test")
    made = Manifest(name="sequences", modality={"0": "FLAIR", "1": "T2"}, cases=[case])
    return read_manifest(write_manifest(made, tmp_path / "cases.json"))


def test_the_map_is_the_mean_in_units_of_the_scores():
    scores = np.array([[0.0, 1.0, 3.0, -2.0], [2.0, 1.0, -1.0, 5.0]])  # healthy median 0, threshold 1
    maps = 0.5 + 0.5 * (scores - 1) / (1 + np.abs(scores - 1))
    everywhere = np.ones((2, 4), bool)
    found = joined_map(maps, everywhere, [1, 1])
    mean = scores.mean(0) - 1
    np.testing.assert_allclose(found, 0.5 + 0.5 * mean / (1 + np.abs(mean)), rtol=1e-5)
    np.testing.assert_allclose(joined_map(maps, everywhere, [1, 0.5]) > 0.5, scores[0] + 0.5 * scores[1] > 1.5)
    assert found.dtype == np.float32
    brains = np.array([[True, True, False, False], [True, False, True, False]])
    partly = joined_map(maps, brains, [1, 0.5])
    np.testing.assert_allclose(partly[1:3], [maps[0, 1], maps[1, 2]], atol=1e-6)
    assert partly[3] == 0
    assert np.isfinite(joined_map(np.array([[1.0], [0.0]]), np.ones((2, 1), bool), [1, 1])).all()


def test_what_one_sequence_alone_shows_counts_for_less(joint, patient, tmp_path):
    (scan,) = scans_of_manifest(patient)
    (made,), failures = predict(joint, [scan], tmp_path / "out", quiet=True)
    assert not failures
    found = read_volume(made.map).array
    alone, _ = predict(ranks("T2"), [scan], tmp_path / "alone", quiet=True)
    t2 = read_volume(alone[0].map).array
    assert found[30, 48, 48] > found[49, 47, 49]
    assert found[30, 48, 48] - found[49, 47, 49] > t2[30, 48, 48] - t2[49, 47, 49] + 0.1
    sidecar = json.loads(made.mask.with_name(made.mask.name.replace(".nii.gz", ".json")).read_text())
    assert sidecar["Model"] == "joint"
    assert sidecar["OperatingPoint"] == POINT.name
    assert "mean of the scores of FLAIR, T2" in sidecar["ThresholdSource"]
    assert sidecar["Modalities"] == ["FLAIR", "T2"]
    assert len(sidecar["SourcesSha256"]) == 2
    study = evaluate(tmp_path / "out", patient, EvaluationOptions(resamples=0))
    assert study.per_case[0].number("dice", POINT.name) > 0.05
    again, _ = predict(joint, [scan], tmp_path / "out", quiet=True)
    assert again[0].lesion_volume_ml == made.lesion_volume_ml


def joined_again(joint, patient, tmp_path, array, grid):
    """The map and the notes of a patient, as it was and with another T2."""
    (scan,), t2 = scans_of_manifest(patient), patient.path.parent / "t2.nii.gz"
    maps = []
    for name in ("before", "after"):
        (made,), failures = predict(joint, [scan], tmp_path / name, quiet=True)
        assert not failures
        maps.append(read_volume(made.map).array)
        write_volume(t2, array, grid)
    return *maps, made.notes


def alike(one, other):
    inside = (one > 0) & (other > 0)
    return np.corrcoef(one[inside], other[inside])[0, 1]


def test_sequences_may_lie_on_other_grids_of_one_space(joint, patient, tmp_path):
    thick = np.array(STANDARD_GRID.affine) @ np.diag([0.75, 0.75, 2, 1])
    grid = Geometry(thick, (106, 128, 40))
    t2 = resample(read_volume(patient.path.parent / "t2.nii.gz").array, STANDARD_GRID, grid, order=0)
    before, after, notes = joined_again(joint, patient, tmp_path, t2, grid)
    assert after.shape == before.shape
    assert np.count_nonzero((before > 0) != (after > 0)) < 0.05 * np.count_nonzero(before)
    assert alike(before, after) > 0.95
    assert not [note for note in notes if "by the headers" in note]


def test_sequences_whose_headers_put_them_apart_are_brought_together_and_it_is_said(joint, patient, tmp_path):
    moved = np.array(STANDARD_GRID.affine)
    moved[0, 3] += 30
    t2 = read_volume(patient.path.parent / "t2.nii.gz").array
    before, after, notes = joined_again(joint, patient, tmp_path, t2, Geometry(moved, STANDARD_GRID.shape))
    assert alike(before, after) > 0.9
    said = "T2: by the headers its brain lies 30 mm from that of the first sequence"
    assert [note for note in notes if note.startswith(said)]


def test_headers_that_agree_with_the_brains_are_believed_before_a_registration_that_failed(joint, patient):
    (scan,) = scans_of_manifest(patient)
    first, other = (
        scan_of({name: image}).prepare(joint.members[name])
        for name, image in zip(joint.modalities, scan.images, strict=True)
    )
    assert way_to(other, first)[1] == ""
    off = np.eye(4)
    off[1, 3] = 12
    way, told = way_to(replace(other, transform=off @ other.transform), first)
    assert told == ""
    assert np.array_equal(way, np.eye(4))


def test_sequences_that_lie_apart_and_cannot_be_registered_are_refused(joint, patient, tmp_path):
    moved, half = np.array(STANDARD_GRID.affine), np.zeros(STANDARD_GRID.shape, np.uint8)
    moved[0, 3] += 60
    half[20:60, 20:76, 36:44] = read_volume(patient.path.parent / "t2.nii.gz").array[20:60, 20:76, 36:44]  # a slab
    (scan,) = scans_of_manifest(patient)
    write_volume(patient.path.parent / "t2.nii.gz", half, Geometry(moved, STANDARD_GRID.shape))
    _, failures = predict(joint, [scan], tmp_path / "out", quiet=True)
    assert "does not lie on that of" in failures["p"]
    assert "Bring the sequences of this person onto each other first" in failures["p"]


def test_files_that_differ_in_the_sequence_are_a_person():
    names = ["a/p1_T1w.nii.gz", "a/p1_FLAIR.nii.gz", "a/p2-flair.nii", "a/p2-T1.nii", "b/T1.mgz", "b/flair.mgz"]
    found = scans_of_people(names)
    assert [(scan.id, scan.modalities) for scan in found] == [
        ("p1", ("T1", "FLAIR")), ("p2", ("FLAIR", "T1")), ("b", ("T1", "FLAIR"))
    ]  # fmt: skip
    assert [str(path) for path in found[1].images] == names[2:4]
    bids = ["sub-1_ses-a_acq-mprage_T1w.nii.gz", "sub-1_ses-a_FLAIR.nii.gz", "sub-1_ses-a_ce-gd_T1w.nii.gz"]
    (person,) = scans_of_people(bids)
    assert (person.id, person.modalities) == ("sub-1_ses-a", ("T1", "FLAIR", "T1c"))
    with pytest.raises(MedvaeError, match=r"p1\.nii: its name ends in no sequence"):
        scans_of_people(["p1.nii", "p1_T1.nii"])
    with pytest.raises(MedvaeError, match=r"p1_T1w\.nii: is T1 of a person, as p1_T1\.nii is"):
        scans_of_people(["p1_T1.nii", "p1_T1w.nii"])
    with pytest.raises(MedvaeError, match="p1: people in several folders are called so"):
        scans_of_people(["a/p1_T1.nii", "b/p1_T1.nii"])


def test_it_takes_two_sequences_or_more():
    assert is_joint("joint")
    with pytest.raises(MedvaeError, match="two or more sequences; 1 was given"):
        Joined.of({"FLAIR": ranks("FLAIR")})
    with pytest.raises(MedvaeError, match="is for T2, not for FLAIR"):
        Joined.of({"FLAIR": ranks("T2"), "T2": ranks("T2")})
    with pytest.raises(MedvaeError, match=r"no operating point at a false-positive rate of 0\.01; it has joined"):
        Joined.of({"FLAIR": ranks("FLAIR"), "T2": ranks("T2")}).point(0.01)


@pytest.mark.parametrize(
    ("scans", "problem"),
    [
        ([scan_of("p_FLAIR.nii.gz"), scan_of("q_T2.nii.gz")], "is for scans of several sequences each"),
        ([scan_of("p.nii.gz")], "is for scans of several sequences each"),
        ([scan_of("p_FLAIR.nii.gz")], "of FLAIR there is a detector for FLAIR; two or more"),
        ([Scan("p", ("a", "b"), None, ("T1c", "DWI"), "cases.json")], "of T1c, DWI there is a detector for none"),
    ],
)
def test_what_cannot_be_joined_is_said(scans, problem):
    with pytest.raises(MedvaeError, match=problem):
        joint_detector(scans)


def test_command_and_function_join_what_a_manifest_declares(patient, tmp_path, monkeypatch):
    monkeypatch.setattr(choosing, "by_sequence", lambda: {"FLAIR": "flair-rank-2mm", "T2": "t2-rank-2mm"})
    out = tmp_path / "out"
    told = CliRunner().invoke(app, ["predict", "joint", "--manifest", str(patient.path), "--out", str(out), "-q"])
    assert told.exit_code == 0, told.output
    assert "detectors: flair-rank-2mm for FLAIR, t2-rank-2mm for T2, by" in told.stdout
    assert (out / "p.png").is_file()
    folder = patient.path.parent
    for name in ("flair", "t2"):
        (folder / f"q_{name}.nii.gz").write_bytes((folder / f"{name}.nii.gz").read_bytes())
    files = [str(folder / f"q_{name}.nii.gz") for name in ("flair", "t2")]
    told = CliRunner().invoke(app, ["predict", "joint", *files, "--out", str(tmp_path / "files"), "-q"])
    assert told.exit_code == 0, told.output
    assert (tmp_path / "files" / "q_desc-anomaly_probseg.nii.gz").read_bytes() == (
        out / "p_desc-anomaly_probseg.nii.gz"
    ).read_bytes()
    maps = medvae.predict({"FLAIR": folder / "flair.nii.gz", "T2": folder / "t2.nii.gz"}, "joint")
    np.testing.assert_allclose(maps.anomaly, read_volume(out / "p_desc-anomaly_probseg.nii.gz").array, atol=1e-6)
