"""How long a training step of best_t1 takes on the CPU, and what keeping freed memory saves.

python benchmarks/training.py [MANIFEST] [--steps 36] [--rounds 3]

Prints a Markdown table. The two ways take turns, each in a process of its own with one thread, as memory that was kept
cannot be given back; times are medians. A block of steps that does not count comes first.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from medvae.config import read_config
from medvae.manifest import read_manifest
from medvae.networks.build import build_network
from medvae.normative.inputs import NetworkInputs
from medvae.preparation.prepare import prepare_training
from medvae.sampling.lesion_scans import LesionScans, MixedPatches
from medvae.training.memory import keep_freed_memory
from medvae.training.objectives.base import objective_of

ROOT = Path(__file__).parent.parent
SCANS = 6
WAYS = {"given back": [], "kept": ["--keep"]}


def seconds_per_step(manifest: Path, cache: Path, steps: int) -> tuple[float, float]:
    """Of making the data, and of the network."""
    config = read_config(ROOT / "configs" / "best_t1.yaml")
    volumes, _ = prepare_training(read_manifest(manifest), config.preparation, cache=cache, quiet=True)
    modalities = len(volumes[0].image)
    inputs = NetworkInputs.fit(config.network, modalities, volumes[:SCANS])
    scans = LesionScans([inputs.shown(volume) for volume in volumes[:SCANS]], config)
    mixed = MixedPatches(scans, config.sampling.batch_size, 0)
    first, last = mixed.scans_of(0, mixed.steps + steps)
    loader = (scans[number // SCANS, number % SCANS] for number in range(first, last))
    network = build_network(config, modalities)
    optimiser, objective = torch.optim.Adam(network.parameters()), objective_of(config.objective, config.grid.voxel_mm)
    total = learning = 0.0
    begun = time.perf_counter()
    for step, (x, mask) in enumerate(mixed.batches(loader, 0, mixed.steps + steps)):
        made = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16):
            loss = objective.training_terms(network, x, mask, (0, step), step).total
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        done = time.perf_counter()
        if step >= mixed.steps:
            total, learning = total + done - begun, learning + done - made
        begun = done
    return (total - learning) / steps, learning / steps


def main() -> None:
    """Time both ways and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", nargs="?", type=Path, default=ROOT / "data_manifests" / "included_t1.json")
    parser.add_argument("--steps", type=int, default=36, help="A multiple of 18, the steps of one block of scans.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cache", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--keep", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.cache:
        torch.set_num_threads(1)
        if options.keep and not keep_freed_memory():
            parser.error("only glibc can be told to keep freed memory")
        print(*seconds_per_step(options.manifest, options.cache, options.steps))
        return
    found: dict[str, list[list[float]]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as cache:
        for _ in range(options.rounds):
            for way, flags in WAYS.items():
                command = [sys.executable, __file__, options.manifest, "--steps", str(options.steps), "--cache", cache]
                done = subprocess.run(
                    [*command, *flags], env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True
                )
                if done.returncode:
                    sys.exit(done.stderr)
                found[way].append([float(value) for value in done.stdout.split()])
    print("| freed memory | data (s per step) | network (s per step) | step (s) | ratio |")
    print("|---|---:|---:|---:|---:|")
    steps = {way: statistics.median(map(sum, rounds)) for way, rounds in found.items()}
    for way, rounds in found.items():
        data, network = (statistics.median(column) for column in zip(*rounds, strict=True))
        print(f"| {way} | {data:.3f} | {network:.3f} | {steps[way]:.3f} | {steps[way] / steps['given back']:.2f}× |")


if __name__ == "__main__":
    main()
