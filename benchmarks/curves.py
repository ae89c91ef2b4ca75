"""Voxel curves from counts against scikit-learn and torchmetrics: numbers, time, memory, each in a process of its own.

    python benchmarks/curves.py [--voxels 10000000] [--repeats 3]
    python benchmarks/curves.py --streamed 1000000000

The first prints a Markdown table of medians, of processor seconds of one thread. Memory is what the process needed
beyond the scores and the truth themselves. torchmetrics takes part where it is installed: exactly, and with the 200
thresholds that its documentation uses. The second streams voxels in chunks, each counted and added, and prints time and
peak memory.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
from turns import peak_mb

CHUNK = 5_000_000


def voxels(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Scores in [0, 1] as an anomaly map has them, and truth at a prevalence of 1 %."""
    rng = np.random.default_rng(seed)
    scores, truth = np.empty(count, np.float32), np.empty(count, bool)
    for first in range(0, count, 100_000):  # bit by bit: the peak memory is to be that of what is measured
        part = slice(first, min(first + 100_000, count))
        truth[part] = rng.random(part.stop - first, dtype=np.float32) < 0.01
        values = rng.standard_normal(part.stop - first, dtype=np.float32) + np.float32(1.5) * truth[part]
        scores[part] = (1 + values / (1 + np.abs(values))) / 2
    return scores, truth


def by_scikit_learn(scores: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """AUROC and AP."""
    from sklearn.metrics import average_precision_score, roc_auc_score

    return roc_auc_score(truth, scores), average_precision_score(truth, scores)


def by_torchmetrics(scores: np.ndarray, truth: np.ndarray, thresholds: int | None = None) -> tuple[float, float]:
    """AUROC and AP, all scores kept or counted at some thresholds."""
    import torch
    from torchmetrics.functional.classification import binary_auroc, binary_average_precision

    torch.set_num_threads(1)
    given = torch.from_numpy(scores), torch.from_numpy(truth).long()
    return tuple(float(metric(*given, thresholds=thresholds)) for metric in (binary_auroc, binary_average_precision))


def by_medvae(scores: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """AUROC and AP of a scan that is in memory."""
    from medvae.evaluation.curves import SparseCounts

    summary = SparseCounts.of(scores, truth).summary()
    return summary.auroc, summary.ap


def by_medvae_streamed(scores: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """AUROC and AP, chunk by chunk."""
    from medvae.evaluation.curves import SparseCounts

    counts = SparseCounts.merged([])
    for i in range(0, len(scores), CHUNK):
        counts = SparseCounts.merged([counts, SparseCounts.of(scores[i : i + CHUNK], truth[i : i + CHUNK])])
    summary = counts.summary()
    return summary.auroc, summary.ap


METHODS: dict[str, Callable[[np.ndarray, np.ndarray], tuple[float, float]]] = {
    "scikit-learn": by_scikit_learn,
    "medvae, one scan": by_medvae,
    "medvae, streamed": by_medvae_streamed,
}
if importlib.util.find_spec("torchmetrics"):
    METHODS["torchmetrics"] = by_torchmetrics
    METHODS["torchmetrics, 200 thresholds"] = functools.partial(by_torchmetrics, thresholds=200)


def measure(method: str, count: int) -> dict[str, float]:
    """AUROC and AP of one method, with seconds and extra memory; to be run in a fresh process."""
    METHODS[method](*voxels(1000))  # imports
    scores, truth = voxels(count)
    before, start = peak_mb(), time.process_time()
    auroc, ap = METHODS[method](scores, truth)
    return {"auroc": auroc, "ap": ap, "seconds": time.process_time() - start, "mb": peak_mb() - before}


def streamed(count: int) -> None:
    """Count voxels chunk by chunk, drawing each chunk when it is needed."""
    from medvae.evaluation.curves import SparseCounts

    start, drawing, total = time.perf_counter(), 0.0, SparseCounts.merged([])
    for seed, first in enumerate(range(0, count, CHUNK)):
        began = time.perf_counter()
        scores, truth = voxels(min(CHUNK, count - first), seed)
        drawing += time.perf_counter() - began
        total = SparseCounts.merged([total, SparseCounts.of(scores, truth)])
    summary = total.summary()
    seconds = time.perf_counter() - start - drawing
    print(f"{count:,} voxels: AUROC {summary.auroc:.5f}, AP {summary.ap:.5f} in {seconds:.0f} s", end=" ")
    print(
        f"({seconds / count * 1e9:.0f} ns per voxel; drawing them took {drawing:.0f} s more), peak {peak_mb():.0f} MB"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--voxels", type=int, default=10_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--streamed", type=int, metavar="VOXELS", help="stream so many voxels instead")
    parser.add_argument("--only", help=argparse.SUPPRESS)  # what the processes are started with
    options = parser.parse_args()
    if options.only:
        print(json.dumps(measure(options.only, options.voxels)))
        return
    if options.streamed:
        streamed(options.streamed)
        return
    found: dict[str, list[dict[str, float]]] = {method: [] for method in METHODS}
    for _ in range(options.repeats):
        for method in METHODS:  # taken in turns: a busy machine is busy for all of them
            command = [sys.executable, __file__, "--only", method, "--voxels", str(options.voxels)]
            done = subprocess.run(command, check=True, capture_output=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
            found[method].append(json.loads(done.stdout))
    exact = found["scikit-learn"][0]
    seconds, memory = (
        {method: statistics.median(run[key] for run in runs) for method, runs in found.items()}
        for key in ("seconds", "mb")
    )
    print(f"{options.voxels:,} voxels, medians of {options.repeats}\n")
    print("| method | AUROC | AP | seconds | speed | memory (MB) | memory ratio |\n|---|---|---|---:|---:|---:|---:|")
    for method, runs in found.items():
        difference = {key: abs(runs[0][key] - exact[key]) for key in ("auroc", "ap")}
        numbers = " | ".join(f"{runs[0][key]:.6f} (Δ {difference[key]:.0e})" for key in ("auroc", "ap"))
        speed, share = seconds["scikit-learn"] / seconds[method], memory["scikit-learn"] / memory[method]
        print(f"| {method} | {numbers} | {seconds[method]:.2f} | {speed:.1f}× | {memory[method]:.0f} | {share:.1f}× |")


if __name__ == "__main__":
    main()
