"""Pictures of predictions: one per case through its largest finding, and montages of several for a paper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from medvae.detection.base import Calibrated
from medvae.errors import MedvaeError
from medvae.evaluation.maps import lesion_truth
from medvae.files import remove_leftovers
from medvae.imaging.volume import read_overlay, read_volume
from medvae.manifest import Manifest
from medvae.prediction import Prediction
from medvae.preparation.prepare import prepare_scan
from medvae.reporting.cases import PredictedCase, read_cases
from medvae.reporting.montage import (
    AXIS,
    Column,
    Plane,
    Shown,
    draw_montage,
    largest_finding,
    largest_slices,
    slices_at,
)

MOST_COLUMNS = 24


def draw_case(
    scan: Path | str,
    anomaly_map: Path | str,
    mask: Path | str,
    out: Path | str,
    *,
    truth: np.ndarray | Path | str | None = None,
    title: str = "",
    threshold: float = 0.5,
) -> Path:
    """Draw three planes through the largest finding of a case to ``out`` (PNG, PDF or SVG).

    The planes pass through the centre of the mask's largest connected component, or through the map's maximum if the
    mask is empty. The patient's right is on the left (radiological convention) and is marked.

    Parameters
    ----------
    scan, anomaly_map, mask
        Files on one grid.
    truth
        A file or an array ``(X, Y, Z)`` on the same grid.
    title
        Title above the picture.
    threshold
        Threshold of the mask on the map.
    """
    known = read_volume(truth).array > 0 if isinstance(truth, str | Path) else truth
    shown = _shown(title, scan, anomaly_map, mask, threshold=threshold, truth=known)
    centre = largest_finding(shown)
    return draw_montage([Column(shown, axis, centre[axis]) for axis in (2, 1, 0)], out, title=title)


def draw_predictions(
    predictions: Sequence[Prediction],
    manifest: Manifest | None,
    detector: Calibrated,
    out: Path | str | None = None,
) -> list[Path]:
    """Draw every prediction to ``ID.png``; with a manifest, including the truth of labelled cases.

    The picture goes into the folder ``out`` or, by default, beside the map.
    """
    drawn = []
    for item in predictions:
        case = manifest.case(item.id) if manifest else None
        truth = lesion_truth(manifest, case) if manifest and case and case.label else None
        title = f"{item.id}, {detector.config.name}: {item.lesion_volume_ml:.1f} ml flagged"
        picture = (Path(out) if out is not None else item.map.parent) / f"{item.id}.png"
        drawn.append(
            draw_case(item.scan, item.map, item.mask, picture, truth=truth, title=title, threshold=item.threshold)
        )
    return drawn


def draw_figure(
    folder: Path | str,
    out: Path | str,
    *,
    ids: Sequence[str] | None = None,
    manifest: Manifest | None = None,
    scans: Mapping[str, Path | str] | None = None,
    detector: Calibrated | None = None,
    plane: Plane = "axial",
    slices: int | None = None,
    positions_mm: Sequence[float] = (),
    radiological: bool = True,
    title: str = "",
) -> Path:
    """Draw a montage of a folder's predictions to ``out`` (PNG, PDF or SVG).

    Parameters
    ----------
    folder
        Folder that `medvae.prediction.predict` wrote.
    ids
        The cases, in this order; by default all in the folder.
    manifest
        Source of the truth.
    scans
        Case to first modality, if it was moved.
    detector
        The detector of the predictions: its reconstruction is drawn too, if it has one.
    plane
        Orientation of the slices.
    slices
        Slices per case, chosen by `medvae.reporting.montage.largest_slices`; 6 shared among the cases by default.
    positions_mm
        World coordinates of the slices instead, shared by all cases.
    radiological
        The patient's right on the left.
    title
        Instead of the cases' names.

    Raises
    ------
    MedvaeError
        For a case that cannot be shown, another detector, a position outside a scan or too many columns.
    """
    if Path(out).suffix.lower() not in (".png", ".pdf", ".svg"):
        raise MedvaeError(
            f"{out}: a figure is written as PNG, PDF or SVG. Give a name that ends in .png, .pdf or .svg."
        )
    remove_leftovers(Path(out).parent, of=Path(out).name)
    cases, problems = read_cases(folder, ids=ids, manifest=manifest, scans=scans)
    if problems:
        raise MedvaeError("\n".join(problems.values()))
    count = slices if slices is not None else max(1, 6 // len(cases))
    each = len(positions_mm) or count
    if len(cases) * each > MOST_COLUMNS:
        raise MedvaeError(
            f"{folder}: {len(cases)} cases of {each} slices are more than the {MOST_COLUMNS} columns of a figure. Name "
            f"some cases, or ask for fewer slices."
        )
    axis, columns = AXIS[plane], []
    for case in cases:
        restored = _reconstruction(case, detector) if detector is not None else None
        shown = _shown(
            case.id, case.found_scan, case.map, case.mask, threshold=case.threshold, truth=case.truth(),
            reconstruction=restored, healthy=case.kind == "healthy",
        )  # fmt: skip
        chosen = slices_at(shown, axis, positions_mm) if positions_mm else largest_slices(shown, axis, count)
        columns += [Column(shown, axis, index) for index in chosen]
    return draw_montage(columns, out, title=title, radiological=radiological)


def _shown(
    name: str,
    scan: Path | str,
    anomaly_map: Path | str,
    mask: Path | str,
    *,
    threshold: float,
    truth: np.ndarray | None,
    reconstruction: np.ndarray | None = None,
    healthy: bool = False,
) -> Shown:
    volume, anomaly, found = read_volume(scan), read_overlay(anomaly_map).array, read_overlay(mask).array
    return Shown.of(
        name, volume.geometry, volume.array, anomaly, found, threshold=threshold, truth=truth,
        reconstruction=reconstruction, healthy=healthy,
    )  # fmt: skip


def _reconstruction(case: PredictedCase, detector: Calibrated) -> np.ndarray | None:
    """The reconstruction on the scan's grid, where 1 is white; None for a detector without one."""
    if case.sidecar["ModelFingerprint"] != detector.fingerprint:
        raise MedvaeError(
            f'{case.folder}: "{case.id}" was predicted by {case.sidecar["Model"]} with other weights than '
            f"the given detector's. Give the run folder it was predicted with."
        )
    from medvae.detection.detector import Detector  # needs torch, which a picture of written files does not
    from medvae.scoring.volume import reconstruct_volume

    if not isinstance(detector, Detector) or detector.network is None:
        return None
    images, mask = [case.found_scan], None
    if case.manifest and case.case:
        images = case.manifest.images(case.case)
        mask = case.manifest.resolve(case.case.mask) if case.case.mask else None
    volume = prepare_scan(images, detector.config.preparation, mask=mask, scale=detector.scale)
    restored = reconstruct_volume(detector.config, detector.network, detector.shown(volume), volume.mask)
    if restored is None:
        return None
    white = np.percentile(volume.image[0][volume.mask], 99.5)
    return volume.restore(restored / white)
