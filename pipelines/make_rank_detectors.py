"""Make the detectors that learned from no scan: flair-rank-2mm and t2-rank-2mm, in medvae/pretrained.

    python pipelines/make_rank_detectors.py

Each is a config and its ranks as thresholds, a few kilobytes; docs/FLAIR_T2.md says what they find.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from medvae.config import read_config
from medvae.detection.detector import PRETRAINED, Detector

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
MADE = {"flair-rank-2mm": ("flair_rank.yaml", "FLAIR"), "t2-rank-2mm": ("t2_rank.yaml", "T2")}


def main(out: Path) -> None:
    """Make ``out/NAME`` for each; one that is there is replaced."""
    for name, (config, modality) in MADE.items():
        named = read_config(CONFIGS / config, [f"name={name}"])
        shutil.rmtree(out / name, ignore_errors=True)
        Detector.of_ranks(named, [modality]).save(out / name)
        print(f"written: {out / name}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=PRETRAINED, help="folder of the detectors' folders")
    main(parser.parse_args().out)
