"""Texture: the logarithm of the local SD of fine detail around each voxel.

Some lesions leave the intensity as it is and change what is finer: tissue that has lost its detail, or has some that
does not belong there. Maps of such features against those of healthy brains are how focal cortical dysplasia is looked
for in epilepsy (Huppertz et al. 2005, doi:10.1016/j.eplepsyres.2005.07.017; here the feature is another one).
"""

from __future__ import annotations

import torch
from torch import Tensor

DETAIL, AROUND = 3, 5
"""Voxels along an edge: detail is what departs from the mean over the first, its SD is taken over the second. Tuned on
the grid of 2 mm (6 and 10 mm); in voxels, because the finest detail of a scan is that of its grid."""

FLOOR = 0.01
"""SD in normalised intensity below which scans do not differ; that of interpolated noise."""


def log_local_sd(scan: Tensor) -> Tensor:
    """The logarithm of the local SD of fine detail.

    A logarithm, because the SD of one kind of tissue differs between scanners by a factor.

    Parameters
    ----------
    scan
        ``(N, C, *spatial)`` in normalised intensity, 2D or 3D; 0 outside the brain, in all channels.

    Returns
    -------
    Tensor
        ``(N, C, *spatial)``, at least ``log(FLOOR)`` in the brain and 0 outside. Only voxels of the brain, and of the
        tile, count.
    """
    brain = (scan != 0).any(dim=1, keepdim=True).to(scan.dtype)
    detail = (scan - _mean(scan, brain, DETAIL)) * brain
    variance = _mean(detail.square(), brain, AROUND)
    return torch.log(variance.sqrt() + FLOOR) * brain


def _mean(x: Tensor, brain: Tensor, edge: int) -> Tensor:
    """Over the voxels of the brain in a cube around each; ``x`` is 0 outside."""
    return _sums(x, edge) / _sums(brain, edge).clamp(min=1)


def _sums(x: Tensor, edge: int) -> Tensor:
    """Over cubes, one axis after the other: on a CPU twice as fast as pooling, with the same result."""
    for axis in range(2, x.ndim):
        margin = x.new_zeros(()).expand([edge // 2 if i == axis else n for i, n in enumerate(x.shape)])
        wide = torch.cat([margin, x, margin], dim=axis)
        x = sum((wide.narrow(axis, start, x.shape[axis]) for start in range(edge)), start=x.new_zeros(()))
    return x
