"""Robustness of a detector to changes of contrast, bias field, noise, slice thickness and blur.

    python pipelines/robustness.py t1-2mm --out runs/robustness

The healthy test scans of a cohort, and the same with a tumour or MS-like lesions inserted, are changed before
preparation, as if acquired on another scanner; every change is written as a separate cohort. The detector and a
baseline without a network (normative, with the detector's preparation, from the cohort's training scans) predict all
of them. Thresholds stay those of the unchanged healthy validation scans; those that `medvae calibrate` sets on the
cohort's own healthy validation scans, changed alike, are reported too.

Measured: AP on each kind of lesion, and the share of healthy voxels above the 1 % threshold, both
the original one and that from scans changed alike.
Run it again after Ctrl-C: it continues where it stopped.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy import ndimage

from medvae.benchmark import combine
from medvae.config import Config, read_config
from medvae.detection.base import Calibrated
from medvae.detection.detector import FOLDER
from medvae.detection.ensemble import load_detector
from medvae.errors import MedvaeError
from medvae.evaluation.options import EvaluationOptions
from medvae.evaluation.study import evaluate
from medvae.files import sha256, write_text
from medvae.fitting import fit
from medvae.imaging.volume import Volume, read_volume, write_volume
from medvae.lesions import insert_cohort, read_shapes
from medvae.manifest import Manifest, read_manifest, write_manifest
from medvae.prediction import predict, scans_of_manifest
from medvae.recalibration import healthy_scans, recalibrate
from medvae.reporting.tables import markdown_table, print_table
from medvae.schema import parse

REPOSITORY = Path(__file__).resolve().parents[1]
COHORT = REPOSITORY / "data_manifests" / "included_t1.json"
SHAPES = REPOSITORY / "data_manifests" / "included" / "lesion_shapes.npz"
FAMILIES = {"tumour": ("medium",), "ms": ("medium",)}
SEED = 2027
RATE = 0.01

Change = Callable[[np.ndarray, np.ndarray, Volume, np.random.Generator], np.ndarray]


def gamma(power: float) -> Change:
    """Intensities raised to a power between 0 and their 99.5th percentile."""

    def change(array: np.ndarray, mask: np.ndarray, volume: Volume, rng: np.random.Generator) -> np.ndarray:
        top = np.percentile(array[mask], 99.5)
        return top * (array / top) ** power

    return change


def shading(amplitude: float) -> Change:
    """Multiplied by a smooth bias field that deviates from 1 by at most ``amplitude``."""

    def change(array: np.ndarray, mask: np.ndarray, volume: Volume, rng: np.random.Generator) -> np.ndarray:
        nodes = rng.uniform(-1, 1, (3, 3, 3))
        field = ndimage.zoom(nodes, [n / 3 for n in array.shape], order=2, grid_mode=True, mode="nearest")
        return array * (1 + amplitude * field / np.abs(field[mask]).max())

    return change


def noise(share: float) -> Change:
    """Rician noise with an SD that is a fraction of the median brain intensity."""

    def change(array: np.ndarray, mask: np.ndarray, volume: Volume, rng: np.random.Generator) -> np.ndarray:
        sd = share * np.median(array[mask])
        real, imaginary = rng.normal(0, sd, (2, *array.shape))
        return np.hypot(array + real, imaginary)

    return change


def thick_slices(millimetres: float) -> Change:
    """Averaged over slabs along the inferior-superior axis, and interpolated back."""

    def change(array: np.ndarray, mask: np.ndarray, volume: Volume, rng: np.random.Generator) -> np.ndarray:
        axis = int(np.argmax(np.abs(volume.geometry.affine[2, :3])))
        thickness = max(1, round(millimetres / volume.geometry.spacing_mm[axis]))
        means = ndimage.uniform_filter1d(array, thickness, axis=axis)
        slabs = np.arange(thickness // 2, array.shape[axis], thickness)
        places = np.interp(np.arange(array.shape[axis]), slabs, np.arange(len(slabs)))
        low = np.minimum(places.astype(int), len(slabs) - 2)
        weight = np.expand_dims(places - low, [other for other in range(3) if other != axis])
        sampled = np.take(means, slabs, axis=axis)
        return np.take(sampled, low, axis=axis) * (1 - weight) + np.take(sampled, low + 1, axis=axis) * weight

    return change


def blur(fwhm_mm: float) -> Change:
    """Convolved with a Gaussian."""

    def change(array: np.ndarray, mask: np.ndarray, volume: Volume, rng: np.random.Generator) -> np.ndarray:
        return ndimage.gaussian_filter(array, [fwhm_mm / 2.3548 / mm for mm in volume.geometry.spacing_mm])

    return change


CHANGES: dict[str, Change] = {
    "as it is": lambda array, *_: array,
    "flatter contrast (power 0.75)": gamma(0.75),
    "steeper contrast (power 1.35)": gamma(1.35),
    "shading of ± 30 %": shading(0.3),
    "noise of 5 %": noise(0.05),
    "slices of 6 mm": thick_slices(6.0),
    "blurred by 4 mm": blur(4.0),
}


def changed_cohort(manifest: Manifest, folder: Path, change: Change) -> Manifest:
    """Every case of a cohort with its scan changed inside the brain; deterministic."""
    cases = []
    for index, case in enumerate(manifest.cases):
        volume = read_volume(manifest.images(case)[0])
        mask = read_volume(manifest.resolve(case.mask)).array > 0 if case.mask else volume.array > 0
        array = change(volume.array.astype(np.float64), mask, volume, np.random.default_rng([SEED, index]))
        array = np.where(mask, np.maximum(array, 1e-3 * np.median(volume.array[mask])), 0)
        image = write_volume(folder / f"{case.id}_T1.nii.gz", array.astype(np.float32), volume)
        brain = write_volume(folder / f"{case.id}_mask.nii.gz", mask.astype(np.uint8), volume, intent="brain")
        label = str(manifest.resolve(case.label).resolve()) if case.label else None
        moved = {"image": image.name, "mask": brain.name, "label": label, "sha256": sha256(image)}
        cases.append(case.model_copy(update=moved))
    return read_manifest(write_manifest(manifest.model_copy(update={"cases": cases}), folder / "cohort.json"))


def baseline_of(detector: Calibrated, cohort: Manifest, out: Path) -> Calibrated:
    """The normative baseline, prepared as the detector is."""
    plain = read_config(REPOSITORY / "configs" / "normative_baseline.yaml").model_dump()
    config = parse(Config, plain | {"preparation": detector.config.preparation.model_dump()}, "the baseline")
    return fit(config, cohort, out / "runs" / "baseline", resume=True, cache=out / "prepared")


def recalibrated_threshold(run: str | Path, detector: Calibrated, changed: Manifest, out: Path, cache: Path) -> float:
    """Value of the detector's map above which `RATE` of the voxels of changed healthy validation scans lie."""
    if not (out / FOLDER).is_dir():
        recalibrate(run, healthy_scans(changed), out, where=str(changed.path), cache=cache, quiet=True)
    return float(detector.map_values(np.float32(load_detector(out).point(RATE).threshold)))


