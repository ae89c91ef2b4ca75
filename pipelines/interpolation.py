"""How much a lesion mask depends on an earlier interpolation of the scan.

    python pipelines/interpolation.py t1-2mm --out runs/interpolation

Scans reach a detector after other programs have resampled them. Here every scan of a manifest that has a lesion label
is resampled in ways that change nothing a reader would see: to voxels of 1, 1.2 and 1.5 mm, by half a voxel, and turned
by 3°, each by linear and by cubic interpolation. The detector predicts the copies at its own operating point. Compared
with the scan as it is: lesion volume, and Dice of the masks on the scan's grid; and Dice with the label.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from scipy import ndimage

from medvae.detection.base import Calibrated
from medvae.detection.ensemble import load_detector
from medvae.errors import MedvaeError
from medvae.evaluation.maps import lesion_truth
from medvae.files import write_json, write_text
from medvae.imaging.volume import Geometry, Volume, read_volume, resample
from medvae.manifest import read_manifest
from medvae.preparation.extraction import brain_mask
from medvae.progress import Progress
from medvae.reporting.tables import markdown_table, print_table
from medvae.schema import read_document

COHORT = Path(__file__).resolve().parents[1] / "data_manifests" / "included_t1.json"
ORDERS = {"linear": 1, "cubic": 3}


def grids(own: Geometry) -> Iterator[tuple[str, Geometry]]:
    """The grids of the copies, by name."""
    spacing, middle = np.array(own.spacing_mm), own.affine @ [*(np.array(own.shape) / 2), 1]
    for mm in (1.0, 1.2, 1.5):
        affine = own.affine.copy()
        affine[:3, :3] *= mm / spacing
        x, y, z = (int(n) for n in np.ceil(spacing * own.shape / mm))
        yield f"{mm:g} mm", Geometry(affine, (x, y, z))
    shift = np.eye(4)
    shift[:3, 3] = 0.5
    yield "half a voxel", Geometry(own.affine @ shift, own.shape)
    turn, there = np.eye(4), np.eye(4)
    cosine, sine = np.cos(np.deg2rad(3)), np.sin(np.deg2rad(3))
    turn[:3, :3] = np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]]) @ [
        [1, 0, 0], [0, cosine, -sine], [0, sine, cosine]
    ]  # fmt: skip
    there[:3, 3] = middle[:3]
    yield "turned by 3°", Geometry(there @ turn @ np.linalg.inv(there) @ own.affine, own.shape)


def copied(scan: Volume, brain: np.ndarray, target: Geometry, order: int) -> np.ndarray:
    """The brain interpolated on another grid, 0 outside."""
    matrix = np.linalg.inv(scan.geometry.affine) @ target.affine

    def on_target(array: np.ndarray, order: int) -> np.ndarray:
        moved = ndimage.affine_transform(
            array.astype(np.float32), matrix[:3, :3], matrix[:3, 3], target.shape, order=order
        )
        return np.asarray(moved)

    inside = on_target(brain, 1) >= 0.5
    smallest = 1e-3 * float(np.percentile(scan.array[brain], 50))  # interpolation may undershoot
    return np.where(inside, np.maximum(on_target(scan.array, order), smallest), 0)


def measure(detector: Calibrated, scan: Volume, brain: np.ndarray, truth: np.ndarray) -> list[dict[str, object]]:
    """One row for the scan as it is, then one for each copy."""
    own = detector(scan.array, scan.geometry.affine)
    as_it_is, rows = own.lesion_mask > 0, []
    rows.append(_row("as it is", own.lesion_volume_ml, as_it_is, as_it_is, truth))
    for name, grid in grids(scan.geometry):
        for kind, order in ORDERS.items():
            found = detector(copied(scan, brain, grid, order), grid.affine)
            mask = resample(found.lesion_mask.astype(np.float32), grid, scan.geometry) >= 0.5
            rows.append(_row(f"{name}, {kind}", found.lesion_volume_ml, mask, as_it_is, truth))
    return rows


def _row(name: str, volume_ml: float, mask: np.ndarray, as_it_is: np.ndarray, truth: np.ndarray) -> dict[str, object]:
    def dice(other: np.ndarray) -> float:
        return float(2 * (mask & other).sum() / max(1, mask.sum() + other.sum()))

    return {"copy": name, "ml": volume_ml, "dice_as_it_is": dice(as_it_is), "dice_label": dice(truth)}


def main(detector_name: str, manifest: Path, out: Path) -> None:
    """Measure every labelled test scan, and write ``cases/ID.json`` and ``table.md``; what is there is kept."""
    detector, cohort = load_detector(detector_name), read_manifest(manifest)
    cases, rows = cohort.of_split("test", healthy=False), []
    if not cases:
        raise MedvaeError(f"{manifest}: has no test scan with a label.")
    with Progress("Copying and predicting", len(cases)) as progress:
        for done, case in enumerate(cases, start=1):
            record = out / "cases" / f"{case.id}.json"
            if not record.exists():
                scan = read_volume(cohort.images(case)[0])
                brain = brain_mask(scan, cohort.resolve(case.mask) if case.mask else None)
                found = measure(detector, scan, brain, lesion_truth(cohort, case))
                write_json(record, {"fingerprint": detector.fingerprint, "rows": found})
            content = read_document(record)
            if content["fingerprint"] != detector.fingerprint:
                raise MedvaeError(f"{record}: is of another detector. Choose another --out folder.")
            first = content["rows"][0]["ml"]
            rows += [
                [case.id, row["copy"], f"{row['ml']:.1f}", f"{row['ml'] / max(first, 1e-9):.2f}",
                 f"{row['dice_as_it_is']:.2f}", f"{row['dice_label']:.2f}"]
                for row in content["rows"]
            ]  # fmt: skip
            progress.update(done, case=case.id)
    header = ["scan", "copy", "ml", "ratio", "Dice with the scan as it is", "Dice with the label"]
    print_table(f"Masks of {detector.config.name} on resampled copies", header, rows)
    print(f"written: {write_text(out / 'table.md', markdown_table(header, rows))}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("detector", metavar="DETECTOR", help="run folder, detector's folder, or a name as t1-2mm")
    parser.add_argument("manifest", type=Path, nargs="?", default=COHORT, help="cohort (default: the included one)")
    parser.add_argument("--out", type=Path, default=Path("runs/interpolation"), help="folder for everything")
    chosen = parser.parse_args()
    try:
        main(chosen.detector, chosen.manifest, chosen.out)
    except MedvaeError as error:
        sys.exit(f"interpolation: {error}")
    except KeyboardInterrupt:
        sys.exit("\nStopped; run the same command again to go on.")
