"""medvae's augmentation, training and tiled scoring against the scripts that a MONAI user writes for the same.

    python benchmarks/against_monai.py [augmentation training inference] [--repeats 21] [--rounds 5] [--steps 24]

Processor seconds of one thread, medians; the ways take turns. *Augmentation*: from tiles in memory to a batch. MONAI's
is a dictionary pipeline in a ``CacheDataset``, with the changes, ranges and probabilities of the config; it draws a
scale for each axis, and its bias field is a polynomial. *Training*: the same tiles, batches, loss and optimiser, each
script in a process of its own, because medvae lets a training keep freed memory. ``VarAutoEncoder`` and
``AutoencoderKL`` are the same modules of MONAI on both sides; medvae's VAE has as many channels and latent numbers as
the ``VarAutoEncoder``. Tiles are made in the training process; with ``--workers 1`` in one beside it, and seconds are
the clock's. *Inference*: the map of residuals of a prepared scan. "No metadata" is
``monai.data.set_track_meta(False)``.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from augmentation import BATCHES, CONFIGS, make_batch
from monai import transforms as mt
from monai.data import CacheDataset, DataLoader, list_data_collate, set_track_meta
from monai.inferers import SliceInferer, sliding_window_inference
from monai.networks.nets import VarAutoEncoder
from torch import Tensor, nn
from torch.utils.data import default_collate
from turns import Show, medians, peak_mb, shower

from medvae.augmentation.augmenter import Augmenter
from medvae.augmentation.batches import augment
from medvae.augmentation.options import AugmentationConfig
from medvae.config import Config, NetworkConfig, ObjectiveConfig, SamplingConfig, TrainingConfig
from medvae.manifest import read_manifest
from medvae.networks.build import build_network
from medvae.networks.interface import LOG_VARIANCE_RANGE, Network, VAEOutput
from medvae.normative.inputs import NetworkInputs
from medvae.preparation.prepare import prepare_case, prepare_training
from medvae.preparation.prepared import ImageAndMask
from medvae.sampling.slices import SliceDataset
from medvae.sampling.tiles import augment_batch
from medvae.scoring.residual import residual
from medvae.scoring.tiling import score_patches, score_slices
from medvae.training import loop
from medvae.training.learner import Learner, new_learner

ROOT = Path(__file__).parent.parent
KEYS = ("image", "mask")
PATCH = (64, 64, 64)
WIDTHS = (16, 32, 64, 128)
LATENT = 128
TARGETS = {2: 4.0, 3: 1.4}
"""Times MONAI's speed that augmentation is to have, for slices and for patches."""

# ---------------------------------------------------------------------------------------------------------------------
# Augmentation


def monai_changes(config: AugmentationConfig, dimensions: int) -> list[mt.Transform]:
    """The changes of a config, in its order, as a list for ``Compose``."""
    angle, factor = math.radians(config.rotation_degrees), config.scale[1] - 1
    changes: list[mt.Transform] = []
    if angle or factor:
        changes.append(
            mt.RandAffined(
                KEYS, prob=1, rotate_range=(angle,) * (1 if dimensions == 2 else 3), scale_range=(factor,) * dimensions,
                mode=("bilinear", "nearest"), padding_mode="zeros",
            )
        )  # fmt: skip
    if config.mirror:
        changes.append(mt.RandFlipd(KEYS, prob=0.5, spatial_axis=0))
    if config.bias_field:
        changes.append(mt.RandBiasFieldd("image", prob=1, degree=3, coeff_range=(0, config.bias_field / 4)))
    if config.gamma != (1, 1):
        changes.append(mt.RandAdjustContrastd("image", prob=1, gamma=config.gamma))
    if config.brightness != (1, 1):
        low, high = config.brightness
        changes.append(mt.RandScaleIntensityd("image", prob=1, factors=(low - 1, high - 1)))
    if config.contrast != (1, 1):
        low, high = config.contrast
        changes.append(mt.RandScaleIntensityFixedMeand("image", prob=1, factors=(low - 1, high - 1)))
    if config.noise_variance[1]:
        changes.append(mt.RandGaussianNoised("image", prob=1, std=math.sqrt(config.noise_variance[1])))
    return [*changes, mt.MaskIntensityd("image", mask_key="mask")]


def by_monai(image: np.ndarray, mask: np.ndarray, config: AugmentationConfig) -> Callable[[], dict[str, Tensor]]:
    """Sample by sample, from a cache."""
    items = [{"image": x, "mask": m} for x, m in zip(image, mask, strict=True)]
    changes = mt.Compose([mt.EnsureTyped(KEYS), *monai_changes(config, image.ndim - 2)])
    dataset = CacheDataset(items, changes, progress=False)
    return lambda: list_data_collate([dataset[index] for index in range(len(items))])


