"""A scan on a standard grid, and the way back to its own grid."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
from scipy import ndimage

from medvae.config import PreparationConfig
from medvae.imaging.boxes import box_of
from medvae.imaging.grid import Grid
from medvae.imaging.volume import Placement, resample
from medvae.preparation.alignment import RegistrationQuality
from medvae.preparation.intensity import standardise
from medvae.preparation.landmarks import LandmarkScale


class ImageAndMask(Protocol):
    """What tiles are cut from."""

    @property
    def image(self) -> np.ndarray:
        """``(C, X, Y, Z)`` float32 on the standard grid."""
        ...

    @property
    def mask(self) -> np.ndarray:
        """``(X, Y, Z)`` bool on the standard grid: the brain."""
        ...


class Arrays(ImageAndMask, Protocol):
    """The arrays of a prepared scan, in memory or on a disk."""

    @property
    def source_mask(self) -> np.ndarray:
        """``(X, Y, Z)`` bool on the scan's own grid: the brain."""
        ...


@dataclass(frozen=True)
class InMemory:
    """`Arrays` that are held in memory."""

    image: np.ndarray
    mask: np.ndarray
    source_mask: np.ndarray


@dataclass(frozen=True)
class Rescaled:
    """`Arrays` of another image and the masks of ``plain``, which may have them on a disk."""

    image: np.ndarray
    plain: Arrays

    @property
    def mask(self) -> np.ndarray:
        """``(X, Y, Z)`` bool on the standard grid."""
        return self.plain.mask

    @property
    def source_mask(self) -> np.ndarray:
        """``(X, Y, Z)`` bool on the scan's own grid."""
        return self.plain.source_mask


@dataclass(frozen=True)
class PreparedVolume:
    """A scan on a standard grid, and the way back to its own. The arrays are not to be written to."""

    arrays: Arrays
    source: Placement
    """Where the first modality lies."""
    transform: np.ndarray
    """``(4, 4)``, from the standard grid's world to the source's, in mm."""
    registered: bool
    brain_from: str = "given"
    """Where the mask was taken from: "given", "background", "deepbet" or "hdbet"."""
    quality: RegistrationQuality | None = None
    """How well the brain lies on the template; None if only its centre was moved there."""
    notes: tuple[str, ...] = ()
    """What is unusual about its voxels and values; `medvae.preparation.doubts` says all that is unusual."""
    grid: Grid = field(kw_only=True)
    """The standard grid on which image and mask lie."""

    @property
    def to_template(self) -> np.ndarray | None:
        """``(4, 4)``, from the source's world to MNI152 space, in mm; None if the brain was only centred there."""
        return None if self.quality is None else np.linalg.inv(self.transform)

    @property
    def image(self) -> np.ndarray:
        """``(C, X, Y, Z)`` float32 on the standard grid, normalised."""
        return self.arrays.image

    @property
    def mask(self) -> np.ndarray:
        """``(X, Y, Z)`` bool on the standard grid: the brain."""
        return self.arrays.mask

    @property
    def source_mask(self) -> np.ndarray:
        """``(X, Y, Z)`` bool on the scan's own grid: the brain."""
        return self.arrays.source_mask

    def with_image(self, image: np.ndarray, mask: np.ndarray | None = None) -> PreparedVolume:
        """The same scan with other intensities ``(C, X, Y, Z)`` and, if given, another brain mask ``(X, Y, Z)``."""
        arrays = Rescaled(image, self.arrays) if mask is None else InMemory(image, mask, self.source_mask)
        return replace(self, arrays=arrays)

    def restore(self, standard_map: np.ndarray) -> np.ndarray:
        """A map ``(X, Y, Z)`` of the standard grid on the scan's own grid, float32, 0 outside the brain.

        Linear interpolation; at the brain's rim the map is continued outwards first, so that the zeros outside do
        not leak in. On a grid that differs only by flips, axis order and whole voxels the values are copied.
        """
        nearest = ndimage.distance_transform_edt(~self.mask, return_distances=False, return_indices=True)
        continued = standard_map[tuple(nearest)]
        back = np.linalg.inv(self.transform)
        native, brain = np.zeros(self.source.geometry.shape, np.float32), self.source_mask
        box = box_of(brain)
        part = self.source.geometry.part(box)
        values = resample(continued, self.grid.geometry, part, transform=back, antialias=False)
        native[box] = np.where(brain[box], values, 0)
        return native


def standardised(plain: PreparedVolume, scale: LandmarkScale, config: PreparationConfig) -> PreparedVolume:
    """A prepared volume with its intensities brought to a learned scale."""
    return plain.with_image(standardise(plain.image, plain.mask, scale, config))
