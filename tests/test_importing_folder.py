"""Any folder, by patterns."""

import pytest
from layouts import manifest_of, reasons, tiny

from medvae.errors import MedvaeError
from medvae.importing.folder import find_folder


@pytest.mark.parametrize(
    ("pattern", "file", "case"),
    [
        ("{id}_T1.nii.gz", "deep/down/p 1_T1.nii.gz", "p_1"),
        ("*_T1.nii.gz", "ÄÖ-7_T1.nii.gz", "ÄÖ-7"),
        ("{id}/T1.nii", "p1/T1.nii", "p1"),
        ("{id}/{id}_T1.nii.gz", "p1/p1_T1.nii.gz", "p1"),
        ("**/{id}/*_T1.nii.gz", "a/b/p1/x_T1.nii.gz", "p1"),
        ("{subject}_MR{session}.nii.gz", "OAS1_0001_MR2.nii.gz", "OAS1_0001_2"),
        ("t1 (raw)/{id}+.nii.gz", "t1 (raw)/p1+.nii.gz", "p1"),
    ],
)
def test_patterns(tmp_path, pattern, file, case):
    tiny(tmp_path, file)
    manifest = manifest_of(find_folder(tmp_path, [pattern], healthy=True), tmp_path / "m.json")
    assert [c.id for c in manifest.cases] == [case]
    assert manifest.cases[0].healthy


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("*_*.nii.gz", "mark what names the case"),
        ("T1.nii.gz", "mark what names the case"),
        ("{id}_{subject}.nii.gz", "not both"),
        ("{id}_{age}.nii.gz", "not understood"),
        ("{id}", "must end in"),
        ("{id}/T2.nii.gz", 'Looked for "{id}/T2.nii.gz".*p1/T1.nii.gz'),
    ],
)
def test_patterns_that_are_not_clear(tmp_path, pattern, words):
    tiny(tmp_path, "p1/T1.nii.gz")
    with pytest.raises(MedvaeError, match=words):
        find_folder(tmp_path, [pattern])


def test_folder_with_masks_labels_and_two_modalities(tmp_path):
    for name in ("p1", "p2", "p3", "p4"):
        tiny(tmp_path, f"scans/{name}_T1.nii.gz", f"scans/{name}_FLAIR.nii.gz", f"masks/{name}.nii.gz")
    tiny(tmp_path, "truth/p2_lesion.nii.gz", "stray.nii.gz")
    (tmp_path / "masks" / "p3.nii.gz").unlink()
    (tmp_path / "scans" / "p4_FLAIR.nii.gz").unlink()
    found = find_folder(
        tmp_path, ["{id}_T1.nii.gz", "{id}_FLAIR.nii.gz"], ["T1", "FLAIR"],
        mask="masks/{id}.nii.gz", label="truth/{id}_lesion.nii.gz", healthy=True,
    )  # fmt: skip
    first, second = manifest_of(found, tmp_path / "m.json").cases
    assert (first.healthy, second.label) == (True, "truth/p2_lesion.nii.gz")
    assert first.image == ["scans/p1_T1.nii.gz", "scans/p1_FLAIR.nii.gz"]
    skipped = reasons(found)
    assert "has no mask" in skipped["p3"]
    assert skipped["p4"] == "has no FLAIR"
    assert skipped["stray.nii.gz"] == "fits no pattern"


def test_folder_person_with_several_sessions_stays_in_one_split(tmp_path):
    tiny(tmp_path, *(f"{p}_MR{s}.nii.gz" for p in "abcdefghij" for s in (1, 2)), "a_MR1_lesion.nii")
    found = find_folder(
        tmp_path, ["{subject}_MR{session}.nii.gz"], label="{subject}_MR{session}_lesion.nii", healthy=True
    )
    manifest = manifest_of(found, tmp_path / "m.json")
    assert len(manifest.cases) == 20
    assert [manifest.case(name).healthy for name in ("a_1", "a_2", "b_1")] == [False, False, True]
    assert manifest.case("a_2").split == "test"


def test_folder_with_two_files_for_one_name(tmp_path):
    tiny(tmp_path, "a/p1.nii.gz", "b/p1.nii.gz")
    with pytest.raises(MedvaeError, match=r"fits a/p1.nii.gz and b/p1.nii.gz"):
        find_folder(tmp_path, ["{id}.nii.gz"])


def test_folder_with_a_table(tmp_path):
    tiny(tmp_path, "x1.nii.gz", "x2.nii.gz")
    (tmp_path / "t.csv").write_text("ID,Age,Gender,Site\nx1,70,female,Rome\n")
    first, second = find_folder(tmp_path, ["{id}.nii.gz"], participants=tmp_path / "t.csv").scans
    assert (first.age, first.sex, first.site) == (70, "F", "Rome")
    assert (second.age, second.site) == (None, None)
    (tmp_path / "t.csv").write_text("ID,Age\nx1,70\nx1,71\n")
    with pytest.raises(MedvaeError, match='"x1" has two rows'):
        find_folder(tmp_path, ["{id}.nii.gz"], participants=tmp_path / "t.csv")


def test_folder_of_other_formats_and_capital_endings(tmp_path):
    tiny(tmp_path, "é è/Pat 1_T1.nii.gz", "Pat 2_T1.nii.gz")
    (tmp_path / "é è" / "Pat 1_T1.nii.gz").rename(tmp_path / "é è" / "Pat 1_T1.NII.GZ")
    for name in ("p3_T1.mgz", "p4_T1.mha", "p5_T1.NRRD", "p6_T1.img"):
        (tmp_path / name).write_bytes(b"x")
    assert [scan.id for scan in find_folder(tmp_path, ["{id}_T1.nii.gz"]).scans] == ["Pat 1", "Pat 2"]
    found = find_folder(tmp_path, ["{id}_T1*"])
    assert [scan.id for scan in found.scans] == ["Pat 1", "Pat 2", "p3", "p4", "p5"]
    assert "format" in reasons(found)["p6_T1.img"]
    assert [scan.id for scan in find_folder(tmp_path, ["{id}_T1.mgz"]).scans] == ["p3"]


def test_folder_masks_are_no_scans_where_the_pattern_would_take_them(tmp_path):
    tiny(tmp_path, "01.nii.gz", "02.nii.gz", "02_lesion.nii.gz", "01_brainmask.nii.gz", "03.nii.gz", "03_x.nii.gz")
    found = find_folder(tmp_path, ["{id}.nii.gz"], label="{id}_x.nii.gz", healthy=True)
    assert [(scan.id, scan.kind) for scan in found.scans] == [("01", "healthy"), ("03", "lesion")]
    assert "02_lesion.nii.gz" in reasons(found)["02"]


def test_folder_labels_and_masks_without_a_scan_are_listed(tmp_path):
    tiny(tmp_path, "01_T1.nii.gz", "02_T1.nii.gz", "04_T1.nii.gz", "01_lesion.nii.gz", "2_lesion.nii.gz")
    tiny(tmp_path, *(f"{n}_bm.nii.gz" for n in ("01", "02", "03")))
    found = find_folder(tmp_path, ["{id}_T1.nii.gz"], mask="{id}_bm.nii.gz", label="{id}_lesion.nii.gz", healthy=True)
    assert [(scan.id, scan.kind) for scan in found.scans] == [("01", "lesion")]
    told = reasons(found)
    assert told["2_lesion.nii.gz"] == "is a label (--label) without a scan of that name"
    assert told["03_bm.nii.gz"] == "is a mask (--mask) without a scan of that name"
    assert 'probably of "02"' in told["02"]
    assert told["04_T1.nii.gz"] == "belongs to a case that is skipped"
