"""Every image of a folder is used or skipped with a reason, and nobody with an unpaired lesion map is healthy."""

import json
import os
from pathlib import Path

import pytest
from layouts import dataset, ixi, reasons, run, tiny

from medvae.errors import MedvaeError
from medvae.importing.bids import find_bids
from medvae.importing.folder import find_folder
from medvae.importing.found import Found
from medvae.importing.importer import Importer, Request
from medvae.importing.ixi import find_ixi
from medvae.importing.layouts import LAYOUTS
from medvae.importing.ledger import UNPAIRED
from medvae.importing.scan import FoundScan
from medvae.manifest import read_manifest


def layout_with_two_cases(name, folder):
    """A small data set of a layout, and the options it is read with."""
    if name == "ixi":
        ixi(folder)
    elif name == "brats":
        tiny(
            folder, *(f"BraTS2021_0000{n}/BraTS2021_0000{n}_{w}.nii.gz" for n in (1, 2) for w in ("flair", "t1", "seg"))
        )
    elif name == "bids":
        tiny(folder, *(f"sub-{n}/anat/sub-{n}_{w}.nii.gz" for n in (1, 2) for w in ("T1w", "FLAIR")))
    elif name == "nnunet":
        dataset(folder, channel_names={"0": "T1", "1": "T2"}, labels={"background": 0, "lesion": 1})
        tiny(folder, *(f"imagesTr/p{n}_000{c}.nii.gz" for n in (1, 2) for c in (0, 1)), "labelsTr/p1.nii.gz")
    elif name == "decathlon":
        pairs = [{"image": f"imagesTr/p{n}.nii.gz", "label": f"labelsTr/p{n}.nii.gz"} for n in (1, 2)]
        dataset(folder, modality={"0": "T1"}, labels={"0": "background", "1": "lesion"}, training=pairs)
        tiny(folder, *(f"{part}/p{n}.nii.gz" for n in (1, 2) for part in ("imagesTr", "labelsTr")))
    else:
        tiny(folder, *(f"p{n}_{w}.nii.gz" for n in (1, 2) for w in ("T1", "T2")))
        return {"image": ("{id}_T1.nii.gz",)}
    return {}


def test_a_file_in_the_folder_of_one_with_the_name_of_another_may_be_of_both(tmp_path):
    tiny(tmp_path, "a/01_T1.nii.gz", "b/02_T1.nii.gz", "c/03_T1.nii.gz", "a/02_lesion.nii.gz")
    assert [scan.id for scan in find_folder(tmp_path, ["{id}_T1.nii.gz"], healthy=True).scans] == ["03"]


@pytest.mark.parametrize("name", ["IXI-T1/IXI012-HH-0812-T1_lesion.nii.gz", "seg/IXI012.nii.gz", "x/IXI012_roi.mgz"])
def test_nobody_of_ixi_is_healthy_beside_a_lesion_map(tmp_path, name):
    ixi(tmp_path)
    tiny(tmp_path, "IXI-T2/IXI002-Guys-0802-T2_mask.nii.gz", "anatomy/IXI035-IOP-0835_anatomy.nii.gz")
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_bytes(b"x")
    found = find_ixi(tmp_path)
    assert [scan.id for scan in found.scans] == ["IXI002", "IXI035"]
    assert name in reasons(found)["IXI012"]


@pytest.mark.parametrize("importer", LAYOUTS, ids=lambda importer: importer.name)
def test_every_image_is_used_or_skipped(tmp_path, importer):
    options = layout_with_two_cases(importer.name, tmp_path)
    tiny(tmp_path, "extra/odd.nii.gz", "extra/Odd 2.NII.GZ")
    for name in ("old.img", "old.hdr", "slice1.dcm", "slice2.dcm", "aseg.mgz", "x.nrrd", "._p.nii.gz", "Thumbs.db"):
        (tmp_path / "extra" / name).write_bytes(b"x")
    (tmp_path / "extra" / "empty.nii").touch()
    (tmp_path / "extra" / "gone.nii.gz").symlink_to(tmp_path / "annex")
    found = importer.read(Request(tmp_path, tmp_path / "m.json"), importer.options(**options))
    used = {path for scan in found.scans for path in (*scan.images, scan.label, scan.mask) if path}
    listed = [entry.what for entry in found.skipped]
    assert len(set(listed)) == len(listed), "each once"
    there = {
        path for path in tmp_path.rglob("*") if path.name.lower().endswith((".gz", ".nii", ".dcm", ".mgz", ".img"))
    }
    there = {path for path in there if not path.name.startswith(".")} | {tmp_path / "extra" / "x.nrrd"}
    assert {tmp_path / name for name in listed} == there - used
    assert not {"extra/old.hdr", "extra/Thumbs.db"} & set(listed)


