"""``medvae predict`` of DICOM: overlays on the series, a segmentation that refers to it, nobody's name elsewhere."""

import gzip
import io
import json
import shutil
import zipfile
from pathlib import Path

import highdicom
import nibabel as nib
import numpy as np
import pydicom
import pytest
from typer.testing import CliRunner

from medvae.cli import app
from medvae.config import Config
from medvae.dicom.segmentation import Algorithm, segmentation_bytes, segmentation_points
from medvae.dicom.series import Series
from medvae.dicom.study import read_study
from medvae.errors import MedvaeError
from medvae.fitting import fit
from medvae.imaging.volume import Geometry, read_volume, write_volume
from tests.dicom_files import BORN, PATIENT, PATIENT_ID, enhanced_mr, localiser, mr_slices, save
from tests.test_dicom import AFFINE, ARRAY, GEOMETRIES

NORMATIVE = {
    "name": "normative",
    "network": None,
    "score": {"kind": "intensity", "polarity": "dark", "smoothing_mm": 2, "normative": True},
}
NAMES = [PATIENT.encode(), b"ROE^JOHN", PATIENT_ID.encode(), BORN.encode(), b"A17"]
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


@pytest.fixture(scope="module")
def run(cohort, tmp_path_factory, prepared) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "normative"
    fit(Config.model_validate(NORMATIVE), cohort, folder, cache=prepared, quiet=True)
    return folder


@pytest.fixture(scope="module")
def sagittal(cohort) -> tuple[np.ndarray, np.ndarray]:
    """The scan with the lesion, as a sagittal series has it: array and affine."""
    scan = nib.load(cohort.images(cohort.case("sub07"))[0])
    orientation = nib.orientations
    to = orientation.axcodes2ornt(tuple("PIR"))
    turned = scan.as_reoriented(orientation.ornt_transform(orientation.io_orientation(scan.affine), to))
    return np.asanyarray(turned.dataobj).astype(np.uint16) * 8, turned.affine


