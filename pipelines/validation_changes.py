"""Select a detector for scans with noise, thick slices or blur, on healthy validation scans.

    python pipelines/validation_changes.py t1-2mm runs/a --data MANIFEST --cache CACHE --out runs/validation

The scans of validation_lesions.py (the medium-sized lesions and one MS-like lesion load of every fourth person) are
changed as in robustness.py, after preparation. For each change: AP of each kind, pooled over the voxels of its scans,
and the share of healthy voxels above the 0.1 and 1 % thresholds of the unchanged scans. Bias field and contrast are
left to robustness.py, as preparation corrects most of them.

Scans and scores are kept in OUT, and after Ctrl-C the same command continues.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from robustness import CHANGES
from validation_lesions import FORMS, SEED, healthy_scores, ready, run, save, score

from medvae.detection.base import Calibrated
from medvae.detection.operating_points import operating_points
from medvae.evaluation.curves import SparseCounts
from medvae.files import write_text
from medvae.imaging.volume import Volume
from medvae.preparation.prepared import PreparedVolume
from medvae.progress import Progress
from medvae.reporting.tables import markdown_table, print_table

ASKED = ("as it is", "noise of 5 %", "slices of 6 mm", "blurred by 4 mm")
KINDS = {"MS-like": "MS-like, 1", **{form: f"{form}, medium" for form in FORMS}}
EVERY = 4
RATES = (0.001, 0.01)


def changed(name: str, image: np.ndarray, volume: PreparedVolume, person: int) -> np.ndarray:
    """A scan ``(X, Y, Z)`` in units of white matter, as if from another scanner; 0 outside the brain."""
    whole = np.where(volume.mask, image, 0).astype(np.float64)
    found = CHANGES[name](
        whole, volume.mask, Volume(image, volume.grid.geometry), np.random.default_rng([SEED, person])
    )
    return np.where(volume.mask, np.maximum(found, 0.01), 0).astype(np.float32)


def scans(prepared: list[PreparedVolume], made: Path) -> Iterator[tuple[int, str, np.ndarray, np.ndarray | None]]:
    """Person, kind, image and truth of every scan that is changed: all healthy ones, and some with lesions."""
    for person, volume in enumerate(prepared):
        yield person, "healthy", volume.image[0], None
        if person % EVERY == 0:
            for kind, stem in KINDS.items():
                scan = np.load(made / "scans" / f"{person}, {stem}.npz")
                yield person, kind, scan["image"], scan["truth"]


def thresholds_of(detector: Calibrated, prepared: list[PreparedVolume], folder: Path) -> list[float]:
    """The threshold for each of `RATES`, on unchanged healthy voxels."""
    points, _ = operating_points(healthy_scores(detector, prepared, folder), [v.mask for v in prepared], RATES)
    return [next(point.threshold for point in points if point.false_positive_rate == rate) for rate in RATES]


def row(
    detector: Calibrated,
    change: str,
    prepared: list[PreparedVolume],
    made: Path,
    folder: Path,
    thresholds: list[float],
) -> list[float]:
    """AP of each kind, and the share of healthy voxels above each threshold."""
    counts: dict[str, list[SparseCounts]] = {}
    above, voxels, everything = np.zeros(len(RATES)), 0, list(scans(prepared, made))
    with Progress(f"Scoring with {detector.config.name}, {change}", len(everything)) as progress:
        for done, (person, kind, image, truth) in enumerate(everything, start=1):
            volume, path = prepared[person], folder / change / f"{person}, {kind}.npz"
            if not path.exists():
                save(path, score=score(detector, volume, changed(change, image, volume, person)[None]))
            found = np.load(path)["score"][volume.mask]
            if truth is None:
                above += [(found > threshold).sum() for threshold in thresholds]
                voxels += len(found)
            else:
                counts.setdefault(kind, []).append(SparseCounts.of(found, truth[volume.mask]))
            progress.update(done)
    return [*(SparseCounts.merged(counts[kind]).summary().ap for kind in KINDS), *(above / voxels)]


def main(found: list[str], manifest: Path, cache: Path | None, out: Path) -> None:
    """Make ``out``: changed scans' scores and the table."""
    detectors, prepared, made = ready(found, manifest, cache, out)
    folders = [made / "scores" / detector.fingerprint[:12] for detector in detectors]
    thresholds = [thresholds_of(one, prepared, folder) for one, folder in zip(detectors, folders, strict=True)]
    header = ["scans", "detector", *KINDS, "mean", *(f"flagged where {rate:.1%} is asked" for rate in RATES)]
    rows = []
    for change in ASKED:
        for name, detector, folder, above in zip(found, detectors, folders, thresholds, strict=True):
            *aps, few, many = row(detector, change, prepared, made, folder, above)
            rows.append([change, name, *(f"{ap:.3f}" for ap in (*aps, np.mean(aps))), f"{few:.2%}", f"{many:.2%}"])
    print_table("Detectors on changed validation scans", header, rows)
    print(f"written: {write_text(out / 'changes.md', markdown_table(header, rows))}")


if __name__ == "__main__":
    run("validation_changes", __doc__, main)
