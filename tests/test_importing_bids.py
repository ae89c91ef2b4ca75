"""BIDS data sets and derivatives, read as a user's would be."""

import nibabel as nib
import numpy as np
import pytest
from layouts import manifest_of, reasons, tiny

from medvae.errors import MedvaeError
from medvae.importing.bids import find_bids


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


@pytest.mark.parametrize(
    "name",
    [
        "desc-lesion_mask",
        "label-lesion_roi",
        "lesion-msk",
        "desc-lesion_dseg",
        "label-L_mask",
        "T1w_lesion",
        "lesion_seg",
    ],
)
def test_bids_names_of_lesion_maps(tmp_path, name):
    tiny(tmp_path, *(f"sub-{n}/anat/sub-{n}_T1w.nii.gz" for n in (1, 2)))
    tiny(tmp_path, f"derivatives/manual/sub-2/anat/sub-2_{name}.nii.gz")
    first, second = find_bids(tmp_path, healthy=True).scans
    assert (first.kind, second.kind) == ("healthy", "lesion")


@pytest.mark.parametrize("top", [1, 0.7])
def test_bids_probabilities_are_a_label_if_they_are_sure(tmp_path, top):
    tiny(tmp_path, *(f"sub-{n}/anat/sub-{n}_T1w.nii.gz" for n in (1, 2)))
    values = np.zeros((3, 4, 5), np.float32)
    values[1, 1, 1] = top
    nib.save(nib.Nifti1Image(values, np.eye(4)), tmp_path / "sub-2/anat/sub-2_label-lesion_probseg.nii.gz")
    found = find_bids(tmp_path, healthy=True)
    assert [scan.kind for scan in found.scans] == ["healthy", "lesion" if top == 1 else "unlabelled"]
    assert any("probabilities" in why for why in reasons(found).values()) == (top != 1)


def test_bids_of_several_maps_of_a_lesion_the_mask_is_taken(tmp_path):
    tiny(tmp_path, "sub-1/anat/sub-1_T1w.nii.gz", "sub-2/anat/sub-2_T1w.nii.gz")
    tiny(tmp_path, *(f"sub-1/anat/sub-1_label-lesion_{end}" for end in ("dseg.nii", "mask.nii.gz", "mask.nii")))
    found = find_bids(tmp_path, healthy=True)
    assert found.scans[0].label.name == "sub-1_label-lesion_mask.nii"
    assert "has a _mask already" in reasons(found)["sub-1/anat/sub-1_label-lesion_dseg.nii"]


@pytest.mark.parametrize("name", ["sub-2_msk", "sub-2_T1w_mask", "sub-2_dseg", "sub-02_label-lesion_mask"])
def test_bids_nobody_is_healthy_beside_a_mask_that_is_not_understood(tmp_path, name):
    tiny(tmp_path, *(f"sub-{n}/anat/sub-{n}_T1w.nii.gz" for n in (1, 2, 3)))
    tiny(tmp_path, f"derivatives/manual/{name}.nii.gz")
    (tmp_path / "participants.tsv").write_text("participant_id\tgroup\n1\tc\n2\tc\n3\tc\n")
    for options in ({"healthy": True}, {"controls": ["group=c"]}):
        found = find_bids(tmp_path, **options)
        assert [scan.id for scan in found.scans] == ["sub-1", "sub-3"]
        assert name in reasons(found)["sub-2"]
        assert "--lesion-word" in reasons(found)["sub-2"]


def test_bids_word_in_the_name_of_a_subject_is_no_lesion(tmp_path):
    tiny(tmp_path, *(f"sub-lesion{n}/anat/sub-lesion{n}_{end}.nii.gz" for n in (1, 2) for end in ("T1w", "FLAIR")))
    tiny(tmp_path, "derivatives/b/sub-lesion1_desc-brain_mask.nii.gz")
    assert [(s.kind, bool(s.mask)) for s in find_bids(tmp_path, healthy=True).scans] == [
        ("healthy", True),
        ("healthy", False),
    ]


def versions(folder):
    tiny(folder, *(f"sub-1/anat/sub-1_echo-{n}_T1w.nii.gz" for n in (1, 2)), "sub-2/anat/sub-2_T1w.nii.gz")
    tiny(folder, *(f"sub-3/anat/sub-3_part-{part}_T1w.nii.gz" for part in ("mag", "phase")))
    tiny(folder, "sub-3/anat/sub-3_acq-phase_T1w.nii.gz")
    tiny(folder, *(f"sub-4/anat/sub-4_{e}.nii.gz" for e in ("inv-1_T1w", "T1map", "UNIT1", "mod-T1w_defacemask")))
    tiny(folder, *(f"sub-5/anat/sub-5_acq-{name}_T1w.nii.gz" for name in ("hi", "lo")))
    tiny(folder, "sub-6/anat/sub-6_T1w.nii.gz", "sub-6/anat/sub-6_T1w.nii", "sourcedata/sub-6/anat/sub-6_T1w.nii.gz")
    return folder


def test_bids_one_scan_that_is_not_clear_does_not_refuse_the_others(tmp_path):
    found = find_bids(versions(tmp_path), healthy=True)
    assert [scan.id for scan in found.scans] == ["sub-2", "sub-3", "sub-5_acq-hi", "sub-5_acq-lo", "sub-6"]
    assert found.scans[1].images[0].name == "sub-3_part-mag_T1w.nii.gz"
    told = reasons(found)
    assert told["sub-1"] == "comes with echo 1, 2: choose with --entity echo=VALUE"
    assert "phase" in told["sub-3/anat/sub-3_part-phase_T1w.nii.gz"]
    assert "inversion" in told["sub-4/anat/sub-4_inv-1_T1w.nii.gz"]
    assert {"sub-4/anat/sub-4_mod-T1w_defacemask.nii.gz", "sourcedata/sub-6/anat/sub-6_T1w.nii.gz"} <= set(told)
    assert any("sub-5_acq-hi, sub-5_acq-lo" in note for note in found.notes)
    assert len(manifest_of(found, tmp_path / "m.json").cases) == 5


def test_bids_versions_are_chosen_by_entity(tmp_path):
    found = find_bids(versions(tmp_path), healthy=True, entity=["echo=02", "acq=lo"])
    assert [scan.id for scan in found.scans] == ["sub-1", "sub-2", "sub-3", "sub-5_acq-lo", "sub-6"]
    assert found.scans[0].images[0].name == "sub-1_echo-2_T1w.nii.gz"
    assert [scan.id for scan in find_bids(tmp_path, entity=["inv=1"]).scans][2:4] == ["sub-4", "sub-5_acq-hi"]
    with pytest.raises(MedvaeError, match=r"no scan has echo-3; found \(no echo\), 1, 2"):
        find_bids(tmp_path, entity=["echo=3"])
    with pytest.raises(MedvaeError, match="give a name and a value"):
        find_bids(tmp_path, entity=["echo"])


def test_bids_of_which_every_scan_is_unclear_says_how_to_choose(tmp_path):
    tiny(tmp_path, *(f"sub-{s}/anat/sub-{s}_echo-{n}_T1w.nii.gz" for n in (1, 2) for s in (1, 2)))
    with pytest.raises(MedvaeError, match="--entity echo="):
        find_bids(tmp_path)
