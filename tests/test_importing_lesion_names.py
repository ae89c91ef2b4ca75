"""Which names are those of lesion maps, and which of anatomy."""

from pathlib import PurePath

import pytest

from medvae.importing.lesion_names import is_lesion_map, is_tissue_map


@pytest.mark.parametrize(
    "name",
    [
        "02_lesion", "02_LESIONS", "T1LesionMask", "sub-02_desc-lesion_dseg", "sub-02_label-lesion_probseg",
        "sub-02_lesion-msk", "sub-02_T1w_msk", "sub-02_mask", "mask", "02-Mask", "p2 seg", "p2_dseg", "p2_T1_seg",
        "sub-02_label-1_mask", "sub-02_label-L_mask", "02_roi1", "02_ROI", "02_label", "02mask", "SC_02_mask",
        "T1mask", "gt",
        "02_ground_truth", "02_GT", "p2_voi", "brain_tumor_seg", "p2_WMH", "consensus_gt", "wm_lesion_mask",
        "brain_lesion_mask", "sub-02_desc-lesionfilled_T1w",
    ],
)  # fmt: skip
def test_lesion_maps(name):
    assert is_lesion_map(PurePath(f"x/{name}.nii.gz"))


@pytest.mark.parametrize(
    "path",
    [
        "x/brainmask.mgz", "x/brain_mask.nii", "x/p2_T1_brain_mask.nii.gz", "x/sub-2_desc-brain_mask.nii.gz",
        "x/sub-2_label-brain_mask.nii.gz", "x/p2_BrainMask.nii.gz", "x/sub-2_label-GM_probseg.nii.gz",
        "x/sub-2_space-MNI_label-CSF_probseg.nii.gz", "x/sub-2_desc-aseg_dseg.nii.gz", "x/wm.seg.mgz",
        "x/sub-2_desc-aparcaseg_dseg.nii.gz", "x/aparc+aseg.mgz", "x/T1_synthseg.nii.gz", "x/p2_bet_mask.nii.gz",
        "x/sub-2_defacemask.nii.gz", "x/p2_FLAIR.nii.gz", "x/sub-2_label-WM_mask.nii.gz", "x/sub-2_T2w.nii.gz",
        "derivatives/fmriprep/sub-2/anat/sub-2_dseg.nii.gz", "derivatives/freesurfer-7/sub-2/mri/mask.mgz",
        "p2/T1.anat/T1_fast_seg.nii.gz", "x/sub-2_label-SC_seg.nii.gz",
        "x/OAS1_0001_MR1_mpr_t88_masked_gfc_fseg.img", "x/p2_facemask.nii.gz", "x/gmmask.nii", "x/T1_fast_pveseg.nii",
        "MNINonLinear/ROIs/ROIs.2.nii.gz",
    ],
)  # fmt: skip
def test_anatomy_and_other_scans(path):
    assert not is_lesion_map(PurePath(path))


def test_a_segmentation_beside_its_tissue_maps_is_anatomy():
    path = PurePath("d/sub-2/anat/sub-2_space-X_dseg.nii.gz")
    assert is_lesion_map(path, ["sub-2_label-GM_probseg"])
    assert not is_lesion_map(path, ["sub-2_space-X_label-GM_probseg"])
    assert not is_lesion_map(PurePath("p/T1_seg.nii"), ["T1_pve_0"])
    assert is_lesion_map(PurePath("p/T1_mask.nii"), ["T1_pve_0"])
    names = ("sub-2_label-GM_probseg", "T1_pve_0", "T1_brain_pveseg", "sub-2_label-lesion_probseg", "sub-2_T1w")
    assert [is_tissue_map(name) for name in names] == [True, True, True, False, False]


def test_words_of_folders_of_the_person_and_of_the_user():
    path = PurePath("labels/02.nii.gz")
    assert not is_lesion_map(path)
    assert is_lesion_map(path, folders=["labels"])
    assert not is_lesion_map(path, folders=["brain_masks"])
    assert not is_lesion_map(PurePath("label_7_FLAIR.nii"), person=("label", "7"))
    assert is_lesion_map(PurePath("SC_7_mask.nii"), person=("sc", "7"))
    assert not is_lesion_map(PurePath("p2_jaw_seg.nii"), anatomy=["jaw"])
    assert not is_lesion_map(PurePath("p2_final_mask.nii"), folders=["lesions"], anatomy=["lesions", "final-mask"])
    assert is_lesion_map(PurePath("p2_lesion_mask.nii"), anatomy=["mask"])
    assert is_lesion_map(PurePath("p2_mask.nii"), anatomy=["ask", ""])
