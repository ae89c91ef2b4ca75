"""Changes that move the brain by a matrix: those that follow each other are interpolated once, together."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from medvae.augmentation.base import Augmentation, Drawn, Options

if TYPE_CHECKING:
    from torch import Tensor


class AffineAugmentation(Augmentation[Options, Drawn]):
    """A change that is a matrix about the centre of the tile."""

    moves_mask: ClassVar[bool] = True

    @abstractmethod
    def matrix(self, drawn: Drawn, dimensions: int) -> np.ndarray:
        """``(D, D)``: from a voxel of the result to the voxel it comes from, both counted from the centre."""

    def apply(self, x: Tensor, mask: Tensor, drawn: Sequence[Drawn]) -> tuple[Tensor, Tensor]:
        """Move ``x`` and ``mask`` by the matrices."""
        return move(x, mask, [self.matrix(one, x.ndim - 2) for one in drawn])


def move(x: Tensor, mask: Tensor, matrices: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
    """Sample image (linear) and mask (nearest) where N matrices ``(D, D)`` point to; 0 comes from outside.

    MONAI's ``Affine`` interpolates sample by sample, and image and mask each with a grid of their own: see
    docs/PERFORMANCE.md for how much longer it takes.
    """
    import torch
    from torch.nn import functional

    matrix = torch.from_numpy(np.stack(matrices).astype(np.float32)).to(x.device)
    grid = source_grid(matrix, x.shape[2:])
    moved = functional.grid_sample(x, grid, mode="bilinear", align_corners=False)
    return moved, functional.grid_sample(mask.to(x.dtype), grid, mode="nearest", align_corners=False) > 0.5


def source_grid(matrix: Tensor, shape: Sequence[int]) -> Tensor:
    """``(N, *shape, D)``, where each voxel comes from, as ``grid_sample`` counts: −1 to 1 and the last axis first.

    What ``affine_grid`` returns. Summed axis by axis it took a fifth of the time (3D, one CPU core), and, unlike a
    product of matrices, it rounds the same in every batch.
    """
    import torch

    dimensions = len(shape)
    grid = matrix.new_empty(len(matrix), *shape, dimensions)
    for target, size in enumerate(shape):
        total = torch.zeros((), device=matrix.device)
        for axis, length in enumerate(shape):
            steps = torch.arange(length, device=matrix.device) - (length - 1) / 2
            along = [1] * (1 + dimensions)
            along[1 + axis] = length
            weight = matrix[:, target, axis] * (2 / size)
            total = total + weight.reshape(-1, *[1] * dimensions) * steps.reshape(along)
        grid[..., dimensions - 1 - target] = total
    return grid
