"""What a file really is, by its first bytes, when it is not what was expected: one table, for every reader.

Downloads and data sets go wrong in a few ways that look alike to a parser ("not valid"), and each has its own remedy.
"""

from __future__ import annotations

import itertools
import re
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

START = 1024
"""Bytes of a file that are looked at."""

GZIP = b"\x1f\x8b"

_MOST_LOOKED_AT = 32  # files of a folder
_WEB = "Download it again, in a browser if it asks for a login."
_TO_NIFTI = (
    "medvae predict takes the folder of the series as a SCAN; elsewhere, convert it to NIfTI first (dcm2niix -z y "
    "FOLDER) and give the .nii.gz file."
)


class Signature(NamedTuple):
    """How a kind of file begins, what it is called, and what a person can do with it."""

    begins: Callable[[bytes], object]
    what: str
    advice: str


def _bytes(*starts: bytes) -> Callable[[bytes], bool]:
    return lambda start: start.startswith(starts)


def _words(pattern: str) -> Callable[[bytes], object]:
    compiled = re.compile(rb"(\xef\xbb\xbf)?\s*" + pattern.encode(), re.IGNORECASE)
    return compiled.match


_EXPLICIT_VR = rb"[\x02\x08]\0..(UL|CS|UI|SH|LO|DA|TM|OB|IS)"
_IMPLICIT_VR = rb"\x08\0[\0\x01\x05\x08\x16]\0.\0\0\0"
_DICOM_WITHOUT_PREAMBLE = re.compile(_EXPLICIT_VR + b"|" + _IMPLICIT_VR, re.DOTALL)

SIGNATURES = (
    Signature(
        _words(r"version https://git-lfs\.github\.com/spec/"),
        "a Git LFS pointer that stands for the file",
        "Fetch the file itself: git lfs pull, in its repository.",
    ),
    Signature(
        _words(r"(\.\./|\.git/|/)*annex/objects/"),
        "a git-annex pointer that stands for the file",
        "Fetch the file itself: git annex get (or datalad get), in its data set.",
    ),
    Signature(
        lambda start: start[128:132] == b"DICM" or _DICOM_WITHOUT_PREAMBLE.match(start), "a DICOM file", _TO_NIFTI
    ),
    Signature(_words(r"(<!--.*?-->\s*)?<(!doctype\s+html|html|head|body)\b"), "a web page (HTML)", _WEB),
    Signature(_words(r"(<\?xml[^>]*>\s*)?<Error>"), "the error message of a server (XML)", _WEB),
    Signature(_words(r"<\?xml\b"), "an XML document", "Give the file itself, not its description."),
    Signature(_bytes(b"PK\x03\x04", b"PK\x05\x06"), "a zip archive", "Unpack it (unzip) and give the file inside."),
    Signature(lambda start: start[257:262] == b"ustar", "a tar archive", "Unpack it (tar -xf) and give a file of it."),
    Signature(_bytes(b"BZh"), "compressed with bzip2", "Unpack it (bunzip2) and give the file inside."),
    Signature(_bytes(b"\xfd7zXZ\0"), "compressed with xz", "Unpack it (unxz) and give the file inside."),
    Signature(_bytes(b"\x28\xb5\x2f\xfd"), "compressed with zstd", "Unpack it (unzstd) and give the file inside."),
    Signature(_bytes(b"7z\xbc\xaf\x27\x1c"), "a 7z archive", "Unpack it (7z x) and give the file inside."),
    Signature(_bytes(b"Rar!"), "a rar archive", "Unpack it (unrar) and give the file inside."),
    Signature(_bytes(b"\x93NUMPY"), "a NumPy array", "Save it as NIfTI with its affine (nibabel.Nifti1Image)."),
    Signature(
        _bytes(b"\x89HDF\r\n\x1a\n", b"CDF\x01", b"CDF\x02"),
        "an HDF5 or netCDF file (MINC, MATLAB)",
        "Convert it to NIfTI (mnc2nii, or mri_convert).",
    ),
    Signature(_bytes(b"MATLAB 5.0"), "a MATLAB file", "Save its array as NIfTI (niftiwrite)."),
    Signature(
        lambda start: start[344:348] == b"ni1\0",
        "the header of a NIfTI pair (.hdr and .img)",
        "Make one file of the two (fslchfiletype NIFTI_GZ, or nibabel.load and save).",
    ),
    Signature(
        _bytes(b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"II*\0", b"MM\0*", b"%PDF"),
        "a picture or a PDF",
        "Give the scan itself, not a picture of it.",
    ),
)
"""What other people's files turned out to be; the first that fits counts."""

_JSON = Signature(
    _words(r"[{\[]"), "text (JSON), perhaps the error message of a server", "Look into it, and download the file again."
)


def recognised(path: Path, *, text: bool = False) -> str | None:
    """What a file is and what helps, for an error that begins with its path; None if it is nothing known.

    Parameters
    ----------
    path
        A file, a folder or a link. What is compressed with gzip is looked into.
    text
        Whether text was expected: then JSON is nothing strange, and gzip is.
    """
    try:
        if path.is_dir():
            return _folder(path)
        with open(path, "rb") as stream:
            start = stream.read(START)
    except FileNotFoundError:
        return _broken_link(path)
    except (OSError, ValueError):  # a name with a zero byte
        return None
    return recognised_bytes(start, text=text)


def recognised_bytes(start: bytes, *, text: bool = False) -> str | None:
    """As `recognised`, of a file that begins with ``start``."""
    if not start:
        return "it is empty (0 bytes). Copy or download the file again."
    packed = ""
    if start.startswith(GZIP):
        if text:
            return "it is compressed with gzip; text was expected. Unpack it (gunzip)."
        start, packed = _unpacked(start), ", compressed with gzip"
        if start.startswith(GZIP):
            return "it is compressed with gzip twice. Unpack it once (gunzip)."
    for signature in SIGNATURES if text else (*SIGNATURES, _JSON):
        if signature.begins(start):
            return f"it is {signature.what}{packed}. {signature.advice}"
    return None


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM, with the usual preamble or without."""
    try:
        with open(path, "rb") as stream:
            start = stream.read(START)
    except (OSError, ValueError):  # a name with a zero byte
        return False
    return begins_as_dicom(start)


def begins_as_dicom(start: bytes) -> bool:
    """Whether a file that begins with ``start`` is DICOM."""
    return any(signature.what == "a DICOM file" and signature.begins(start) for signature in SIGNATURES)


def is_zip(path: Path) -> bool:
    """Whether a file is a zip archive, whatever its name."""
    try:
        with open(path, "rb") as stream:
            return stream.read(4) in (b"PK\x03\x04", b"PK\x05\x06")
    except (OSError, ValueError):
        return False


def _unpacked(start: bytes) -> bytes:
    """The first bytes of what gzip packed; fewer, or none, if it is damaged."""
    try:
        return zlib.decompressobj(wbits=31).decompress(start, START)
    except zlib.error:
        return b""


def _folder(path: Path) -> str | None:
    try:
        inside = list(itertools.islice(path.rglob("*"), _MOST_LOOKED_AT))
    except OSError:
        return None
    if any(file.name == "DICOMDIR" or (file.is_file() and is_dicom(file)) for file in inside):
        return f"is a folder of DICOM files. {_TO_NIFTI}"
    return None


def _broken_link(path: Path) -> str | None:
    if not path.is_symlink():
        return None
    target = path.readlink()
    if "annex/objects" in target.as_posix():
        return "is a link of git-annex without its content. Fetch it: git annex get (or datalad get), in its data set."
    return f"is a link to {target}, which does not exist. Check where the file lies."