def test_an_importer_without_a_ledger_gets_one(tmp_path):
    tiny(tmp_path, "p1/T1.nii.gz", "p2/T1.nii.gz", "p2/lesion.nii.gz", "p1/T2.nii.gz")

    def find(request, options):
        scans = [FoundScan(p.parent.name, (p,), healthy=True) for p in sorted(request.source.glob("*/T1.nii.gz"))]
        return Found("x", ("T1",), scans)

    found = Importer("x", "X.", "", Found, find, has_healthy=True).read(Request(tmp_path, tmp_path / "m.json"), None)
    assert [scan.id for scan in found.scans] == ["p1"]
    assert set(reasons(found)) == {"p1/T2.nii.gz", "p2/lesion.nii.gz", "p2/T1.nii.gz", "p2"}
    assert "p2/lesion.nii.gz" in reasons(found)["p2"]


@pytest.mark.parametrize(
    ("name", "person"),
    [
        ("02_lesion.nii.gz", "02"),
        ("2_lesion.nii.gz", "02"),
        ("P2-Lesion.nii", "02"),
        ("masks/02.nii.gz", "02"),
        ("deep/er/02/mask.mgz", "02"),
        ("02_T1_ROI.nrrd", "02"),
        ("02_seg.img", "02"),
        ("02_wm_lesion_mask.nii.gz", "02"),
        ("02_brainmask.nii.gz", None),
        ("02_FLAIR.nii.gz", None),
        ("freesurfer/02/mri/aseg.mgz", None),
        ("12_lesion.nii.gz", None),
        ("template_mask.nii.gz", None),
        ("2_space-MNI152NLin6Asym_lesion.nii.gz", "02"),
        ("2/lesion.nii.gz", "02"),
        ("lesions_03/02_x.nii.gz", "02"),
        ("template_2mm_mask.nii.gz", None),
    ],
)
def test_who_is_healthy_beside_a_file(tmp_path, name, person):
    tiny(tmp_path, "01_T1.nii.gz", "02_T1.nii.gz", "03_T1.nii.gz")
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_bytes(b"x")
    found = find_folder(tmp_path, ["{id}_T1.nii.gz"], healthy=True)
    assert {"01", "02", "03"} - {scan.id for scan in found.scans} == ({person} if person else set())
    assert name in reasons(found)
    if person:
        assert name in reasons(found)["02"]
        assert "--label" in reasons(found)["02"]
        assert ("probably" in reasons(found)["02"]) == name.lower().startswith(("2", "p2"))
        assert [entry.what for entry in found.skipped if entry.sort == UNPAIRED] == ["02"]


def test_a_label_that_is_not_here_makes_nobody_healthy(tmp_path):
    tiny(tmp_path, "s/01.nii.gz", "s/02.nii.gz", "s/03.nii.gz", "t/01.nii.gz")
    (tmp_path / "t" / "02.nii.gz").symlink_to(tmp_path / "annex")
    (tmp_path / "t" / "3.nii.gz").write_bytes(b"x")
    found = find_folder(tmp_path, ["s/{id}.nii.gz"], label="t/{id}.nii.gz", healthy=True)
    assert [(scan.id, scan.kind) for scan in found.scans] == [("01", "lesion")]
    assert "link" in reasons(found)["t/02.nii.gz"]
    assert "without a scan" in reasons(found)["t/3.nii.gz"]


def test_without_healthy_nobody_is_skipped_and_a_file_of_nobody_is_noted(tmp_path):
    tiny(tmp_path, "01_T1.nii.gz", "02_T1.nii.gz", "02_lesion.nii.gz", "77_lesion.nii.gz")
    assert len(find_folder(tmp_path, ["{id}_T1.nii.gz"]).scans) == 2
    found = find_folder(tmp_path, ["{id}_T1.nii.gz"], healthy=True)
    assert any("77_lesion.nii.gz" in note for note in found.notes)


