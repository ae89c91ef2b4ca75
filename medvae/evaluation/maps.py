"""One case's anomaly map with its truth and brain, and the checks of maps from other tools."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from medvae.derivatives import case_folder
from medvae.errors import MedvaeError
from medvae.imaging.labels import LabelMap, label_map
from medvae.imaging.readers import on_grid_of, require_same_grid
from medvae.imaging.volume import Geometry, Volume, read_placement, read_volume, resample
from medvae.manifest import Case, Manifest
from medvae.preparation.extraction import brain_mask
from medvae.progress import Progress
from medvae.schema import read_document
from medvae.sources import other_source

OUTSIDE_SHARE = 0.01
"""Share of a lesion outside the brain above which a note is added."""
A_MOMENT = 500
"""So many maps are looked at before anybody asks what is going on."""


@dataclass(frozen=True)
class CaseVoxels:
    """A case on its scan's own grid: ``scores`` float32, ``truth`` and ``brain`` bool, ``(X, Y, Z)`` each.

    ``truth`` lies inside ``brain``. ``notes`` are caveats for a reader of the numbers. Without a map every score is
    −∞: nothing was found. ``mask``, bool, is the method's own lesion mask, if it is read. ``ignored``, bool, are voxels
    that the label map wants left out; none of them is in ``brain``.
    """

    scores: np.ndarray
    truth: np.ndarray
    brain: np.ndarray
    geometry: Geometry
    notes: tuple[str, ...] = ()
    mask: np.ndarray | None = None
    ignored: np.ndarray | None = None


def find_maps(
    folder: Path, manifest: Manifest, cases: Sequence[Case], pattern: str, *, resampled: bool, quiet: bool = True
) -> dict[str, Path | None]:
    """The map of each case by id, None if missing; of maps only headers are read, and of scans the checksum.

    That of many is shown by a progress display, unless ``quiet``.

    Raises
    ------
    MedvaeError
        If the folder is missing, the pattern does not contain the case, there is no map at all, or maps were made from
        other scans, as their sidecars say, or lie on another grid than their scans and may not be resampled (all are
        named).
    """
    if not folder.is_dir():
        raise MedvaeError(f"{folder}: is not a folder; a folder of anomaly maps ({pattern}) was expected.")
    if "{id}" not in pattern:
        raise MedvaeError(f'"{pattern}": a pattern names the case as {{id}}, for instance "{{id}}_map.nii.gz".')
    files = {case.id: map_of(folder, pattern, case.id) for case in cases}
    found = {name: file if file.exists() else None for name, file in files.items()}
    if not any(found.values()):
        raise MedvaeError(_nothing_found(folder, manifest, files, pattern))
    there = [(case, file) for case in cases if (file := found[case.id]) is not None]
    others: list[str] = []
    problems: list[str] = []
    with Progress("Looking at maps", len(there), quiet=quiet or len(there) <= A_MOMENT) as progress:
        for done, (case, file) in enumerate(there, start=1):
            others += filter(None, [_source_problem(manifest, case, file)])
            problems += [] if resampled else filter(None, [_grid_problem(manifest, case, file)])
            progress.update(done, case=case.id)
    if others:
        raise MedvaeError(
            "\n".join(others) + f"\n{folder}: {len(others)} of {len(there)} maps are of other scans than the cases of "
            f"{manifest.path}; nothing was measured. Predict these cases into a folder of their own."
        )
    if problems:
        raise MedvaeError("\n".join(problems))
    return found


def map_of(folder: Path, pattern: str, case_id: str) -> Path:
    """The place of a case's map; where medvae gave each scan a folder, a pattern without one means that folder."""
    return (folder if "/" in pattern else case_folder(folder, case_id)) / pattern.replace("{id}", case_id)


def sidecar_of(file: Path) -> dict[str, Any]:
    """What the JSON file next to a map says; empty if there is none."""
    path = file.with_name(file.name.removesuffix(".gz").removesuffix(".nii") + ".json")
    content = read_document(path) if path.exists() else {}
    return content if isinstance(content, dict) else {}


