"""From a config and a network to the score of a whole volume."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from medvae.config import Config
from medvae.imaging.smoothing import smooth_in_mask
from medvae.networks.gradients import gradient, smooth_gradient
from medvae.networks.interface import Network
from medvae.scoring import intensity
from medvae.scoring.context import context_residual
from medvae.scoring.discrepancy import discrepancy
from medvae.scoring.guided import guided_filter
from medvae.scoring.residual import reconstruction, residual, squared_residual
from medvae.scoring.restoration import restoration
from medvae.scoring.tiling import TileScore, score_patches, score_slices


def score_volume(
    config: Config,
    network: Network | None,
    image: np.ndarray,
    mask: np.ndarray,
    part_scales: Sequence[float] = (),
    modalities: int | None = None,
) -> np.ndarray:
    """The score that a config asks for, smoothed, before any calibration.

    Parameters
    ----------
    config
        ``config.score`` says what; a "product" or "sum" is made of its parts.
    network
        The trained network, in evaluation mode; None for a baseline.
    image, mask
        ``(C, X, Y, Z)`` float32 and ``(X, Y, Z)`` bool on the standard grid; for "deviation" its z values.
    part_scales
        Healthy mean of each part of a combined score.
    modalities
        Channels of ``image`` that are the scan, which come first; all by default. They guide the smoothing.

    Returns
    -------
    ndarray
        ``(X, Y, Z)`` float32, signed where the score is; 0 outside the mask.
    """
    kind = config.score.kind
    if kind in ("intensity", "deviation"):
        raw = intensity.intensity(image, mask)
    elif kind == "equalized_intensity":
        raw = intensity.equalized_intensity(image, mask)
    elif kind in ("product", "sum"):
        scaled = [p / s for p, s in zip(score_parts(config, network, image, mask), part_scales, strict=True)]
        raw = np.prod(scaled, axis=0) if kind == "product" else np.sum(scaled, axis=0)
    else:
        raw = _score(config, network, kind, image, mask)
    score = smooth_in_mask(raw, mask, _voxels(config.score.smoothing_mm, config))
    if config.score.guided_mm:
        radius = max(1, round(config.score.guided_mm / config.grid.voxel_mm))
        score = guided_filter(score, image[:modalities], mask, radius)
    return score


def score_parts(config: Config, network: Network, image: np.ndarray, mask: np.ndarray) -> list[np.ndarray]:
    """Absolute, smoothed maps ``(X, Y, Z)`` of the parts of a combined score, not yet scaled."""
    return [
        smooth_in_mask(
            np.abs(_score(config, network, part.kind, image, mask)), mask, _voxels(part.smoothing_mm, config)
        )
        for part in config.score.parts
    ]


def reconstruct_volume(
    config: Config, network: Network | None, image: np.ndarray, mask: np.ndarray
) -> np.ndarray | None:
    """What the network makes of a scan's first modality, ``(X, Y, Z)`` float32 in normalised intensity, 0 outside.

    ``image`` ``(C, X, Y, Z)`` and ``mask`` ``(X, Y, Z)`` lie on the standard grid. None without a network, and for one
    that segments.
    """
    if network is None or config.objective.kind == "discrepancy":
        return None
    return _tiled(config, network, reconstruction, image, mask)


def _score(config: Config, network: Network, kind: str, image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return _tiled(config, network, tile_score(config, kind), image, mask)


def _tiled(config: Config, network: Network, function: TileScore, image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    sampling, batch = config.sampling, config.score.batch_size
    if sampling.kind == "patch":
        size, overlap = sampling.patch_size, sampling.patch_overlap
        return score_patches(network, function, image, mask, size, overlap=overlap, batch_size=max(1, batch // 16))
    return score_slices(network, function, image, mask, sampling.plane, batch_size=batch)


def tile_score(config: Config, kind: str) -> TileScore:
    """The function of network, tile and mask behind a kind of score, with the config's options."""
    options, objective = config.score, config.objective
    if kind == "residual":
        return residual
    if kind == "squared_residual":
        return squared_residual
    if kind == "discrepancy":
        mirrored = config.sampling.kind == "patch" or config.sampling.plane != "sagittal"
        return partial(discrepancy, flipped=options.flipped and mirrored)
    if kind == "context":
        return partial(
            context_residual, side=options.context_side, spacing=options.context_spacing, shifts=options.context_shifts
        )
    loss = {
        "likelihood": objective.likelihood,
        "scale": objective.likelihood_scale,
        "beta": objective.beta,
    }
    if kind == "restoration":
        return partial(restoration, steps=options.restoration_steps, step_size=options.restoration_step_size, **loss)
    loss["term"] = kind.removesuffix("_gradient")
    if options.smoothgrad_draws:
        noise = options.smoothgrad_noise
        return partial(smooth_gradient, draws=options.smoothgrad_draws, noise=noise, seed=config.seed, **loss)
    return partial(gradient, **loss)


def _voxels(millimetres: float, config: Config) -> list[float]:
    return [millimetres / spacing for spacing in config.grid.spacing_mm]
