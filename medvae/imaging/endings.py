"""Names of volume files: the endings that are read, known without loading what reads them."""

from __future__ import annotations

from pathlib import Path

NIBABEL_ENDINGS = (".nii.gz", ".nii", ".mgz", ".mgh", ".mgh.gz")
ITK_ENDINGS = (".mha", ".mhd", ".nrrd", ".nhdr")
ENDINGS = (*NIBABEL_ENDINGS, *ITK_ENDINGS)
"""Names of files that can be read end in one of these, in small or capital letters."""

_LONGEST_FIRST = sorted(ENDINGS, key=len, reverse=True)


def scan_name(path: Path | str) -> str:
    """The name of a volume file without its ending."""
    name = (path if isinstance(path, Path) else Path(path)).name
    ending = next((e for e in _LONGEST_FIRST if name.lower().endswith(e)), "")
    return name[: len(name) - len(ending)]
