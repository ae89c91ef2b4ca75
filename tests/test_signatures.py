"""A file that is something else than its name says is called what it is, with what helps."""

import gzip
import io
import tarfile
import zipfile

import nibabel as nib
import numpy as np
import pytest

from medvae.errors import MedvaeError
from medvae.imaging.volume import read_volume
from medvae.importing.people import read_table
from medvae.manifest import read_manifest
from medvae.signatures import recognised

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
ANNEX = b"/annex/objects/SHA256E-s1234--abc.nii.gz\n"
PAGE = b"<!DOCTYPE html>\n<html><head><title>Sign in</title></head></html>"
DICOM = b"\0" * 128 + b"DICM\x02\0\0\0UL\x04\0\xc8\0\0\0"


def nifti() -> bytes:
    return nib.Nifti1Image(np.arange(60, dtype=np.int16).reshape(3, 4, 5), np.eye(4)).to_bytes()


def zipped(content: bytes = b"abc") -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("scan.nii", content)
    return stream.getvalue()


def tarred(content: bytes = b"abc") -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        member = tarfile.TarInfo("scan.nii")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


STRANGE = {
    "LFS": (LFS, "git lfs pull"),
    "annex": (ANNEX, "git annex get"),
    "annex link as text": (b"../../.git/annex/objects/xX/9q/MD5E-s1--a.nii.gz/MD5E-s1--a.nii.gz", "git annex get"),
    "page": (PAGE, "web page"),
    "page with blanks before it": (b"\xef\xbb\xbf\n\n  <html lang='en'>", "web page"),
    "XML error": (b"<?xml version='1.0'?>\n<Error><Code>AccessDenied</Code></Error>", "message of a server"),
    "DICOM": (DICOM, "dcm2niix"),
    "DICOM without preamble": (b"\x08\0\x05\0CS\x0a\0ISO_IR 100" + b"\0" * 200, "dcm2niix"),
    "DICOM, implicit": (b"\x08\0\x08\0\x16\0\0\0ORIGINAL\\PRIMARY\\M" + b"\0" * 200, "dcm2niix"),
    "zip": (zipped(), "unzip"),
    "tar": (tarred(), "tar -xf"),
    "tar.gz": (gzip.compress(tarred()), "tar -xf"),
    "bzip2": (b"BZh91AY&SY", "bunzip2"),
    "xz": (b"\xfd7zXZ\0\0\4", "unxz"),
    "npy": (b"\x93NUMPY\1\0", "Nifti1Image"),
    "MINC": (b"\x89HDF\r\n\x1a\n", "mnc2nii"),
    "picture": (b"\x89PNG\r\n\x1a\n", "picture"),
    "pair": (nifti()[:344] + b"ni1\0", "pair"),
    "empty": (b"", "empty"),
}


@pytest.mark.parametrize("kind", [*STRANGE, "JSON", "gzip twice"])
@pytest.mark.parametrize("name", ["scan.nii.gz", "scan.nii", "scan.mgz", "scan.nrrd", "scan.mha", "scan.dcm", "scan"])
def test_a_scan_that_is_something_else_is_called_what_it_is(tmp_path, kind, name):
    more = {
        "JSON": (b'{"message": "Not authorised", "status": 401}', "JSON"),
        "gzip twice": (gzip.compress(gzip.compress(nifti())), "twice"),
    }
    content, helps = (STRANGE | more)[kind]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(MedvaeError) as caught:
        read_volume(tmp_path / name)
    assert str(caught.value).startswith(f"{tmp_path / name}: ")
    assert helps in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", STRANGE)
def test_text_that_is_something_else_is_called_what_it_is(tmp_path, kind):
    content, helps = STRANGE[kind]
    for name, reader in (("cohort.json", read_manifest), ("people.tsv", read_table)):
        (tmp_path / name).write_bytes(content)
        if kind == "empty" and reader is read_table:
            assert reader(tmp_path / name) == []
            continue
        with pytest.raises(MedvaeError) as caught:
            reader(tmp_path / name)
        assert ("gunzip" if kind == "tar.gz" else helps) in str(caught.value)


def test_a_broken_link_names_what_fetches_its_content(tmp_path):
    link = tmp_path / "scan.nii.gz"
    link.symlink_to(".git/annex/objects/xX/9q/MD5E-s1--a.nii.gz/MD5E-s1--a.nii.gz")
    with pytest.raises(MedvaeError, match="git annex get"):
        read_volume(link)
    manifest = tmp_path / "cohort.json"
    manifest.symlink_to("elsewhere.json")
    with pytest.raises(MedvaeError, match=r"is a link to elsewhere\.json"):
        read_manifest(manifest)


@pytest.mark.parametrize("place", ["IM0001", "series/IM0001.dcm", "DICOMDIR"])
def test_a_folder_of_dicom_files_is_called_that(tmp_path, place):
    (tmp_path / place).parent.mkdir(exist_ok=True)
    (tmp_path / place).write_bytes(DICOM)
    with pytest.raises(MedvaeError, match=r"folder of DICOM files.*dcm2niix"):
        read_volume(tmp_path)


def test_other_folders_and_whole_scans_are_nothing_strange(tmp_path):
    (tmp_path / "scan.nii").write_bytes(nifti())
    assert recognised(tmp_path) is None
    assert recognised(tmp_path / "scan.nii") is None
    (tmp_path / "scan.nii.gz").write_bytes(gzip.compress(nifti()))
    assert recognised(tmp_path / "scan.nii.gz") is None
