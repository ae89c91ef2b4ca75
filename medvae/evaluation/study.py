"""A folder of anomaly maps against the truth of a manifest: the numbers of one method on one cohort.

Conventions: AP, AUROC and Dice are taken over the brain voxels of cases with a lesion label, pooled, and per case; the
realised false-positive rate over the brain voxels of healthy cases. The brain is the manifest's mask, or the nonzero
region of the skull-stripped scan. Everything is measured on the scan's own grid.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from medvae.errors import MedvaeError
from medvae.evaluation.curves import VoxelCounts
from medvae.files import write_json, write_text
from medvae.manifest import Case, Manifest
from medvae.prediction import MAP_SUFFIX
from medvae.preparation.prepare import brain_mask, require_same_grid
from medvae.schema import read_document
from medvae.volume import read_geometry, read_volume


@dataclass(frozen=True)
class PointResult:
    """What a threshold fixed on healthy validation scans gives."""

    name: str
    asked_fpr: float
    threshold: float
    dice: float
    """Pooled over lesion cases."""
    mean_dice: float
    """Mean over lesion cases."""
    sensitivity: float
    """Pooled over lesion cases."""
    fpr: float
    """Share of brain voxels above the threshold in healthy cases; NaN without one."""


@dataclass(frozen=True)
class Study:
    """The numbers of one method on one cohort."""

    method: str
    cohort: str
    pooled: dict[str, float]
    operating_points: list[PointResult]
    per_case: list[dict[str, Any]]
    missing: list[str] = field(default_factory=list)
    """Cases without a prediction: failures of the method."""


def evaluate(
    predictions: Path | str, manifest: Manifest, *, splits: Sequence[str] = ("test",), method: str | None = None
) -> Study:
    """Measure the anomaly maps of a folder against a manifest's labels.

    Parameters
    ----------
    predictions
        Folder of ``ID_desc-anomaly_probseg.nii.gz``; operating points are read from the sidecars, if there are any.
    manifest
        Cases with labels are lesion cases, cases without are healthy; cases said to be unlabelled are left out.
    splits
        Which splits to measure.
    method
        Name in tables; from the sidecars by default.

    Raises
    ------
    MedvaeError
        If no prediction is there, a map lies on another grid than its scan or holds NaN, or a label is unknown.
    """
    folder = Path(predictions)
    if not folder.is_dir():
        raise MedvaeError(f"{folder}: is not a folder; a folder of anomaly maps (ID{MAP_SUFFIX}) was expected.")
    cases = [case for case in manifest.cases if case.split in splits and not case.unlabelled]
    points: dict[str, tuple[float, float]] | None = None
    total: VoxelCounts | None = None
    rows, missing = [], []
    for case in cases:
        file = folder / f"{case.id}{MAP_SUFFIX}"
        if not file.exists():
            missing.append(case.id)
            continue
        sidecar = _read_sidecar(file)
        found = {n: (p["FalsePositiveRate"], p["Threshold"]) for n, p in sidecar.get("OperatingPoints", {}).items()}
        if points is not None and found != points:
            raise MedvaeError(f"{file}: has other operating points than the maps before it: two detectors are mixed.")
        points = found
        method = method or sidecar.get("Model")
        scores, truth = _case_voxels(manifest, case, file)
        row: dict[str, Any] = {
            "id": case.id,
            "subject": case.subject_id,
            "healthy": case.healthy,
            "voxels": len(scores),
        }
        if not case.healthy:
            counts = VoxelCounts.of(scores, truth)
            total = counts if total is None else total + counts
            summary = counts.summary()
            row |= {"ap": summary.ap, "auroc": summary.auroc, "oracle_dice": summary.oracle_dice}
            row |= {"lesion_voxels": summary.n_lesion}
        for name, (_, threshold) in points.items():
            flagged = scores > np.float32(threshold)
            row[f"flagged_{name}"] = int(flagged.sum())
            row[f"true_{name}"] = int((flagged & truth).sum())
            if not case.healthy:
                row[f"dice_{name}"] = _dice(row[f"true_{name}"], row[f"flagged_{name}"], row["lesion_voxels"])
        rows.append(row)
    if not rows:
        raise MedvaeError(
            f"{folder}: holds no prediction for any of the {len(cases)} cases of {manifest.path} (splits: "
            f"{', '.join(splits)}). Run: medvae predict RUN --manifest {manifest.path} --out {folder}"
        )
    lesion_rows = [row for row in rows if not row["healthy"]]
    healthy_rows = [row for row in rows if row["healthy"]]
    pooled: dict[str, float] = {"n_cases": len(lesion_rows), "n_healthy": len(healthy_rows)}
    if total is not None:
        summary = total.summary()
        pooled |= {
            "ap": summary.ap, "prevalence": summary.prevalence, "auroc": summary.auroc,
            "oracle_dice": summary.oracle_dice, "oracle_threshold": summary.oracle_threshold,
            "n_voxels": summary.n_lesion + summary.n_healthy,
        }  # fmt: skip
    results = [_point(name, *value, lesion_rows, healthy_rows) for name, value in (points or {}).items()]
    return Study(method or folder.name, manifest.name, pooled, results, rows, missing)


def write_study(study: Study, out: Path | str) -> Path:
    """Write ``results.json`` and ``per_case.csv`` into ``out``; NaN becomes null."""
    out = Path(out)
    path = write_json(out / "results.json", _without_nan(asdict(study)))
    names = list(dict.fromkeys(name for row in study.per_case for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names)
    writer.writeheader()
    writer.writerows(study.per_case)
    write_text(out / "per_case.csv", text.getvalue())
    return path


def lesion_truth(manifest: Manifest, case: Case) -> np.ndarray:
    """The lesion of a labelled case, ``(X, Y, Z)`` bool: the values of the manifest's first region.

    Raises
    ------
    MedvaeError
        If the label map lies on another grid, or holds a value that the manifest does not name.
    """
    path = manifest.resolve(case.label)
    volume = read_volume(path)
    require_same_grid(volume, read_geometry(manifest.images(case)[0]), f'the image of case "{case.id}"')
    labels = np.rint(volume.array).astype(np.int64)
    if manifest.label_values is None:
        return labels > 0
    known = {value for values in manifest.label_values.values() for value in values} | {0}
    unknown = sorted(set(np.unique(labels).tolist()) - known)
    if unknown:
        raise MedvaeError(
            f'{manifest.path}: case "{case.id}": {path} holds the label values {unknown}, the manifest names '
            f"{sorted(known)}. Add them to label_values, or correct the file."
        )
    region = next(iter(manifest.label_values.values()))
    return np.isin(labels, region)


def _case_voxels(manifest: Manifest, case: Case, file: Path) -> tuple[np.ndarray, np.ndarray]:
    """In-mask scores ``(V,)`` and truth ``(V,)`` of a case."""
    scan = read_volume(manifest.images(case)[0])
    scores = read_volume(file, finite=False)
    grid, found = scan.geometry, scores.geometry
    if not found.same_grid(grid, tolerance_mm=0.01):
        raise MedvaeError(
            f'{file}: lies on another grid ({found.shape}, {found.orientation}) than the scan of case "{case.id}" '
            f"({grid.shape}, {grid.orientation}). Resample the map onto the scan."
        )
    mask = brain_mask(scan, manifest.resolve(case.mask) if case.mask else None)
    if np.isnan(scores.array[mask]).any():
        raise MedvaeError(f"{file}: holds NaN inside the brain. A score is needed for every brain voxel.")
    truth = np.zeros(mask.shape, dtype=bool)
    if not case.healthy:
        truth = lesion_truth(manifest, case)
    return scores.array[mask], truth[mask]


def _point(
    name: str, rate: float, threshold: float, lesion_rows: list[dict[str, Any]], healthy_rows: list[dict[str, Any]]
) -> PointResult:
    hits = sum(row[f"true_{name}"] for row in lesion_rows)
    flagged = sum(row[f"flagged_{name}"] for row in lesion_rows)
    lesion = sum(row["lesion_voxels"] for row in lesion_rows)
    false = sum(row[f"flagged_{name}"] for row in healthy_rows)
    healthy = sum(row["voxels"] for row in healthy_rows)
    return PointResult(
        name=name,
        asked_fpr=rate,
        threshold=threshold,
        dice=_dice(hits, flagged, lesion) if lesion_rows else math.nan,
        mean_dice=float(np.mean([row[f"dice_{name}"] for row in lesion_rows])) if lesion_rows else math.nan,
        sensitivity=hits / lesion if lesion else math.nan,
        fpr=false / healthy if healthy else math.nan,
    )


def _dice(hits: int, flagged: int, lesion: int) -> float:
    """Dice from counts; 1 when both are empty, as nothing was there and nothing was flagged."""
    return 2 * hits / (flagged + lesion) if flagged + lesion else 1.0


def _read_sidecar(file: Path) -> dict[str, Any]:
    path = file.with_name(file.name.removesuffix(".nii.gz") + ".json")
    return read_document(path) if path.exists() else {}


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and math.isnan(value) else value
