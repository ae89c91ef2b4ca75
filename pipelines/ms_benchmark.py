"""Multiple sclerosis: which of a few small methods, trained on healthy brains only, finds the lesions.

    python pipelines/ms_benchmark.py --out runs/ms_benchmark
    python pipelines/ms_benchmark.py my_cohort.json --out runs/my_benchmark

*Cohort.* Healthy training and validation scans, and test scans of patients with labels and of healthy people: the
included T1 scans by default (two patients: enough to try everything, too few to conclude anything).
*Methods.* A context-encoding VAE and a plain VAE on axial slices, and a denoising U-Net on 3D patches; three seeds
each, and the mean of the seeds. Two baselines without a network are included.
*Score.* Each method's own: the signed residual as a voxelwise z score against the healthy training scans; lesions are
assumed to be dark on T1 and bright on other modalities.
*Measured.* AP, ⌈Dice⌉, and Dice, sensitivity and lesion F1 at thresholds from healthy validation scans, before and
after findings below 0.02 ml are removed; see docs/BENCHMARK.md for everything else.

Run it again after Ctrl-C: it continues where it stopped. ``--quick`` trains a few steps of one small network: it shows
that everything works, its numbers mean nothing.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from medvae.benchmark import Board, Ensembles, Method, StudyConfig, run_study, write_board, write_study_file
from medvae.benchmark.study import polarity_of
from medvae.benchmark.writing import markdown
from medvae.config import PostprocessingConfig
from medvae.errors import MedvaeError
from medvae.manifest import read_manifest

REPOSITORY = Path(__file__).resolve().parents[1]
COHORT = REPOSITORY / "data_manifests" / "included_t1.json"
METHODS = ("cevae_slice", "vae_slice", "dae_patch")
QUICK = ("training.steps=3", "training.validate_every=1000", "sampling.workers=0", "sampling.batch_size=8",
         "network.widths=[4,8,8]", "network.squeeze=4", "network.latent_size=8")  # fmt: skip


def main(manifest: Path, out: Path, quick: bool) -> Board:
    """Make ``out``: the study, its runs and its tables."""
    polarity = polarity_of(list(read_manifest(manifest).modality.values()))
    methods = METHODS[:1] if quick else METHODS
    overrides = (f"score.polarity={polarity}", *(QUICK if quick else ()))
    study = StudyConfig(
        name="ms_benchmark",
        manifest=str(manifest.resolve()),
        methods=tuple(
            Method(config=str(REPOSITORY / "configs" / f"{name}.yaml"), overrides=overrides) for name in methods
        ),
        seeds=(0,) if quick else (0, 1, 2),
        ensembles=Ensembles(seeds=not quick),
        postprocessing=PostprocessingConfig(minimum_lesion_ml=0.02),
    )
    board = run_study(write_study_file(study, out / "study.yaml"), out)
    write_board(board, out)
    return board


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path, nargs="?", default=COHORT, help="cohort (default: the included one)")
    parser.add_argument("--out", type=Path, default=Path("runs/ms_benchmark"), help="folder for everything")
    parser.add_argument("--quick", action="store_true", help="a few steps of one small network")
    chosen = parser.parse_args()
    try:
        result = main(chosen.manifest, chosen.out, chosen.quick)
    except MedvaeError as error:
        sys.exit(f"ms_benchmark: {error}")
    except KeyboardInterrupt:
        sys.exit("\nStopped; run the same command again to go on.")
    print(markdown(result))
    sys.exit(1 if result.failed else 0)
