"""How long augmentation takes: each change on a batch of tensors against MONAI's transform; and both engines.

python benchmarks/augmentation.py [--repeats 21] [--threads 1] [--device cpu]

Prints two Markdown tables. The ways take turns, so that a busy machine slows all; times are medians, of the processor's
time where one thread of a CPU does the work. MONAI's transforms take one sample at a time and know no brain mask; where
it has not quite the same change, the nearest is taken.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from monai import transforms
from torch import Tensor

from medvae.augmentation.augmenter import Augmenter
from medvae.augmentation.batches import augment
from medvae.augmentation.options import AugmentationConfig

BATCHES = {"2D, 16 slices of 80 × 96": (16, 1, 80, 96), "3D, 2 patches of 64³": (2, 1, 64, 64, 64)}
OFF: dict[str, Any] = {
    "rotation_degrees": 0, "scale": (1, 1), "mirror": False, "gamma": (1, 1), "brightness": (1, 1),
    "noise_variance": (0, 0),
}  # fmt: skip
CONFIGS = {
    "spatial only": AugmentationConfig(gamma=(1, 1), brightness=(1, 1), noise_variance=(0, 0)),
    "default": AugmentationConfig(),
    "all": AugmentationConfig(contrast=(0.9, 1.1), bias_field=0.2),
}

Way = Callable[[int], object]
Pair = tuple[Tensor, Tensor]


def with_monai(shape: Sequence[int]) -> dict[str, tuple[dict[str, Any], Callable[[Tensor, Tensor], Pair]]]:
    """For each change the ranges, and MONAI's way with one sample ``(C, *spatial)`` and its mask."""
    dimensions = len(shape) - 2
    angles = 0.05 if dimensions == 2 else (0.05, 0.03, 0.02)
    affine = transforms.Affine(angles, scale_params=1.02, padding_mode="zeros", image_only=True)
    smooth, noise = transforms.GaussianSmooth(1.0, approx="sampled"), transforms.RandGaussianNoise(1.0, std=0.02)
    bias = transforms.RandBiasField(prob=1.0, degree=3, coeff_range=(0.0, 0.1))
    thin, thick = list(shape[2:]), [shape[2] * 2 // 5, *shape[3:]]
    down, up = (
        transforms.Resize(thick, mode="area"),
        transforms.Resize(thin, mode="bilinear" if dimensions == 2 else "trilinear"),
    )
    flip = transforms.Flip(0)

    def sharper(x: Tensor, mask: Tensor) -> Pair:
        return x + 0.5 * (x - smooth(x)), mask

    def both(transform: Callable, **options: str) -> Callable[[Tensor, Tensor], Pair]:
        return lambda x, mask: (transform(x), transform(mask.float(), **options) > 0.5)

    def image(transform: Callable) -> Callable[[Tensor, Tensor], Pair]:
        return lambda x, mask: (transform(x), mask)

    return {
        "rotation, scale: Affine": ({"rotation_degrees": 6, "scale": (0.95, 1.05)}, both(affine, mode="nearest")),
        "mirror: Flip": ({"mirror": True}, both(flip)),
        "rotation, scale, mirror: Affine, Flip": (
            {"rotation_degrees": 6, "scale": (0.95, 1.05), "mirror": True},
            lambda x, mask: both(flip)(*both(affine, mode="nearest")(x, mask)),
        ),
        "sharpness: GaussianSmooth": ({"sharpness": (-0.9, 1.5)}, sharper),
        "thick slices: Resize twice": ({"thick_slices": 1}, image(lambda x: up(down(x)))),
        "bias field: RandBiasField": ({"bias_field": 0.3}, image(bias)),
        "gamma: AdjustContrast": ({"gamma": (0.9, 1.1)}, image(transforms.AdjustContrast(1.05))),
        "brightness: ScaleIntensity": (
            {"brightness": (0.9, 1.1)}, image(transforms.ScaleIntensity(minv=None, maxv=None, factor=0.05)),
        ),
        "contrast: ScaleIntensityFixedMean": (
            {"contrast": (0.9, 1.1)}, image(transforms.ScaleIntensityFixedMean(factor=0.05)),
        ),
        "noise: RandGaussianNoise": ({"noise_variance": (0, 0.0004)}, image(noise)),
    }  # fmt: skip


def make_batch(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Random intensities in an ellipsoid that fills the tile as a brain does: image and mask."""
    grid = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape[2:]), indexing="ij")
    mask = np.broadcast_to(sum(g**2 for g in grid) < 0.8, (shape[0], 1, *shape[2:]))
    image = np.random.default_rng(0).random(shape, dtype=np.float32)
    return np.where(mask, image, 0), np.ascontiguousarray(mask)


def as_batch(config: AugmentationConfig, x: Tensor, mask: Tensor) -> Way:
    """The package's own way with a batch; the argument is the repeat's number."""
    seeds = len(x)
    return lambda repeat: augment(x, mask, config, mirror_axis=0, seeds=[(0, repeat, index) for index in range(seeds)])


def one_by_one(config: AugmentationConfig, image: np.ndarray, mask: np.ndarray) -> Way:
    """What the workers do."""
    augmenter = Augmenter(config, mirror_axis=0)
    return lambda repeat: [augmenter(*pair, (0, repeat, i)) for i, pair in enumerate(zip(image, mask, strict=True))]


def each(change: Callable[[Tensor, Tensor], Pair], x: Tensor, mask: Tensor) -> Way:
    """MONAI's way with a batch: sample by sample, and the background set to 0."""

    def way(_: int) -> Tensor:
        images, masks = zip(*(change(*pair) for pair in zip(x, mask, strict=True)), strict=True)
        return torch.stack([torch.as_tensor(i) for i in images]).masked_fill(~torch.stack(masks), 0)

    return way


def median_seconds(ways: tuple[Way, ...], repeats: int, device: str, clock: Callable[[], float]) -> list[float]:
    """Median time of each way; they take turns, after one round that does not count."""
    seconds: list[list[float]] = [[] for _ in ways]
    for repeat in range(repeats + 1):
        for way, record in zip(ways, seconds, strict=True):
            start = clock()
            way(repeat)
            if device.startswith("cuda"):
                torch.cuda.synchronize()
            record.append(clock() - start)
    return [statistics.median(record[1:]) for record in seconds]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=21)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu", help="where the tensors are; batchgenerators stays on the CPU")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    alone = options.device == "cpu" and options.threads == 1
    clock = time.process_time if alone else time.perf_counter

    def measured(*ways: Way) -> list[float]:
        return median_seconds(ways, options.repeats, options.device, clock)

    def line(batch: str, name: str, other: float, own: float) -> None:
        print(f"| {batch} | {name} | {other * 1e3:.2f} | {own * 1e3:.2f} | {other / own:.1f}× |")

    tiles = {batch: make_batch(shape) for batch, shape in BATCHES.items()}
    tensors = {
        batch: tuple(torch.from_numpy(array).to(options.device) for array in arrays) for batch, arrays in tiles.items()
    }
    print("| batch | change: MONAI's | MONAI (ms) | own (ms) | ratio |\n|---|---|---:|---:|---:|")
    for batch, shape in BATCHES.items():
        for name, (ranges, change) in with_monai(shape).items():
            own = as_batch(AugmentationConfig(**(OFF | ranges)), *tensors[batch])
            line(batch, name, *measured(each(change, *tensors[batch]), own))
    print("\n| batch | changes | batchgenerators (ms) | tensor (ms) | ratio |\n|---|---|---:|---:|---:|")
    for batch in BATCHES:
        for name, config in CONFIGS.items():
            line(batch, name, *measured(one_by_one(config, *tiles[batch]), as_batch(config, *tensors[batch])))


if __name__ == "__main__":
    main()
