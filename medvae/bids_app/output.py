"""The folder of the derivatives: where it may lie, and what marks it as one."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from typing import Any

from medvae.derivatives import DESCRIPTION, LESIONS_TABLE, made_by
from medvae.errors import MedvaeError
from medvae.files import is_empty, write_json, write_text
from medvae.parsing import read_text
from medvae.schema import read_object

OVERLAYS = "overlays"
"""The folder as ``medvae predict`` leaves it, with pictures and failures, from which the data set is made."""
GROUP = Path(LESIONS_TABLE).stem
"""Name of the group level's table and of its data dictionary."""
_IGNORE = ".bidsignore"
_NOT_OF_BIDS = (OVERLAYS, f"{GROUP}.tsv", f"{GROUP}.json", "*_roi.nii.gz")


def check_output(raw: Path, out: Path) -> None:
    """Refuse a folder in which derivatives would change a data set, or files that medvae did not write; touch nothing.

    Parameters
    ----------
    raw
        The BIDS data set.
    out
        The folder of the derivatives; in the data set only as ``derivatives/NAME``.

    Raises
    ------
    MedvaeError
        If it is, holds or would be a part of the raw data set; or is not empty and not medvae's.
    """
    root, place = raw.resolve(), out.resolve()
    instead = f"Choose another folder, as {raw / 'derivatives' / 'medvae'}."
    if root == place:
        raise MedvaeError(f"{out}: is the data set itself, which is never changed. {instead}")
    if root.is_relative_to(place):
        raise MedvaeError(f"{out}: is a folder above the data set {raw}, which is never changed. {instead}")
    if place.is_relative_to(root):
        inside = place.relative_to(root).parts
        if inside[0] != "derivatives" or len(inside) < 2:
            raise MedvaeError(f"{out}: would be a part of the raw data set {raw}, which is never changed. {instead}")
    if out.exists() and not out.is_dir():
        raise MedvaeError(f"{out}: is a file; a folder for the derivatives was expected. {instead}")
    if is_empty(out):
        return
    marker = out / DESCRIPTION
    if not marker.is_file() or made_by(marker).get("Name") != "medvae":
        raise MedvaeError(f"{out}: is not empty, and medvae did not write it, so it stays as it is. {instead}")


def describe_output(raw: Path, out: Path) -> None:
    """Say in a folder of derivatives which data set they are of, and what in it is no part of BIDS."""
    marker, source = out / DESCRIPTION, raw / DESCRIPTION
    about: dict[str, Any] = read_object(source) if source.is_file() else {}
    origin = {}
    with contextlib.suppress(ValueError):  # another drive of Windows
        # Relative, as every path that medvae writes: who shares derivatives does not share the names of folders.
        origin["URL"] = Path(os.path.relpath(raw.resolve(), out.resolve())).as_posix()
    doi = about.get("DatasetDOI")
    if isinstance(doi, str) and (found := re.search(r"10\.\d{4,}/\S+", doi)):
        origin["DOI"] = found[0]
    there = read_object(marker)
    if there.get("SourceDatasets") != [origin]:
        write_json(marker, there | {"SourceDatasets": [origin]})
    ignore = out / _IGNORE
    lines = read_text(ignore).splitlines() if ignore.is_file() else []
    if missing := [line for line in _NOT_OF_BIDS if line not in lines]:
        write_text(ignore, "\n".join([*lines, *missing]) + "\n")