def read_case(
    manifest: Manifest,
    case: Case,
    file: Path | None,
    *,
    mask: Path | None = None,
    resampled: bool = False,
    everywhere: bool = False,
    zeros_for_failures: bool = False,
) -> CaseVoxels:
    """Read map, truth and brain of a case.

    Parameters
    ----------
    manifest, case
        The case whose scan, mask and label are read.
    file
        The map, or None if the method gave none.
    mask
        The method's own lesion mask, on the scan's grid, to be read as well.
    resampled
        Resample a map on another grid to the scan's, linearly.
    everywhere
        Lesion voxels outside the brain also count as truth.
    zeros_for_failures
        A map that is missing, unreadable or of another shape than the scan is 0 everywhere; header affines are not
        compared. Scores must be finite outside the brain too.

    Raises
    ------
    MedvaeError
        Naming case and file: if the map is not on the scan's grid or not finite in the brain, or the label map is not
        on it, or holds non-integer values or values that the manifest does not name.
    """
    try:
        scan = read_volume(manifest.images(case)[0])
        brain = brain_mask(scan, manifest.resolve(case.mask) if case.mask else None)
        truth, ignored, notes = _truth(manifest, case, np.ones_like(brain) if everywhere else brain)
        brain = brain if ignored is None else brain & ~ignored
        failure = _failure(file, scan, resampled) if zeros_for_failures else ""
        if file is None or failure:
            empty = 0.0 if zeros_for_failures else -np.inf
            scores, more = np.full(brain.shape, empty, dtype=np.float32), [failure] if failure else []
        else:
            region = np.ones_like(brain) if zeros_for_failures else brain
            scores, more = _scores(file, scan, region, resampled, placed=not zeros_for_failures)
        flagged = _flagged(mask, scan) & brain if mask else None
    except MedvaeError as error:
        message = str(error)
        raise MedvaeError(message if f'"{case.id}"' in message else f'case "{case.id}": {message}') from None
    said = tuple(f'case "{case.id}": {note}' for note in [*notes, *more])
    return CaseVoxels(scores, truth, brain, scan.geometry, said, flagged, ignored)


def lesion_truth(manifest: Manifest, case: Case) -> np.ndarray:
    """The lesion of a labelled case, ``(X, Y, Z)`` bool: the values of the manifest's first region.

    Raises
    ------
    MedvaeError
        If the label map lies on another grid, or as `medvae.imaging.labels.label_map`.
    """
    return next(iter(lesion_regions(manifest, case).values()))


def lesion_regions(manifest: Manifest, case: Case) -> dict[str, np.ndarray]:
    """The lesion of a labelled case and its subregions, as `medvae.imaging.labels.LabelMap.lesions`.

    Errors are those of `lesion_truth`.
    """
    return read_labels(manifest, case).lesions


def read_labels(manifest: Manifest, case: Case) -> LabelMap:
    """The label map of a labelled case. Errors are those of `lesion_truth`."""
    if case.label is None:
        raise ValueError(f'case "{case.id}" has no label')  # which no user can cause
    volume = read_volume(manifest.resolve(case.label))
    require_same_grid(volume, read_placement(manifest.images(case)[0]), f'the image of case "{case.id}"')
    try:
        return label_map(volume, manifest.label_values)
    except MedvaeError as error:
        raise MedvaeError(f'{manifest.path}: case "{case.id}": {error}') from None


def _truth(manifest: Manifest, case: Case, brain: np.ndarray) -> tuple[np.ndarray, np.ndarray | None, list[str]]:
    """The lesion inside the brain, the voxels that do not count, if any, and notes."""
    if case.healthy:
        return np.zeros(brain.shape, dtype=bool), None, []
    labels, file, notes = read_labels(manifest, case), manifest.resolve(case.label or ""), []
    everywhere, ignored = labels.lesion, labels.ignored
    brain = brain & ~ignored
    truth = everywhere & brain
    counts_as = "It counts neither as a lesion case nor as healthy; what was flagged in it is in per_case.csv."
    if not everywhere.any():
        notes.append(f"{file} holds no lesion. {counts_as}")
    elif not truth.any():
        notes.append(f"no lesion voxel of {file} lies inside the brain. {counts_as}")
    elif truth.all() or (brain <= truth).all():
        notes.append(f"{file} calls the whole brain lesion. Is it the brain mask, or inverted?")
    else:
        outside = 1 - truth.sum() / everywhere.sum()
        if outside > OUTSIDE_SHARE:
            notes.append(f"{outside:.0%} of the lesion in {file} lies outside the brain mask and is not counted.")
    return truth, ignored if ignored.any() else None, notes


