"""The detectors that come with medvae find a lesion, and were not trained on the included test scans' people."""

import json

import numpy as np
import pytest

from medvae.config import read_config
from medvae.detection.detector import PRETRAINED, Detector
from medvae.detection.ensemble import load_detector
from medvae.detection.scan import scan_of
from medvae.errors import MedvaeError
from medvae.imaging.volume import read_volume, write_volume
from medvae.lesions.families import insert_family
from medvae.manifest import read_manifest
from medvae.preparation.prepare import prepare_scan

NAME = "t1-2mm"


def test_it_finds_a_tumour_in_a_test_scan(repository, tmp_path):
    cohort = read_manifest(repository / "data_manifests" / "included_t1.json")
    case = cohort.of_split("test", healthy=True)[0]
    healthy = read_volume(cohort.images(case)[0])
    ill = insert_family(healthy, healthy.array > 0, "tumour", "medium", rng=1)
    scan = tmp_path / "ill.nii.gz"
    write_volume(scan, ill.array, healthy.geometry)
    detector = load_detector(NAME)
    prepared = prepare_scan([scan], detector.config.preparation, scale=detector.scale)
    flagged = detector.score(prepared) > detector.point(0.01).threshold
    found = np.count_nonzero(flagged & ill.truth) / np.count_nonzero(ill.truth)
    assert found > 0.5
    assert np.count_nonzero(flagged & ~ill.truth & prepared.mask) / np.count_nonzero(prepared.mask) < 0.03


def test_its_maps_stay_as_they_are(repository):
    """What 0.1.0 gave on a patient with multiple sclerosis; another processor rounds the last bits differently."""
    volume = read_volume(repository / "data_manifests" / "included" / "open_ms" / "patient26_T1.nii.gz")
    maps = load_detector(NAME)(volume.array, volume.geometry.affine)
    inside = maps.anomaly[maps.anomaly > 0]
    recorded = {(48, 51, 56): 0.92612249, (46, 52, 58): 0.81679571, (16, 42, 54): 0.5205282, (54, 65, 62): 0.31038302}
    np.testing.assert_allclose([maps.anomaly[place] for place in recorded], list(recorded.values()), atol=1e-4)
    np.testing.assert_allclose(np.quantile(inside, [0.01, 0.5, 0.999]), [0.22047231, 0.26475689, 0.89031273], atol=1e-4)
    assert maps.lesion_volume_ml == pytest.approx(13.86, abs=0.1)
    assert "scores are raised nearly everywhere" in maps.notes[0]  # a scanner that it has not learned from


def test_it_is_small_and_was_trained_on_other_people(repository):
    cohort = read_manifest(repository / "data_manifests" / "included_t1.json")
    told = json.loads((PRETRAINED / NAME / "cohort.json").read_text())["healthy_scans"]
    for split in ("validation", "test"):
        held_out = {case.subject_id for case in cohort.of_split(split, healthy=True)}
        assert not held_out & set(told["train"])
    assert sum(path.stat().st_size for path in (PRETRAINED / NAME).rglob("*") if path.is_file()) < 20e6


def test_its_members_can_be_had_alone():
    """Three of them share its atlas, which lies beside the members."""
    for name, member in load_detector(NAME).members.items():
        alone = load_detector(f"{NAME}/members/{name}")
        assert (alone.fingerprint, alone.atlas is None) == (member.fingerprint, member.atlas is None)


def test_it_was_made_with_the_configs_that_its_card_names(repository):
    card = (PRETRAINED / f"{NAME}.md").read_text()
    members = sorted(path.name for path in (PRETRAINED / NAME / "members").iterdir())
    for name in members:
        packed = read_config(PRETRAINED / NAME / "members" / name / "config.yaml")
        assert packed == read_config(repository / "configs" / f"{name}.yaml")
        assert f"{name}.yaml" in card
    assert card.count(".yaml") == len(members)
    config = read_config(PRETRAINED / NAME / "config.yaml")
    mask_at, peak = config.calibration.mask_at, config.calibration.mask_at * config.postprocessing.peak_share
    assert f"where {mask_at:.1%} of".replace("%", " %") in card
    assert f"holds a value that {peak:.2%} of them exceed".replace("%", " %") in card


