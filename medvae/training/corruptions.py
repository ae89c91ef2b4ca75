"""What is done to healthy tiles so that a network has something to undo or to find.

``x`` is a tile ``(N, C, *spatial)``, ``mask`` its brain mask ``(N, 1, *spatial)`` bool; both are left as they are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from medvae.augmentation.batches import augment
from medvae.config import ObjectiveConfig
from medvae.imaging.grid import DEFAULT_GRID
from medvae.lesions.synthesis import insert_lesions
from medvae.normative.inputs import Channels

Fill = Literal["zero", "value", "noise"]


def blank_squares(
    x: Tensor,
    mask: Tensor,
    generator: torch.Generator,
    *,
    count: tuple[int, int] = (1, 3),
    side: tuple[float, float] = (0.1, 0.4),
    fill: Fill = "value",
) -> tuple[Tensor, Tensor]:
    """Blank random squares (cubes in 3D) centred on brain voxels: the corruption of context encoding.

    Parameters
    ----------
    x, mask
        Tiles ``(N, C, *spatial)`` and brain masks ``(N, 1, *spatial)``; each mask holds at least one voxel.
    generator
        Source of all random numbers, on the device of ``x``.
    count
        Fewest and most squares per sample; at least one.
    side
        Side of a square as a fraction of the shortest spatial side of the tile.
    fill
        ``"zero"``, one uniform ``"value"`` per square, or uniform ``"noise"`` per voxel, within [0, 1].

    Returns
    -------
    corrupted, blanked
        ``(N, C, *spatial)`` and the union of squares inside the brain, ``(N, 1, *spatial)`` bool. Squares may
        overlap, but none takes away what another has blanked. ``x`` is left as it is.
    """
    samples, spatial = x.shape[0], x.shape[2:]
    device = x.device
    most = count[1]
    centres = torch.multinomial(mask.flatten(1).float(), most, replacement=True, generator=generator)
    sizes = torch.rand(samples, most, generator=generator, device=device)
    half = (side[0] + sizes * (side[1] - side[0])) * min(spatial) / 2
    wanted = torch.randint(count[0], count[1] + 1, (samples,), generator=generator, device=device)
    values = torch.rand(samples, most, generator=generator, device=device)

    blanked = torch.zeros_like(mask)
    content = torch.zeros_like(x)
    index = torch.arange(math.prod(spatial), device=device).reshape(spatial)
    coordinates = _unravel(index, spatial)
    shape = (samples, *[1] * len(spatial))
    for k in range(most):
        inside = (k < wanted).view(shape)
        for axis, centre in enumerate(_unravel(centres[:, k], spatial)):
            inside = inside & ((coordinates[axis][None] - centre.view(shape)).abs() <= half[:, k].view(shape))
        square = inside[:, None] & mask
        blanked = blanked | square
        content = torch.where(square, values[:, k].view(samples, 1, *[1] * len(spatial)), content)
    if fill == "noise":
        content = torch.rand(x.shape, generator=generator, device=device, dtype=x.dtype)
    elif fill == "zero":
        content = torch.zeros_like(x)
    return torch.where(blanked, content, x), blanked


def coarse_noise(
    x: Tensor, mask: Tensor, generator: torch.Generator, *, cell: int = 8, standard_deviation: float = 0.2
) -> Tensor:
    """``x`` plus coarse Gaussian noise inside the brain: the corruption of the denoising model.

    White noise on a grid ``cell`` times coarser than the tile is interpolated linearly to the tile, rolled by a random
    offset so that its nodes lie anywhere, and added inside the mask (Kascenas et al. 2022, MIDL, "Denoising
    Autoencoders for Unsupervised Anomaly Detection in Brain MRI": 16 × 16 noise on 128 × 128 slices, σ 0.2).

    Parameters
    ----------
    x, mask
        ``(N, C, *spatial)`` and ``(N, 1, *spatial)`` bool.
    generator
        Source of all random numbers, on the device of ``x``.
    cell
        Voxels between two nodes of the noise.
    standard_deviation
        Of the noise at its nodes, in normalised intensity.
    """
    spatial = x.shape[2:]
    nodes = [max(2, math.ceil(n / cell)) for n in spatial]
    low = torch.randn(*x.shape[:2], *nodes, generator=generator, device=x.device) * standard_deviation
    mode = ("bilinear", "trilinear")[len(spatial) - 2]
    field = torch.nn.functional.interpolate(low, size=spatial, mode=mode, align_corners=False)
    offsets = [int(torch.randint(n, (1,), generator=generator, device=x.device)) for n in spatial]
    return x + torch.roll(field, offsets, dims=tuple(range(2, x.ndim))).to(x.dtype) * mask


def corrupt(
    options: ObjectiveConfig,
    x: Tensor,
    mask: Tensor,
    seed: Sequence[int],
    channels: Channels | None = None,
    voxel_mm: float = DEFAULT_GRID.voxel_mm,
) -> tuple[Tensor, Tensor]:
    """Insert lesions, then change the look of the whole scan: ``(corrupted, truth)`` as of `insert_lesions`.

    Parameters
    ----------
    options
        Which lesions, and which changes.
    x, mask
        ``(N, C, *spatial)`` and ``(N, 1, *spatial)`` bool.
    seed
        Of all random numbers.
    channels
        The maps of ``x``; all is the scan by default. What comes of healthy brains stays as it is. A mirrored scan
        looks as the scan does and has lesions of its own, which are not in the truth: a network that never saw both
        sides ill would take what is alike for healthy.
    voxel_mm
        Edge of a voxel, in mm; that of the default grid if not given.
    """
    maps = channels.split(x) if channels is not None else {"scan": x}
    look = partial(
        augment, config=options.appearance, mirror_axis=None, voxel_mm=voxel_mm,
        seeds=[(*seed, 2, index) for index in range(len(x))],
    )  # fmt: skip
    corrupted, truth = insert_lesions(maps["scan"], mask, options.lesions, (*seed, 1), voxel_mm)
    maps["scan"], _ = look(corrupted, mask)
    if "mirrored" in maps:
        mirrored, _ = insert_lesions(maps["mirrored"], mask, options.lesions, (*seed, 3), voxel_mm)
        turned, _ = look(mirrored.flip(2), mask.flip(2))
        maps["mirrored"] = turned.flip(2)  # turned: neither noise nor bias field is that of the scan
    return torch.cat(list(maps.values()), dim=1), truth


def with_lesions(
    options: ObjectiveConfig,
    network: torch.nn.Module,
    x: Tensor,
    mask: Tensor,
    seed: Sequence[int],
    voxel_mm: float = DEFAULT_GRID.voxel_mm,
) -> tuple[Tensor, Tensor]:
    """What a segmenter is to judge, and the truth: tiles that have lesions already, or `corrupt` puts some in.

    The former bring the truth as one more channel than the network takes, see `medvae.sampling.lesion_scans`.
    ``voxel_mm``, the edge of a voxel, is that of the default grid if not given.
    """
    bare = getattr(network, "module", network)  # several processes wrap the network
    channels = getattr(bare, "channels", None)
    if channels is not None and x.shape[1] == channels.count + 1:
        return x[:, :-1], x[:, -1:] > 0.5
    return corrupt(options, x, mask, seed, channels, voxel_mm)


def _unravel(index: Tensor, shape: torch.Size | tuple[int, ...]) -> list[Tensor]:
    coordinates = []
    for n in reversed(shape):
        coordinates.append(index % n)
        index = torch.div(index, n, rounding_mode="floor")
    return coordinates[::-1]
