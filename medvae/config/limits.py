"""Which networks fit which tiles: arithmetic that needs no PyTorch, so that a config is refused when it is read."""

from __future__ import annotations

import math
from collections.abc import Sequence

from medvae.config.learning import NetworkConfig

MOST_DENSE_WEIGHTS = 50_000_000
"""Most weights that the two linear layers of a dense latent may have together: 200 MB, and as much again for the
gradient and for each of Adam's two moments."""

MOST_WEIGHTS = 1_000_000_000
"""Most weights of a network's convolutions: 4 GB, and four times that while it trains. The largest network of
``configs/`` has 20 million."""
MOST_LEVELS = 12


def require_fit(options: NetworkConfig, size: Sequence[int]) -> None:
    """Refuse a network that cannot work on tiles of ``size``, two or three axes.

    Raises
    ------
    ValueError
        If the tile cannot be halved as often as asked, a dense latent would be too large, or a normalisation has
        nothing to normalise.
    """
    if len(size) not in (2, 3):
        raise ValueError(f"a tile has two or three axes; found {_times(size)}.")
    if options.backbone:
        return  # only a trial can tell: `medvae.networks.backbone.require_fits`
    _require_possible(options, len(size))
    bottom = _bottom(options, size)
    if options.kind == "autoencoder_kl":
        return
    if options.normalisation == "instance" and math.prod(bottom) == 1:
        raise ValueError(
            f'normalisation "instance" would turn the lowest level into zeros: {len(options.widths)} widths leave a '
            f"single voxel of a tile of {_times(size)}. Write normalisation: group, or use fewer widths."
        )
    if options.kind == "vae" and options.latent == "dense":
        _require_small(options, bottom)


def _require_possible(options: NetworkConfig, axes: int) -> None:
    """Refuse what no machine can build, be it a slip or a stranger's config."""
    if len(options.widths) > MOST_LEVELS:
        raise ValueError(f"{len(options.widths)} widths are too many: at most {MOST_LEVELS} levels are built.")
    pairs = zip((options.widths[0], *options.widths), options.widths, strict=False)
    weights = 3**axes * sum(before * after * (1 + 2 * options.residual_blocks) for before, after in pairs)
    weights += options.widths[-1] * options.squeeze + options.detail**2
    if weights > MOST_WEIGHTS:
        raise ValueError(
            f"its convolutions need some {weights / 1e6:,.0f} million weights, more than {MOST_WEIGHTS // 10**6:,} "
            f"million. Lower widths{', residual_blocks' if options.residual_blocks else ''}, squeeze or detail."
        )


def _bottom(options: NetworkConfig, size: Sequence[int]) -> tuple[int, ...]:
    """Spatial shape of the lowest level."""
    halvings = len(options.widths) - (options.kind == "autoencoder_kl")
    stride = 2**halvings
    if any(n % stride for n in size):
        raise ValueError(
            f"a tile of {_times(size)} voxels cannot be halved {halvings} times: every side must be divisible by "
            f"{stride}. Use fewer widths, or another tile size."
        )
    return tuple(n // stride for n in size)


def _require_small(options: NetworkConfig, bottom: tuple[int, ...]) -> None:
    features = options.squeeze * math.prod(bottom)
    weights = 3 * features * options.latent_size  # mean, log-variance, and the way back
    if weights > MOST_DENSE_WEIGHTS:
        raise ValueError(
            f"a dense latent of {options.latent_size} from {options.squeeze} channels of {_times(bottom)} voxels needs "
            f"{weights / 1e6:,.0f} million weights, more than {MOST_DENSE_WEIGHTS // 10**6} million. Write latent: "
            f"spatial, lower squeeze or latent_size, or use more widths, which make the lowest level smaller."
        )


def _times(shape: Sequence[int]) -> str:
    return "×".join(map(str, shape))
