"""Hand-off to viewers: for every prediction, files that open by a double click and commands that start viewers.

``OUT/viewers/ID.txt``              the commands of all viewers that have one
``OUT/viewers/ID_truth.nii.gz``     the known lesion on the scan's grid, for cases that have one
``OUT/viewers/ID_scan.nii.gz``      the scan, if not every viewer opens it itself

and the files that each viewer of `VIEWERS` names. To add a viewer, write a module and add it there.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from medvae.derivatives import VIEWERS as FOLDER
from medvae.errors import MedvaeError
from medvae.files import write_text
from medvae.manifest import Manifest
from medvae.reporting.cases import PredictedCase, read_cases
from medvae.reporting.fsleyes import FSLEYES
from medvae.reporting.handoff import Viewer, open_case
from medvae.reporting.itksnap import (
    ITKSNAP,
    ITKSNAP_TILE,
)
from medvae.reporting.mricrogl import MRICROGL
from medvae.reporting.slicer import SLICER

VIEWERS: tuple[Viewer, ...] = (
    ITKSNAP,
    SLICER,
    FSLEYES,
    MRICROGL,
    ITKSNAP_TILE,
)
"""In the order in which their commands are listed."""


@dataclass(frozen=True)
class HandOff:
    """Files and commands for one case."""

    id: str
    files: dict[str, tuple[Path, ...]]
    """Viewer to the files made for it."""
    commands: dict[str, str]
    """Viewer to the command that opens the case from the current folder."""
    first_choice: tuple[str, ...]
    """The commands worth showing to a user."""


def write_viewer_files(
    folder: Path | str,
    *,
    ids: Sequence[str] | None = None,
    manifest: Manifest | None = None,
    scans: Mapping[str, Path | str] | None = None,
) -> tuple[list[HandOff], dict[str, str]]:
    """Write the files above for the predictions of a folder; arguments as `medvae.reporting.cases.read_cases`.

    Returns
    -------
    written, problems
        Hand-offs, and the problem of each case for which nothing could be written.
    """
    cases, problems = read_cases(folder, ids=ids, manifest=manifest, scans=scans)
    written = []
    for case in cases:
        try:
            written.append(_write_case(case))
        except MedvaeError as error:
            problems[case.id] = str(error)
    return written, problems


def _write_case(case: PredictedCase) -> HandOff:
    opened = open_case(case)
    for viewer in VIEWERS:
        if viewer.write is not None:
            viewer.write(opened)
    started = {viewer.name: viewer.command for viewer in VIEWERS if viewer.command is not None}
    there = {name: command(opened, lambda path: _shell(path, case.folder)) for name, command in started.items()}
    text = "".join(f"# {name}\n{command}\n\n" for name, command in there.items())
    write_text(
        case.folder / FOLDER / f"{case.id}.txt",
        f"# To be given in the folder of the predictions, {FOLDER}/..\n\n{text}",
    )
    commands = {name: command(opened, lambda path: _shell(path, None)) for name, command in started.items()}
    return HandOff(
        case.id,
        {viewer.name: tuple(opened.path(name) for name in viewer.files) for viewer in VIEWERS if viewer.files},
        commands,
        tuple(commands[viewer.name] for viewer in VIEWERS if viewer.name in commands and not viewer.second_choice),
    )


def _shell(path: Path, at: Path | None) -> str:
    """A path as given, or relative to the folder ``at``, quoted."""
    try:
        shown = Path(os.path.relpath(path, at)).as_posix() if at else str(path)
    except ValueError:  # another Windows drive
        shown = str(path)
    return subprocess.list2cmdline([shown]) if os.name == "nt" else shlex.quote(shown)
