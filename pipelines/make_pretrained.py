"""Train the detector that comes with medvae, and pack it.

    python pipelines/make_pretrained.py MANIFEST --cache CACHE --run runs/best_t1 --out medvae/pretrained/t1-2mm

MANIFEST is ``medvae manifest ixi`` of the healthy heads, or any other healthy T1 cohort; training goes on where it was
stopped. The weights are rounded to half precision before the thresholds are set, so what is packed is exactly what was
calibrated.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save

from medvae.config import read_config
from medvae.detector import Detector
from medvae.errors import MedvaeError
from medvae.files import write_bytes
from medvae.fitting import fit
from medvae.manifest import read_manifest
from medvae.preparation.prepare import prepare_healthy, prepare_training
from medvae.run_folder import COHORT

CONFIG = Path(__file__).resolve().parents[1] / "configs" / "best_t1.yaml"


def main(manifest: Path, cache: Path | None, run: Path, out: Path) -> None:
    """Make ``run`` and ``out``."""
    cohort, config = read_manifest(manifest), read_config(CONFIG)
    fitted = fit(config, cohort, run, cache=cache, resume=True)
    named = config.model_copy(update={"name": out.name})
    training, scale = prepare_training(cohort, config.preparation, cache=cache)
    validation = prepare_healthy(cohort, "validation", config.preparation, scale=scale, cache=cache)
    people = [case.subject_id for case in cohort.of_split("validation", healthy=True)]
    network = fitted.network.half().float()
    Detector.calibrate(named, network, training, validation, scale=scale, subjects=people).save(out)
    weights = out / "network.safetensors"
    write_bytes(weights, save({name: tensor.to(torch.float16) for name, tensor in load_file(weights).items()}))
    write_bytes(out / COHORT, (run / COHORT).read_bytes())
    size = sum(path.stat().st_size for path in out.iterdir()) / 1e6
    print(f"written: {out}, {size:.1f} MB; healthy scans: {len(training)} training, {len(validation)} validation")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path, metavar="MANIFEST", help="the healthy cohort")
    parser.add_argument("--cache", type=Path, help="folder of prepared scans")
    parser.add_argument("--run", type=Path, default=Path("runs/best_t1"), help="run folder")
    parser.add_argument("--out", type=Path, required=True, help="the packed detector; its name becomes the model's")
    chosen = parser.parse_args()
    try:
        main(chosen.manifest, chosen.cache, chosen.run, chosen.out)
    except MedvaeError as error:
        sys.exit(f"make_pretrained: {error}")
    except KeyboardInterrupt:
        sys.exit("\nStopped; run the same command again to go on.")