def test_words_of_anatomy_and_a_cohort_of_which_nobody_is_left(tmp_path):
    tiny(tmp_path, "01_T1.nii.gz", "02_T1.nii.gz", "01_mask.nii.gz", "02_mask.nii.gz")
    with pytest.raises(MedvaeError, match=r"nobody is left.*01_mask.nii.gz.*--mask.*--anatomy"):
        find_folder(tmp_path, ["{id}_T1.nii.gz"], healthy=True)
    assert len(find_folder(tmp_path, ["{id}_T1.nii.gz"], healthy=True, anatomy=["mask"]).scans) == 2
    assert len(find_folder(tmp_path, ["{id}_T1.nii.gz"], healthy=True, mask="{id}_mask.nii.gz").scans) == 2


def test_what_medvae_predicted_is_no_lesion_map(tmp_path):
    tiny(tmp_path, *(f"sub-{n}/anat/sub-{n}_T1w.nii.gz" for n in (1, 2)))
    tiny(tmp_path, "derivatives/medvae/sub-2/anat/sub-2_label-lesion_mask.nii.gz")
    about = tmp_path / "derivatives" / "medvae" / "dataset_description.json"
    about.write_text(json.dumps({"Name": "x", "GeneratedBy": [{"Name": "medvae"}]}))
    assert [scan.kind for scan in find_bids(tmp_path, healthy=True).scans] == ["healthy", "healthy"]


def test_healthy_people_with_freesurfer_and_fmriprep_stay_healthy(tmp_path):
    for n in ("01", "02"):
        tiny(tmp_path, f"sub-{n}/anat/sub-{n}_T1w.nii.gz")
        prep = f"derivatives/fmriprep/sub-{n}/anat/sub-{n}"
        tiny(tmp_path, *(f"{prep}_{end}.nii.gz" for end in ("dseg", "label-GM_probseg", "desc-aseg_dseg")))
        tiny(tmp_path, *(f"{prep}_{end}.nii.gz" for end in ("desc-brain_mask", "space-MNI_dseg", "desc-preproc_T1w")))
        mri = tmp_path / f"derivatives/sourcedata/freesurfer/sub-{n}/mri"
        mri.mkdir(parents=True)
        for name in ("aseg", "brainmask", "wm.seg", "aparc+aseg", "mask", "orig"):
            (mri / f"{name}.mgz").write_bytes(b"x")
    found = find_bids(tmp_path, healthy=True)
    assert [scan.kind for scan in found.scans] == ["healthy", "healthy"]
    assert all(scan.mask for scan in found.scans)


def test_thousands_of_skipped_files_are_shown_in_a_few_lines(tmp_path, monkeypatch, capsys):
    source = tmp_path / "d"
    tiny(source, *(f"{n:02}_T1.nii.gz" for n in range(1, 41)))
    for n in range(1, 41):
        os.link(source / "01_T1.nii.gz", source / f"{n:02}_T2.nii.gz")
    for n in range(1, 31):
        os.link(source / "01_T1.nii.gz", source / f"{n:02}_lesion.nii.gz")
    out = tmp_path / "m.json"
    assert run(monkeypatch, "folder", source, "--image", "{id}_T1.nii.gz", "--healthy", "--out", out) == 0
    shown = capsys.readouterr().out
    assert len(read_manifest(out).cases) == 10
    assert len(shown.splitlines()) < 60
    assert "01_T2.nii.gz" in shown
    assert "--label" in shown


def test_a_data_set_of_links_to_nothing_says_so(tmp_path):
    (tmp_path / "sub-1" / "anat").mkdir(parents=True)
    (tmp_path / "sub-1" / "anat" / "sub-1_T1w.nii.gz").symlink_to(tmp_path / "annex")
    with pytest.raises(MedvaeError, match=r"1 cannot be used, as sub-1/anat/sub-1_T1w.nii.gz: .*datalad get"):
        find_bids(tmp_path)


def test_a_folder_that_may_not_be_read_is_listed(tmp_path, monkeypatch):
    tiny(tmp_path, "01_T1.nii.gz", "lesions/01.nii.gz")
    walk = os.walk

    def guarded(top, onerror=None, **options):
        for folder, folders, names in walk(top, onerror=onerror, **options):
            if "lesions" in folders:
                folders.remove("lesions")
                onerror(PermissionError(13, "Permission denied", os.path.join(folder, "lesions")))
            yield folder, folders, names

    monkeypatch.setattr(os, "walk", guarded)
    monkeypatch.chdir(tmp_path.parent)
    with pytest.raises(MedvaeError, match="01 may have a lesion: lesions looks like a lesion map"):
        find_folder(Path(tmp_path.name), ["{id}_T1.nii.gz"], healthy=True)
    assert "Permission denied" in reasons(find_folder(tmp_path, ["{id}_T1.nii.gz"]))["lesions"]
