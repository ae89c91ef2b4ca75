"""What can be saved of the page: the files of a scan, archives of them, and one table of all scans."""

from __future__ import annotations

import contextlib
import io
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from medvae.app.history import PREDICTIONS, STUDIES, Entry, History
from medvae.derivatives import CONVERTED, FINDINGS_TABLE, LESIONS_TABLE, MAP_SUFFIX, MASK_SUFFIX, VIEWERS
from medvae.parsing import read_rows

_PIECE = 2**20
FILES = {
    "map": ("anomaly map", "{stem}" + MAP_SUFFIX),
    "mask": ("lesion mask", "{stem}" + MASK_SUFFIX),
    "lesions": (LESIONS_TABLE, LESIONS_TABLE),
    "findings": (FINDINGS_TABLE, FINDINGS_TABLE),
}
"""Single files by their address: what they are, and what they are called in the folder of predictions."""
ARCHIVES = {"workspace": "ITK-SNAP workspace with its files (zip)", "all": "everything (zip)"}


def single_file(history: History, entry: Entry, kind: str) -> Path:
    """One of `FILES` of a scan that is done."""
    return history.folder_of(entry.id) / PREDICTIONS / FILES[kind][1].format(stem=entry.stem)


def archive_of(history: History, entry: Entry, kind: str) -> dict[str, Path]:
    """Names in an archive and the files behind them, placed so that the workspace finds its scan.

    ``kind`` is one of `ARCHIVES`: the workspace and what it opens, or all that was written, with the scan.
    """
    folder, stem = history.folder_of(entry.id), entry.stem
    files = [path for path in sorted((folder / PREDICTIONS).rglob("*")) if path.is_file()]
    if kind == "workspace":
        images = (f"{CONVERTED}/{stem}.nii.gz", f"{VIEWERS}/{stem}_scan.nii.gz")
        ends = (MAP_SUFFIX, MASK_SUFFIX, ".itksnap", "itksnap_labels.txt", *images)
        files = [path for path in files if path.as_posix().endswith(ends)]
    if kind != "workspace" or not entry.file.endswith(STUDIES):
        files.insert(0, folder / entry.file)
    return {f"{stem}/{path.relative_to(folder).as_posix()}": path for path in files}


def archive_of_many(history: History, entries: Iterable[Entry]) -> dict[str, Path]:
    """All of many scans, in a folder each; those of one name are told apart by their ids."""
    found: dict[str, Path] = {}
    for entry in entries:
        own = archive_of(history, entry, "all")
        taken = any(name.startswith(f"{entry.stem}/") for name in found)
        found |= {f"{entry.id[:4]}_{name}" if taken else name: path for name, path in own.items()}
    return found


def zipped(files: dict[str, Path]) -> Iterator[bytes]:
    """The bytes of an archive, made as they are sent; images are stored as they are, for they are compressed.

    What is deleted meanwhile is left out.
    """
    pipe = _Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_STORED) as archive:
        for name, path in files.items():
            with (
                contextlib.suppress(FileNotFoundError),
                open(path, "rb") as source,
                archive.open(name, "w", force_zip64=True) as target,
            ):
                while piece := source.read(_PIECE):
                    target.write(piece)
                    yield pipe.taken()
            yield pipe.taken()
    yield pipe.taken()


class _Pipe(io.RawIOBase):
    """Something to write to that cannot be wound back, and gives what was written."""

    def __init__(self) -> None:
        self._written: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, piece: Any) -> int:
        self._written.append(bytes(piece))
        return len(piece)

    def taken(self) -> bytes:
        found = b"".join(self._written)
        self._written.clear()
        return found


def table_of_all(history: History, entries: Iterable[Entry]) -> str:
    """The rows of ``lesions.tsv`` of many scans under one header; a column that a row lacks is ``n/a``."""
    rows = [row for entry in entries for row in read_rows(single_file(history, entry, "lesions"))]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = ["\t".join(columns), *("\t".join(row.get(name, "n/a") for name in columns) for row in rows)]
    return "\n".join(lines) + "\n"
