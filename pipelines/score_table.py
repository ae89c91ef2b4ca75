"""Every preset with every score it can make, on inserted lesions and on patients: one table.

    python pipelines/score_table.py --out runs/score_table [--presets cevae_slice ...] [--scores residual ...]

Each preset is trained once on the included cohort. Each score is then calibrated on the healthy scans, as a z value at
each place and without, and measured on the healthy test scans with inserted lesions and on the MS patients. Nothing is
chosen here: every combination is a row. Run it again after Ctrl-C: what is done is kept.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np

from medvae.config import Config, ScoreConfig, read_config
from medvae.detector import Detector
from medvae.errors import MedvaeError
from medvae.evaluation.curves import CurveSummary, VoxelCounts
from medvae.evaluation.study import lesion_truth
from medvae.files import write_json, write_text
from medvae.fitting import fit
from medvae.lesions import insert_cohort, read_shapes
from medvae.manifest import Manifest, read_manifest
from medvae.preparation.prepare import PreparedVolume, prepare_case, prepare_healthy
from medvae.reporting.tables import markdown_table, print_table

REPOSITORY = Path(__file__).resolve().parents[1]
COHORT = REPOSITORY / "data_manifests" / "included_t1.json"
SHAPES = REPOSITORY / "data_manifests" / "included" / "lesion_shapes.npz"
LESION_SEED = 2026
SIGNED = ("residual", "context", "restoration")
UNSIGNED = ("squared_residual", "reconstruction_gradient", "kl_gradient", "elbo_gradient", "product")
NEED_POSTERIOR = ("kl_gradient", "elbo_gradient", "product", "restoration")
SMOOTHING_MM = 1.5

Lesions = list[tuple[PreparedVolume, np.ndarray]]


def scores_of(config: Config, wanted: list[str]) -> list[ScoreConfig]:
    """The wanted scores that make sense for a preset, each with and without normative calibration."""
    posterior = config.network.kind != "unet"
    kinds = [kind for kind in wanted if posterior or kind not in NEED_POSTERIOR]
    if config.objective.kind != "cevae":  # only context encoding has learned to fill in what was blanked
        kinds = [kind for kind in kinds if kind != "context"]
    polarity = {kind: "dark" if kind in SIGNED else "bright" for kind in kinds}
    return [
        ScoreConfig(kind=kind, polarity=polarity[kind], smoothing_mm=SMOOTHING_MM, normative=normative)
        for kind in kinds
        for normative in (False, True)
    ]


def lesion_scans(manifest: Manifest, config: Config) -> Lesions:
    """Prepared test scans with lesions, and their truth on the standard grid, on which the cohort lies."""
    cases = manifest.of_split("test", healthy=False)
    return [(prepare_case(manifest, case, config.preparation), lesion_truth(manifest, case)) for case in cases]


def measure(detector: Detector, scans: Lesions) -> tuple[CurveSummary, float, float]:
    """Pooled curve, Dice at the 1 % operating point, and seconds per volume."""
    total, hits, flagged, lesion = None, 0, 0, 0
    started = time.perf_counter()
    scores = [detector.score(volume) for volume, _ in scans]
    seconds = (time.perf_counter() - started) / len(scans)
    for score, (volume, truth) in zip(scores, scans, strict=True):
        inside, found = truth[volume.mask], score[volume.mask]
        counts = VoxelCounts.of(found, inside)
        total = counts if total is None else total + counts
        above = found > detector.point(0.01).threshold
        hits, flagged, lesion = (
            hits + int((above & inside).sum()),
            flagged + int(above.sum()),
            lesion + int(inside.sum()),
        )
    return total.summary(), 2 * hits / (flagged + lesion), seconds


def main(out: Path, presets: list[str], wanted: list[str]) -> None:
    """Make ``out/table.md`` and ``out/results.json``."""
    cohort = read_manifest(COHORT)
    inserted = insert_cohort(cohort, out / "inserted", seed=LESION_SEED, repeats=2, shapes=read_shapes(SHAPES))
    results = json.loads((out / "results.json").read_text()) if (out / "results.json").exists() else {}
    for preset in presets:
        config = read_config(REPOSITORY / "configs" / f"{preset}.yaml")
        network = fit(config, cohort, out / "runs" / preset, resume=True).network
        training, validation = (prepare_healthy(cohort, s, config.preparation) for s in ("train", "validation"))
        targets = {"inserted": lesion_scans(inserted, config), "ms": lesion_scans(cohort, config)}
        for score in scores_of(config, wanted) if network is not None else [config.score]:
            name = f"{preset} {score.kind}{' z' if score.normative else ''}"
            if name in results:
                continue
            changed = config.model_copy(update={"score": score})
            detector = Detector.calibrate(changed, network, training, validation)
            results[name] = {}
            for target, scans in targets.items():
                summary, dice, seconds = measure(detector, scans)
                results[name][target] = {
                    "ap": summary.ap, "oracle_dice": summary.oracle_dice, "dice_at_1": dice,
                    "prevalence": summary.prevalence, "seconds": seconds,
                }  # fmt: skip
            write_json(out / "results.json", results)
            print(f"{name}: AP {results[name]['inserted']['ap']:.3f} inserted, {results[name]['ms']['ap']:.3f} MS")
    report(results, out)


def report(results: dict[str, dict[str, dict[str, float]]], out: Path) -> None:
    """Print the table and write it as Markdown."""
    header = ["preset and score", "AP inserted", "⌈Dice⌉ oracle", "Dice @ 1 % FPR"]
    header += ["AP MS", "⌈Dice⌉ oracle", "Dice @ 1 % FPR", "s per volume"]
    rows = []
    for name, result in results.items():
        numbers = [result[t][key] for t in ("inserted", "ms") for key in ("ap", "oracle_dice", "dice_at_1")]
        rows.append([name, *(f"{n:.3f}" for n in numbers), f"{result['inserted']['seconds']:.2f}"])
    any_result = next(iter(results.values()))
    chance = ", ".join(f"{any_result[t]['prevalence']:.4f} ({t})" for t in ("inserted", "ms"))
    print_table(f"AP of chance (prevalence): {chance}", header, rows)
    print("written:", write_text(out / "table.md", f"AP of chance: {chance}.\n\n{markdown_table(header, rows)}"))


if __name__ == "__main__":
    everything = sorted(p.stem for p in (REPOSITORY / "configs").glob("*.yaml"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/score_table"), help="folder for everything")
    parser.add_argument("--presets", nargs="+", default=everything, choices=everything, metavar="NAME", help="which")
    kinds = [*SIGNED, *UNSIGNED]
    parser.add_argument("--scores", nargs="+", default=kinds, choices=kinds, metavar="KIND", help="which scores")
    arguments = parser.parse_args()
    try:
        main(arguments.out, arguments.presets, arguments.scores)
    except MedvaeError as error:
        sys.exit(f"score_table: {error}")
    except KeyboardInterrupt:
        sys.exit("\nStopped; run the same command again to go on.")
