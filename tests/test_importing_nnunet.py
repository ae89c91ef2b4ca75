"""nnU-Net's and Decathlon's layouts, which have a dataset.json."""

import nibabel as nib
import numpy as np
import pytest
from layouts import dataset, decathlon, manifest_of, reasons, tiny

from medvae.errors import MedvaeError
from medvae.imaging.volume import read_volume
from medvae.importing.decathlon import find_decathlon
from medvae.importing.nnunet import find_nnunet

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
        ({"labels": {"background": 0, "ignore": 2}}, "nothing but background"),
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


def test_ignored_voxels_are_no_lesion(tmp_path):
    labels = {"background": 0, "tumour": 1, "oedema": 2, "ignore": 3}
    found = find_nnunet(dataset(nnunet(tmp_path), **V2 | {"labels": labels}))
    assert found.label_values == {"lesion": [1, 2], "tumour": [1], "oedema": [2], "ignore": [3]}
