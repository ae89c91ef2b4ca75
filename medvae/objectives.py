"""What a network is trained to minimise: functions of tensors, per sample, in nats.

``x`` is a tile ``(N, C, *spatial)``, ``mask`` its brain mask ``(N, 1, *spatial)`` bool. All sums run over in-mask
voxels only.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from medvae.networks.vae import ConvVAE

Fill = Literal["zero", "value", "noise"]


def kl_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(q(z|x) ‖ N(0, I)) of a diagonal Gaussian, ``(N,)`` nats, computed in float32.

    −½ Σ (1 + log σ² − μ² − σ²); Kingma & Welling 2013, arXiv 1312.6114, appendix B.
    """
    mean, log_variance = mean.float(), log_variance.float()
    return -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).flatten(1).sum(1)


def negative_log_likelihood(
    x: Tensor, reconstruction: Tensor, mask: Tensor, *, likelihood: str = "laplace", scale: float = 0.1
) -> Tensor:
    """−log p(x|z) summed over in-mask voxels, ``(N,)`` nats, with its normalising constant.

    ``scale`` is Laplace's b, or Gauss's σ, in units of normalised intensity.
    """
    residual = (x.float() - reconstruction.float()) / scale
    if likelihood == "laplace":
        nats = residual.abs() + math.log(2 * scale)
    else:
        nats = 0.5 * residual.square() + math.log(scale) + 0.5 * math.log(2 * math.pi)
    return (nats * mask).flatten(1).sum(1)


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


class LossTerms(NamedTuple):
    """Terms of a loss, each a scalar in nats per in-mask voxel; ``total`` is what is minimised."""

    total: Tensor
    reconstruction: Tensor
    kl: Tensor
    context: Tensor | None = None


def vae_loss(
    network: ConvVAE,
    x: Tensor,
    mask: Tensor,
    noise: Tensor | None,
    *,
    likelihood: str = "laplace",
    scale: float = 0.1,
    beta: float = 1.0,
) -> LossTerms:
    """Negative ELBO, −log p(x|z) + β·KL.

    Each term is summed per sample; the sum over the batch is divided by the batch's number of brain voxels. That
    common divisor changes the step length, not the balance between the terms.
    """
    output = network(x, noise)
    voxels = mask.sum()
    reconstruction = (
        negative_log_likelihood(x, output.reconstruction, mask, likelihood=likelihood, scale=scale).sum() / voxels
    )
    kl = kl_divergence(output.mean, output.log_variance).sum() / voxels
    return LossTerms(reconstruction + beta * kl, reconstruction, kl)


def cevae_loss(
    network: ConvVAE,
    x: Tensor,
    corrupted: Tensor,
    mask: Tensor,
    noise: Tensor | None,
    *,
    context_weight: float = 0.5,
    likelihood: str = "laplace",
    scale: float = 0.1,
    beta: float = 1.0,
) -> LossTerms:
    """Context-encoding VAE: (1−λ)·ELBO loss of ``x`` + λ·reconstruction of ``x`` from ``corrupted`` with z = μ.

    The target of the context branch is the clean tile, over the whole brain (Zimmerer et al. 2018, arXiv
    1812.05941, eq. 3; the paper's L1 term is here the same likelihood as the ELBO's, so that both are in nats).
    """
    elbo = vae_loss(network, x, mask, noise, likelihood=likelihood, scale=scale, beta=beta)
    restored = network(corrupted).reconstruction
    context = negative_log_likelihood(x, restored, mask, likelihood=likelihood, scale=scale).sum() / mask.sum()
    total = (1 - context_weight) * elbo.total + context_weight * context
    return LossTerms(total, elbo.reconstruction, elbo.kl, context)


def _unravel(index: Tensor, shape: torch.Size | tuple[int, ...]) -> list[Tensor]:
    coordinates = []
    for n in reversed(shape):
        coordinates.append(index % n)
        index = torch.div(index, n, rounding_mode="floor")
    return coordinates[::-1]
