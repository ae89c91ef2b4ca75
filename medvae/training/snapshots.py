"""What one looks at while a network trains: its loss and what it makes of healthy slices it has not seen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from medvae.config import Config
from medvae.config.methods import OBJECTIVES
from medvae.drawing import MAP_COLOURS, save_figure
from medvae.networks.interface import Network
from medvae.parsing import read_json_lines
from medvae.sampling.tiles import Tiles
from medvae.training.corruptions import with_lesions

GREY = ("gray", 0.0, 1.1)
"""Colours of a scan, and the normalised intensities of the darkest and the brightest."""


def draw_loss(metrics: Path, out: Path) -> Path:
    """Loss terms of ``metrics.jsonl`` over steps, in nats per brain voxel, as a PNG."""
    lines = read_json_lines(metrics)
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for axes, names in (
        (left, ("reconstruction", "context", "validation_reconstruction")),
        (right, ("kl", "validation_kl", "dice")),
    ):
        for name in names:
            points = [(line["step"], line[name]) for line in lines if name in line]
            if points:
                validation = name.startswith("validation")
                axes.plot(*zip(*points, strict=True), label=name.replace("_", " "), marker="o" if validation else None,
                          markersize=3, linewidth=1.2)  # fmt: skip
        axes.set_xlabel("step")
        if axes.lines:  # a denoising network has no KL
            axes.legend(frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
    left.set_ylabel("nats per brain voxel")
    left.set_title("likelihood term", fontsize=10)
    right.set_title("soft Dice" if any("dice" in line for line in lines) else "KL divergence", fontsize=10)
    return save_figure(figure, out)


def draw_reconstructions(network: Network, tiles: Tiles, config: Config, out: Path, count: int = 8) -> Path:
    """Some held-out healthy tiles, their reconstructions and the difference, as a PNG; of a patch its middle slice.

    A network that segments is shown the tiles with lesions inserted, its probabilities and the truth.
    """
    chosen = np.linspace(0, len(tiles) - 1, count + 2).astype(int)[1:-1]
    x, mask = (torch.stack(parts) for parts in zip(*[tiles[0, int(index)] for index in chosen], strict=True))
    device = next(network.parameters()).device
    with torch.no_grad():
        if OBJECTIVES[config.objective.kind].needs_segmenter:
            x, truth = with_lesions(config.objective, network, x, mask, (0,), config.grid.voxel_mm)
            probability = network(x.to(device)).logits.float().sigmoid().cpu() * mask
            images = {"scan": x, "probability": probability, "truth": truth.float()}
            probabilities = (MAP_COLOURS, 0.0, 1.0)
            ranges = {"scan": GREY, "probability": probabilities, "truth": probabilities}
        else:
            restored = network(x.to(device)).reconstruction.float().cpu() * mask
            images = {"scan": x, "reconstruction": restored, "difference": (x - restored) * mask}
            ranges = {"scan": GREY, "reconstruction": GREY, "difference": ("RdBu_r", -0.4, 0.4)}
    shown = config.network_options.neighbours  # of a slice with neighbours, the slice
    figure = Figure(figsize=(1.3 * count, 4.4), layout="constrained")
    grid = figure.subplots(len(images), count)
    for row, (name, batch) in zip(grid, images.items(), strict=True):
        colours, low, high = ranges[name]
        for axes, image in zip(row, _middle(batch[:, shown if name == "scan" else 0]).numpy(), strict=True):
            axes.imshow(image.T, origin="lower", cmap=colours, vmin=low, vmax=high)
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
        row[0].set_ylabel(name)
    return save_figure(figure, out)


def _middle(tiles: torch.Tensor) -> torch.Tensor:
    """``(N, H, W)`` as it is; the middle axial slices of ``(N, X, Y, Z)``."""
    return tiles if tiles.ndim == 3 else tiles[..., tiles.shape[-1] // 2]