def _failure(file: Path | None, scan: Volume, resampled: bool) -> str:
    """Why a map is unusable; empty if it is usable."""
    if file is None:
        return ""
    try:
        found = read_volume(file, finite=False).geometry
    except MedvaeError as error:
        return f"{error} It counts as 0 everywhere."
    if found.shape != scan.geometry.shape and not resampled:
        return f"{_other_grid(file, found, scan.geometry)} It counts as 0 everywhere."
    return ""


def _scores(
    file: Path, scan: Volume, brain: np.ndarray, resampled: bool, *, placed: bool = True
) -> tuple[np.ndarray, list[str]]:
    """The map and notes; with ``placed=False`` a map of the scan's shape is accepted whatever its affine."""
    map_ = read_volume(file, finite=False)
    notes = []
    same_shape = map_.geometry.shape == scan.geometry.shape
    if not on_grid_of(map_.placement, scan.placement) and (placed or not same_shape):
        if not resampled:
            raise MedvaeError(_other_grid(file, map_.geometry, scan.geometry))
        map_ = replace(map_, array=_onto(map_, scan.geometry))
        notes.append(f"{file} was resampled onto the scan's grid.")
    values = map_.array[brain]
    bad = ~np.isfinite(values)
    if bad.any():
        what = "NaN" if np.isnan(values).any() else "infinite"
        raise MedvaeError(
            f"{file}: {int(bad.sum()):,} of {len(values):,} brain voxels are {what}. A finite score is needed for "
            f"every brain voxel: find out which step made them, or replace them (numpy.nan_to_num) where that is right."
        )
    low, high = float(values.min()), float(values.max())
    if low == high:
        notes.append(f"{file} holds the value {low:g} everywhere in the brain: this map finds nothing.")
    elif ((values == low) | (values == high)).all():
        notes.append(
            f"{file} holds two values only ({low:g} and {high:g}): this looks like a mask. AP, AUROC and oracle Dice "
            f"rank scores and mean little here; give the map before it was thresholded."
        )
    if "probseg" in file.name and not (low >= 0 and high <= 1):
        notes.append(
            f"{file} is named a probability and holds values from {low:g} to {high:g}; they are used as given."
        )
    return map_.array, notes


def _flagged(mask: Path, scan: Volume) -> np.ndarray:
    found = read_volume(mask)
    if not on_grid_of(found.placement, scan.placement):
        raise MedvaeError(_other_grid(mask, found.geometry, scan.geometry))
    return found.array > 0


def _onto(map_: Volume, grid: Geometry) -> np.ndarray:
    """The map resampled to the scan's grid; outside its field of view, its lowest score."""
    finite = map_.array[np.isfinite(map_.array)]
    return resample(map_.array, map_.geometry, grid, outside=float(finite.min()) if len(finite) else 0.0)


def _source_problem(manifest: Manifest, case: Case, file: Path) -> str:
    other = other_source(str(file), sidecar_of(file), file.parent, manifest.images(case))
    return f'case "{case.id}": {other}.' if other else ""


def _grid_problem(manifest: Manifest, case: Case, file: Path) -> str | None:
    try:
        grid, found = read_placement(manifest.images(case)[0]), read_placement(file)
    except MedvaeError as error:
        return f'case "{case.id}": {error}'
    if not on_grid_of(found, grid):
        return f'case "{case.id}": {_other_grid(file, found.geometry, grid.geometry)}'
    return None


def _other_grid(file: Path, found: Geometry, grid: Geometry) -> str:
    away = ""
    if found.shape == grid.shape:
        away = f", up to {np.abs(found.corners_mm() - grid.corners_mm()).max():.1f} mm away"
    return (
        f"{file}: lies on another grid ({found.shape}, {found.orientation}) than the scan ({grid.shape}, "
        f"{grid.orientation}){away}. Write the map on the scan's own grid, or let it be resampled with --resample."
    )


def _nothing_found(folder: Path, manifest: Manifest, files: dict[str, Path], pattern: str) -> str:
    there = sorted(str(p.relative_to(folder)) for p in folder.rglob("*.nii*"))
    if there:
        near = difflib.get_close_matches(next(iter(files.values())).name, there, n=1, cutoff=0)
        advice = f'It holds {len(there)} NIfTI files, such as "{near[0]}": name them with --pattern, for instance '
        advice += '--pattern "{id}_map.nii.gz".'
    else:
        advice = f"Run: medvae predict RUN --manifest {manifest.path} --out {folder}"
    return f'{folder}: holds no prediction named "{pattern}" for any of {len(files)} cases of {manifest.path}. {advice}'