@pytest.mark.parametrize(("name", "members"), [
    ("flair-2mm", ("patients_flair", "flair_bright")), ("t2-2mm", ("patients_t2", "t2_bright"))
])  # fmt: skip
def test_those_of_other_sequences_were_made_with_their_configs_of_people_that_learned_t1(repository, name, members):
    detector, card = load_detector(name), (PRETRAINED / f"{name}.md").read_text()
    assert sorted(detector.members) == sorted(members)
    for member in members:
        packed = detector.members[member].config
        assert packed == read_config(repository / "configs" / f"{member}.yaml")
        assert f"{member}.yaml" in card
    for weight in detector.weights:
        assert f"{weight:g} parts)" in card
    assert detector.modalities == (members[0].removeprefix("patients_").upper(),)
    assert detector.calibrated_on == {"training": 318, "validation": 31}
    told = json.loads((PRETRAINED / name / "cohort.json").read_text())["healthy_scans"]
    learned, judged = ({one.partition("_")[0] for one in told[split]} for split in ("train", "validation"))
    known = json.loads((PRETRAINED / NAME / "cohort.json").read_text())["healthy_scans"]
    assert not learned & judged
    assert not judged & set(known["train"])
    assert sum(path.stat().st_size for path in (PRETRAINED / name).rglob("*") if path.is_file()) < 4e6


RANKS = {"flair-rank-2mm": ("flair_rank", "FLAIR", "0.9"), "t2-rank-2mm": ("t2_rank", "T2", "0.8")}


@pytest.mark.parametrize("name", RANKS)
def test_those_that_learned_nothing_are_their_configs_and_their_cards_say_so(repository, name):
    config, modality, rank = RANKS[name]
    detector = load_detector(name)
    assert detector.config == read_config(repository / "configs" / f"{config}.yaml", [f"name={name}"])
    made = Detector.of_ranks(detector.config, [modality])
    assert (made.points, made.modalities, made.healthy_median) == (
        detector.points, detector.modalities, detector.healthy_median
    )  # fmt: skip
    assert detector.calibrated_on == {"training": 0, "validation": 0}
    assert detector.point(detector.config.calibration.mask_at) == detector.points[0]
    assert sum(path.stat().st_size for path in (PRETRAINED / name).rglob("*")) < 10_000
    card = (PRETRAINED / f"{name}.md").read_text()
    for words in (f"masks at rank {rank}", "No healthy scan was used", "medvae calibrate", f"{config}.yaml"):
        assert words in card
    assert f"SD {detector.config.score.smoothing_mm:g} mm" in card


def test_on_a_patients_flair_it_flags_the_lesions_and_announces_a_t1(repository, tmp_path):
    folder = repository / "data_manifests" / "included" / "open_ms"
    flair, truth = (read_volume(folder / f"patient26_{kind}.nii.gz") for kind in ("FLAIR", "lesions"))
    detector = load_detector("flair-2mm")
    maps = detector(flair.array, flair.geometry.affine)
    assert all("scores are raised nearly everywhere" in note for note in maps.notes)  # thresholds are of T1 scans
    lesion = truth.array > 0
    assert maps.lesion_mask[lesion].mean() > 20 * maps.lesion_mask[maps.brain_mask & ~lesion].mean()
    t1 = read_volume(folder / "patient26_T1.nii.gz")
    notes = detector(t1.array, t1.geometry.affine).notes
    assert notes[0].startswith("this scan looks like T1, not like FLAIR")
    named = tmp_path / "p_T1.nii.gz"
    write_volume(named, t1.array, t1)
    with pytest.raises(MedvaeError, match=r'is T1 by the name of its file, the detector "flair-2mm"'):
        scan_of(named).for_detector(detector)
