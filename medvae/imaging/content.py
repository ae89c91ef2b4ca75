"""The bytes of a volume file, unpacked within limits: as many as the header promises, and not before they are there.

A file of some kilobytes may promise terabytes, or unpack to them. Memory is asked for as bytes come, never because a
header says so.
"""

from __future__ import annotations

import io
import math
import re
import warnings
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from medvae.errors import MedvaeError, MedvaeWarning
from medvae.signatures import GZIP

MOST_VOXELS = 1024**3
"""Voxels of the largest volume that is read unless `allow_large` says otherwise: 4 GB in memory, and as much again for
each intermediate result. A head at 0.25 mm has a third of that."""

CHUNK = 2**20
"""Bytes that are unpacked at a time."""

_PACKED = 2**15
_DENSEST = 1032  # bytes that one byte of deflate can stand for, at most
_SMALL = 2**26  # bytes that may be asked for on a header's word

_LONGEST_LINE = 500  # characters of a line of a header

_large = False


def allow_large(allowed: bool = True) -> None:
    """Read volumes of more than `MOST_VOXELS` from now on, in this process; or refuse them again."""
    global _large
    _large = allowed


def large_allowed() -> bool:
    """What `allow_large` was last told, for processes that are started."""
    return _large


def require_size(path: Path, shape: Sequence[int]) -> None:
    """Refuse a volume of more than `MOST_VOXELS`.

    Raises
    ------
    MedvaeError
        If the header promises more, and `allow_large` was not called.
    """
    voxels = math.prod(map(int, shape))
    if voxels > MOST_VOXELS and not _large:
        raise MedvaeError(
            f"{path}: its header promises {' × '.join(map(str, shape))} voxels, more than 1024³. If it is not damaged "
            f"and {4 * voxels / 2**30:,.0f} GB fit into memory several times, add --allow-large; if it is, copy or "
            f"download it again."
        )


def decoded(path: Path, piece_bytes: int = CHUNK) -> Iterator[bytes]:
    """The bytes of a file in pieces of at most ``piece_bytes``, unpacked if they are gzip's, whatever its name.

    Bytes after the end of gzip are ignored with a `MedvaeWarning`, as gzip itself does.

    Raises
    ------
    EOFError, zlib.error
        If what is packed is cut off or damaged.
    """
    with open(path, "rb") as stream:
        data = stream.read(_PACKED)
        if not data.startswith(GZIP):
            while data:
                yield data
                data = stream.read(piece_bytes)
            return
        zeros = 0
        while data.startswith(GZIP):  # gzip may consist of several members
            unpack = zlib.decompressobj(wbits=31)
            while not unpack.eof:
                data = data or stream.read(_PACKED)
                piece = unpack.decompress(data, piece_bytes)
                if not (piece or data or unpack.eof):
                    raise EOFError("what is packed ends before its end mark")
                data = unpack.unconsumed_tail
                if piece:
                    yield piece
            data, zeros = _after_zeros(unpack.unused_data, stream)
        extra = zeros + len(data) + path.stat().st_size - stream.tell()
        if extra:
            warnings.warn(
                f"{path}: {extra:,} bytes after the end of gzip are ignored; all that was packed is there.",
                MedvaeWarning,
                stacklevel=2,
            )


def _after_zeros(data: bytes, stream: io.BufferedReader) -> tuple[bytes, int]:
    """What follows a member of gzip, without the zeros before it, and their number."""
    zeros = 0
    while True:
        rest = data.lstrip(b"\0")
        zeros += len(data) - len(rest)
        if len(rest) >= len(GZIP) or not (more := stream.read(_PACKED)):
            return rest, zeros
        data = rest + more


def read_start(path: Path, count: int) -> bytes:
    """The first ``count`` bytes of `decoded`, or fewer; what is wrong after them is told where all of it is read."""
    found = b""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MedvaeWarning)
        try:
            for piece in decoded(path, count):
                found += piece
                if len(found) >= count:
                    break
        except (EOFError, zlib.error):
            if not found:
                raise
    return found[:count]


def read_content(path: Path, wanted: int, *, notes_follow: bool) -> io.BytesIO:
    """The first ``wanted`` bytes of `decoded`; the rest is unpacked to its end, where gzip tells whether all is right.

    Parameters
    ----------
    path
        The file.
    wanted
        Bytes of header and voxels.
    notes_follow
        Whether the format allows more after them; else that is told by a `MedvaeWarning`.

    Raises
    ------
    EOFError
        If there are fewer.
    ValueError
        If there are far more.
    zlib.error
        If they are damaged.
    """
    size = path.stat().st_size
    with open(path, "rb") as stream:
        packed = stream.read(2) == GZIP
    _require_possible(size, wanted, packed=packed)
    content, extra = io.BytesIO(), 0
    for piece in decoded(path):
        missing = wanted - content.tell()
        content.write(piece[:missing] if missing < len(piece) else piece)
        extra += max(0, len(piece) - missing)
        if not packed and extra:
            extra = size - wanted
            break
        if extra > max(wanted, _SMALL):
            raise ValueError(f"it unpacks to more than twice the {wanted:,} bytes that its header promises")
    if (found := content.tell()) < wanted:
        raise EOFError(f"{found:,} of {wanted:,} bytes are there")
    if extra and not notes_follow:
        warnings.warn(
            f"{path}: {extra:,} bytes after the last voxel are ignored; its header does not speak of them.",
            MedvaeWarning,
            stacklevel=2,
        )
    return content


