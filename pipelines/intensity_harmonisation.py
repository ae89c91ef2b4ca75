"""How similar scans of two scanners become under each intensity normalisation.

    python pipelines/intensity_harmonisation.py --out runs/intensity_harmonisation

The included cohort: healthy people of one scanner (IXI) and two patients with multiple sclerosis of another. Every
normalisation is fitted on the healthy training scans only. Measured are the distance between histograms inside the
brain (Wasserstein, area between the cumulative histograms) and between the medians of CSF and of white matter, all
in units of the healthy contrast between these two, so that normalisations of any range are comparable; and the
normative baseline's detection in the patients. About a minute.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from medvae.config import Config, PreparationConfig, read_config
from medvae.detection.detector import Detector
from medvae.errors import MedvaeError
from medvae.evaluation.curves import VoxelCounts
from medvae.evaluation.maps import lesion_truth
from medvae.files import write_json, write_text
from medvae.imaging.grid import DEFAULT_GRID
from medvae.imaging.volume import Volume
from medvae.lesions.tissue import tissues
from medvae.manifest import read_manifest
from medvae.preparation.prepare import prepare_case, prepare_healthy, prepare_training
from medvae.preparation.prepared import PreparedVolume
from medvae.reporting.tables import markdown_table, print_table

REPOSITORY = Path(__file__).resolve().parents[1]
COHORT = REPOSITORY / "data_manifests" / "included_t1.json"
LEVELS = np.linspace(0.25, 99.75, 200)
"""Percentiles at which histograms are compared: the mean distance between quantiles is the Wasserstein distance."""

METHODS = ("percentile", "zscore", "white_matter", "landmarks")


def quantiles(volume: PreparedVolume) -> np.ndarray:
    """Quantiles of the histogram inside the brain."""
    return np.percentile(volume.image[0][volume.mask], LEVELS)


def fluid_and_white(volume: PreparedVolume) -> np.ndarray:
    """Median intensity of CSF and of white matter."""
    image, mask = volume.image[0], volume.mask
    shift = float(image[mask].min())  # tissues() assumes a background of zero
    smooth, (fluid, white) = tissues(Volume(image - shift, DEFAULT_GRID.geometry), mask)
    parts = (mask & (smooth < fluid), mask & (smooth > white))
    return np.array([np.median(image[part]) for part in parts])


def measure(intensity: str, base: Config) -> dict[str, float]:
    """All numbers of one normalisation."""
    cohort = read_manifest(COHORT)
    preparation = PreparationConfig(intensity=intensity, clip=None)
    training, scale = prepare_training(cohort, preparation)
    validation = prepare_healthy(cohort, "validation", preparation, scale=scale)
    unseen = validation + prepare_healthy(cohort, "test", preparation, scale=scale)
    cases = cohort.of_split("test", healthy=False)
    patients = [prepare_case(cohort, case, preparation, scale=scale) for case in cases]

    histogram = np.mean([quantiles(volume) for volume in training], axis=0)
    medians = np.mean([fluid_and_white(volume) for volume in training], axis=0)
    contrast = float(medians[1] - medians[0])
    row = {}
    for name, group in (("healthy", unseen), ("patients", patients)):
        apart = [np.abs(quantiles(volume) - histogram).mean() for volume in group]
        shifts = np.abs([fluid_and_white(volume) - medians for volume in group])
        row[f"{name} histogram"] = float(np.mean(apart)) / contrast
        row[f"{name} fluid"], row[f"{name} white"] = (float(n) / contrast for n in shifts.mean(axis=0))

    config = base.model_copy(update={"preparation": preparation})
    detector = Detector.calibrate(config, None, training, validation, scale=scale)
    counts = [
        VoxelCounts.of(detector.score(volume)[volume.mask], lesion_truth(cohort, case)[volume.mask])
        for case, volume in zip(cases, patients, strict=True)
    ]
    summary = (counts[0] + counts[1]).summary()
    return {**row, "AP": summary.ap, "oracle Dice": summary.oracle_dice}


def main(out: Path) -> None:
    """Make ``out/table.md`` and ``out/results.json``."""
    base = read_config(REPOSITORY / "configs" / "normative_baseline.yaml")
    results = {intensity: measure(intensity, base) for intensity in METHODS}
    header = ["intensity", *next(iter(results.values()))]
    rows = [[name, *(f"{number:.3f}" for number in row.values())] for name, row in results.items()]
    print_table("Distance to the healthy training scans, in units of their white-fluid contrast", header, rows)
    write_json(out / "results.json", results)
    print("written:", write_text(out / "table.md", markdown_table(header, rows)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/intensity_harmonisation"), help="folder for the tables")
    arguments = parser.parse_args()
    try:
        main(arguments.out)
    except MedvaeError as error:
        sys.exit(f"intensity_harmonisation: {error}")
