"""Is every file of a case there, readable, and what the manifest says it is?"""

from __future__ import annotations

import hashlib
import re
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from medvae.errors import MedvaeError, MedvaeWarning
from medvae.imaging.background import foreground
from medvae.imaging.finite import nan_background, nan_note
from medvae.imaging.labels import label_map
from medvae.imaging.readers import placement_notes, require_same_grid
from medvae.imaging.volume import Placement, Volume, read_volume
from medvae.manifest import Case, Manifest, checksum_problems
from medvae.preparation.fingerprint import QUANTILES, brain_features, intensity_features, sample
from medvae.preparation.mask import mask_from_background
from medvae.preparation.unusual import unusual_brain, unusual_ends, unusual_values, unusual_voxels

FLUID_CUE = 0.15
"""Least skewness of the deep brain that tells bright from dark fluid. Measured: T1 -0.22 to -0.71 (120 IXI heads, 32 of
them also prepared, and 2 patients), FLAIR -0.33 and -0.37, T2 0.68 and 0.75 (the same 2 patients)."""

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong (error) or that a person should look at (warning)."""

    severity: Severity
    kind: str
    """manifest, file, checksum, header, grid, values, mask, label, modality, person, duplicate or drift."""
    message: str
    case: str | None = None
    """The case's id; None for the cohort as a whole."""


@dataclass(frozen=True)
class CaseCheck:
    """What was found for a case. What could not be read is None or left out."""

    id: str
    subject: str
    split: str
    site: str | None
    kind: str
    """healthy, lesion or unlabelled."""
    shape: tuple[int, int, int] | None
    spacing_mm: tuple[float, float, float] | None
    orientation: str | None
    brain_ml: float | None
    lesion_ml: float | None
    features: dict[str, float]
    """Those of `medvae.preparation.fingerprint`; intensity features as ``"T1.contrast"``."""
    quantiles: dict[str, list[float]]
    """Modality to in-brain intensities at `medvae.preparation.fingerprint.QUANTILES`."""
    contents: dict[str, str]
    """Image file as in the manifest to SHA-256 of its decoded values: equal if the scan is the same."""
    findings: tuple[Finding, ...]

    @property
    def errors(self) -> int:
        """Number of errors."""
        return sum(finding.severity == "error" for finding in self.findings)


@dataclass
class _Notes:
    """Findings of one case, as they come up."""

    case: str
    found: list[Finding] = field(default_factory=list)

    def error(self, kind: str, message: object) -> None:
        self.found.append(Finding("error", kind, str(message), self.case))

    def warning(self, kind: str, message: object) -> None:
        self.found.append(Finding("warning", kind, str(message), self.case))

    def read(self, path: Path) -> Volume | None:
        """The volume, values that are not finite set to 0; None, and an error noted, if it cannot be read."""
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", MedvaeWarning)
                volume = read_volume(path, finite=False)
        except (MedvaeError, OSError, MemoryError) as error:
            self.error("file", error or f"{path}: is too large for this machine's memory.")
            return None
        for warning in caught:
            if issubclass(warning.category, MedvaeWarning):
                self.warning("header", warning.message)
        bad, outer = ~np.isfinite(volume.array), nan_background(volume.array)
        if outer.any():
            self.warning("values", f"{path}: {nan_note(outer)}")
        if (bad & ~outer).any():
            self.error(
                "values",
                f"{path}: holds {np.count_nonzero(bad & ~outer):,} voxels that are NaN or infinite. If they are "
                f"background, replace them by 0 (numpy.nan_to_num) and save again.",
            )
        if bad.any():
            volume = Volume(np.where(bad, 0, volume.array), volume.geometry, volume.header, path)
        return volume


def check_case(manifest: Manifest, case: Case) -> CaseCheck:
    """Read all files of a case and collect what is wrong with them; never raises for a bad file.

    One image is in memory at a time, together with the brain mask.
    """
    notes = _Notes(case.id)
    first: Placement | None = None
    brain: np.ndarray | None = None
    features: dict[str, float] = {}
    quantiles: dict[str, list[float]] = {}
    contents: dict[str, str] = {}
    _check_sums(manifest, case, notes)
    names = [case.image] if isinstance(case.image, str) else case.image
    for index, (name, path) in enumerate(zip(names, manifest.images(case), strict=True)):
        volume = notes.read(path)
        if volume is None:
            continue
        contents[name] = _digest(volume.array)
        _check_placement(volume, notes)
        if first is None:
            first = volume.placement
            brain = _read_brain(manifest, case, volume, notes)
            features |= brain_features(brain, first.geometry) if brain is not None else {}
        elif not _same_grid(volume, first, "the first modality", notes):
            continue
        if _check_values(volume, brain, notes) and brain is not None:
            modality = manifest.modality.get(str(index), f"image {index}")
            found = intensity_features(volume.array, brain, first.geometry)
            features |= {f"{modality}.{key}": value for key, value in found.items()}
            quantiles[modality] = [float(q) for q in np.quantile(sample(volume.array[brain]), QUANTILES)]
            _check_modality(modality, found, path, notes)
    lesion_ml = _check_label(manifest, case, first, brain, notes) if case.label else None
    geometry = None if first is None else first.geometry
    return CaseCheck(
        id=case.id, subject=case.subject_id, split=case.split, site=case.site,
        kind=case.kind,
        shape=None if geometry is None else geometry.shape,
        spacing_mm=None if geometry is None else geometry.spacing_mm,
        orientation=None if geometry is None else geometry.orientation,
        brain_ml=features.get("brain_ml"), lesion_ml=lesion_ml,
        features=features, quantiles=quantiles, contents=contents, findings=tuple(notes.found),
    )  # fmt: skip


