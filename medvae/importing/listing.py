"""The files of a folder, in an order that does not depend on the disk, and what to say when nothing fits."""

from __future__ import annotations

import difflib
import os
from collections.abc import Collection, Sequence
from pathlib import Path

from medvae.errors import MedvaeError
from medvae.imaging.endings import ENDINGS
from medvae.importing.found import Skipped

# Images that are not read; of a pair (.hdr with .img, .HEAD with .BRIK) the file that holds the voxels.
_OTHER_IMAGES = (
    ".img", ".img.gz", ".brik", ".brik.gz", ".mnc", ".mnc.gz", ".dcm", ".ima", ".rec", ".nrrd.gz", ".mha.gz",
    ".nii.bz2", ".nii.xz", ".nii.zst", ".nii.zip", ".nii.gz.gz",
)  # fmt: skip
_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".7z", ".rar")


def list_files(source: Path, without: Collection[str] = ()) -> tuple[list[Path], list[Skipped]]:
    """All files below ``source``, sorted, and those that cannot be used at all.

    These are folders that may not be read, and images that are empty, may not be read or are links to nothing. Hidden
    files are skipped silently (macOS writes ``._NAME.nii.gz`` next to ``NAME.nii.gz``). Links to folders are
    followed, each folder once. Folders of ``source`` whose names are in ``without`` are not entered.

    Raises
    ------
    MedvaeError
        If ``source`` is missing or not a folder.
    """
    if not source.is_dir():
        if source.is_file():
            hint = " Unpack it first." if source.name.lower().endswith(_ARCHIVES) else ""
            raise MedvaeError(f"{source}: is a file; the folder of the data set was expected.{hint}")
        near = difflib.get_close_matches(source.name, _names(source.parent), n=1)
        hint = f' Did you mean "{source.parent / near[0]}"?' if near else " Check the path."
        raise MedvaeError(f"{source}: there is no such folder.{hint}")
    files: list[Path] = []
    skipped: list[Skipped] = []
    seen: set[str] = set()

    def unreadable(error: OSError) -> None:
        shown = Path(error.filename).relative_to(source).as_posix()
        skipped.append(Skipped(shown, f"the folder cannot be read ({error.strerror})"))

    for folder, folders, names in os.walk(source, followlinks=True, onerror=unreadable):
        real = os.path.realpath(folder)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        left_out = without if Path(folder) == source else ()
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in left_out)
        for name in sorted(names):
            path = Path(folder) / name
            if name.startswith("."):
                continue
            if is_image(path) and (problem := _unusable(path)):
                skipped.append(Skipped(path.relative_to(source).as_posix(), problem))
            else:
                files.append(path)
    return sorted(files), skipped


def is_scan(path: Path) -> bool:
    """Whether the name is that of a volume file that medvae reads."""
    return path.name.lower().endswith(ENDINGS)


def is_image(path: Path) -> bool:
    """Whether the name is that of an image, be it of a format that is read or not."""
    return path.name.lower().endswith((*ENDINGS, *_OTHER_IMAGES))


def nothing_found(source: Path, files: Sequence[Path], what: str, looked_for: str, advice: str = "") -> MedvaeError:
    """The error for an empty result: what was looked for, and what is there instead."""
    folders = sorted(name for name in _names(source) if (source / name).is_dir() and not name.startswith("."))
    images = [str(path.relative_to(source)) for path in files if is_scan(path)]
    there = [f"{len(folders)} folders ({some(folders)})"] if folders else []
    there += [f"{len(images)} image files ({some(images)})"] if images else ["no image file that can be read"]
    if not images and files:
        there.append(f"{len(files)} other files ({some([path.name for path in files])})")
    return MedvaeError(
        f"{source}: holds no {what}. Looked for {looked_for}. Found there: {', '.join(there)}.{advice and ' ' + advice}"
    )


def some(names: Sequence[str], most: int = 3) -> str:
    """The first few of many names, for a message."""
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _unusable(path: Path) -> str | None:
    try:
        size = path.stat().st_size
    except OSError:
        return "is a link to a file that is not here (with DataLad: datalad get)"
    if not os.access(path, os.R_OK):
        return "may not be read by you: ask its owner for permission"
    return None if size else "is empty (0 bytes): download it again"