def main(found: str, manifest: Path, out: Path) -> None:
    """Make ``out``: changed cohorts, predictions and the table."""
    detector, cohort = load_detector(found), read_manifest(manifest)
    detectors = {detector.config.name: detector, "baseline": baseline_of(detector, cohort, out)}
    runs = {detector.config.name: found, "baseline": out / "runs" / "baseline"}
    shapes = read_shapes(SHAPES)
    validation = combine(out / "validation.json", "validation", [(cohort, cohort.of_split("validation", healthy=True))])
    healthy = cohort.of_split("test", healthy=True)
    parts, ids = [(cohort, healthy)], {}
    for family, sizes in FAMILIES.items():
        made = insert_cohort(cohort, out / "inserted" / family, family=family, sizes=sizes, seed=SEED, shapes=shapes)
        parts.append((made, made.cases))
        ids[family] = {case.id for case in [*healthy, *made.cases]}
    everything = combine(out / "inserted" / "all.json", "unchanged", parts)

    header = ["scans", "detector", *(f"AP, {family}" for family in FAMILIES), "flagged, of healthy voxels"]
    header.append("… by thresholds from scans changed alike")
    rows = []
    for name, change in CHANGES.items():
        word = "".join(letter if letter.isalnum() else "_" for letter in name)
        changed = changed_cohort(everything, out / "changed" / word, change)
        alike = changed_cohort(validation, out / "changed" / word / "validation", change)
        for method, one in detectors.items():
            folder = out / "maps" / word / method
            _, failures = predict(one, scans_of_manifest(changed), folder, cache=out / "prepared", rate=RATE)
            if failures:
                raise MedvaeError("\n".join(failures.values()))
            place = out / "recalibrated" / word / method
            own = recalibrated_threshold(runs[method], one, alike, place, out / "prepared")
            numbers = []
            for family in FAMILIES:
                kept = [case for case in changed.cases if case.id in ids[family]]
                path = out / "changed" / word / f"{family}.json"
                study = evaluate(
                    folder,
                    read_manifest(write_manifest(changed.model_copy(update={"cases": kept}), path)),
                    EvaluationOptions(thresholds=[own]),
                )
                numbers.append(f"{study.pooled['ap']:.3f}")
            shares = {p.threshold if math.isnan(p.asked_fpr) else p.asked_fpr: p["fpr"] for p in study.operating_points}
            rows.append([name, method, *numbers, *(f"{100 * shares[key]:.1f} %" for key in (RATE, own))])
    print_table("Detectors on changed scans", header, rows)
    path = write_text(out / "table.md", markdown_table(header, rows))
    print(f"written: {path}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("detector", metavar="DETECTOR", help="run folder, detector's folder, or a name as t1-2mm")
    parser.add_argument("manifest", type=Path, nargs="?", default=COHORT, help="cohort (default: the included one)")
    parser.add_argument("--out", type=Path, default=Path("runs/robustness"), help="folder for everything")
    chosen = parser.parse_args()
    try:
        main(chosen.detector, chosen.manifest, chosen.out)
    except MedvaeError as error:
        sys.exit(f"robustness: {error}")
    except KeyboardInterrupt:
        sys.exit("\nStopped; run the same command again to go on.")
