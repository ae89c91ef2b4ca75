"""From tiles to a volume: score every slice or patch of a volume and put the map together."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from medvae.imaging.boxes import box_of
from medvae.imaging.planes import Plane, cropped, padded, slices_of, volume_of, with_neighbours
from medvae.monai_import import import_monai
from medvae.networks.interface import Network
from medvae.scoring.registry import Scored

TileScore = Callable[[Network, Tensor, Tensor], Tensor]
"""``(network, tile (N, C, *spatial), mask (N, 1, *spatial)) -> (N, *spatial)``."""


def score_tiles(scan: Scored, function: TileScore) -> np.ndarray:
    """Score a scan tile by tile, in the slices or patches that its network was trained on.

    Parameters
    ----------
    scan
        With a network.
    function
        The score of a tile.

    Returns
    -------
    ndarray
        ``(X, Y, Z)`` float32, 0 outside the mask.
    """
    if scan.network is None:
        raise ValueError("a score of tiles needs a network; found None.")
    sampling, batch = scan.config.sampling, scan.config.score.batch_size
    if sampling.kind == "patch":
        return score_patches(
            scan.network, function, scan.image, scan.mask, sampling.patch_size, overlap=sampling.patch_overlap,
            batch_size=max(1, batch // 16),
        )  # fmt: skip
    neighbours = scan.config.network_options.neighbours
    maps = [
        score_slices(
            scan.network, function, scan.image, scan.mask, plane, shape=scan.config.tile_shape, neighbours=neighbours,
            batch_size=batch,
        )
        for plane in sampling.planes
    ]  # fmt: skip
    return maps[0] if len(maps) == 1 else np.mean(maps, axis=0)


def score_slices(
    network: Network,
    score: TileScore,
    image: np.ndarray,
    mask: np.ndarray,
    plane: Plane,
    *,
    shape: Sequence[int] | None = None,
    neighbours: int = 0,
    batch_size: int = 64,
) -> np.ndarray:
    """Score all slices that hold brain.

    Parameters
    ----------
    network, score
        The network and a function of network, tiles and masks.
    image, mask
        ``(C, X, Y, Z)`` float32 and ``(X, Y, Z)`` bool.
    plane
        The slices' orientation, that the network was trained on.
    shape
        Of a tile, to which slices are padded; by default that of a slice.
    neighbours
        Slices on each side that a slice is shown with.
    batch_size
        Slices at once; the result does not depend on it.

    Returns
    -------
    ndarray
        ``(X, Y, Z)`` float32, 0 outside the mask.
    """
    device = next(network.parameters()).device
    stack, masks = slices_of(image, plane), slices_of(mask, plane)
    result = np.zeros(masks.shape, dtype=np.float32)
    shape = masks.shape[1:] if shape is None else shape
    filled = np.flatnonzero(masks.any(axis=(1, 2)))
    for start in range(0, len(filled), batch_size):
        chosen = filled[start : start + batch_size]
        tiles = padded(with_neighbours(stack, chosen, neighbours), shape)
        x = torch.from_numpy(np.ascontiguousarray(tiles)).to(device)
        m = torch.from_numpy(np.ascontiguousarray(padded(masks[chosen][:, None], shape))).to(device)
        result[chosen] = cropped(score(network, x, m).float().cpu().numpy(), masks.shape[1:])
    return np.ascontiguousarray(volume_of(result, plane)) * mask


def score_patches(
    network: Network,
    score: TileScore,
    image: np.ndarray,
    mask: np.ndarray,
    size: Sequence[int],
    *,
    overlap: float = 0.5,
    batch_size: int = 4,
) -> np.ndarray:
    """Score overlapping patches of the brain's box and average them with MONAI's sliding window.

    Parameters
    ----------
    network, score
        The network and a function of network, tiles and masks.
    image, mask
        ``(C, X, Y, Z)`` float32 and ``(X, Y, Z)`` bool.
    size
        Voxels of a patch; a volume or box that is smaller is padded with background.
    overlap
        Share of a patch that its neighbour covers too; Gaussian weights favour the middle of a patch.
    batch_size
        Patches at once; the result does not depend on it.

    Returns
    -------
    ndarray
        ``(X, Y, Z)`` float32, 0 outside the mask.
    """
    sliding_window_inference = import_monai("inferers.utils").sliding_window_inference
    device = next(network.parameters()).device
    box = _box(mask, size)
    stacked = np.concatenate([image[(slice(None), *box)], mask[box][None]]).astype(np.float32)

    def predictor(window: Tensor) -> Tensor:
        return score(network, window[:, :-1], window[:, -1:] > 0.5)[:, None]

    found = sliding_window_inference(
        torch.from_numpy(stacked)[None].to(device), tuple(size), batch_size, predictor, overlap=overlap, mode="gaussian"
    )
    if not isinstance(found, Tensor):
        raise TypeError(f"one map was expected of a predictor that returns one; found {type(found).__name__}.")
    result = np.zeros(mask.shape, dtype=np.float32)
    result[box] = found[0, 0].float().cpu().numpy()
    return result * mask


def _box(mask: np.ndarray, size: Sequence[int]) -> tuple[slice, ...]:
    """The brain's bounding box, widened to at least one patch where the volume allows it."""
    box = []
    for side, patch, length in zip(box_of(mask), size, mask.shape, strict=True):
        missing = max(0, patch - (side.stop - side.start))
        first = max(0, min(side.start - missing // 2, length - patch))
        box.append(slice(first, min(length, max(side.stop, first + patch))))
    return tuple(box)