def without_metadata(way: Callable[[], object]) -> Callable[[], object]:
    """A way of MONAI with plain tensors."""

    def plain() -> object:
        set_track_meta(False)
        try:
            return way()
        finally:
            set_track_meta(True)

    return plain


def by_batchgenerators(image: np.ndarray, mask: np.ndarray, config: AugmentationConfig) -> Callable[[], list[Tensor]]:
    """What a worker of medvae does."""
    augmenter, rounds = Augmenter(config, mirror_axis=0), iter(range(10**9))

    def way() -> list[Tensor]:
        epoch = next(rounds)
        pairs = [augmenter(x, m, (0, epoch, i)) for i, (x, m) in enumerate(zip(image, mask, strict=True))]
        return default_collate([tuple(map(torch.from_numpy, pair)) for pair in pairs])

    return way


def by_tensors(image: np.ndarray, mask: np.ndarray, config: AugmentationConfig) -> Callable[[], tuple[Tensor, Tensor]]:
    """What medvae's training process does."""
    rounds = iter(range(10**9))

    def way() -> tuple[Tensor, Tensor]:
        epoch = next(rounds)
        x, m = default_collate([tuple(map(torch.from_numpy, pair)) for pair in zip(image, mask, strict=True)])
        return augment(x, m, config, mirror_axis=0, seeds=[(0, epoch, index) for index in range(len(x))])

    return way


def compare_augmentation(show: Show, repeats: int, names: Iterable[str] = tuple(CONFIGS)) -> None:
    """One row per batch and set of changes."""
    rows = []
    for batch, shape in BATCHES.items():
        tiles = make_batch(shape)
        for name in names:
            config = CONFIGS[name]
            monai = by_monai(*tiles, config)
            set_track_meta(False)
            plain = without_metadata(by_monai(*tiles, config))
            set_track_meta(True)
            ways = {
                "monai": monai, "plain": plain, "batchgenerators": by_batchgenerators(*tiles, config),
                "tensor": by_tensors(*tiles, config),
            }  # fmt: skip
            found = medians(ways, repeats)
            cells = [f"{found['monai'] * 1e3:.1f}", f"{found['plain'] * 1e3:.1f}"]
            for backend in ("batchgenerators", "tensor"):
                speed = f"{found['monai'] / found[backend]:.1f}× ({found['plain'] / found[backend]:.1f}×)"
                cells += [f"{found[backend] * 1e3:.1f}", speed]
            rows.append([batch, name, *cells, f"{TARGETS[len(shape) - 2]:g}×"])
    header = [
        "batch", "changes", "MONAI (ms)", "no metadata (ms)", "batchgenerators (ms)", "speed", "tensor (ms)", "speed",
        "target",
    ]  # fmt: skip
    show("Augmentation: MONAI's dictionary pipeline / medvae's two backends", header, rows)


# ---------------------------------------------------------------------------------------------------------------------
# Training


class FromMonai(Network):
    """A ``VarAutoEncoder`` as medvae's objectives see a network."""

    def __init__(self, module: VarAutoEncoder) -> None:
        super().__init__()
        self.module_of_monai = module

    def noise_shape(self, batch: int) -> tuple[int, ...]:
        """One vector per tile."""
        return batch, self.module_of_monai.latent_size

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance, limited as those of medvae's networks."""
        mean, log_variance = self.module_of_monai.encode_forward(x)
        return mean, log_variance.clamp(*LOG_VARIANCE_RANGE)

    def forward(self, x: Tensor, noise: Tensor | None = None) -> VAEOutput:
        """As `Network`."""
        mean, log_variance = self.encode(x)
        z = mean if noise is None else mean + torch.exp(0.5 * log_variance) * noise
        return VAEOutput(self.module_of_monai.decode_forward(z, use_sigmoid=False), mean, log_variance)


def config_of(dimensions: int, network: str, backend: str, steps: int, workers: int) -> Config:
    """The preset of a plain VAE on slices, or on patches; dense latents throughout."""
    options: dict = {"widths": WIDTHS, "latent_size": LATENT}
    if network == "AutoencoderKL":
        options = {
            "kind": "autoencoder_kl", "widths": (32, 64, 64), "latent": "spatial", "latent_size": 3,
            "normalisation": "group", "activation": "silu", "residual_blocks": 1,
        }  # fmt: skip
    patches = {"kind": "patch", "patch_size": PATCH, "batch_size": 4, "patches_per_volume": 4}
    return Config(
        name="against_monai",
        sampling=SamplingConfig(workers=workers, **(patches if dimensions == 3 else {})),
        augmentation=AugmentationConfig(backend=backend),
        network=NetworkConfig(**options),
        objective=ObjectiveConfig(kind="vae"),
        training=TrainingConfig(steps=steps),
    )


