"""BraTS of every year, read as a user's download would be."""

import pytest
from layouts import manifest_of, tiny

from medvae.errors import MedvaeError
from medvae.importing.brats import AFTER_TREATMENT, FROM_2023, PEDIATRIC_2024, UP_TO_2021, find_brats


def old_case(folder, case, seg=True):
    return tiny(
        folder / case, *(f"{case}_{w}.nii.gz" for w in ("flair", "t1", "t1ce", "t2", *(["seg"] if seg else [])))
    )


def new_case(folder, case, seg=True):
    return tiny(folder / case, *(f"{case}-{w}.nii.gz" for w in ("t1n", "t1c", "t2w", "t2f", *(["seg"] if seg else []))))


def test_brats_2021(tmp_path):
    old_case(tmp_path, "BraTS2021_00000")
    old_case(tmp_path, "BraTS2021_00002", seg=False)
    manifest = manifest_of(find_brats(tmp_path), tmp_path / "m.json")
    assert manifest.label_values == UP_TO_2021
    assert next(iter(manifest.label_values.items())) == ("whole tumour", [1, 2, 4])
    assert [(case.split, case.unlabelled, bool(case.label)) for case in manifest.cases] == [
        ("test", False, True), ("test", True, False),
    ]  # fmt: skip
    assert manifest.cases[0].image == "BraTS2021_00000/BraTS2021_00000_flair.nii.gz"


def test_brats_with_grades_and_several_modalities(tmp_path):
    old_case(tmp_path / "HGG", "Brats17_CBICA_AAB_1")
    old_case(tmp_path / "LGG", "Brats17_2013_0_1")
    manifest = manifest_of(find_brats(tmp_path, ["t1ce", "flair"]), tmp_path / "m.json")
    assert manifest.modality == {"0": "T1ce", "1": "FLAIR"}
    assert [case.subject for case in manifest.cases] == ["Brats17_2013_0", "Brats17_CBICA_AAB"]
    assert manifest.cases[1].image[0] == "HGG/Brats17_CBICA_AAB_1/Brats17_CBICA_AAB_1_t1ce.nii.gz"


def test_brats_2020_label_with_another_name(tmp_path):
    old_case(tmp_path, "BraTS20_Training_355", seg=False)
    tiny(tmp_path, "BraTS20_Training_355/W39_1998.09.19_Segm.nii")
    (scan,) = find_brats(tmp_path).scans
    assert scan.label.name == "W39_1998.09.19_Segm.nii"


def test_brats_2023_groups_the_examinations_of_a_patient(tmp_path):
    for case in ("BraTS-GLI-00000-000", "BraTS-GLI-00000-001", "BraTS-GLI-00002-000"):
        new_case(tmp_path, case)
    found = find_brats(tmp_path, ["flair"])
    manifest = manifest_of(found, tmp_path / "m.json")
    assert manifest.label_values == FROM_2023
    assert [case.subject for case in manifest.cases] == ["BraTS-GLI-00000"] * 2 + ["BraTS-GLI-00002"]
    assert manifest.cases[0].image.endswith("-t2f.nii.gz")
    assert "--year 2024" in found.notes[0]


def test_brats_resection_cavity_is_named_and_no_tumour(tmp_path):
    new_case(tmp_path, "BraTS-GLI-00005-100")
    values = manifest_of(find_brats(tmp_path), tmp_path / "m.json").label_values
    assert values == AFTER_TREATMENT
    assert 4 not in next(iter(values.values()))
    assert values["resection cavity"] == [4]
    with pytest.raises(MedvaeError, match="--year 2023"):
        find_brats(tmp_path, year=2023)


def test_brats_year_decides_where_names_do_not(tmp_path):
    new_case(tmp_path / "ped", "BraTS-PED-00001-000")
    with pytest.raises(MedvaeError, match="--year 2023 or --year 2024"):
        find_brats(tmp_path / "ped")
    assert find_brats(tmp_path / "ped", year=2023).label_values == FROM_2023
    assert find_brats(tmp_path / "ped", year=2024).label_values == PEDIATRIC_2024
    new_case(tmp_path / "gli", "BraTS-GLI-00001-000")
    assert find_brats(tmp_path / "gli", year=2024).label_values == AFTER_TREATMENT
    with pytest.raises(MedvaeError, match="from 2023 on"):
        find_brats(tmp_path / "gli", year=2021)


def test_brats_of_two_conventions_is_refused(tmp_path):
    old_case(tmp_path, "BraTS2021_00000")
    new_case(tmp_path, "BraTS-GLI-00000-000")
    with pytest.raises(MedvaeError, match="label values differ"):
        find_brats(tmp_path)
