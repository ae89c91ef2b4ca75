"""A folder, a zip or a file of DICOM, read to its series."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from medvae.dicom.archive import MOST_FILES, unpack_dicom
from medvae.dicom.series import Series, series_of
from medvae.dicom.slices import Slice, read_slice
from medvae.errors import MedvaeError
from medvae.progress import Progress
from medvae.signatures import is_dicom, is_zip


@dataclass(frozen=True)
class Study:
    """The series of a folder or zip."""

    source: Path
    """What was given."""
    series: tuple[Series, ...]
    unread: dict[str, int]
    """Why DICOM files are in no series, and how many each."""


def is_study(path: Path) -> bool:
    """Whether a scan that was given is to be read as DICOM: a folder, a zip, or a DICOM file."""
    return path.is_dir() or is_dicom(path) or is_zip(path)


def named_after(path: Path) -> Path:
    """The path that a scan is named after: as it was given, and of a study without ``.zip``; nothing in its files."""
    if not is_study(path):
        return path
    whole = Path(os.path.abspath(path))
    return whole.with_suffix("") if whole.suffix.lower() in (".zip", ".dcm") else whole


def read_study(source: Path, unpacked: Path, *, quiet: bool = False) -> Study:
    """Read the headers of all DICOM files.

    Parameters
    ----------
    source
        A folder, with all its folders; a zip; or one file.
    unpacked
        An empty folder for what a zip holds; it must last as long as the study is used.
    quiet
        No progress display.

    Raises
    ------
    MedvaeError
        If there is no DICOM image, or too many files.
    """
    if source.is_dir():
        every = _files(source)
        files = [path for path in every if path.name != "DICOMDIR" and is_dicom(path)]
        others = Counter(path.suffix.lower() or "no ending" for path in every)
    elif is_zip(source):
        files, others = unpack_dicom(source, unpacked), Counter()
    else:
        files, others = [source], Counter()
    if not files:
        there = ", ".join(f"{count} with {ending}" for ending, count in others.most_common(3))
        raise MedvaeError(
            f"{source}: holds no DICOM file ({there or 'nothing else either'}). Give a folder or zip of one study, or "
            f"a volume file by its own name."
        )
    slices: list[Slice] = []
    unread: Counter[str] = Counter()
    with Progress("Reading DICOM", len(files), quiet=quiet) as progress:
        for number, file in enumerate(files, start=1):
            found = _slices_of(file)
            if isinstance(found, str):
                unread[found] += 1
            else:
                slices += found
            progress.update(number)
    if not slices:
        reasons = "; ".join(f"{count} × {why}" for why, count in unread.items())
        raise MedvaeError(f"{source}: none of its {len(files)} DICOM files is an image that can be read ({reasons}).")
    return Study(source, tuple(series_of(slices)), dict(unread))


def _slices_of(file: Path) -> list[Slice] | str:
    """The slices of a file, or why it holds none."""
    found = read_slice(file)
    if found == "frames":
        from medvae.dicom.frames import read_frames

        return read_frames(file)
    return found if isinstance(found, str) else [found]


def _files(folder: Path) -> list[Path]:
    found = []
    for path in _walk(folder):
        found.append(path)
        if len(found) > MOST_FILES:
            raise MedvaeError(f"{folder}: holds more than {MOST_FILES:,} files. Give the folder of one study.")
    return found


def _walk(folder: Path) -> Iterator[Path]:
    for place, folders, files in os.walk(folder):
        folders.sort()
        yield from (Path(place, name) for name in sorted(files))
