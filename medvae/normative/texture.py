"""Texture: the logarithm of the local SD of fine detail around each voxel.

Some lesions leave the mean intensity unchanged and alter fine detail: it is lost, or abnormal detail appears. In
epilepsy, focal cortical dysplasia is sought by comparing maps of such features with those of healthy brains (Huppertz
et al. 2005, doi:10.1016/j.eplepsyres.2005.07.017; the feature used here is a different one).
"""

from __future__ import annotations

import torch
from torch import Tensor

DETAIL, AROUND = 3, 5
"""Cube edges in voxels: detail is the deviation from the mean over the first cube, its SD is taken over the second.
Tuned on the 2 mm grid (6 and 10 mm); in voxels, because the grid limits the finest detail of a scan."""

FLOOR = 0.01
"""Lower bound of the SD in normalised intensity: that of interpolated noise."""


def log_local_sd(scan: Tensor) -> Tensor:
    """The logarithm of the local SD of fine detail.

    A logarithm, because the SD of a tissue varies between scanners by a factor.

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
    """Mean over the brain voxels in a cube around each voxel; ``x`` is 0 outside the brain."""
    return _sums(x, edge) / _sums(brain, edge).clamp(min=1)


def _sums(x: Tensor, edge: int) -> Tensor:
    """Sum over cubes, axis by axis: twice as fast as pooling on a CPU, with the same result."""
    for axis in range(2, x.ndim):
        margin = x.new_zeros(()).expand([edge // 2 if i == axis else n for i, n in enumerate(x.shape)])
        wide = torch.cat([margin, x, margin], dim=axis)
        x = sum((wide.narrow(axis, start, x.shape[axis]) for start in range(edge)), start=x.new_zeros(()))
    return x
