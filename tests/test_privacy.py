"""A patient's name in the header of a scan or label is in no file that is written for it."""

import base64
import gzip
import re
import struct
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from typer.testing import CliRunner

from medvae.cli import app
from medvae.config import Config
from medvae.fitting import fit
from medvae.imaging.volume import Geometry, read_volume, write_volume
from medvae.manifest import Case, Manifest, write_manifest
from medvae.preparation.itk import to_image
from tests.conftest import STANDARD_GRID

NAME = b"DOE^JANE"
FORMATS = {"one": ".nii.gz", "two": ".nii.gz", "nrrd": ".nrrd", "meta": ".mha", "mgh": ".mgh"}
NORMATIVE = {
    "name": "normative",
    "network": None,
    "score": {"kind": "intensity", "polarity": "dark", "smoothing_mm": 2, "normative": True},
}


def named_nifti(path: Path, array: np.ndarray, geometry: Geometry, *, version: int = 1) -> Path:
    """NIfTI with the name in every field that holds text, and in an extension."""
    image = (nib.Nifti1Image if version == 1 else nib.Nifti2Image)(array, geometry.affine)
    texts = ["descrip", "aux_file", "intent_name"] + ["data_type", "db_name"] * (version == 1)
    for key in texts:
        image.header[key] = NAME
    for code in ("comment", "dicom"):
        image.header.extensions.append(nib.nifti1.Nifti1Extension(code, NAME * 4))
    nib.save(image, path)
    return path


def named(folder: Path, kind: str, array: np.ndarray, geometry: Geometry) -> Path:
    path = folder / f"{kind}{FORMATS[kind]}"
    if kind in ("one", "two"):
        return named_nifti(path, array, geometry, version=1 if kind == "one" else 2)
    if kind == "mgh":
        nib.save(nib.MGHImage(array, geometry.affine), path)
        tag = struct.pack(">i q", 3, len(NAME) + 1) + NAME + b"\0"  # a command line, as FreeSurfer appends it
        path.write_bytes(path.read_bytes() + tag)
        return path
    image = to_image(array, geometry)
    for key in ("PatientName", "0010|0010", "Comment", "Name"):
        image.SetMetaData(key, NAME.decode())
    sitk.WriteImage(image, str(path))
    return path


def contents(path: Path) -> list[bytes]:
    """A file as it is, and unpacked: gzip, the voxels of an NRRD, headers and volumes in base64."""
    found = path.read_bytes()
    texts = re.findall(rb"[A-Za-z0-9+/]{300,}", found)
    parts = [base64.b64decode(text + b"=" * (-len(text) % 4)) for text in texts]
    packed = [part for part in (found, found.split(b"\n\n", 1)[-1], *parts) if part[:3] == b"\x1f\x8b\x08"]
    return [found, *parts, *map(gzip.decompress, packed)]


@pytest.fixture(scope="module")
def written(cohort, tmp_path_factory, prepared) -> Path:
    """All that predict, evaluate, figure and report write for one scan of each format."""
    folder = tmp_path_factory.mktemp("written")
    scans, out = folder / "scans", folder / "out"
    scans.mkdir()
    fit(Config.model_validate(NORMATIVE), cohort, folder / "run", cache=prepared, quiet=True)
    ill = cohort.case("sub07")
    array = read_volume(cohort.images(ill)[0]).array.astype(np.uint8)
    lesion = read_volume(cohort.resolve(ill.label)).array.astype(np.uint8)
    label = named_nifti(scans / "label.nii.gz", lesion, STANDARD_GRID).name
    cases = [
        Case(id=kind, image=named(scans, kind, array, STANDARD_GRID).name, label=label, split="test")
        for kind in FORMATS
    ]
    manifest = write_manifest(Manifest(name="small", modality={"0": "T1"}, cases=cases), scans / "cohort.json")
    everywhere = ["--manifest", manifest]
    predict = ["predict", folder / "run", *everywhere, "--out", out / "maps", "--bids", out / "bids", "-q"]
    for command in (
        [*predict, "--cache", out / "cache"],
        ["evaluate", out / "maps", *everywhere, "--out", out / "evaluation", "-q"],
        ["report", out / "maps", *everywhere, "--out", out / "report", "-q"],
        ["figure", out / "maps", *everywhere, "--out", out / "figure.png"],
    ):
        result = CliRunner().invoke(app, [str(word) for word in command], catch_exceptions=False)
        assert result.exit_code == 0, result.output
    return folder


def test_the_name_is_in_the_scans_and_in_nothing_that_is_written(written):
    files = {path: contents(path) for path in written.rglob("*") if path.is_file()}
    with_name = {path for path, found in files.items() if any(NAME in content for content in found)}
    scans = {path for path in (written / "scans").iterdir() if path.name != "cohort.json"}
    assert with_name == scans
    assert len(files) > 60
    endings = {"".join(path.suffixes[-2:]) for path in files}
    assert {".nii.gz", ".seg.nrrd", ".itksnap", ".txt", ".png", ".json", ".html", ".js", ".csv", ".md"} <= endings


def test_no_file_but_logs_of_the_run_holds_the_folder_it_was_made_in(written):
    folder = str(written).encode()
    assert [path for path in (written / "out").rglob("*") if path.is_file() and folder in path.read_bytes()] == []


def test_a_volume_written_like_a_scan_keeps_its_place_only(tmp_path):
    scan = read_volume(named(tmp_path, "one", np.ones((4, 5, 6), np.uint8), Geometry(np.eye(4), (4, 5, 6))))
    found = nib.load(write_volume(tmp_path / "map.nii.gz", scan.array, scan, intent="map"))
    assert found.header["descrip"] == b"medvae"
    assert found.header["intent_name"] == b"map"
    assert found.header.extensions == []
    blank = nib.Nifti1Header()
    for key in ("aux_file", "db_name", "data_type", "intent_code", "cal_max", "toffset", "slice_code", "dim_info"):
        assert found.header[key] == blank[key]
