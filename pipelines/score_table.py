"""Every preset with every score it can make, on inserted lesions and on patients: one table.

    python pipelines/score_table.py --out runs/score_table [--presets cevae_slice ...] [--scores residual ...]
        [--seeds 0 1 2] [--planes]

Each preset is trained on the included cohort, once for each seed. Each score is then calibrated on the healthy scans,
as a z value at each place and without, and measured on the healthy test scans with inserted lesions and on the MS
patients; last come ensembles. Nothing is chosen here: every combination is a row. Run it again after Ctrl-C: what is
done is kept.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from medvae.calibrated import Calibrated
from medvae.config import Config, ScoreConfig, read_config
from medvae.detector import Detector
from medvae.ensemble import Ensemble
from medvae.errors import MedvaeError
from medvae.evaluation.curves import VoxelCounts
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
SLOW = ("context", "restoration")
"""Dozens of passes per volume: measured as z values only."""
SMOOTHING_MM = 1.5

Lesions = list[tuple[PreparedVolume, np.ndarray]]
Numbers = dict[str, float]


def scores_of(config: Config, wanted: list[str]) -> list[ScoreConfig]:
    """The wanted scores that make sense for a preset, with and, unless they are slow, without normative calibration."""
    posterior = config.network.kind != "unet"
    kinds = [kind for kind in wanted if posterior or kind not in NEED_POSTERIOR]
    if config.objective.kind != "cevae":  # only context encoding has learned to fill in what was blanked
        kinds = [kind for kind in kinds if kind != "context"]
    polarity = {kind: "dark" if kind in SIGNED else "bright" for kind in kinds}
    return [
        ScoreConfig(kind=kind, polarity=polarity[kind], smoothing_mm=SMOOTHING_MM, normative=normative)
        for kind in kinds
        for normative in ((True,) if kind in SLOW else (False, True))
    ]


def lesion_scans(manifest: Manifest, config: Config) -> Lesions:
    """Prepared test scans with lesions, and their truth on the standard grid, on which the cohort lies."""
    cases = manifest.of_split("test", healthy=False)
    return [(prepare_case(manifest, case, config.preparation), lesion_truth(manifest, case)) for case in cases]


def measure(detector: Calibrated, scans: Lesions) -> Numbers:
    """Pooled AP and oracle Dice, Dice at the 1 % operating point, and seconds per volume."""
    total, hits, flagged, lesion = None, 0, 0, 0
    started = time.perf_counter()
    scores = [detector.score(volume) for volume, _ in scans]
    seconds = (time.perf_counter() - started) / len(scans)
    for score, (volume, truth) in zip(scores, scans, strict=True):
        inside, found = truth[volume.mask], score[volume.mask]
        counts = VoxelCounts.of(found, inside)
        total = counts if total is None else total + counts
        above = found > detector.point(0.01).threshold
        hits, flagged = hits + int((above & inside).sum()), flagged + int(above.sum())
        lesion += int(inside.sum())
    summary = total.summary()
    return {
        "ap": summary.ap, "oracle_dice": summary.oracle_dice, "dice_at_1": 2 * hits / (flagged + lesion),
        "prevalence": summary.prevalence, "seconds": seconds,
    }  # fmt: skip


class Table:
    """Rows that are kept on disk: name of preset and score, then seed, then cohort, to numbers."""

    def __init__(self, out: Path) -> None:
        self._path = out / "results.json"
        self.rows = json.loads(self._path.read_text()) if self._path.exists() else {}

    def add(self, name: str, seed: str, make: Callable[[], Calibrated], targets: dict[str, Lesions]) -> None:
        """Measure a detector, unless that was done already."""
        if seed in self.rows.get(name, {}):
            return
        detector = make()
        found = {target: measure(detector, scans) for target, scans in targets.items()}
        self.rows.setdefault(name, {})[seed] = found
        write_json(self._path, self.rows)
        print(f"{name}, seed {seed}: AP " + ", ".join(f"{n['ap']:.3f} {target}" for target, n in found.items()))


def main(out: Path, presets: list[str], wanted: list[str], seeds: list[int], planes: bool) -> None:
    """Make ``out/table.md`` and ``out/results.json``."""
    cohort = read_manifest(COHORT)
    inserted = insert_cohort(cohort, out / "inserted", seed=LESION_SEED, repeats=2, shapes=read_shapes(SHAPES))
    table = Table(out)
    detectors: dict[str, dict[str, Detector]] = {}
    for preset in presets:
        config = read_config(REPOSITORY / "configs" / f"{preset}.yaml")
        training, validation = (prepare_healthy(cohort, s, config.preparation) for s in ("train", "validation"))
        targets = {"inserted": lesion_scans(inserted, config), "ms": lesion_scans(cohort, config)}
        for seed in seeds if config.network else seeds[:1]:
            seeded = config.model_copy(update={"seed": seed})
            detector = fit(seeded, cohort, out / "runs" / f"{preset}-seed{seed}", resume=True)
            detectors.setdefault(preset, {})[f"seed{seed}"] = detector
            for score in scores_of(config, wanted) if config.network else [config.score]:
                changed = seeded.model_copy(update={"score": score})
                make = partial(Detector.calibrate, changed, detector.network, training, validation)
                table.add(f"{preset} {score.kind}{' z' if score.normative else ''}", str(seed), make, targets)
    for preset in [p for p in ("cevae_slice",) if planes and p in detectors]:
        for plane in ("coronal", "sagittal"):
            config = read_config(REPOSITORY / "configs" / f"{preset}.yaml", [f"sampling.plane={plane}"])
            detector = fit(config, cohort, out / "runs" / f"{preset}-{plane}", resume=True)
            detectors[preset][plane] = detector
            table.add(f"{preset} {plane} residual z", "0", lambda found=detector: found, targets)
    for name, members in ensembles_of(detectors, seeds).items():
        table.add(name, "–", partial(Ensemble.calibrate, "ensemble", members, validation), targets)
    report(table.rows, out)


def ensembles_of(detectors: dict[str, dict[str, Detector]], seeds: list[int]) -> dict[str, dict[str, Detector]]:
    """Every preset over its seeds, the ceVAE over the planes, and the methods together, each with its own score."""
    found = {}
    for preset, runs in detectors.items():
        of_seeds = {name: detector for name, detector in runs.items() if name.startswith("seed")}
        if len(of_seeds) > 1:
            found[f"ensemble: {preset}, {len(of_seeds)} seeds"] = of_seeds
        if "coronal" in runs:
            planes = {name: runs[name] for name in (f"seed{seeds[0]}", "coronal", "sagittal")}
            found[f"ensemble: {preset}, 3 planes"] = planes
    methods = {p: runs[f"seed{seeds[0]}"] for p, runs in detectors.items() if p.endswith("_slice")}
    if len(methods) > 1:
        found[f"ensemble: {' + '.join(methods)}"] = methods
    return found


def report(rows: dict[str, dict[str, dict[str, Numbers]]], out: Path) -> None:
    """Print the table, mean ± SD over seeds, and write it as Markdown."""
    header = ["preset and score", "seeds", "AP inserted", "⌈Dice⌉ oracle", "Dice @ 1 % FPR"]
    header += ["AP MS", "⌈Dice⌉ oracle", "Dice @ 1 % FPR", "s per volume"]
    lines = []
    for name, seeds in rows.items():
        found = list(seeds.values())
        cells = [
            _mean_sd([result[target][key] for result in found])
            for target in ("inserted", "ms")
            for key in ("ap", "oracle_dice", "dice_at_1")
        ]
        lines.append([name, str(len(found)), *cells, f"{np.mean([r['inserted']['seconds'] for r in found]):.2f}"])
    any_result = next(iter(next(iter(rows.values())).values()))
    chance = ", ".join(f"{any_result[t]['prevalence']:.4f} ({t})" for t in ("inserted", "ms"))
    print_table(f"AP of chance (prevalence): {chance}", header, lines)
    print("written:", write_text(out / "table.md", f"AP of chance: {chance}.\n\n{markdown_table(header, lines)}"))


def _mean_sd(values: list[float]) -> str:
    return f"{np.mean(values):.3f}" + (f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else "")


if __name__ == "__main__":
    everything = sorted(p.stem for p in (REPOSITORY / "configs").glob("*.yaml"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/score_table"), help="folder for everything")
    parser.add_argument("--presets", nargs="+", default=everything, choices=everything, metavar="NAME", help="which")
    kinds = [*SIGNED, *UNSIGNED]
    parser.add_argument("--scores", nargs="+", default=kinds, choices=kinds, metavar="KIND", help="which scores")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], metavar="N", help="of initialisation and training")
    parser.add_argument("--planes", action="store_true", help="also average the ceVAE over three planes")
    chosen = parser.parse_args()
    try:
        main(chosen.out, chosen.presets, chosen.scores, chosen.seeds, chosen.planes)
    except MedvaeError as error:
        sys.exit(f"score_table: {error}")
    except KeyboardInterrupt:
        sys.exit("\nStopped; run the same command again to go on.")
