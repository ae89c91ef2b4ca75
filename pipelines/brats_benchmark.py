"""Brain tumours (BraTS), one benchmark for each modality: FLAIR, T1 and T2.

    medvae manifest brats data/BraTS2021_Training --modality flair --modality t1 --modality t2 --out brats.json
    medvae manifest ixi data/IXI --modality T1 --modality T2 --out healthy.json
    python pipelines/brats_benchmark.py brats.json healthy.json --out runs/brats

*Cohort.* Healthy training, validation and test scans from one manifest, patients with labels from the other, all of
them for testing; the first region of the patients' manifest (the whole tumour) is the target. A modality that one of
the two lacks is skipped and reported: IXI, for one, has no FLAIR.
*Methods.* A context-encoding VAE, a plain VAE and a denoising U-Net on axial slices, a denoising U-Net on 3D patches;
three seeds each, and the mean of the seeds. Two baselines without a network are included.
*Score.* Each method's own: the signed residual as a voxelwise z score against the healthy training scans; tumours are
assumed to be bright on FLAIR and T2 and dark on T1.
*Measured.* As docs/BENCHMARK.md says, at thresholds from healthy validation scans; the reference is the normative
baseline. Healthy people and patients come from different scanners, so the false-positive rate is that of the healthy
cohort, and some findings in patients may be due to their scanner.

Published work without a healthy cohort trains on the tumour-free slices of BraTS patients. That is not done here:
medvae trains, sets thresholds and normalises on whole healthy brains, and a slice without tumour label is not healthy
tissue, because a tumour displaces and compresses adjacent tissue.

``--quick`` trains a few steps of one small network: it shows that everything works, its numbers mean nothing.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from medvae.benchmark import Board, Ensembles, Method, StudyConfig, combine, run_study, write_board, write_study_file
from medvae.benchmark.study import polarity_of
from medvae.benchmark.writing import markdown
from medvae.errors import MedvaeError
from medvae.manifest import read_manifest

REPOSITORY = Path(__file__).resolve().parents[1]
MODALITIES = ("FLAIR", "T1", "T2")
METHODS = ("cevae_slice", "vae_slice", "dae_slice", "dae_patch")
QUICK = ("training.steps=3", "training.validate_every=1000", "sampling.workers=0", "sampling.batch_size=8",
         "network.widths=[4,8,8]", "network.squeeze=4", "network.latent_size=8")  # fmt: skip


def main(brats: Path, healthy: Path, modalities: list[str], out: Path, quick: bool) -> dict[str, Board]:
    """Make ``out/MODALITY`` for each modality that both manifests have."""
    patients, people = read_manifest(brats), read_manifest(healthy)
    boards = {}
    for modality in modalities:
        lacking = [m for m in (patients, people) if modality not in m.modality.values()]
        if lacking:
            print(f"{modality} is left out: {' and '.join(str(m.path) for m in lacking)} does not have it.")
            continue
        folder = out / modality
        labelled = [case.model_copy(update={"split": "test"}) for case in patients.cases if case.label]
        parts = [(people, [case for case in people.cases if case.healthy]), (patients, labelled)]
        cohort = combine(folder / "cohort.json", f"BraTS, {modality}", parts, modalities=[modality])
        overrides = (f"score.polarity={polarity_of([modality])}", *(QUICK if quick else ()))
        study = StudyConfig(
            name=f"brats_{modality}",
            manifest=cohort.path.name,
            methods=tuple(
                Method(config=str(REPOSITORY / "configs" / f"{name}.yaml"), overrides=overrides)
                for name in (METHODS[:1] if quick else METHODS)
            ),
            seeds=(0,) if quick else (0, 1, 2),
            ensembles=Ensembles(seeds=not quick),
        )
        boards[modality] = run_study(write_study_file(study, folder / "study.yaml"), folder)
        write_board(boards[modality], folder)
    if not boards:
        raise MedvaeError(f"{brats} and {healthy} have none of {', '.join(modalities)} in common.")
    return boards


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("brats", type=Path, help="manifest of the patients, made by medvae manifest brats")
    parser.add_argument("healthy", type=Path, help="manifest of healthy people, divided into splits")
    parser.add_argument("--modality", nargs="+", default=MODALITIES, choices=MODALITIES, help="which (default: all)")
    parser.add_argument("--out", type=Path, default=Path("runs/brats_benchmark"), help="folder for everything")
    parser.add_argument("--quick", action="store_true", help="a few steps of one small network")
    chosen = parser.parse_args()
    try:
        result = main(chosen.brats, chosen.healthy, list(chosen.modality), chosen.out, chosen.quick)
    except MedvaeError as error:
        sys.exit(f"brats_benchmark: {error}")
    except KeyboardInterrupt:
        sys.exit("\nStopped; run the same command again to go on.")
    print("\n".join(markdown(board) for board in result.values()))
    sys.exit(1 if any(board.failed for board in result.values()) else 0)