@pytest.fixture(scope="module")
def study(sagittal, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("studies") / "case 12"
    save(mr_slices(*sagittal), folder / "T1")
    save(localiser(), folder)
    (folder / "report.txt").write_text("nothing")
    return folder


def predict(*arguments: object, code: int = 0) -> str:
    """What the command prints, with the error that ends it."""
    result = CliRunner().invoke(app, ["predict", *map(str, arguments)])
    assert result.exit_code == code, result.output
    assert isinstance(result.exception, SystemExit | MedvaeError | None)
    return f"{result.output}\n{result.exception}"


@pytest.fixture(scope="module")
def out(run, study, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("predicted") / "out"
    predict(run, study, "--out", folder, "--dicom-seg")
    return folder


def test_a_folder_gives_the_maps_that_its_volume_as_nifti_gives(out, run, sagittal, tmp_path):
    array, affine = sagittal
    write_volume(tmp_path / "case_12.nii.gz", array, Geometry(affine, array.shape))
    predict(run, tmp_path / "case_12.nii.gz", "--out", tmp_path / "out", "--no-pictures", "--no-workspaces")
    for name in ("case_12_desc-anomaly_probseg.nii.gz", "case_12_label-lesion_mask.nii.gz"):
        mine, theirs = read_volume(out / name), read_volume(tmp_path / "out" / name)
        back = np.linalg.inv(theirs.geometry.affine) @ mine.geometry.affine
        index = np.argwhere(mine.array > 0)
        there = np.rint(index @ back[:3, :3].T + back[:3, 3]).astype(int)
        assert len(index) == (theirs.array > 0).sum() > 50
        np.testing.assert_allclose(mine.array[tuple(index.T)], theirs.array[tuple(there.T)], atol=1e-4)


def test_the_sidecar_and_viewers_name_the_converted_scan(out):
    sidecar = json.loads((out / "case_12_label-lesion_mask.json").read_text())
    assert sidecar["SpatialReference"] == "converted/case_12.nii.gz"
    assert sidecar["Modalities"] == ["T1"]
    assert (out / "case_12.itksnap").is_file()
    assert (out / "case_12.png").is_file()
    converted = json.loads((out / "converted" / "case_12.json").read_text())
    assert converted["Sha256"] == sidecar["SourcesSha256"][0]


def test_the_same_command_computes_nothing_again_and_makes_the_same_object(out, run, study):
    maps = out / "case_12_desc-anomaly_probseg.nii.gz"
    before = maps.stat().st_mtime_ns
    name = pydicom.dcmread(out / "case_12_label-lesion_mask.dcm").SOPInstanceUID
    (out / "converted" / "case_12.nii.gz").unlink()  # somebody makes room
    predict(run, study, "--out", out, "--dicom-seg")
    assert maps.stat().st_mtime_ns == before
    assert pydicom.dcmread(out / "case_12_label-lesion_mask.dcm").SOPInstanceUID == name


def test_nobodys_name_is_written_but_in_the_segmentation(out):
    for path in (path for path in out.rglob("*") if path.is_file()):
        content = path.read_bytes()
        content += gzip.decompress(content) if content[:2] == b"\x1f\x8b" else b""
        found = [name for name in NAMES if name in content or name.decode() in str(path)]
        assert found == (NAMES if path.suffix == ".dcm" else []), path


def test_the_segmentation_marks_the_points_of_the_mask_and_says_what_made_it(out, study):
    segmentation = highdicom.seg.segread(out / "case_12_label-lesion_mask.dcm")
    mask = nib.load(out / "case_12_label-lesion_mask.nii.gz")
    marked = np.argwhere(np.asanyarray(mask.dataobj) > 0)
    points = marked @ (LPS @ mask.affine)[:3, :3].T + (LPS @ mask.affine)[:3, 3]
    found = segmentation_points((out / "case_12_label-lesion_mask.dcm").read_bytes())
    np.testing.assert_allclose(*(np.array(sorted(map(tuple, np.round(p, 2)))) for p in (found, points)), atol=0.02)
    (segment,) = segmentation.SegmentSequence
    assert (segment.SegmentLabel, segment.SegmentAlgorithmType) == ("Lesion", "AUTOMATIC")
    assert segment.SegmentedPropertyTypeCodeSequence[0].CodeValue == "52988006"
    assert segment.SegmentAlgorithmName == "medvae normative"
    source = pydicom.dcmread(next((study / "T1").iterdir()))
    assert segmentation.PatientID == PATIENT_ID
    assert segmentation.StudyInstanceUID == source.StudyInstanceUID
    assert segmentation.FrameOfReferenceUID == source.FrameOfReferenceUID
    (referred,) = segmentation.ReferencedSeriesSequence
    assert referred.SeriesInstanceUID == source.SeriesInstanceUID
    assert len(referred.ReferencedInstanceSequence) == len(list((study / "T1").iterdir()))


ALGORITHM = Algorithm("t1-2mm", "0.1.0", "f" * 40, "voxel_rate_0.001")


def series_in(folder: Path) -> Series:
    (series,) = read_study(folder, folder, quiet=True).series
    return series


@pytest.mark.parametrize("many", [False, True], ids=["single-frame", "enhanced"])
@pytest.mark.parametrize("name", GEOMETRIES)
def test_a_segmentation_lies_on_its_series_whatever_the_geometry(tmp_path, name, many):
    affine = GEOMETRIES[name]
    save(enhanced_mr(ARRAY, affine) if many else mr_slices(ARRAY, affine), tmp_path)
    series = series_in(tmp_path)
    mask = np.zeros(ARRAY.shape, bool)
    mask[3:7, 5, 10], mask[20, 18, 25:28] = True, True
    if np.dot(affine[:3, 2], series.geometry.affine[:3, 2]) < 0:
        mask = mask[:, :, ::-1]
    marked = np.argwhere(mask)
    points = marked @ (LPS @ series.geometry.affine)[:3, :3].T + (LPS @ series.geometry.affine)[:3, 3]
    found = segmentation_points(segmentation_bytes(mask, series, ALGORITHM))
    np.testing.assert_allclose(*(np.array(sorted(map(tuple, np.round(p, 2)))) for p in (found, points)), atol=0.02)


def test_a_segmentation_of_nothing_and_of_a_series_without_names(tmp_path):
    files = mr_slices(ARRAY, AFFINE)
    for data in files:
        for name in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID"):
            delattr(data, name)
    save(files, tmp_path)
    content = segmentation_bytes(np.zeros(ARRAY.shape, bool), series_in(tmp_path), ALGORITHM)
    assert len(segmentation_points(content)) == 0
    assert pydicom.dcmread(io.BytesIO(content)).PatientName in ("", None)


def test_a_zip_and_a_file_of_many_frames_are_scans_too(run, study, sagittal, tmp_path):
    with zipfile.ZipFile(tmp_path / "p13.zip", "w") as packed:
        for path in (study / "T1").iterdir():
            packed.write(path, f"../{path.name}")
    (one,) = save(enhanced_mr(*sagittal), tmp_path / "p14")
    given = (tmp_path / "p13.zip", one.rename(tmp_path / "p14.dcm"))
    out = tmp_path / "out"
    predict(run, *given, "--out", out, "--no-pictures", "--no-workspaces", "--dicom-seg", "--jobs", 1)
    masks = [np.asanyarray(nib.load(out / f"{name}_label-lesion_mask.nii.gz").dataobj) for name in ("p13", "p14")]
    np.testing.assert_array_equal(*masks)
    points = [segmentation_points((out / f"{name}_label-lesion_mask.dcm").read_bytes()) for name in ("p13", "p14")]
    np.testing.assert_allclose(*points)
    assert not [path for path in out.iterdir() if path.name.startswith(".")]  # what was unpacked is gone


def test_one_bad_study_stops_no_other(run, study, tmp_path):
    (tmp_path / "empty").mkdir()
    out = tmp_path / "out"
    result = predict(run, tmp_path / "empty", study, "--out", out, "--no-pictures", "--no-workspaces", code=1)
    assert "holds no DICOM file" in result
    assert "1 of 2 scans failed" in result
    assert "holds no DICOM file" in json.loads((out / "failures.json").read_text())["empty"]
    assert (out / "case_12_label-lesion_mask.nii.gz").is_file()


def test_another_study_of_the_same_name_is_not_written_over(out, run, sagittal, tmp_path):
    array, affine = sagittal
    save(mr_slices(array + 1, affine, number=9), tmp_path / "case 12")
    before = {path: path.read_bytes() for path in out.glob("case_12*")}
    result = predict(run, tmp_path / "case 12", "--out", out, code=1)
    assert "was made from another series" in result
    assert {path: path.read_bytes() for path in out.glob("case_12*")} == before


def test_a_series_of_another_sequence_is_taken_only_if_it_is_named(run, sagittal, tmp_path):
    save(mr_slices(*sagittal, number=5, description="t2_flair"), tmp_path / "p")
    result = predict(run, tmp_path / "p", "--out", tmp_path / "a", code=1)
    assert "holds no series that is a 3D MR scan of T1" in result
    assert "(FLAIR by its description)" in result
    predict(run, tmp_path / "p", "--series", 5, "--out", tmp_path / "b", "--no-pictures", "--no-workspaces")


def test_auto_goes_by_the_description(sagittal, tmp_path):
    save(mr_slices(*sagittal, number=5, description="t2_flair"), tmp_path / "p")
    result = predict("auto", tmp_path / "p", "--out", tmp_path / "a", "--no-pictures", "--no-workspaces")
    assert 'detector: flair-2mm, for FLAIR by the description of its series "t2_flair"' in result
    save(mr_slices(*sagittal, number=6, description="t1_mprage"), tmp_path / "p")
    result = predict("auto", tmp_path / "p", "--out", tmp_path / "b", code=1)
    assert "2 series fit" in result
    shutil.rmtree(tmp_path / "p")
    save(mr_slices(*sagittal, number=5, description="head"), tmp_path / "p")
    result = predict("auto", tmp_path / "p", "--out", tmp_path / "c", code=1)
    assert "names no sequence that there is a detector for" in result


def test_options_that_do_not_fit_are_refused_before_anything_is_computed(run, study, cohort, tmp_path):
    scan = cohort.images(cohort.case("sub07"))[0]
    result = predict(run, scan, "--dicom-seg", "--out", tmp_path / "out", code=1)
    assert "is not DICOM, and a DICOM segmentation refers to the series" in result
    predict(run, scan, "--series", 3, "--out", tmp_path / "out", code=2)
    predict(run, study, study, "--series", 3, "--out", tmp_path / "out", code=2)
    assert not (tmp_path / "out").exists()


def test_without_the_extra_a_sentence_names_it(run, study, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *_: None)
    result = predict(run, study, "--dicom-seg", "--out", tmp_path / "out", code=1)
    assert 'pip install "medvae-anomaly[dicom]"' in result
    assert not (tmp_path / "out").exists()


def test_without_pydicom_a_file_of_many_frames_is_listed_with_what_it_needs(sagittal, run, tmp_path, monkeypatch):
    save(enhanced_mr(*sagittal), tmp_path / "p")
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *_: None)
    result = predict(run, tmp_path / "p", "--out", tmp_path / "out", code=1)
    assert 'of many frames, whose places pydicom reads: pip install "medvae-anomaly[dicom]"' in result
