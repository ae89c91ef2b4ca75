"""Definition of a viewer, and of a case opened for it: the files that every viewer can open, and their content.

A viewer is a value defined in its own module and listed in `medvae.reporting.viewers`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from medvae.derivatives import VIEWERS
from medvae.drawing import grey_window
from medvae.errors import MedvaeError
from medvae.imaging.readers import itk_opens
from medvae.imaging.volume import Volume, read_overlay, read_volume, write_volume
from medvae.reporting.cases import PredictedCase


@dataclass(frozen=True)
class OpenedCase:
    """A predicted case, read, on the grid of its scan; arrays are ``(X, Y, Z)``."""

    case: PredictedCase
    scan: Path
    """The scan as NIfTI that every viewer opens: a copy if the original is something else."""
    volume: Volume = field(repr=False)
    """The scan."""
    anomaly: np.ndarray = field(repr=False)
    """The anomaly map, 0 to 1."""
    mask: np.ndarray = field(repr=False)
    """bool."""
    window: tuple[float, float]
    """Intensities of the scan shown as black and white."""
    truth: np.ndarray | None = field(repr=False)
    """The known lesion, bool; None for a case without a label."""
    truth_file: Path | None

    def path(self, name: str) -> Path:
        """A file of the case in the folder of the predictions; ``{id}`` in its name is the case's id."""
        return self.case.folder / name.format(id=self.case.id)


Shell = Callable[[Path], str]
"""A path as written in a command: quoted, and relative if the command is run in another folder."""


@dataclass(frozen=True)
class Viewer:
    """A program to view predictions: the files written for it, and how to start it."""

    name: str
    """Its name, in the official spelling."""
    files: tuple[str, ...] = ()
    """File names in the predictions folder, with ``{id}`` for the case's id."""
    write: Callable[[OpenedCase], None] | None = None
    """Writes these files."""
    command: Callable[[OpenedCase, Shell], str] | None = None
    """The command line that opens a case."""
    second_choice: bool = False
    """The command is only written to ``viewers/ID.txt``, not shown by ``medvae predict``."""


def open_case(case: PredictedCase) -> OpenedCase:
    """Read a case, and write the files that viewers share: its truth, and its scan if not every viewer opens it.

    Raises
    ------
    MedvaeError
        If the scan is not known, or a file cannot be read or written.
    """
    if case.scan is None:
        raise MedvaeError(f'{case.folder}: nobody knows where the scan of "{case.id}" lies. Name it in ``scans``.')
    volume = read_volume(case.scan)
    anomaly, mask = read_overlay(case.map).array, read_overlay(case.mask).array > 0
    scan = case.scan
    # Not every viewer reads MGH; NRRD and MetaImage round positions differently; ITK refuses NIfTI-2 and a shear.
    if volume.header is None or not itk_opens(scan):
        scan = write_volume(
            case.folder / VIEWERS / f"{case.id}_scan.nii.gz", volume.array, volume.placement, intent="scan"
        )
    truth, truth_file = case.truth(), None
    if truth is not None:
        truth_file = case.folder / VIEWERS / f"{case.id}_truth.nii.gz"
        write_volume(truth_file, truth.astype(np.uint8), volume.placement, intent="truth")
    window = grey_window(volume.array, anomaly > 0)
    return OpenedCase(case, scan, volume, anomaly, mask, window, truth, truth_file)
