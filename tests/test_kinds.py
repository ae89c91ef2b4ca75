"""The kind of a file is that of its content, and no header leads to a file of this machine."""

from __future__ import annotations

import gzip

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from medvae.errors import MedvaeError
from medvae.imaging.kinds import ending_by_content

ARRAY = np.arange(24, dtype=np.float32).reshape(2, 3, 4)


def written(folder, ending):
    path = folder / f"scan{ending}"
    if ending.startswith(".nii"):
        nib.save(nib.Nifti1Image(ARRAY, np.eye(4)), path)
    elif ending.startswith(".mg"):
        nib.save(nib.MGHImage(ARRAY, np.eye(4)), path)
    else:
        sitk.WriteImage(sitk.GetImageFromArray(ARRAY), str(path))
    return path


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".mgh", ".mgz", ".nrrd", ".mha"])
def test_each_format_is_known_under_any_name(tmp_path, ending):
    path = written(tmp_path, ending).rename(tmp_path / "x.png")
    assert ending_by_content(path) == ending


def test_nifti_2_is_known(tmp_path):
    nib.save(nib.Nifti2Image(ARRAY, np.eye(4)), tmp_path / "a.nii")
    assert ending_by_content(tmp_path / "a.nii") == ".nii"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x1f\x8b",
        gzip.compress(b"text", mtime=0),
        b"\x89PNG\r\n\x1a\n",
        b"PK\x03\x04",
        b"NDims",
        gzip.compress(b"NRRD0004\n\n", mtime=0),
    ],
)
def test_what_is_no_volume_has_no_ending(tmp_path, content):
    (tmp_path / "a").write_bytes(content)
    assert ending_by_content(tmp_path / "a") is None


@pytest.mark.parametrize("ending", [".nhdr", ".mhd"])
def test_a_header_of_another_file_is_refused(tmp_path, ending):
    with pytest.raises(MedvaeError, match="another file"):
        ending_by_content(written(tmp_path, ending))


META = b"ObjectType = Image\nNDims = 3\nDimSize = 2 3 4\nElementType = MET_FLOAT\n"


@pytest.mark.parametrize(
    "content",
    [
        b"NRRD0004\ntype: float\nDATA FILE: /etc/passwd\n\n",
        b"NRRD0004\ntype: float\rdatafile: /etc/passwd\n\n",
        b"NRRD0004\n" + b"# " + b"x" * 2**21 + b"\ndata file: /etc/passwd\n\n",
        META + b"ElementDataFile = /etc/passwd\n",
        META + b"ElementDataFile : /etc/passwd\n",
        META + b"ElementDataFile = LIST\n/etc/passwd\n",
        META + b"Comment = ElementDataFile = LOCAL\nElementDataFile = /etc/passwd\n",
        META + b"Comment = " + b"x" * 2**21 + b"\nElementDataFile = /etc/passwd\n",
    ],
)
def test_a_header_that_hides_the_name_of_another_file_is_refused(tmp_path, content):
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(MedvaeError, match="another file"):
        ending_by_content(tmp_path / "a")
