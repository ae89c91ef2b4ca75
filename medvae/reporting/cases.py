"""What a folder of predictions holds: for every case its scan, map, mask and, if it is known, the truth."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from medvae.errors import MedvaeError
from medvae.evaluation.maps import lesion_truth
from medvae.files import sha256
from medvae.manifest import Case, Manifest
from medvae.prediction import MAP_SUFFIX, MASK_SUFFIX
from medvae.schema import read_document

_MASK_SIDECAR = MASK_SUFFIX.removesuffix(".nii.gz") + ".json"


@dataclass(frozen=True)
class PredictedCase:
    """The files of one prediction."""

    id: str
    folder: Path
    scan: Path
    """The first modality, unchanged since it was predicted."""
    map: Path
    mask: Path
    sidecar: Mapping[str, Any] = field(repr=False)
    """Of the mask."""
    manifest: Manifest | None = field(default=None, repr=False)
    case: Case | None = field(default=None, repr=False)

    @property
    def threshold(self) -> float:
        """Value of the map above which the mask is 1."""
        return float(self.sidecar["Threshold"])

    @property
    def operating_point(self) -> str:
        """Name of the operating point of the mask."""
        return str(self.sidecar["OperatingPoint"])

    @property
    def healthy(self) -> bool:
        """Whether the manifest declares it free of lesions."""
        return self.case is not None and self.case.healthy

    def truth(self) -> np.ndarray | None:
        """The known lesion on the scan's grid, ``(X, Y, Z)`` bool; None for a case without a label."""
        if self.case is None or not self.case.label:
            return None
        return lesion_truth(self.manifest, self.case)


def read_cases(
    folder: Path | str,
    *,
    ids: Sequence[str] | None = None,
    manifest: Manifest | None = None,
    scans: Mapping[str, Path | str] | None = None,
) -> tuple[list[PredictedCase], dict[str, str]]:
    """The predictions of a folder that `medvae.prediction.predict` wrote, in the order of their names.

    A case's scan is the one named in ``scans``, else the manifest's, else where the sidecar says it lay.

    Parameters
    ----------
    folder
        The predictions.
    ids
        Only these, in this order; all by default.
    manifest
        Gives the truth of the cases it knows.
    scans
        Case to first modality, where it was moved.

    Returns
    -------
    cases, problems
        What can be shown, and what is wrong with each of the others: a scan that was moved, or has changed.

    Raises
    ------
    MedvaeError
        If the folder holds no predictions, or not one of ``ids``.
    """
    folder = Path(folder)
    found = sorted(path.name.removesuffix(_MASK_SIDECAR) for path in folder.glob(f"*{_MASK_SIDECAR}"))
    if not found:
        what = "holds no predictions of medvae" if folder.is_dir() else "is not a folder"
        raise MedvaeError(f"{folder}: {what}. Give the --out folder of medvae predict.")
    if missing := [name for name in ids or () if name not in found]:
        raise MedvaeError(f'{folder}: holds no prediction "{missing[0]}"; it has {", ".join(found)}.')
    cases, problems = [], {}
    for name in found if ids is None else ids:
        try:
            cases.append(_read_case(folder, name, manifest, (scans or {}).get(name)))
        except MedvaeError as error:
            problems[name] = str(error)
    return cases, problems


def _read_case(folder: Path, name: str, manifest: Manifest | None, scan: Path | str | None) -> PredictedCase:
    sidecar = read_document(folder / f"{name}{_MASK_SIDECAR}")
    files = [folder / f"{name}{suffix}" for suffix in (MAP_SUFFIX, MASK_SUFFIX)]
    for file in files:
        if not file.is_file():
            raise MedvaeError(f"{file}: is missing. Run medvae predict again: it makes what is not there.")
    case = next((case for case in manifest.cases if case.id == name), None) if manifest else None
    if scan is None:
        known = manifest.images(case)[0] if case else None
        scan = known if known is not None and known.is_file() else folder / sidecar["SpatialReference"]
    scan = Path(scan)
    if not scan.is_file():
        raise MedvaeError(
            f'{folder}: the scan of "{name}" is not at {os.path.normpath(scan)}; it was moved or renamed since it was '
            f"predicted, or the predictions were. Put the two back as they lay, or name it in a manifest (--manifest)."
        )
    if sha256(scan) != sidecar["SourcesSha256"][0]:
        raise MedvaeError(
            f'{scan}: is not the file that "{name}" was predicted from, or has changed. Predict it again.'
        )
    return PredictedCase(name, folder, scan, *files, sidecar, manifest, case)
