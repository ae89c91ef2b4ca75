"""Raw heads to prepared volumes: CPU seconds, and deepbet's brains against those of the anatomical labels.

    python benchmarks/preparation.py --source DATA [--heads 8] [--timed 3]

``DATA`` holds ``ixi_t1_2mm``, as for ``pipelines/make_cohort.py``. deepbet takes part where it is
installed. One thread.
"""

from __future__ import annotations

import argparse
import importlib.util
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from medvae.config import PreparationConfig
from medvae.imaging.volume import read_volume, write_volume
from medvae.preparation.extraction import find_brain
from medvae.preparation.mask import mask_from_anatomy
from medvae.preparation.prepare import prepare_scan
from medvae.reporting.tables import print_table


def main(source: Path, heads: int, timed: int) -> None:
    """Print two tables."""
    torch.set_num_threads(1)
    paths = sorted((source / "ixi_t1_2mm" / "t1").glob("*_T1.nii.gz"))
    paths = paths[:: max(1, len(paths) // heads)][:heads]
    deepbet = importlib.util.find_spec("deepbet") is not None
    overlaps, seconds = [], {}
    with tempfile.TemporaryDirectory() as folder:
        for index, path in enumerate(paths):
            scan = read_volume(path)
            labels = path.parents[1] / "anatomy" / path.name.replace("_T1", "_anatomy")
            truth = mask_from_anatomy(read_volume(labels).array, source=str(labels))
            if deepbet:
                found, _ = find_brain(scan, "deepbet")
                dice = 2 * np.count_nonzero(found & truth) / (np.count_nonzero(found) + np.count_nonzero(truth))
                missed = np.count_nonzero(truth & ~found) / np.count_nonzero(truth)
                overlaps.append([path.name.split("-")[0], f"{dice:.4f}", f"{missed:.1%}"])
            if index >= timed:
                continue
            mask = write_volume(Path(folder) / "mask.nii.gz", truth.astype(np.uint8), scan)
            for bias_field in ("none", "n4"):
                for given in (mask, None) if deepbet else (mask,):
                    started = time.process_time()
                    done = prepare_scan([path], PreparationConfig(bias_field=bias_field), mask=given)
                    key = (done.brain_from, bias_field)
                    seconds.setdefault(key, []).append(time.process_time() - started)
    print_table("deepbet against anatomical labels", ["head", "Dice", "missed"], overlaps)
    rows = [[*key, f"{np.median(n):.1f}", f"{min(n):.1f}–{max(n):.1f}"] for key, n in seconds.items()]
    print_table("CPU seconds to a prepared volume", ["brain mask", "bias field", "median", "range"], rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, required=True, help="folder with ixi_t1_2mm/")
    parser.add_argument("--heads", type=int, default=8, help="heads given to deepbet")
    parser.add_argument("--timed", type=int, default=3, help="heads that are prepared, too")
    arguments = parser.parse_args()
    main(arguments.source, arguments.heads, arguments.timed)