def _check_sums(manifest: Manifest, case: Case, notes: _Notes) -> None:
    images = manifest.images(case)
    if isinstance(case.sha256, list) and len(case.sha256) != len(images):
        return  # noted with the manifest
    if all(image.is_file() for image in images):
        try:
            for problem in checksum_problems(manifest, case):
                notes.error("checksum", problem)
        except OSError:
            return  # noted when it is read


def _digest(array: np.ndarray) -> str:
    content = hashlib.sha256(str(array.shape).encode())
    content.update(np.ascontiguousarray(array.T).data)  # volumes come in Fortran order: no copy
    return content.hexdigest()


def _same_grid(volume: Volume, placement: Placement, what: str, notes: _Notes) -> bool:
    try:
        require_same_grid(volume, placement, what)
    except MedvaeError as error:
        notes.error("grid", error)
        return False
    return True


def _check_placement(volume: Volume, notes: _Notes) -> None:
    for note in [*unusual_voxels(volume), *placement_notes(volume.placement)]:
        notes.warning("header", f"{volume.path}: {note}")


def _check_values(volume: Volume, brain: np.ndarray | None, notes: _Notes) -> bool:
    """Whether the image has contrast."""
    values = volume.array if brain is None else volume.array[brain]
    low, high = float(values.min()), float(values.max())
    if low == high:
        where = "" if brain is None else " inside the brain"
        notes.error("values", f"{volume.path}: all voxels{where} are {low:g}; a scan with contrast was expected.")
        return False
    for note in unusual_values(volume, brain):
        notes.warning("values", f"{volume.path}: {note}")
    return True


def _read_brain(manifest: Manifest, case: Case, image: Volume, notes: _Notes) -> np.ndarray | None:
    if case.mask is None:
        try:
            brain = mask_from_background(image.array, image.geometry, source=str(image.path))
        except MedvaeError as error:
            notes.error("mask", error)
            return None
    else:
        path = manifest.resolve(case.mask)
        mask = notes.read(path)
        if mask is None or not _same_grid(mask, image.placement, f"its image {image.path}", notes):
            return None
        brain = mask.array > 0.5
        if not brain.any():
            notes.error("mask", f"{path}: the brain mask is empty. Remove it from the manifest, or make it again.")
            return None
        share = float(brain.mean())
        if share > 0.95:
            notes.error("mask", f"{path}: the brain mask covers {share:.0%} of the volume: it is no brain mask.")
            return None
        if not np.isin(sample(mask.array.ravel(order="K")), (0, 1)).all():
            notes.warning("mask", f"{path}: has values other than 0 and 1; what is above 0.5 is taken as brain.")
        empty = float(np.count_nonzero(brain & ~foreground(image.array)) / np.count_nonzero(brain))
        if empty > 0.1:
            notes.warning("mask", f"{path}: {empty:.0%} of the brain mask lies where {image.path} is background.")
    for note in [*unusual_brain(brain, image.geometry), *unusual_ends(brain, image.geometry)]:
        notes.warning("mask", f"{path if case.mask else image.path}: {note}")
    return brain


def _check_modality(modality: str, features: dict[str, float], path: Path, notes: _Notes) -> None:
    """Compare the brightness of fluid with that expected of the modality; names without an expectation pass."""
    name = modality.lower().replace("-", "").replace("_", "")
    if re.search(r"flair|^t2f|^t1", name):
        expected, seen = "dark", features.get("fluid", 0) > FLUID_CUE
    elif re.match(r"t2($|w|tse|fse|spc|space)", name):
        expected, seen = "bright", features.get("fluid", 0) < -FLUID_CUE
    else:
        return
    if seen:
        found = "bright, as on T2" if expected == "dark" else "dark, as on T1 and FLAIR"
        notes.warning(
            "modality",
            f"{path}: the manifest calls it {modality}, where fluid is {expected}; here the fluid deep in the brain "
            f"seems {found}. Check whether files are mixed up.",
        )


def _check_label(
    manifest: Manifest, case: Case, first: Placement | None, brain: np.ndarray | None, notes: _Notes
) -> float | None:
    """Labelled volume, in ml."""
    path = manifest.resolve(case.label or "")
    label = notes.read(path)
    if label is None:
        return None
    if first is not None and not _same_grid(label, first, "its image", notes):
        return None
    try:
        lesion = label_map(label, manifest.label_values).lesion
    except MedvaeError as error:
        notes.error("label", error)
        return None
    if not lesion.any():
        notes.warning(
            "label",
            f"{path}: holds no lesion. The case counts neither as a lesion case nor as healthy; if it is free of "
            f"lesions, remove the label from the manifest.",
        )
    elif brain is not None and lesion.shape == brain.shape:
        inside = np.count_nonzero(lesion & brain)
        outside = 1 - inside / np.count_nonzero(lesion)
        if not inside:
            notes.error("label", f"{path}: no lesion voxel lies inside the brain.")
        elif outside > 0.1:
            notes.warning("label", f"{path}: {outside:.0%} of the lesion lies outside the brain and is not evaluated.")
        if inside > 0.5 * np.count_nonzero(brain):
            notes.warning("label", f"{path}: marks more than half of the brain: it may be a brain mask.")
    geometry = label.geometry if first is None else first.geometry  # the label's own header may say otherwise
    return float(np.count_nonzero(lesion) * geometry.voxel_volume_ml)
