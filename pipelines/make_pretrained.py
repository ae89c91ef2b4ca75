"""Train the detector that comes with medvae, and pack it.

    python pipelines/make_pretrained.py MANIFEST --cache CACHE --runs runs/t1-2mm --out medvae/pretrained/t1-2mm

MANIFEST is ``medvae manifest ixi`` of the healthy heads, or any other healthy T1 cohort. Two networks are trained one
after the other, unless their runs are there, and their scores are averaged; training goes on where it was stopped. The
weights are rounded to half precision before the thresholds are set, so what is packed is exactly what was calibrated.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save

from medvae.config import read_config
from medvae.detector import Detector
from medvae.ensemble import Ensemble
from medvae.errors import MedvaeError
from medvae.files import write_bytes
from medvae.fitting import fit
from medvae.manifest import read_manifest
from medvae.preparation.prepare import prepare_healthy, prepare_training
from medvae.run_folder import COHORT

CONFIG = Path(__file__).resolve().parents[1] / "configs" / "best_t1.yaml"
MEMBERS = {"entropy_and_dice": (), "entropy": ("seed=1", "objective.dice_weight=0")}
"""What the networks of the detector change of the config: they err in different places."""


def main(manifest: Path, cache: Path | None, runs: Path, out: Path) -> None:
    """Make ``runs`` and ``out``."""
    cohort, members = read_manifest(manifest), {}
    people = [case.subject_id for case in cohort.of_split("validation", healthy=True)]
    for name, overrides in MEMBERS.items():
        config = read_config(CONFIG, list(overrides))
        fitted = fit(config, cohort, runs / name, cache=cache, resume=True)
        training, scale = prepare_training(cohort, config.preparation, cache=cache)
        validation = prepare_healthy(cohort, "validation", config.preparation, scale=scale, cache=cache)
        network = fitted.network.half().float()
        named = config.model_copy(update={"name": f"{out.name}_{name}"})
        members[name] = Detector.calibrate(named, network, training, validation, scale=scale, subjects=people)
    Ensemble.calibrate(out.name, members, validation, people).save(out)
    for weights in out.rglob("network.safetensors"):
        write_bytes(weights, save({name: tensor.to(torch.float16) for name, tensor in load_file(weights).items()}))
    write_bytes(out / COHORT, (runs / next(iter(MEMBERS)) / COHORT).read_bytes())
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file()) / 1e6
    print(f"written: {out}, {size:.1f} MB; healthy scans: {len(training)} training, {len(validation)} validation")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path, metavar="MANIFEST", help="the healthy cohort")
    parser.add_argument("--cache", type=Path, help="folder of prepared scans")
    parser.add_argument("--runs", type=Path, default=Path("runs/t1-2mm"), help="folder of the two run folders")
    parser.add_argument("--out", type=Path, required=True, help="the packed detector; its name becomes the model's")
    chosen = parser.parse_args()
    try:
        main(chosen.manifest, chosen.cache, chosen.runs, chosen.out)
    except MedvaeError as error:
        sys.exit(f"make_pretrained: {error}")
    except KeyboardInterrupt:
        sys.exit("\nStopped; run the same command again to go on.")