def var_autoencoder(shape: tuple[int, ...]) -> VarAutoEncoder:
    """Of the widths and the latent size of medvae's VAE; the rest as MONAI has it by default, without a sigmoid."""
    torch.manual_seed(0)
    return VarAutoEncoder(
        len(shape), (1, *shape), 1, LATENT, WIDTHS, (2,) * len(WIDTHS), use_sigmoid=False, use_mean_at_inference=True
    )


def monai_loss(found: tuple[Tensor, ...], x: Tensor, mask: Tensor, options: ObjectiveConfig) -> Tensor:
    """The negative ELBO per brain voxel that medvae minimises, of what ``VarAutoEncoder`` returns."""
    reconstruction, mean, log_variance = found[:3]
    nats = (x - reconstruction).abs() / options.likelihood_scale + math.log(2 * options.likelihood_scale)
    divergence = -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum()
    return ((nats * mask).sum() + options.beta * divergence) / mask.sum()


def monai_tiles(config: Config, volumes: list[ImageAndMask]) -> CacheDataset:
    """The slices, or the volumes from which patches are cropped, with the random changes."""
    changes = monai_changes(config.augmentation, len(config.tile_shape))
    if config.sampling.kind == "slice":
        slices = SliceDataset(volumes, config.sampling.planes, min_brain_fraction=config.sampling.min_brain_fraction)
        items = [{"image": x, "mask": m} for x, m in zip(slices.images, slices.masks, strict=True)]
        return CacheDataset(items, mt.Compose([mt.EnsureTyped(KEYS), *changes]), progress=False)
    crop = mt.RandCropByPosNegLabeld(
        KEYS, label_key="mask", spatial_size=config.tile_shape, pos=1, neg=0, num_samples=1,
        fg_indices_key="mask_fg_indices", bg_indices_key="mask_bg_indices",
    )  # fmt: skip
    items = [{"image": np.asarray(v.image), "mask": np.asarray(v.mask[None])} for v in volumes]
    items *= config.sampling.patches_per_volume
    return CacheDataset(
        items, mt.Compose([mt.EnsureTyped(KEYS), mt.FgBgToIndicesd("mask"), crop, *changes]), progress=False
    )


class Times(NamedTuple):
    """Seconds of one step."""

    data: float
    network: float


def monai_steps(config: Config, volumes: list[ImageAndMask], network: str, clock: Callable) -> Iterator[Times]:
    """The script of a MONAI user."""
    kl = network == "AutoencoderKL"
    module: nn.Module = build_network(config, 1).network if kl else var_autoencoder(config.tile_shape)
    optimiser = torch.optim.Adam(module.parameters(), lr=config.training.learning_rate)
    sampling = config.sampling
    loader = DataLoader(
        monai_tiles(config, volumes), batch_size=sampling.batch_size, shuffle=True, num_workers=sampling.workers,
        persistent_workers=sampling.workers > 0, drop_last=True,
    )  # fmt: skip
    module.train()
    while True:
        begun = clock()
        for batch in loader:
            made = clock()
            x, mask = batch["image"], batch["mask"]
            optimiser.zero_grad()
            found = module(x)
            if kl:
                reconstruction, mean, deviation = found
                found = reconstruction, mean, 2 * deviation.log()
            loss = monai_loss(found, x, mask, config.objective)
            loss.backward()
            optimiser.step()
            loss.item()
            done = clock()
            yield Times(made - begun, done - made)
            begun = clock()


def medvae_steps(config: Config, volumes: list[ImageAndMask], network: str, clock: Callable) -> Iterator[Times]:
    """The steps of ``medvae train``, without its log, validation and checkpoints."""
    learner: Learner = new_learner(config, 1, None, "cpu")
    if network == "VarAutoEncoder":
        module = FromMonai(var_autoencoder(config.tile_shape))
        optimiser = torch.optim.Adam(module.parameters(), lr=config.training.learning_rate)
        module, optimiser = learner.accelerator.prepare(module, optimiser)
        learner = replace(learner, network=module, optimiser=optimiser)
    inputs = NetworkInputs.fit(config.network_options, 1, volumes)
    begun = clock()
    for x, mask, *keys in loop._batches(config, [inputs.shown(volume) for volume in volumes], learner):
        if keys:
            x, mask = augment_batch(config, x, mask, *keys)
        made = clock()
        loop._step(config, learner, x, mask, Path())
        done = clock()
        yield Times(made - begun, done - made)
        begun = clock()


