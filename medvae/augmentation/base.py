"""What an augmentation is: parameters drawn from a sample's seed, then applied as they were drawn."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Generic, TypeVar

import numpy as np

from medvae.augmentation.randomness import Sample
from medvae.schema import Strict

if TYPE_CHECKING:
    from torch import Tensor

Options = TypeVar("Options", bound=Strict)
Drawn = TypeVar("Drawn")


class Augmentation(ABC, Generic[Options, Drawn]):
    """One random change of slices or patches.

    `draw` and `apply` are enough for both engines: the worker processes call them with a batch of one. The changes
    that batchgenerators has too override `draw_for_array` and `apply_to_array`, which do in the workers what
    batchgenerators does, bit for bit.

    Parameters
    ----------
    options
        The ranges.
    mirror_axis
        Spatial axis along which a mirrored brain is a brain, or None.
    """

    fields: ClassVar[type[Strict]]
    """The options of this change; the first of them switches it on."""
    moves_mask: ClassVar[bool] = False
    """Whether the brain mask moves with the image."""

    def __init__(self, options: Options, mirror_axis: int | None = None) -> None:
        self.options, self.mirror_axis = options, mirror_axis

    @property
    @abstractmethod
    def active(self) -> bool:
        """Whether the ranges change anything."""

    @abstractmethod
    def draw(self, sample: Sample) -> Drawn:
        """The parameters of one sample, from ``sample.generator(name)`` alone."""

    @abstractmethod
    def apply(self, x: Tensor, mask: Tensor, drawn: Sequence[Drawn]) -> tuple[Tensor, Tensor]:
        """Do what was drawn for each of N samples.

        Parameters
        ----------
        x
            ``(N, C, *spatial)`` float32; left as it is. The background is set to 0 after the last change.
        mask
            ``(N, 1, *spatial)`` bool, the brain.
        drawn
            N results of `draw`.
        """

    def draw_for_array(self, rng: np.random.RandomState, sample: Sample, voxels: int) -> Drawn:
        """The parameters in a worker process.

        Parameters
        ----------
        rng
            The sample's; it goes through the changes in their order.
        sample
            As for `draw`.
        voxels
            Of the brain, before the changes that follow each other on whole tiles; exact for a `VoxelAugmentation`.
        """
        return self.draw(sample)

    def apply_to_array(self, image: np.ndarray, mask: np.ndarray, drawn: Drawn) -> tuple[np.ndarray, np.ndarray]:
        """Do what was drawn to ``image (C, *spatial)``, which may be written to, and ``mask (1, *spatial)``."""
        import torch

        x, inside = self.apply(torch.from_numpy(image[None]), torch.from_numpy(mask[None]), [drawn])
        return x[0].numpy(), inside[0].numpy()


class VoxelAugmentation(Augmentation[Options, Drawn]):
    """A change of each voxel of the brain by itself: in the workers it is given the brain's voxels only."""

    @abstractmethod
    def apply_to_voxels(self, values: np.ndarray, drawn: Drawn) -> np.ndarray:
        """Do what was drawn to ``values (C, voxels)``, which may be written to."""


def spread(drawn: Sequence[float] | Sequence[np.ndarray], x: Tensor) -> Tensor:
    """A number for each sample, or one for each of its channels, shaped to broadcast against ``x``; float32."""
    import torch

    values = torch.from_numpy(np.stack(drawn).astype(np.float32)).to(x.device)
    values = values[:, None] if values.ndim == 1 else values
    return values.reshape(*values.shape, *(1 for _ in x.shape[2:]))


def require_around_one(name: str, limits: tuple[float, float]) -> None:
    """Refuse a range that is not one of positive factors around 1."""
    low, high = limits
    if not 0 < low <= 1 <= high:
        raise ValueError(f"{name} must be a range of positive factors around 1; found {(low, high)}.")


def require_not_negative(name: str, limits: tuple[float, float]) -> None:
    """Refuse a range that is upside down or holds negative numbers."""
    low, high = limits
    if not 0 <= low <= high:
        raise ValueError(f"{name} must be a range from low to high, not negative; found {(low, high)}.")
