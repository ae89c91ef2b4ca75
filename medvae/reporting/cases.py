"""Content of a folder of predictions: for every case its files, its scan and, if known, the truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from medvae.derivatives import (
    DESCRIPTION,
    MAP_SUFFIX,
    MASK_SIDECAR,
    MASK_SUFFIX,
    SPREAD_SUFFIX,
    case_folder,
    finished,
    has_scan_folders,
    read_mask_sidecar,
)
from medvae.errors import MedvaeError
from medvae.evaluation.maps import lesion_truth
from medvae.files import sha256
from medvae.manifest import Case, Manifest
from medvae.schema import read_object
from medvae.sources import Source, other_source, where_it_lay


@dataclass(frozen=True)
class PredictedCase:
    """A scan that `medvae.prediction.predict` has finished, with its files and metadata."""

    id: str
    folder: Path
    """Folder of its files."""
    sidecar: Mapping[str, Any] = field(repr=False)
    """Sidecar of the mask."""
    scan: Path | None = None
    """The first modality; None if its location is unknown."""
    manifest: Manifest | None = field(default=None, repr=False)
    case: Case | None = field(default=None, repr=False)
    """Case of the manifest; None if it is not listed there."""

    @property
    def found_scan(self) -> Path:
        """The first modality of a case that has one, as all of `read_cases` have.

        Raises
        ------
        MedvaeError
            If its location is unknown.
        """
        if self.scan is None:
            raise MedvaeError(
                f'{self.folder}: the scan {self.scan_name} of "{self.id}" was not found. Name it in a manifest '
                f"(--manifest)."
            )
        return self.scan

    @property
    def predictions(self) -> Path:
        """Folder of the predictions, which that of its files may lie in."""
        own = self.folder.name == self.id and has_scan_folders(self.folder.parent)
        return self.folder.parent if own else self.folder

    @property
    def map(self) -> Path:
        """The anomaly map."""
        return self.folder / f"{self.id}{MAP_SUFFIX}"

    @property
    def mask(self) -> Path:
        """The lesion mask."""
        return self.folder / f"{self.id}{MASK_SUFFIX}"

    @property
    def spread(self) -> Path | None:
        """Map of the disagreement of an ensemble's members; None for a single detector."""
        path = self.folder / f"{self.id}{SPREAD_SUFFIX}"
        return path if path.is_file() else None

    @property
    def threshold(self) -> float:
        """Value of the map above which the mask is 1."""
        if self.sidecar.get("Threshold") is None:
            raise MedvaeError(
                f'{self.folder}: the sidecar of the mask of "{self.id}" has no Threshold. Predict it again.'
            )
        return float(self.sidecar["Threshold"])

    @property
    def operating_point(self) -> str:
        """Name of the operating point of the mask; empty if the sidecar does not say."""
        return str(self.sidecar.get("OperatingPoint", ""))

    @property
    def scan_name(self) -> str:
        """File name of the predicted scan."""
        return str((self.sidecar.get("Sources") or ["of this case"])[0])

    @property
    def kind(self) -> str:
        """Status in the manifest: "lesion", "healthy" or "unlabelled"; empty for a case it does not list."""
        return self.case.kind if self.case else ""

    @property
    def source(self) -> Source | None:
        """The scan it was predicted from; None if the sidecar does not say what its content was."""
        return Source.of(self.sidecar, self.folder)

    def is_of(self, scan: Path) -> bool:
        """Whether it was predicted from a file of this content, as far as the sidecar says."""
        return self.source is None or self.source.holds(scan)

    def foreign(self) -> str:
        """Why its files do not belong to its scan, its manifest's case or its folder; empty if they do."""
        images = [self.scan] if self.scan else []
        if self.manifest and self.case and self.scan in (listed := self.manifest.images(self.case)):
            images = listed
        if other := other_source(f'the prediction "{self.id}"', self.sidecar, self.folder, images):
            return f"{other}. Predict it again."
        path = self.map.with_name(self.map.name.removesuffix(".nii.gz") + ".json")
        of_map = read_object(path) if path.is_file() else {}
        for key in ("SourcesSha256", "ModelFingerprint"):
            if key in of_map and key in self.sidecar and of_map[key] != self.sidecar[key]:
                return f'{self.mask}: is not of the same prediction as {self.map.name}. Predict "{self.id}" again.'
        made = (_description(self.predictions).get("GeneratedBy") or [{}])[0].get("Parameters") or {}
        known, own = made.get("fingerprint"), self.sidecar.get("ModelFingerprint")
        if known and own and known != own:
            return (
                f"{self.mask}: was made by another detector ({self.sidecar.get('Model')}) than the one that "
                f"{DESCRIPTION} names ({made.get('model')}). Remove its files, and predict it again."
            )
        return ""

    def truth(self) -> np.ndarray | None:
        """The known lesion on the scan's grid, ``(X, Y, Z)`` bool; None for a case without a label."""
        if self.manifest is None or self.case is None or not self.case.label:
            return None
        return lesion_truth(self.manifest, self.case)


def find_predictions(folder: Path | str) -> list[PredictedCase]:
    """The finished predictions of a folder, sorted by name; scans are not searched for.

    Raises
    ------
    MedvaeError
        If there is none, or a sidecar is broken.
    """
    return [_read(Path(folder), name) for name in predicted_names(folder)]


