"""Select the mask rule for a detector's maps, on the scans of validation_lesions.py, without using the test set.

    python pipelines/validation_masks.py t1-2mm --data MANIFEST --cache CACHE --out runs/validation

A mask holds voxels above one threshold that are connected with a voxel above another (hysteresis), without findings up
to a given volume. Thresholds are set by the share of healthy validation voxels above them. For each rule: findings per
healthy scan, and for each kind of lesion the mean Dice of its scans, the lesion F1 and the lesion sensitivity, all
sizes together. MS-like scans contain many lesions, the others one.

A second table gives the sensitivity of a reader who reviews findings by decreasing confidence, at one false finding per
scan (`medvae.evaluation.free_response`).

Scans and scores are kept in OUT; those of validation_lesions.py are reused.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from validation_lesions import FORMS, healthy_scores, ready, run, scored

from medvae.detection.operating_points import operating_points
from medvae.evaluation.curves import SparseCounts
from medvae.evaluation.free_response import SMALLEST_LESION_ML, free_response, thresholds_of
from medvae.evaluation.lesions import OVERLAP, SMALLEST_ML, lesion_numbers, match_lesions
from medvae.evaluation.maps import CaseVoxels
from medvae.files import write_text
from medvae.imaging.components import components
from medvae.imaging.grid import DEFAULT_GRID
from medvae.imaging.morphology import grow, remove_small
from medvae.preparation.prepared import PreparedVolume
from medvae.progress import Progress
from medvae.reporting.tables import markdown_table, print_table

KINDS = ("MS-like", *FORMS)


class Rule(NamedTuple):
    """Mask rule: shares of healthy voxels above both thresholds, and the largest volume that is removed, in ml."""

    seed: float
    grown_to: float
    minimum_ml: float = 0.0

    def mask(self, scores: np.ndarray, thresholds: dict[float, float]) -> np.ndarray:
        """The mask from scores ``(X, Y, Z)`` and the threshold of each share."""
        grown = grow(scores, thresholds[self.seed], thresholds[self.grown_to])
        return remove_small(grown, DEFAULT_GRID.voxel_volume_ml, self.minimum_ml)


RULES = (
    Rule(0.001, 0.001), Rule(0.001, 0.001, 0.02), Rule(0.001, 0.001, 0.1), Rule(0.0005, 0.001), Rule(0.0003, 0.001),
    Rule(0.0002, 0.001), Rule(0.0001, 0.001), Rule(0.0003, 0.0003), Rule(0.0003, 0.0005), Rule(0.0003, 0.002),
)  # fmt: skip
FINDINGS_ABOVE = {"cut at each confidence": None, "above 0.1 %": 0.001}


def cases(prepared: list[PreparedVolume], made: Path, folder: Path) -> Iterator[tuple[str, CaseVoxels]]:
    """Kind, and score with truth, of every scan with lesions."""
    for path in sorted((made / "scans").glob("*.npz")):
        person, kind, _ = path.stem.split(", ")
        mask = prepared[int(person)].mask
        score = np.where(mask, np.load(folder / path.name)["score"], -np.inf)
        yield kind, CaseVoxels(score, np.load(path)["truth"], mask, DEFAULT_GRID.geometry)


def table_of_masks(
    healthy: list[np.ndarray], thresholds: dict[float, float], lesions: dict[str, list[CaseVoxels]]
) -> tuple[list[str], list[list[str]]]:
    """A row for each rule: findings per healthy scan; Dice, F1 and sensitivity of each kind, and their means."""
    header = ["seeds", "grown to", "left out, ml", "findings per healthy scan"]
    header += [f"{kind}: Dice, F1, found" for kind in (*KINDS, "mean")]
    rows = []
    with Progress("Making masks", len(RULES)) as progress:
        for done, rule in enumerate(RULES, start=1):
            numbers = []
            for kind in KINDS:
                masks = [(rule.mask(case.scores, thresholds), case.truth) for case in lesions[kind]]
                dice = [2 * (mask & truth).sum() / (mask.sum() + truth.sum()) for mask, truth in masks]
                found = lesion_numbers(match_lesions(*pair, DEFAULT_GRID.voxel_volume_ml) for pair in masks)
                numbers.append((np.mean(dice), found.lesion_f1, found.lesion_sensitivity))
            false = np.mean([len(components(rule.mask(scores, thresholds)).sizes) for scores in healthy])
            cells = (" ".join(f"{value:.3f}" for value in row) for row in (*numbers, np.mean(numbers, axis=0)))
            rows.append([f"{rule.seed:.2%}", f"{rule.grown_to:.2%}", f"{rule.minimum_ml:g}", f"{false:.1f}", *cells])
            progress.update(done)
    return header, rows


def table_of_findings(
    thresholds: dict[float, float], lesions: dict[str, list[CaseVoxels]]
) -> tuple[list[str], list[list[str]]]:
    """A row for each definition of findings: sensitivity at one false finding per scan for each kind, and the mean."""
    rows = []
    for name, share in FINDINGS_ABOVE.items():
        above = math.inf if share is None else thresholds[share]
        found = []
        for kind in KINDS:
            counts = [SparseCounts.of(case.scores[case.brain], case.truth[case.brain]) for case in lesions[kind]]
            steps = thresholds_of(SparseCounts.merged(counts))
            curve = free_response(lesions[kind], steps, overlap=OVERLAP, smallest_ml=SMALLEST_ML, findings_above=above)
            found.append(curve.sensitivity[1])
        rows.append([name, *(f"{value:.2f}" for value in (*found, np.mean(found)))])
    return ["findings", *KINDS, "mean"], rows


def main(names: list[str], manifest: Path, cache: Path | None, out: Path) -> None:
    """Make ``out``: scans with lesions, scores and both tables of each detector."""
    detectors, prepared, made = ready(names, manifest, cache, out)
    text = []
    for name, detector in zip(names, detectors, strict=True):
        folder = scored(detector, prepared, made)
        healthy = healthy_scores(detector, prepared, folder)
        shares = sorted({share for rule in RULES for share in rule[:2]} | set(FINDINGS_ABOVE.values()) - {None})
        points, _ = operating_points(healthy, [volume.mask for volume in prepared], shares)
        thresholds = {point.false_positive_rate: point.threshold for point in points}
        lesions: dict[str, list[CaseVoxels]] = {}
        for kind, case in cases(prepared, made, folder):
            lesions.setdefault(kind, []).append(case)
        found = f"{name}: lesions from {SMALLEST_LESION_ML} ml found at one false finding per scan"
        tables = {
            f"{name}: masks": table_of_masks(healthy, thresholds, lesions),
            found: table_of_findings(thresholds, lesions),
        }
        for title, (header, rows) in tables.items():
            print_table(title, header, rows)
            text.append(f"## {title}\n\n{markdown_table(header, rows)}")
    path = write_text(out / "masks.md", "\n".join(text))
    print(f"written: {path}")


if __name__ == "__main__":
    run("validation_masks", __doc__, main)
