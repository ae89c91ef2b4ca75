"""IXI, read as a user's download would be."""

import pytest
from layouts import ixi, manifest_of, reasons, tiny

from medvae.errors import MedvaeError
from medvae.importing.ixi import find_ixi


def test_ixi_as_downloaded(tmp_path):
    source = ixi(tmp_path / "IXI")
    tiny(source, "IXI-T1/IXI012-HH-0812-T1_mask.nii.gz", "IXI-T2/IXI035-IOP-0835-T2_mask.nii.gz", "IXI-T1/other.nii")
    tiny(source, "IXI-MRA/IXI012-HH-0812-MRA.nii.gz", "IXI-T2/IXI077-Guys-0877-T2.nii.gz")
    (source / "IXI.csv").write_text(
        '"IXI_ID";"SEX_ID (1=m, 2=f)";"AGE"\n2;2;35,8\n12;1;38,78\n35;1;40\n35;1;\n', encoding="utf-8-sig"
    )
    found = find_ixi(source)
    cases = {case.id: case for case in manifest_of(found, tmp_path / "m.json").cases}
    assert list(cases) == ["IXI002", "IXI012", "IXI035"]
    assert all(case.healthy for case in cases.values())
    assert [case.site for case in cases.values()] == [
        "Guy's Hospital",
        "Hammersmith Hospital",
        "Institute of Psychiatry",
    ]
    assert [(case.age, case.sex) for case in cases.values()] == [(35.8, "F"), (38.78, "M"), (None, None)]
    assert cases["IXI012"].mask == "IXI/IXI-T1/IXI012-HH-0812-T1_mask.nii.gz"
    assert cases["IXI035"].mask is None, "a mask of the T2 lies on the grid of the T2"
    assert any("IXI035" in note for note in found.notes), "rows that contradict each other are told"
    assert any("2 of 3 scans have no brain mask" in note for note in found.notes)
    skipped = reasons(found)
    assert skipped["IXI077-Guys-0877"] == "has no T1"
    assert "not named" in skipped["IXI-T1/other.nii"]
    assert "no T1, T2 or PD" in skipped["IXI-MRA/IXI012-HH-0812-MRA.nii.gz"]


def test_ixi_with_anatomy_and_participants(tmp_path):
    tiny(tmp_path, "t1/IXI012-HH-1211_T1.nii.gz", "anatomy/IXI012-HH-1211_anatomy.nii.gz")
    (tmp_path / "participants.tsv").write_text("participant_id\tage\tsex\nIXI012-HH-1211\tn/a\tM\n")
    (case,) = manifest_of(find_ixi(tmp_path), tmp_path / "m.json").cases
    assert (case.mask, case.age, case.sex) == ("anatomy/IXI012-HH-1211_anatomy.nii.gz", None, "M")


def test_ixi_with_two_modalities_leaves_out_who_lacks_one(tmp_path):
    source = ixi(tmp_path)
    (source / "IXI-T2" / "IXI002-Guys-0802-T2.nii.gz").unlink()
    manifest = manifest_of(find_ixi(source, ["T2", "T1"]), tmp_path / "m.json")
    assert manifest.modality == {"0": "T2", "1": "T1"}
    assert [case.id for case in manifest.cases] == ["IXI012", "IXI035"]
    assert "-T2" in manifest.cases[0].image[0]
    with pytest.raises(MedvaeError, match="FLAIR: IXI has"):
        find_ixi(source, ["FLAIR"])


def test_ixi_table_in_excel_format(tmp_path):
    pytest.importorskip("xlrd")
    xlwt = pytest.importorskip("xlwt")
    book = xlwt.Workbook()
    sheet = book.add_sheet("Table")
    for row, values in enumerate([("IXI_ID", "SEX_ID (1=m, 2=f)", "AGE"), (2, 2, 35.8), (12, 1, "")]):
        for column, value in enumerate(values):
            sheet.write(row, column, value)
    book.save(str(ixi(tmp_path) / "IXI.xls"))
    cases = manifest_of(find_ixi(tmp_path), tmp_path / "m.json").cases
    assert [(case.age, case.sex) for case in cases] == [(35.8, "F"), (None, "M"), (None, None)]


def test_ixi_table_that_cannot_be_read_is_told_and_does_not_stop(tmp_path):
    (ixi(tmp_path) / "IXI.xls").write_bytes(b"no table")
    found = find_ixi(tmp_path)
    assert len(found.scans) == 3
    assert any("IXI.xls" in note for note in found.notes)