def predicted_names(folder: Path | str) -> list[str]:
    """The names of the finished predictions of a folder, sorted.

    Raises
    ------
    MedvaeError
        If there is none.
    """
    folder = Path(folder)
    found = list(finished(folder))
    if not found:
        what = "holds no predictions of medvae" if folder.is_dir() else "is not a folder"
        raise MedvaeError(f"{folder}: {what}. Give the --out folder of medvae predict RUN SCAN.nii.gz --out DIR.")
    return found


def with_scans(
    predicted: Sequence[PredictedCase],
    manifest: Manifest | None,
    folders: Sequence[Path] = (),
    *,
    scans: Mapping[str, Path | str] | None = None,
) -> list[PredictedCase]:
    """The cases with their scans and manifest entries; the scan is None if it cannot be found.

    It is the one named in ``scans``. Else it is searched for where the manifest says, then in the folders and their
    subfolders (same name, same content), then at its path when predicted.

    Raises
    ------
    MedvaeError
        If one of ``folders`` is not a folder.
    """
    cases = {case.id: case for case in manifest.cases} if manifest else {}
    first = (
        {item.id: _listed(item, manifest.images(cases[item.id])) for item in predicted if item.id in cases}
        if manifest
        else {}
    )
    known = {name: image for name, image in first.items() if image.is_file()}
    known |= {name: Path(scan) for name, scan in (scans or {}).items()}
    known |= _search([item for item in predicted if item.id not in known], folders)
    for item in predicted:
        if item.id not in known and (lay := _where_it_lay(item)) is not None and lay.is_file():
            known[item.id] = lay
    return [replace(item, scan=known.get(item.id), manifest=manifest, case=cases.get(item.id)) for item in predicted]


def read_cases(
    folder: Path | str,
    *,
    ids: Sequence[str] | None = None,
    manifest: Manifest | None = None,
    scans: Mapping[str, Path | str] | None = None,
) -> tuple[list[PredictedCase], dict[str, str]]:
    """The predictions of a folder that can be shown, each with its unchanged scan.

    A case's scan is the one named in ``scans``, else the manifest's, else the path in the sidecar.

    Parameters
    ----------
    folder
        The predictions.
    ids
        Only these, in this order; all by default.
    manifest
        Source of the truth of the cases it lists.
    scans
        Case to first modality, if it was moved.

    Returns
    -------
    cases, problems
        The cases that can be shown, and the problem of each other one: its scan was moved or has changed.

    Raises
    ------
    MedvaeError
        If the folder holds no predictions, or not one of ``ids``.
    """
    folder = Path(folder)
    lost = [name for name in ids or () if not (case_folder(folder, name) / f"{name}{MASK_SIDECAR}").exists()]
    if ids is None or lost:  # else the folder, which may be large, is not searched
        found = predicted_names(folder)
        if lost:
            raise MedvaeError(f'{folder}: holds no prediction "{lost[0]}"; it has {", ".join(found)}.')
        ids = found
    cases, problems = [], {}
    for name in ids:
        try:
            (item,) = with_scans([_read(folder, name)], manifest, scans=scans)
            cases.append(_whole(item))
        except MedvaeError as error:
            problems[name] = str(error)
    return cases, problems


def _read(folder: Path, name: str) -> PredictedCase:
    own = case_folder(folder, name)
    return PredictedCase(name, own, read_mask_sidecar(own / f"{name}{MASK_SIDECAR}"))


def _whole(item: PredictedCase) -> PredictedCase:
    """The case, if its files exist and its scan is unchanged."""
    for file in (item.map, item.mask):
        if not file.is_file():
            raise MedvaeError(f"{file}: is missing. Run medvae predict again: it makes what is not there.")
    scan = item.scan or _where_it_lay(item) or Path(item.scan_name)
    if not scan.is_file():
        raise MedvaeError(
            f'{item.folder}: the scan of "{item.id}" is not at {scan}; it was moved or renamed since '
            f"it was predicted, or the predictions were. Put the two back as they lay, or name it in a manifest "
            f"(--manifest)."
        )
    if problem := replace(item, scan=scan).foreign():
        raise MedvaeError(problem)
    return item


def _listed(item: PredictedCase, images: Sequence[Path]) -> Path:
    """Of the images of a manifest's case, the one that the detector took first."""
    if len(images) == 1 or item.source is None:
        return images[0]
    first = item.source.images[0]
    return next((image for image in images if image.is_file() and sha256(image) == first), images[0])


def _description(folder: Path) -> dict[str, Any]:
    path = folder / DESCRIPTION
    return read_object(path) if path.is_file() else {}


def _search(lost: Sequence[PredictedCase], folders: Sequence[Path]) -> dict[str, Path]:
    wanted: dict[str, list[PredictedCase]] = {}
    for item in lost:
        wanted.setdefault(item.scan_name, []).append(item)
    found: dict[str, Path] = {}
    for folder in folders:
        if not folder.is_dir():
            raise MedvaeError(f"{folder}: is not a folder; --scans names a folder that holds the predicted scans.")
        for path in sorted(folder.rglob("*")):
            for item in wanted.get(path.name, ()):
                if item.id not in found and path.is_file() and item.is_of(path):
                    found[item.id] = path
    return found


def _where_it_lay(item: PredictedCase) -> Path | None:
    return where_it_lay(item.sidecar, item.folder)