def require_itk_header(path: Path) -> None:
    """Refuse a MetaImage or NRRD file with a header that no program writes, on which ITK crashes.

    Raises
    ------
    ValueError
        If there is one.
    """
    with open(path, "rb") as stream:
        head = stream.read(CHUNK)
    is_nrrd = head.startswith(b"NRRD")
    end = re.search(rb"\r?\n\r?\n" if is_nrrd else rb"ElementDataFile[ \t]*=[ \t]*[\w%./\\][^\n]*", head)
    if not (is_nrrd or end):
        raise ValueError("its header has no ElementDataFile")
    for number, line in enumerate(head[: end.end() if end else None].split(b"\n"), start=1):
        note = line.startswith(b"#") or b":=" in line  # notes of NRRD may be of any length
        if len(line) > _LONGEST_LINE and not note:
            raise ValueError(f"line {number} of its header has {len(line):,} characters")
        axes = re.match(rb"\s*NDims\s*=(.*)", line)
        if axes and not re.fullmatch(rb"\s*[1-9]\s*", axes[1]):
            raise ValueError(
                f"its NDims is {axes[1].decode('latin-1').strip()[:50]}, a number from 1 to 9 was expected"
            )


def require_itk_content(path: Path, wanted: int) -> None:
    """Refuse a MetaImage or NRRD file that holds fewer than ``wanted`` bytes of voxels: ITK asks for memory first.

    Small volumes are left to ITK, as are lists of files.

    Raises
    ------
    EOFError, zlib.error
        If there are fewer, or they are damaged.
    """
    if wanted <= _SMALL:
        return
    place = _itk_voxels(path)
    if place is None:
        return
    file, start, encoding = place
    size = file.stat().st_size - start
    if encoding in ("ascii", "text", "txt"):
        _require_possible(size * 4, wanted, packed=False)  # a digit and a blank are a value of at most eight bytes
    elif encoding in ("gzip", "gz"):
        _require_possible(size, wanted, packed=True)
        found = _unpacked_bytes(file, start, wanted)
        if found < wanted:
            raise EOFError(f"{found:,} of {wanted:,} bytes of voxels are there")
    elif encoding in ("raw", "hex"):
        _require_possible(size, wanted, packed=False)


def _require_possible(size: int, wanted: int, *, packed: bool) -> None:
    most = size * _DENSEST if packed else size
    if wanted > most:
        raise EOFError(f"{size:,} bytes{' of gzip' if packed else ''} cannot hold the {wanted:,} that are due")


def _unpacked_bytes(file: Path, start: int, most: int) -> int:
    """How many bytes deflate's data unpack to, counted up to ``most``."""
    unpack, found = zlib.decompressobj(wbits=47), 0  # gzip's or zlib's frame
    with open(file, "rb") as stream:
        stream.seek(start)
        while found < most and not unpack.eof:
            data = unpack.unconsumed_tail or stream.read(_PACKED)
            piece = unpack.decompress(data, CHUNK)
            if not (piece or data):
                break
            found += len(piece)
    return found


def _itk_voxels(path: Path) -> tuple[Path, int, str] | None:
    """File, first byte and encoding of the voxels of a MetaImage or NRRD file; None for a list of files."""
    with open(path, "rb") as stream:
        head = stream.read(CHUNK)
    if head.startswith(b"NRRD"):
        end = re.search(rb"\r?\n\r?\n", head)
        fields = _fields(head[: end.start()] if end else head, ":")
        detached = fields.get("data file", fields.get("datafile"))
        encoding, start = fields.get("encoding", "raw").lower(), end.end() if end else len(head)
    else:
        end = re.search(rb"ElementDataFile[ \t]*=[^\n]*\n?", head)
        fields = _fields(head[: end.end()] if end else head, "=")
        detached = fields.get("elementdatafile", "local")
        detached = None if detached.lower() == "local" else detached
        packed, ascii_ = (fields.get(name, "false").lower() == "true" for name in ("compresseddata", "binarydata"))
        encoding, start = "gzip" if packed else "raw", end.end() if end else len(head)
        if "binarydata" in fields and not ascii_:
            encoding = "ascii"
    if detached is None:
        return path, start, encoding
    file = path.parent / detached
    return (file, 0, encoding) if "%" not in detached and file.is_file() else None


def _fields(head: bytes, separator: str) -> dict[str, str]:
    lines = (line.partition(separator) for line in head.decode("latin-1").splitlines() if not line.startswith("#"))
    return {key.strip().lower(): value.strip() for key, _, value in lines}
