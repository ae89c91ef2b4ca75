"""BIDS data sets and derivatives, read as a user's would be."""

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
