"""Predictions as a BIDS derivative data set: ``sub-LABEL[/ses-LABEL]/anat/``, which validators and BIDS apps read."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from medvae.derivatives import DESCRIPTION, MAP_SUFFIX, MASK_SUFFIX, SCAN_FOLDERS, SPREAD_SUFFIX, made_by
from medvae.errors import MedvaeError
from medvae.files import is_empty, remove_leftovers, write_bytes, write_json, write_text
from medvae.reporting.cases import find_predictions, with_scans
from medvae.schema import read_object
from medvae.sources import Source

_NAMED_AS_BIDS = re.compile(r"(sub-[0-9A-Za-z]+(?:_[a-z]+-[0-9A-Za-z]+)*)(?:_[0-9A-Za-z]+)?")
_SAID_ANEW = ("desc-", "label-")
_README = """Anomaly maps and lesion masks that medvae wrote, as a BIDS derivative data set.

desc-anomaly_probseg   anomaly map from 0 to 1; 0.5 is the threshold of the first operating point
label-lesion_mask      1 above the threshold of the operating point in its JSON file
label-lesion_roi       the same mask for fMRIPrep, if asked for and not empty
desc-spread_probseg    from an ensemble: SD of the members' maps

Every image lies on the grid of the scan that its SpatialReference names. A research tool, not a medical device.
"""


def write_bids(
    folder: Path | str,
    out: Path | str,
    *,
    without: Sequence[str] = (),
    only: Sequence[str] | None = None,
    overwrite: bool = False,
) -> list[Path]:
    """Copy the predictions of a folder into a BIDS derivative data set and return the images written.

    A case keeps the entities of its id if that is a BIDS name (``sub-01_ses-2_T1w``); any other id becomes a subject
    label, without the characters that BIDS does not allow.

    Parameters
    ----------
    folder, out
        The predictions, and the data set.
    without
        Cases that are left out.
    only
        The cases that are copied; all by default.
    overwrite
        Replace what the data set holds of other scans under the same names.

    Raises
    ------
    MedvaeError
        If the folder holds no predictions, two cases get the same name, or ``out`` holds something else. A case whose
        files are of another scan than they say, or whose name is that of another scan in ``out``, is not copied: all
        such are named when the others are.
    """
    folder, out = Path(folder), Path(out)
    skipped, wanted = set(without), None if only is None else set(only)
    predicted = [item for item in find_predictions(folder) if item.id not in skipped]
    predicted = [item for item in predicted if wanted is None or item.id in wanted]
    description = {key: value for key, value in read_object(folder / DESCRIPTION).items() if key != SCAN_FOLDERS}
    marker = out / DESCRIPTION
    if not marker.is_file() and not is_empty(out) and not marker.is_file():  # another process may just have made it
        raise MedvaeError(f"{out}: is not empty and no BIDS data set. Choose another folder.")
    there = read_object(marker) if marker.is_file() else {}
    if there and made_by(marker).get("Name") != "medvae":
        raise MedvaeError(f"{out}: is a data set that medvae did not write, and stays as it is. Choose another folder.")
    given: dict[str, str] = {}
    for name in (item.id for item in predicted):
        new = bids_name(name)
        if new in given:
            raise MedvaeError(
                f'{folder}: "{given[new]}" and "{name}" would both be called "{new}" in BIDS. Rename one.'
            )
        given[new] = name
    write_json(marker, there | description)
    remove_leftovers(out, deep=True)
    written, problems = [], []
    for item, (new, name) in zip(with_scans(predicted, None), given.items(), strict=True):
        target = out / anat_folder(new)
        if problem := item.foreign() or ("" if overwrite else _taken(target, new, item.source, out)):
            problems.append(problem)
            continue
        for suffix in (MAP_SUFFIX, SPREAD_SUFFIX, MASK_SUFFIX):
            image = item.folder / f"{name}{suffix}"
            if image.is_file():
                written.append(write_bytes(target / f"{new}{suffix}", image.read_bytes()))
                ending = suffix.removesuffix(".nii.gz") + ".json"
                sidecar = read_object(item.folder / f"{name}{ending}")
                way = sidecar.get("SpatialReference")
                if isinstance(way, str) and (scan := item.folder / way).is_file():
                    sidecar["SpatialReference"] = Path(os.path.relpath(scan.resolve(), out.resolve())).as_posix()
                write_json(target / f"{new}{ending}", sidecar)
    write_text(out / "README", _README)
    if problems:
        raise MedvaeError("\n".join([*problems, f"{out}: {len(problems)} of {len(predicted)} cases were not copied."]))
    return written


def _taken(target: Path, name: str, source: Source | None, root: Path) -> str:
    """Why a case may not have this name in a data set: it holds another scan's; empty if it may."""
    path = target / f"{name}{MASK_SUFFIX.removesuffix('.nii.gz')}.json"
    there = Source.of(read_object(path), root) if path.is_file() else None
    if there is None or source is None or there.images == source.images or there.path == source.path:
        return ""
    return (
        f'{target}: holds "{name}" already, made from {there}, which is another scan than {source}. Choose another '
        f"folder for the data set, give each scan an id of its own, or replace it with --overwrite."
    )


def anat_folder(name: str) -> Path:
    """The folder of a case in a data set, by its BIDS name."""
    entities = dict(part.split("-", 1) for part in name.split("_"))
    session = [f"ses-{entities['ses']}"] if "ses" in entities else []
    return Path(f"sub-{entities['sub']}", *session, "anat")


def bids_name(name: str) -> str:
    """The BIDS entities of a case: those of its id, if it consists of them."""
    if found := _NAMED_AS_BIDS.fullmatch(name):
        return "_".join(part for part in found[1].split("_") if not part.startswith(_SAID_ANEW))
    label = "".join(letter for letter in name if letter.isascii() and letter.isalnum())
    if not label:
        raise MedvaeError(f'"{name}" holds no letter or digit that BIDS allows in a name. Give the case another id.')
    return f"sub-{label}"