SCRIPTS = {
    "MONAI": ("monai", "batchgenerators"),
    "MONAI, no metadata": ("plain", "batchgenerators"),
    "medvae, batchgenerators": ("medvae", "batchgenerators"),
    "medvae, tensor": ("medvae", "tensor"),
}
"""Whose script, and medvae's backend."""

FAMILIES: dict[tuple[int, str], list[tuple[str, str]]] = {
    (2, "VarAutoEncoder"): [
        *((script, "VarAutoEncoder") for script in SCRIPTS),
        ("medvae, batchgenerators", "medvae's VAE"),
        ("medvae, tensor", "medvae's VAE"),
    ],
    (2, "AutoencoderKL"): [
        (script, "AutoencoderKL") for script in ("MONAI", "MONAI, no metadata", "medvae, batchgenerators")
    ],
}
FAMILIES[3, "VarAutoEncoder"] = FAMILIES[2, "VarAutoEncoder"]
"""What is compared with what, in slices and patches: scripts and their networks."""


def measure(dimensions: int, script: str, network: str, cache: str, steps: int, workers: int) -> dict[str, float]:
    """Seconds per step of one script, to be run in a fresh process; the first steps do not count."""
    torch.set_num_threads(1)
    whose, backend = SCRIPTS[script]
    warmup = max(2, steps // 4)
    config = config_of(dimensions, network, backend, warmup + steps, workers)
    volumes, _ = prepare_training(
        read_manifest(ROOT / "data_manifests" / "included_t1.json"), config.preparation, cache=Path(cache), quiet=True
    )
    set_track_meta(whose != "plain")
    clock = time.perf_counter if workers else time.process_time
    run = medvae_steps if whose == "medvae" else monai_steps
    taken = [
        times for _, times in zip(range(warmup + steps), run(config, list(volumes[:6]), network, clock), strict=False)
    ]
    data, learning = (statistics.fmean(column) for column in zip(*taken[warmup:], strict=True))
    return {"data": data, "network": learning, "mb": peak_mb(), "samples": config.sampling.batch_size}


def in_a_process(*arguments: object) -> dict[str, float]:
    """`measure` in a new process of one thread."""
    command = [sys.executable, __file__, "--only", *map(str, arguments)]
    threads = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(command, env={**os.environ, **threads}, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def compare_training(show: Show, rounds: int, steps: int, workers: int, families: list[tuple[int, str]]) -> None:
    """One row per script and network."""
    found: dict[tuple, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as cache:
        for index in range(rounds):
            for dimensions, family in families:
                entries = FAMILIES[dimensions, family]
                first = index % len(entries)
                for script, network in entries[first:] + entries[:first]:
                    heavy = dimensions == 3 or family == "AutoencoderKL"
                    result = in_a_process(
                        dimensions, script, network, cache, max(2, steps // 4) if heavy else steps, workers
                    )
                    found.setdefault((dimensions, family, script, network), []).append(result)
    rows = []
    for dimensions, family in families:
        numbers = {}
        for script, network in FAMILIES[dimensions, family]:
            runs = found[dimensions, family, script, network]
            numbers[script, network] = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        base = numbers["MONAI", family]
        for (script, network), each in numbers.items():
            step, before = each["data"] + each["network"], base["data"] + base["network"]
            rows.append(
                [
                    f"{dimensions}D, {network}", script, f"{each['network']:.4f}",
                    f"{each['network'] / base['network']:.2f}×", f"{each['data']:.4f}", f"{each['data'] / step:.0%}",
                    f"{each['samples'] / step:.1f}", f"{before / step:.2f}×", f"{each['mb']:.0f}",
                ]
            )  # fmt: skip
    waiting = "waiting for data (s)" if workers else "data (s per step)"
    header = [
        "network", "script", "network (s per step)", "of MONAI's time", waiting, "share of a step",
        "samples per second", "speed", "peak memory (MB)",
    ]  # fmt: skip
    clock = f"wall-clock seconds, {workers} worker" if workers else "processor seconds, no worker"
    show(f"Training: {clock}", header, rows)


# ---------------------------------------------------------------------------------------------------------------------
# Inference


def monai_map(network: Network, image: np.ndarray, mask: np.ndarray, dimensions: int, *, crop: bool) -> np.ndarray:
    """Residuals by MONAI's inferers: of the whole volume, or of the brain's box by ``CropForeground``."""
    x = torch.from_numpy(np.ascontiguousarray(image))
    start, end = (0,) * 3, image.shape[1:]
    if crop:
        box = mt.CropForeground(select_fn=lambda m: m > 0, k_divisible=1)
        start, end = box.compute_bounding_box(torch.from_numpy(mask[None].astype(np.uint8)))
    part = tuple(slice(int(a), int(b)) for a, b in zip(start, end, strict=True))

    def predictor(tiles: Tensor) -> Tensor:
        return network(tiles).reconstruction

    with torch.no_grad():
        inside = x[(slice(None), *part)][None]
        if dimensions == 3:
            made = sliding_window_inference(inside, PATCH, 4, predictor, overlap=0.5, mode="gaussian")
        else:
            made = SliceInferer(roi_size=image.shape[1:3], spatial_dim=2, sw_batch_size=64)(inside, predictor)
    found = torch.zeros(image.shape[1:])
    found[part] = (inside - made)[0, 0]
    return found.numpy() * mask


def medvae_map(network: Network, image: np.ndarray, mask: np.ndarray, dimensions: int) -> np.ndarray:
    """Residuals by medvae."""
    if dimensions == 3:
        return score_patches(network, residual, image, mask, PATCH, overlap=0.5, batch_size=4)
    return score_slices(network, residual, image, mask, "axial")


def inference_ways(dimensions: int) -> dict[str, Callable[[], np.ndarray]]:
    """The map of one prepared scan, by an untrained network, in each way."""
    manifest = read_manifest(ROOT / "data_manifests" / "included_t1.json")
    config = config_of(dimensions, "medvae's VAE", "tensor", 1, 0)
    volume = prepare_case(manifest, manifest.of_split("train", healthy=True)[0], config.preparation)
    network, image, mask = build_network(config, 1).eval(), volume.image, volume.mask
    ways: dict[str, Callable[[], np.ndarray]] = {
        "MONAI, whole volume": lambda: monai_map(network, image, mask, dimensions, crop=False)
    }
    if dimensions == 3:  # slices would only be padded to their shape again
        ways["MONAI, the brain's box"] = lambda: monai_map(network, image, mask, dimensions, crop=True)
    return ways | {"medvae": lambda: medvae_map(network, image, mask, dimensions)}


def compare_inference(show: Show, repeats: int) -> None:
    """One row per way, with how far its map is from medvae's."""
    rows = []
    for dimensions, tiles in ((2, "80 slices of 80 × 96"), (3, "patches of 64³, overlap ½")):
        ways = inference_ways(dimensions)
        found, own = medians(ways, repeats), ways["medvae"]()
        for way, seconds in found.items():
            difference = np.abs(ways[way]() - own).max() / np.abs(own).max()
            speed = found["MONAI, whole volume"] / seconds
            rows.append([tiles, way, f"{seconds:.3f}", f"{speed:.2f}×", f"{difference:.0e}"])
    header = ["tiles", "way", "seconds", "speed", "largest difference from medvae's map"]
    show("Inference: the residual of a scan of 80 × 96 × 80 voxels", header, rows)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = ("augmentation", "training", "inference")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(parts)}; all of them by default")
    parser.add_argument("--repeats", type=int, default=21, help="of augmentation and inference")
    parser.add_argument("--rounds", type=int, default=5, help="of training: fresh processes of each script")
    parser.add_argument("--steps", type=int, default=24, help="of training on slices; a quarter with larger networks")
    parser.add_argument("--workers", type=int, default=0, help="of training: that many, and wall-clock seconds")
    parser.add_argument("--quick", action="store_true", help="a smoke run: one turn of everything, of little")
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--only", nargs=6, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if unknown := set(options.parts) - set(parts):
        parser.error(f"there is no part {', '.join(sorted(unknown))}; choose from {', '.join(parts)}")
    if options.only:
        dimensions, script, network, cache, steps, workers = options.only
        print(json.dumps(measure(int(dimensions), script, network, cache, int(steps), int(workers))))
        return
    torch.set_num_threads(1)
    show, chosen = shower(options.markdown), options.parts or parts
    repeats, rounds, steps = (1, 1, 2) if options.quick else (options.repeats, options.rounds, options.steps)
    if "augmentation" in chosen:
        compare_augmentation(show, repeats, ["default"] if options.quick else CONFIGS)
    if "inference" in chosen:
        compare_inference(show, repeats)
    if "training" in chosen:
        families = list(FAMILIES)[:1] if options.quick else list(FAMILIES)
        compare_training(show, rounds, steps, options.workers, families)


if __name__ == "__main__":
    main()
