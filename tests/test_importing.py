"""Tiny copies of every layout, read as a user's download would be."""

import json
import os
import random
import sys

import nibabel as nib
import numpy as np
import pytest

from medvae.cli import main
from medvae.errors import MedvaeError
from medvae.importing import listing
from medvae.importing.bids import find_bids
from medvae.importing.brats import AFTER_TREATMENT, FROM_2023, PEDIATRIC_2024, UP_TO_2021, find_brats
from medvae.importing.decathlon import find_decathlon
from medvae.importing.folder import find_folder
from medvae.importing.found import Scan, make_manifest
from medvae.importing.ixi import find_ixi
from medvae.importing.nnunet import find_nnunet
from medvae.importing.split import Fractions, split_subjects
from medvae.manifest import read_manifest, write_manifest
from medvae.volume import read_volume


def tiny(folder, *names, shape=(3, 4, 5)):
    """Write a small NIfTI file under each name."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        values = np.arange(np.prod(shape), dtype=np.int16).reshape(shape)
        nib.save(nib.Nifti1Image(values, np.diag([1.0, 2, 3, 1])), path)
    return folder


def manifest_of(found, out, **options):
    """The manifest as it reads back from disk, every file it names being there."""
    manifest = make_manifest(found, out, fractions=options.pop("fractions", Fractions()), **options)
    return read_manifest(write_manifest(manifest, out))


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["medvae", "manifest", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        main()
    return caught.value.code


def reasons(found):
    return {entry.what: entry.why for entry in found.skipped}


# Splits


def people(count, **known):
    return [Scan(f"p{i:03d}", (), healthy=True, **known) for i in range(count)]


@pytest.mark.parametrize(
    "fractions", [Fractions(), Fractions(0.5, 0.25), Fractions(1, 0), Fractions(0, 0), Fractions(0.9, 0.1)]
)
@pytest.mark.parametrize("count", [0, 1, 2, 7, 100])
def test_splits_have_their_shares(fractions, count):
    splits = list(split_subjects(people(count), fractions, 0).values())
    assert len(splits) == count
    for split, share in fractions.shares().items():
        assert abs(splits.count(split) - share * count) < 1
        assert share > 1e-9 or split not in splits


def test_splits_depend_on_the_seed_and_not_on_the_order():
    scans = people(60)
    shuffled = random.Random(1).sample(scans, len(scans))
    assert split_subjects(scans, Fractions(), 3) == split_subjects(shuffled, Fractions(), 3)
    assert split_subjects(scans, Fractions(), 3) != split_subjects(scans, Fractions(), 4)


def test_every_site_and_age_group_is_divided_alike():
    rng = np.random.default_rng(0)
    scans = [Scan(f"{s}{i}", (), True, site=s, age=float(rng.uniform(20, 80))) for s in "AB" for i in range(90)]
    splits = split_subjects(scans, Fractions(0.6, 0.2), 0)
    for site in "AB":
        for decade in range(2, 8):
            group = [splits[s.id] for s in scans if s.site == site and s.age // 10 == decade]
            for split, share in Fractions(0.6, 0.2).shares().items():
                assert abs(group.count(split) - share * len(group)) < 2
        assert abs([splits[s.id] for s in scans if s.site == site].count("train") - 54) < 2


def test_a_person_with_one_lesion_scan_is_tested_with_all_scans(tmp_path):
    label = tmp_path / "l.nii.gz"
    scans = [Scan(f"{p}_{s}", (), healthy=True, subject=p) for p in "abcdefgh" for s in "12"]
    scans += [Scan("a_3", (), label=label, subject="a"), Scan("b_3", (), subject="b")]
    splits = split_subjects(scans, Fractions(1, 0), 0)
    assert {name for name, split in splits.items() if split == "test"} == {"a", "b"}


@pytest.mark.parametrize("shares", [(0.8, 0.3), (-0.1, 0.5), (1.2, 0)])
def test_impossible_shares_are_refused(shares):
    with pytest.raises(MedvaeError, match="add up to at most 1"):
        Fractions(*shares)


# IXI


def ixi(folder, modalities=("T1", "T2")):
    for number, site in [(2, "Guys"), (12, "HH"), (35, "IOP")]:
        for name in modalities:
            tiny(folder, f"IXI-{name}/IXI{number:03d}-{site}-{800 + number:04d}-{name}.nii.gz")
    return folder


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


# BraTS


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


# BIDS


def bids(folder):
    for subject in ("01", "02", "03"):
        tiny(folder, f"sub-{subject}/anat/sub-{subject}_T1w.nii.gz")
        tiny(folder, f"derivatives/strip/sub-{subject}/anat/sub-{subject}_desc-brain_mask.nii.gz")
    tiny(folder, "derivatives/lesions/sub-02/anat/sub-02_label-lesion_mask.nii.gz")
    rows = ["participant_id age sex group site", "sub-01 30 female Control A", "sub-02 89+ M Patient B"]
    rows += ["sub-03 n/a n/a Patient n/a"]
    (folder / "participants.tsv").write_text("\n".join(rows).replace(" ", "\t") + "\n")
    return folder


def test_bids_is_unlabelled_until_somebody_says_healthy(tmp_path):
    bids(tmp_path)
    kinds = lambda **options: [s.kind for s in find_bids(tmp_path, **options).scans]  # noqa: E731
    assert kinds() == ["unlabelled", "lesion", "unlabelled"]
    assert kinds(controls=["group=control"]) == ["healthy", "lesion", "unlabelled"]
    assert kinds(healthy=True) == ["healthy", "lesion", "healthy"]
    first, second, third = manifest_of(find_bids(tmp_path), tmp_path / "m.json").cases
    assert (first.age, first.sex, first.site, first.subject_id) == (30, "F", "A", "sub-01")
    assert (second.age, second.sex) == (None, "M")
    assert (third.age, third.sex, third.site) == (None, None, None)
    assert first.mask == "derivatives/strip/sub-01/anat/sub-01_desc-brain_mask.nii.gz"
    assert second.label == "derivatives/lesions/sub-02/anat/sub-02_label-lesion_mask.nii.gz"


@pytest.mark.parametrize(
    ("condition", "words"), [("group=nobody", "holds Control, Patient"), ("grp=x", "columns are"), ("group", "COLUMN")]
)
def test_bids_controls_that_do_not_exist(tmp_path, condition, words):
    bids(tmp_path)
    with pytest.raises(MedvaeError, match=r"columns are|holds|column and a value") as caught:
        find_bids(tmp_path, controls=[condition])
    assert words.lower() in str(caught.value).lower()


def test_bids_sessions_and_runs(tmp_path):
    for name in ("ses-1/anat/sub-A_ses-1_T1w", "ses-2/anat/sub-A_ses-2_run-1_T1w", "ses-2/anat/sub-A_ses-2_run-2_T1w"):
        tiny(tmp_path, f"sub-A/{name}.nii.gz")
    tiny(tmp_path, "sub-A/ses-1/anat/sub-A_ses-1_T1w_label-lesion_roi.nii.gz")
    tiny(tmp_path, "sub-A/ses-2/anat/sub-A_ses-2_label-lesion_mask.nii.gz")
    tiny(tmp_path, "derivatives/x/sub-A/ses-2/anat/sub-A_ses-2_run-2_desc-brain_mask.nii.gz")
    found = find_bids(tmp_path, healthy=True)
    cases = {case.id: case for case in manifest_of(found, tmp_path / "m.json").cases}
    assert list(cases) == ["sub-A_ses-1", "sub-A_ses-2_run-1", "sub-A_ses-2_run-2"]
    assert cases["sub-A_ses-1"].label
    assert not any(case.healthy for case in cases.values()), "a patient is not healthy in the session without a mask"
    assert [bool(case.mask) for case in cases.values()] == [False, False, True]
    assert "lesion mask: belongs to several scans" in reasons(found).values()


def test_bids_mask_of_another_space_is_not_taken(tmp_path):
    tiny(tmp_path, "sub-1/anat/sub-1_T1w.nii.gz", "sub-2/anat/sub-2_T1w.nii.gz")
    tiny(tmp_path, "derivatives/d/sub-1/anat/sub-1_space-MNI152NLin6Asym_label-lesion_mask.nii.gz")
    tiny(tmp_path, "derivatives/d/sub-2/anat/sub-2_space-orig_label-lesion_mask.nii.gz")
    found = find_bids(tmp_path)
    assert [scan.kind for scan in found.scans] == ["unlabelled", "lesion"]
    assert any("space MNI152NLin6Asym" in why for why in reasons(found).values())


def test_bids_derivative_by_itself(tmp_path):
    bids(tmp_path)
    prep = tmp_path / "derivatives" / "prep"
    tiny(
        prep,
        "sub-01/anat/sub-01_space-MNI_desc-preproc_T1w.nii.gz",
        "sub-01/anat/sub-01_space-T1w_desc-brain_T1w.nii.gz",
    )
    with pytest.raises(MedvaeError, match="--space"):
        find_bids(prep)
    (scan,) = find_bids(prep, space="MNI").scans
    assert scan.images[0].name == "sub-01_space-MNI_desc-preproc_T1w.nii.gz"
    assert scan.age == 30, "the table of the data set above"


def test_bids_two_masks_for_one_scan_are_refused(tmp_path):
    bids(tmp_path)
    tiny(tmp_path, "derivatives/other/sub-02/anat/sub-02_label-lesion_mask.nii.gz")
    with pytest.raises(MedvaeError, match="two lesion masks"):
        find_bids(tmp_path)


def test_bids_of_another_modality_says_which_there_are(tmp_path):
    bids(tmp_path)
    with pytest.raises(MedvaeError, match=r"--modality among: T1w"):
        find_bids(tmp_path, "FLAIR")


# nnU-Net and Decathlon


def dataset(folder, **content):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


V2 = {
    "channel_names": {"0": "T1", "1": "FLAIR"},
    "labels": {"background": 0, "whole tumor": [1, 2, 3], "core": [2, 3], "cavity": 4},
    "file_ending": ".nii.gz",
    "numTraining": 2,
}


def nnunet(folder):
    tiny(folder / "imagesTr", *(f"{c}_000{i}.nii.gz" for c in ("a_1", "b") for i in (0, 1)))
    tiny(folder / "labelsTr", "a_1.nii.gz", "b.nii.gz")
    tiny(folder / "imagesTs", "t_0000.nii.gz", "t_0001.nii.gz", "u_0001.nii.gz")
    return folder


def test_nnunet_version_2(tmp_path):
    dataset(nnunet(tmp_path), **V2)
    found = find_nnunet(tmp_path, ["flair"], ["whole tumor"])
    manifest = manifest_of(found, tmp_path / "m.json")
    assert manifest.modality == {"0": "FLAIR"}
    assert [case.image for case in manifest.cases] == [
        "imagesTr/a_1_0001.nii.gz", "imagesTr/b_0001.nii.gz", "imagesTs/t_0001.nii.gz", "imagesTs/u_0001.nii.gz",
    ]  # fmt: skip
    assert [case.unlabelled for case in manifest.cases] == [False, False, True, True]
    assert {case.split for case in manifest.cases} == {"test"}
    assert list(manifest.label_values.items()) == [("whole tumor", [1, 2, 3]), ("core", [2, 3]), ("cavity", [4])]
    everything = find_nnunet(tmp_path)
    assert everything.label_values["lesion"] == [1, 2, 3, 4]
    assert reasons(everything)["u"].startswith("has no T1")


def test_nnunet_version_1(tmp_path):
    content = {"modality": {"0": "T1", "1": "FLAIR"}, "labels": {"0": "background", "1": "lesion"}, "numTraining": 5}
    found = find_nnunet(dataset(nnunet(tmp_path), **content))
    assert found.label_values == {"lesion": [1]}
    assert len(manifest_of(found, tmp_path / "m.json").cases) == 3
    assert any("promises 5" in note for note in found.notes)


def test_nnunet_with_listed_files(tmp_path):
    tiny(tmp_path / "elsewhere", "i.nii.gz", "l.nii.gz")
    listed = {"case": {"images": ["../elsewhere/i.nii.gz"], "label": str(tmp_path / "elsewhere" / "l.nii.gz")}}
    content = V2 | {"channel_names": {"0": "T1"}, "dataset": listed}
    (case,) = manifest_of(find_nnunet(dataset(tmp_path / "d", **content)), tmp_path / "m.json").cases
    assert (case.image, case.label) == ("elsewhere/i.nii.gz", "elsewhere/l.nii.gz")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"labels": {"background": 0, "ignore": 2, "x": 1}}, "ignore"),
        ({"labels": {"background": 0}}, "nothing but background"),
        ({"labels": {"x": "one"}}, "a number or numbers"),
        ({"labels": None}, 'no "labels"'),
        ({"file_ending": ".png"}, "Convert the files"),
        ({"channel_names": ["T1"]}, "must name the channels"),
    ],
)
def test_nnunet_mistakes_in_dataset_json(tmp_path, changes, words):
    with pytest.raises(MedvaeError, match=words):
        find_nnunet(dataset(nnunet(tmp_path), **(V2 | changes)))


def test_nnunet_names_that_do_not_exist(tmp_path):
    source = dataset(nnunet(tmp_path / "Dataset001"), **V2)
    with pytest.raises(MedvaeError, match="has T1, FLAIR"):
        find_nnunet(source, ["T2"])
    with pytest.raises(MedvaeError, match="whole tumor, core, cavity"):
        find_nnunet(source, lesion=["tumour"])
    with pytest.raises(MedvaeError, match="It lies in Dataset001"):
        find_nnunet(tmp_path)


def decathlon(folder):
    tiny(folder / "imagesTr", "B_1.nii.gz", "B_2.nii.gz", shape=(3, 4, 5, 2))
    tiny(folder / "imagesTs", "B_3.nii.gz", shape=(3, 4, 5, 2))
    tiny(folder / "labelsTr", "B_1.nii.gz", "B_2.nii.gz")
    pairs = [{"image": f"./imagesTr/B_{i}.nii.gz", "label": f"./labelsTr/B_{i}.nii.gz"} for i in (1, 2, 9)]
    labels = {"0": "background", "1": "edema", "2": "core"}
    modality = {"0": "FLAIR", "1": "T1w"}
    test = ["./imagesTs/B_3.nii.gz"]
    return dataset(folder, name="BRATS", licence="CC", modality=modality, labels=labels, training=pairs, test=test)


def test_decathlon_says_what_to_do_with_4d_files(tmp_path):
    with pytest.raises(MedvaeError, match=r"FLAIR, T1w.*--unpack.* 6 files"):
        find_decathlon(decathlon(tmp_path))


def test_decathlon_unpacked_files_are_the_volumes_in_their_place(tmp_path):
    source, folder = decathlon(tmp_path / "Task"), tmp_path / "m_images"
    found = find_decathlon(source, ["t1w"], unpack=folder, quiet=True)
    manifest = manifest_of(found, tmp_path / "m.json")
    assert sorted(path.name for path in folder.iterdir()) == [f"B_{i}_T1w.nii.gz" for i in (1, 2, 3)]
    assert [case.unlabelled for case in manifest.cases] == [False, False, True]
    assert manifest.label_values == {"lesion": [1, 2], "edema": [1], "core": [2]}
    assert manifest.licence == "CC"
    packed = nib.load(source / "imagesTr" / "B_1.nii.gz")
    volume = read_volume(manifest.images(manifest.cases[0])[0])
    assert np.array_equal(volume.array, packed.get_fdata()[..., 1])
    assert np.array_equal(volume.geometry.affine, packed.affine)
    assert nib.load(folder / "B_1_T1w.nii.gz").get_data_dtype() == np.int16
    assert reasons(found)["B_9.nii.gz"].startswith("is listed")


def test_decathlon_keeps_what_is_unpacked_and_goes_on(tmp_path):
    source, folder = decathlon(tmp_path / "Task"), tmp_path / "m_images"
    find_decathlon(source, unpack=folder, quiet=True)
    (folder / "B_2_FLAIR.nii.gz").unlink()
    before = (folder / "B_1_FLAIR.nii.gz").stat().st_mtime_ns
    find_decathlon(source, unpack=folder, quiet=True)
    assert (folder / "B_2_FLAIR.nii.gz").exists()
    assert (folder / "B_1_FLAIR.nii.gz").stat().st_mtime_ns == before
    find_decathlon(source, unpack=folder, again=True, quiet=True)
    assert (folder / "B_1_FLAIR.nii.gz").stat().st_mtime_ns != before


def test_decathlon_damaged_image_is_skipped(tmp_path):
    source = decathlon(tmp_path / "Task")
    rng = np.random.default_rng(0)
    big = nib.Nifti1Image(rng.integers(0, 9999, (40, 40, 40, 2), dtype=np.int16), np.eye(4))
    nib.save(big, source / "imagesTr" / "B_1.nii.gz")
    whole = (source / "imagesTr" / "B_1.nii.gz").read_bytes()
    (source / "imagesTr" / "B_1.nii.gz").write_bytes(whole[: len(whole) // 3])
    (source / "imagesTr" / "B_2.nii.gz").write_bytes(b"no image")
    found = find_decathlon(source, unpack=tmp_path / "i", quiet=True)
    assert [scan.id for scan in found.scans] == ["B_3"]
    assert "damaged" in reasons(found)["B_1.nii.gz"]
    assert "NIfTI" in reasons(found)["B_2.nii.gz"]


def test_decathlon_with_3d_images_needs_no_unpacking(tmp_path):
    tiny(tmp_path, "imagesTr/h.nii.gz", "labelsTr/h.nii.gz")
    pairs = [{"image": "./imagesTr/h.nii.gz", "label": "./labelsTr/h.nii.gz"}]
    dataset(tmp_path, modality={"0": "MRI"}, labels={"0": "background", "1": "x"}, training=pairs)
    (case,) = manifest_of(find_decathlon(tmp_path), tmp_path / "m.json").cases
    assert case.image == "imagesTr/h.nii.gz"


# Any folder


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


# What all have in common


def test_listing_leaves_out_what_is_no_file(tmp_path):
    tiny(tmp_path, "a.nii.gz", "real/b.nii.gz")
    (tmp_path / "._a.nii.gz").write_bytes(b"x")
    (tmp_path / "empty.nii.gz").touch()
    (tmp_path / "gone.nii.gz").symlink_to(tmp_path / "annex")
    (tmp_path / "real" / "loop").symlink_to(tmp_path)
    (tmp_path / "linked").symlink_to(tmp_path / "real")
    files, skipped = listing.list_files(tmp_path)
    assert sorted(path.name for path in files) == ["a.nii.gz", "b.nii.gz"]
    assert {entry.what: entry.why.split()[1] for entry in skipped} == {"empty.nii.gz": "empty", "gone.nii.gz": "a"}


def test_order_of_the_directory_does_not_matter(tmp_path, monkeypatch):
    ixi(tmp_path / "d")
    tiny(tmp_path / "d" / "IXI-T1", *(f"IXI{n}-HH-{n}-T1.nii.gz" for n in range(100, 130)))
    first = make_manifest(find_ixi(tmp_path / "d"), tmp_path / "m.json", fractions=Fractions(), seed=1)
    walk = os.walk

    def reversed_walk(*arguments, **options):
        for folder, folders, names in walk(*arguments, **options):
            folders.reverse()
            yield folder, folders, names[::-1]

    monkeypatch.setattr(os, "walk", reversed_walk)
    second = make_manifest(find_ixi(tmp_path / "d"), tmp_path / "m.json", fractions=Fractions(), seed=1)
    assert first.model_dump() == second.model_dump()


def test_paths_lead_from_the_manifest_to_the_files(tmp_path, monkeypatch):
    tiny(tmp_path / "data", "x.nii.gz")
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "deep" / "er")
    monkeypatch.chdir(tmp_path / "data")
    from pathlib import Path

    for out in (Path("m.json"), tmp_path / "link" / "m.json", Path("../new/m.json")):
        manifest_of(find_folder(Path("."), ["{id}.nii.gz"]), out)


def test_checksums_are_those_of_the_files(tmp_path):
    from medvae.manifest import checksum_problems

    tiny(tmp_path, "a.nii.gz")
    manifest = manifest_of(find_folder(tmp_path, ["{id}.nii.gz"]), tmp_path / "m.json", checksums=True)
    assert manifest.cases[0].sha256
    assert checksum_problems(manifest, manifest.cases[0]) == []


def test_two_scans_of_one_name_are_refused(tmp_path):
    tiny(tmp_path, "p 1.nii.gz", "p_1.nii.gz")
    with pytest.raises(MedvaeError, match='both be case "p_1"'):
        make_manifest(find_folder(tmp_path, ["{id}.nii.gz"]), tmp_path / "m.json", fractions=Fractions())


@pytest.mark.parametrize("find", [find_ixi, find_brats, find_bids])
def test_empty_result_says_what_was_looked_for_and_what_is_there(tmp_path, find):
    tiny(tmp_path, "sub/some.nii.gz")
    (tmp_path / "notes.txt").touch()
    with pytest.raises(MedvaeError) as caught:
        find(tmp_path)
    for words in (str(tmp_path), "Looked for", "1 folders (sub)", "sub/some.nii.gz"):
        assert words in str(caught.value)


def test_source_that_is_no_folder(tmp_path):
    (tmp_path / "IXI-T1.tar").touch()
    (tmp_path / "BraTS").mkdir()
    with pytest.raises(MedvaeError, match="Unpack it first"):
        find_ixi(tmp_path / "IXI-T1.tar")
    with pytest.raises(MedvaeError, match=r"Did you mean .*BraTS"):
        find_brats(tmp_path / "BarTS")


def test_command_writes_shows_and_does_not_overwrite(tmp_path, monkeypatch, capsys):
    source, out = ixi(tmp_path / "IXI"), tmp_path / "m.json"
    tiny(source, "odd [name].nii.gz")
    assert run(monkeypatch, "ixi", source, "--out", out) == 0
    shown = capsys.readouterr().out
    for words in (
        "IXI: 3 cases",
        "Guy's Hospital",
        "is not named as an IXI scan",
        "odd [name].nii.gz",
        f"medvae check {out}",
    ):
        assert words in shown
    before = out.read_bytes()
    assert run(monkeypatch, "ixi", source, "--out", out, "--seed", 7) == 1
    assert "--force" in capsys.readouterr().err
    assert out.read_bytes() == before
    assert run(monkeypatch, "ixi", source, "--out", out, "--train", 0, "--validation", 0, "--force") == 0
    assert {case.split for case in read_manifest(out).cases} == {"test"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("ixi", "{d}", "--out", "{d}/m.yaml"), "is a .json file"),
        (("ixi", "{d}/none", "--out", "{d}/m.json"), "no such folder"),
        (("ixi", "{d}", "--out", "{d}/m.json", "--train", "2"), "add up"),
        (("folder", "{d}", "--image", "a{id}.nii", "--image", "{id}.nii", "--out", "{d}/m.json"), "2 --image"),
        (("nnunet", "{d}", "--out", "{d}/m.json"), "dataset.json: there is no such file"),
    ],
)  # fmt: skip
def test_command_mistakes_leave_nothing_behind(tmp_path, monkeypatch, capsys, arguments, words):
    ixi(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert run(monkeypatch, *(argument.replace("{d}", str(tmp_path)) for argument in arguments)) == 1
    assert words in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


def test_command_for_decathlon_names_the_folder_after_the_manifest(tmp_path, monkeypatch):
    source, out = decathlon(tmp_path / "Task"), tmp_path / "tumour.json"
    assert run(monkeypatch, "decathlon", source, "--out", out, "--modality", "FLAIR", "--unpack", "--quiet") == 0
    assert read_manifest(out).cases[0].image == "tumour_images/B_1_FLAIR.nii.gz"


# Lists and documentation


def test_lists_are_manifests_and_agree_with_the_included_cohort(repository):
    folder = repository / "data_manifests"
    included = read_manifest(folder / "included_t1.json")
    ixi_list = read_manifest(folder / "lists" / "ixi_t1_2mm.json", files_must_exist=False)
    assert len(ixi_list.cases) == 120
    splits = {case.subject_id: case.split for case in ixi_list.cases}
    assert all(splits[case.subject_id] == case.split for case in included.cases if case.healthy)
    mslub = read_manifest(folder / "lists" / "mslub_flair.json", files_must_exist=False)
    assert [case.id for case in mslub.cases] == [f"patient{number:02d}" for number in range(1, 31)]
    assert not any(case.healthy for case in mslub.cases)


def test_commands_in_the_documentation_have_options_that_exist(repository):
    import re
    import shlex

    import typer

    from medvae.importing.commands import app

    layouts = typer.main.get_command(app).commands
    text = (repository / "docs" / "DATA.md").read_text(encoding="utf-8").replace("\\\n", " ")
    documented = re.findall(r"^medvae manifest (?!LAYOUT)(.+)$", text, re.MULTILINE)
    examples = [layout.epilog.removeprefix("Example: medvae manifest ") for layout in layouts.values()]
    assert len(documented) > 8
    for line in documented + examples:
        layout, *arguments = shlex.split(line, comments=True)
        out = layouts[layout].make_context(layout, arguments).params["out"]
        assert out.suffix == ("" if layout == "inserted" else ".json")  # a folder for each family
