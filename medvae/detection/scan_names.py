"""Names of scans that are given as files: those of the files and, where these do not differ, of their folders too."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from medvae.errors import MedvaeError
from medvae.imaging.formats import scan_name
from medvae.modality import modality_name, modality_of_file

NameBy = Literal["file", "parent"]
"""What a scan is named after: its file, or the folder of the person and the file."""

_OF_A_KIND = re.compile(
    r"anat(omy)?|anatomical|struct(ural)?|mri?|mris|scans?|images?|imaging|niis?|nifti\w*|dicoms?|data|raw(data)?|orig|"
    r"(pre)?proc(essed)?|preprocessed|derivatives|brain|input|\w+\.anat",
    re.IGNORECASE,
)
"""Folders that hold a kind of data, and do not say whose it is."""
_OF_A_TIME = re.compile(
    r"(ses(sion)?|visit|v|tp|time(point)?|scan|exam|wave|run|baseline|bl|follow-?up|fu|month|m|week|year|day)[-_ ]?\d*",
    re.IGNORECASE,
)
"""Folders that say when a person was scanned, and not whom."""


def names_of(paths: Sequence[Path], by: NameBy | None = None) -> list[str]:
    """A name for each scan; without ``by`` those that would be called alike are named by their folders too.

    By ``parent`` a name begins with the nearest folder that says whose scan it is: ``anat`` and the like are passed
    over, and a session's folder joins that of its person (``sub-01/ses-2/anat/T1.nii.gz`` is ``sub-01_ses-2_T1``). It
    does not depend on the other scans.

    Raises
    ------
    MedvaeError
        If two scans would still get the same name, or ``by`` is something else.
    """
    if by not in (None, "file", "parent"):
        raise MedvaeError(f'--name-by: "{by}" is neither file nor parent.')
    names = [_by_parent(path) if by == "parent" else file_name(path) for path in paths]
    if by is None:
        for alike in _groups(names):
            named = [_by_parent(paths[index]) for index in alike]
            if _groups(named):
                named = _by_difference([paths[index] for index in alike])
            for index, name in zip(alike, named, strict=True):
                names[index] = name
    for first, second, *_ in _groups(names):
        raise MedvaeError(
            f'{paths[second]} and {paths[first]} would both be written as "{names[first]}". Predict them into two '
            f"folders, or list them in a manifest with an id each."
            + (" Without --name-by file they are named by their folders." if by == "file" else "")
        )
    return names


def file_name(path: Path) -> str:
    """The name of a scan that is called after its file."""
    return _clean(scan_name(path))


def _groups(names: Sequence[str]) -> list[list[int]]:
    """The places of each name that is there more than once; to Windows and macOS, T1 and t1 are one file."""
    places: dict[str, list[int]] = {}
    for index, name in enumerate(names):
        places.setdefault(name.casefold(), []).append(index)
    return [found for found in places.values() if len(found) > 1]


def _by_parent(path: Path) -> str:
    words = [scan_name(path)]
    for folder in reversed(_folders(path)):
        if _OF_A_TIME.fullmatch(folder):
            words.append(folder)
        elif not _OF_A_KIND.fullmatch(folder) and not _is_sequence(folder):
            words.append(folder)
            break
    return _clean("_".join(reversed(words)))


def _is_sequence(folder: str) -> bool:
    """Whether a folder is called after a sequence, and nothing else."""
    name = modality_name(folder)
    return modality_of_file(name) == name


def _by_difference(paths: Sequence[Path]) -> list[str]:
    """Names with those of the folders that are not the same for all, seen from the file."""
    folders = [_folders(path)[::-1] for path in paths]
    deepest = max(map(len, folders))
    levels = [[one[level] if level < len(one) else "" for one in folders] for level in range(deepest)]
    telling = [level for level in levels if len(set(level)) > 1]
    return [
        _clean("_".join([*(level[index] for level in reversed(telling) if level[index]), scan_name(path)]))
        for index, path in enumerate(paths)
    ]


def _folders(path: Path) -> list[str]:
    return [part for part in Path(os.path.abspath(path)).parent.parts if part != path.anchor and part != os.sep]


def _clean(name: str) -> str:
    """Without spaces and what no name should have."""
    try:
        name.encode()
    except UnicodeEncodeError:
        raise MedvaeError(f"{name!a}: the name of this file is not UTF-8. Rename it.") from None
    return re.sub(r"[\s\x00-\x1f\x7f-\x9f]", "_", name)
