"""Scans of one person under several names stay in one split."""

import pytest
from layouts import manifest_of, tiny

from medvae.importing.folder import find_folder
from medvae.importing.sessions import people_of_sessions, perhaps_one_person


@pytest.mark.parametrize(
    "names",
    [
        ("sub-01_ses-1", "sub-01_ses-2"), ("sub-01_run-1", "sub-01"), ("P01_baseline", "P01_followup"),
        ("001_t0", "001_t1"), ("P01", "P01_fu2"), ("P01-v1", "P01-v2"), ("OAS1_0001_MR1", "OAS1_0001_MR2"),
        ("P01_20200131", "P01_20210131"), ("P1 2020-01-31", "P1 2021-01-31"), ("P01_ses-1_run-1", "P01_ses-2_run-1"),
        ("P01_m00", "P01_m12"), ("P01_Visit_1", "P01_Visit_2"),
    ],
)  # fmt: skip
def test_names_of_one_person(names):
    assert len(set(people_of_sessions([*names, "P02_t1", "sub-02"]).values())) == 3
    assert perhaps_one_person(names) == {}


@pytest.mark.parametrize(
    "names", [("P01_1", "P01_2"), ("P01a", "P01b"), ("smith_baseline", "smith_followup"), ("P01-01", "P01-02")]
)
def test_names_that_may_be_of_one_person(names):
    assert len(set(people_of_sessions(names).values())) == 2
    assert [sorted(own) for own in perhaps_one_person(names).values()] == [sorted(names)]


@pytest.mark.parametrize(
    "names",
    [
        ("P01", "P02"), ("IXI012-HH-1211", "IXI013-HH-1212"), ("control1", "control2"), ("site1_P01", "site1_P02"),
        tuple(f"site1_{n:02}" for n in range(40)), tuple(f"site1_v{n}" for n in range(40)), ("00001", "00002"),
    ],
)  # fmt: skip
def test_names_of_several_people(names):
    assert len(set(people_of_sessions(names).values())) == len(names)
    assert perhaps_one_person(names) == {}


@pytest.mark.parametrize("form", ["sub-{p:02}_ses-{s}", "P{p:02}_t{s}"])
def test_folder_divides_people_not_sessions(tmp_path, form):
    tiny(tmp_path, *(form.format(p=p, s=s) + "_T1w.nii.gz" for p in range(1, 9) for s in (1, 2)))
    found = find_folder(tmp_path, ["{id}_T1w.nii.gz"], healthy=True)
    manifest = manifest_of(found, tmp_path / "m.json")
    assert {case.split for case in manifest.cases} == {"train", "validation", "test"}
    for first, second in zip(manifest.cases[::2], manifest.cases[1::2], strict=True):
        assert (first.split, first.subject_id) == (second.split, second.subject_id)
    assert any("share a split" in note and "{subject}" in note for note in found.notes)


def test_folder_says_which_names_may_be_of_one_person(tmp_path):
    tiny(tmp_path, *(f"P{p}_{s}.nii.gz" for p in range(10, 14) for s in (1, 2)))
    found = find_folder(tmp_path, ["{id}.nii.gz"], healthy=True)
    assert any("P10_1, P10_2" in note and "4 groups" in note and "{subject}" in note for note in found.notes)


def test_a_lesion_in_one_session_is_one_in_all(tmp_path):
    tiny(tmp_path, "sub-1_ses-1_T1.nii.gz", "sub-1_ses-2_T1.nii.gz", "sub-2_T1.nii.gz", "sub-1_ses-1_lesion.nii.gz")
    found = find_folder(tmp_path, ["{id}_T1.nii.gz"], label="{id}_lesion.nii.gz", healthy=True)
    assert [scan.kind for scan in found.scans] == ["lesion", "unlabelled", "healthy"]


def test_the_person_that_a_pattern_marks_is_taken_as_it_is(tmp_path):
    tiny(tmp_path, *(f"sub-1_{n}_T1.nii.gz" for n in "abcdefghij"), "P1_t0_T1.nii.gz", "P1_t1_T1.nii.gz")
    manifest = manifest_of(find_folder(tmp_path, ["{subject}_T1.nii.gz"], healthy=True), tmp_path / "m.json")
    assert len({case.subject_id for case in manifest.cases}) == 12
