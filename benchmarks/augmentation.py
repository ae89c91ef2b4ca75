"""How long augmentation takes: batchgenerators one by one against batched tensors.

python benchmarks/augmentation.py [--repeats 21] [--threads 1] [--device cpu]

Prints a Markdown table. The two ways take turns, so that a busy machine slows both; times are medians.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from medvae.config import AugmentationConfig
from medvae.sampling.augmentation import Augmenter
from medvae.sampling.tensor_augmentation import augment

BATCHES = {"2D, 16 slices of 80 × 96": (16, 1, 80, 96), "3D, 2 patches of 64³": (2, 1, 64, 64, 64)}
CONFIGS = {
    "spatial only": AugmentationConfig(gamma=(1, 1), brightness=(1, 1), noise_variance=(0, 0)),
    "default": AugmentationConfig(),
    "all": AugmentationConfig(contrast=(0.9, 1.1), bias_field=0.2),
}


def make_batch(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Random intensities in an ellipsoid that fills the tile as a brain does: image and mask."""
    grid = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape[2:]), indexing="ij")
    mask = np.broadcast_to(sum(g**2 for g in grid) < 0.8, (shape[0], 1, *shape[2:]))
    image = np.random.default_rng(0).random(shape, dtype=np.float32)
    return np.where(mask, image, 0), np.ascontiguousarray(mask)


def both_ways(config: AugmentationConfig, shape: tuple[int, ...], device: str) -> tuple[Callable, Callable]:
    """Two functions of a repeat's number that augment the same batch."""
    image, mask = make_batch(shape)
    augmenter = Augmenter(config, shape[2:], mirror_axis=0)
    x, inside = torch.from_numpy(image).to(device), torch.from_numpy(mask).to(device)

    def one_by_one(repeat: int) -> None:
        for index in range(shape[0]):
            augmenter(image[index], mask[index], (0, repeat, index))

    def as_tensors(repeat: int) -> None:
        augment(x, inside, config, mirror_axis=0, seeds=[(0, repeat, index) for index in range(shape[0])])
        if device.startswith("cuda"):
            torch.cuda.synchronize()

    return one_by_one, as_tensors


def median_seconds(ways: tuple[Callable, ...], repeats: int) -> list[float]:
    """Median time of each way; they take turns, after one round that does not count."""
    seconds: list[list[float]] = [[] for _ in ways]
    for repeat in range(repeats + 1):
        for way, record in zip(ways, seconds, strict=True):
            start = time.perf_counter()
            way(repeat)
            record.append(time.perf_counter() - start)
    return [statistics.median(record[1:]) for record in seconds]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=21)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu", help="where the tensors are; batchgenerators stays on the CPU")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print("| batch | changes | batchgenerators (ms) | tensor (ms) | ratio |\n|---|---|---|---|---|")
    for batch, shape in BATCHES.items():
        for changes, config in CONFIGS.items():
            one_by_one, as_tensors = median_seconds(both_ways(config, shape, options.device), options.repeats)
            ratio = one_by_one / as_tensors
            print(f"| {batch} | {changes} | {one_by_one * 1e3:.1f} | {as_tensors * 1e3:.1f} | {ratio:.1f}× |")


if __name__ == "__main__":
    main()
