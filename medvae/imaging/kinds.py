"""The kind of a volume file by its content, for files whose names say nothing or cannot be trusted."""

from __future__ import annotations

import re
import zlib
from pathlib import Path

from medvae.errors import MedvaeError
from medvae.imaging.content import CHUNK, read_start
from medvae.signatures import GZIP

_NIFTI_2 = 540  # bytes of its header, the longest
_END_OF_NRRD = re.compile(rb"\r?\n\r?\n")
_OTHER_FILE_OF_NRRD = re.compile(rb"(?:\A|[\r\n])[ \t]*data ?file[ \t]*:", re.IGNORECASE)
_VOXELS_OF_META = b"ElementDataFile"
_WITHIN_META = re.compile(_VOXELS_OF_META + rb"[ \t]*=[ \t]*LOCAL[ \t]*\r?\n", re.IGNORECASE)


def ending_by_content(path: Path) -> str | None:
    """The ending that the file's name should have, one of `medvae.imaging.endings.ENDINGS`; None if it is no volume.

    Raises
    ------
    MedvaeError
        If it is a MetaImage or NRRD file that does not clearly hold its voxels itself: such a header may name any file
        of this machine.
    """
    with open(path, "rb") as stream:
        head = stream.read(CHUNK)
    try:
        start = read_start(path, _NIFTI_2)
    except (EOFError, zlib.error):
        return None
    packed = head.startswith(GZIP)
    if start[344:348] == b"n+1\0" or start[4:8] == b"n+2\0":
        return ".nii.gz" if packed else ".nii"
    if start[:4] == b"\0\0\0\1":
        return ".mgz" if packed else ".mgh"
    if start.startswith(b"NRRD") and not packed:
        end = _END_OF_NRRD.search(head)
        whole, ending = end is not None and not _OTHER_FILE_OF_NRRD.search(head, 0, end.start()), ".nrrd"
    elif b"NDims" in start and b"ObjectType" in start and not packed:
        at = head.find(_VOXELS_OF_META)
        whole, ending = head[at - 1 : at] == b"\n" and _WITHIN_META.match(head, at) is not None, ".mha"
    else:
        return None
    if not whole:
        raise MedvaeError(
            f"{path}: is a header whose voxels lie in another file. Save both as one file (.nii.gz, .nrrd or .mha)."
        )
    return ending
