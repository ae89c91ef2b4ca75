"""A scan that comes over the wire: streamed to the disk within limits, and called by what it is.

The name that a browser gives is shown and never used as a path: the file is called by the letters and digits of it,
which are harmless everywhere, with the ending of what it holds.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import AsyncIterator
from pathlib import Path, PurePosixPath

from starlette.concurrency import run_in_threadpool

from medvae.app.history import ENTRY, SCANS, STUDIES, Entry, History, now
from medvae.dicom.study import is_study
from medvae.errors import MedvaeError
from medvae.files import told, whole_folder, write_json
from medvae.imaging.endings import ITK_ENDINGS, scan_name
from medvae.imaging.formats import open_scan
from medvae.imaging.kinds import ending_by_content
from medvae.signatures import is_zip

_LONGEST = 100  # bytes of a file's name; what predict adds to it stays below the 255 that file systems have
_LONGEST_SHOWN = 200
_NO_FILE_OF_WINDOWS = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)$", re.IGNORECASE)


class TooLarge(MedvaeError):
    """A file of more bytes than are taken."""

    def __init__(self, name: str, most: int) -> None:
        super().__init__(
            f"{name}: has more than {most / 1e6:,.0f} MB, which is the limit. Start medvae app with a larger "
            f"--limit-mb, or predict it with medvae predict."
        )


def shown_name(name: str) -> str:
    """The last part of a name as a browser gives it, on one line; "scan" if nothing is left."""
    last = PurePosixPath(name.replace("\\", "/")).name
    shown = re.sub(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", "", last)
    half = _LONGEST_SHOWN // 2  # the end says what it is
    return (shown if len(shown) <= _LONGEST_SHOWN else f"{shown[:half]}…{shown[-half:]}") or "scan"


def harmless_stem(name: str) -> str:
    """A file name without its ending, of letters, digits, ``-`` and ``_``: its end, if it is long."""
    stem = scan_name(shown_name(name))
    stem = stem[:-4] if stem.lower().endswith(STUDIES) else stem
    stem = re.sub(r"[^\w-]", "_", stem).encode()[-_LONGEST:].decode(errors="ignore").lstrip("-")
    if not stem.strip("_"):
        return "scan"
    return f"scan-{stem}" if _NO_FILE_OF_WINDOWS.match(stem) else stem


async def receive(
    pieces: AsyncIterator[bytes], history: History, *, name: str, detector: str, at: str, most: int
) -> Entry:
    """Put a scan into the history, queued: all of it or nothing.

    Parameters
    ----------
    pieces
        Its bytes.
    history
        Where it goes.
    name
        Of the file, as its owner calls it.
    detector, at
        What it is to be predicted with; see `medvae.app.history.Entry`.
    most
        Bytes that are taken.

    Raises
    ------
    TooLarge
        If there are more.
    MedvaeError
        If it is no volume, or the disk is full.
    """
    name = shown_name(name)
    id = secrets.token_hex(8)
    folder = history.folder / SCANS / id
    with whole_folder(folder, replace=False) as temporary:
        os.chmod(temporary, 0o700)
        file, size = temporary / "received", 0
        with told(folder), open(file, "xb") as stream:
            async for piece in pieces:
                size += len(piece)
                if size > most:
                    raise TooLarge(name, most)
                await run_in_threadpool(stream.write, piece)
        scan = await run_in_threadpool(_called_by_content, file, name)
        entry = Entry(
            id=id, name=name, file=scan.name, size=size, received=now(), detector=detector, at=at
        )  # fmt: skip
        write_json(temporary / ENTRY, entry.model_dump(mode="json"))
    history.add(entry)
    return entry


def _called_by_content(file: Path, name: str) -> Path:
    """The file under a name of its own with the ending of its kind."""
    try:
        zipped = is_zip(file)
        ending = (".zip" if zipped else ".dcm") if is_study(file) else ending_by_content(file)
        scan = file.with_name(harmless_stem(name) + (ending or ".nii"))
        os.rename(file, scan)
        if ending not in (*ITK_ENDINGS, *STUDIES):  # the other process opens those: ITK is not made for strangers
            file = scan
            open_scan(scan)
    except MedvaeError as error:
        raise MedvaeError(str(error).replace(str(file), name)) from None
    return scan
