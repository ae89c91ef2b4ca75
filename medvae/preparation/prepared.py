"""A scan on a standard grid, and the way back to its own grid."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy import ndimage

from medvae.config import PreparationConfig
from medvae.imaging.grid import Grid
from medvae.imaging.volume import Placement, resample
from medvae.preparation.intensity import standardise
from medvae.preparation.landmarks import LandmarkScale
from medvae.preparation.registration import RegistrationQuality


@dataclass(frozen=True)
class PreparedVolume:
    """A scan on a standard grid, and the way back to its own.

    ``image`` ``(C, X, Y, Z)`` float32 and ``mask`` ``(X, Y, Z)`` bool lie on ``grid``; ``source`` says where
    the first modality lies, ``source_mask`` is the brain on the source's grid, and ``transform`` ``(4, 4)`` leads from
    the standard grid's world to the source's, in mm. ``brain_from`` says where the mask was taken from ("given",
    "background", "deepbet" or "hdbet"), ``quality`` how well the brain lies on the template. The arrays are not to be
    written to.
    """

    image: np.ndarray
    mask: np.ndarray
    source: Placement
    source_mask: np.ndarray
    transform: np.ndarray
    registered: bool
    brain_from: str = "given"
    quality: RegistrationQuality | None = None
    grid: Grid = field(kw_only=True)

    def restore(self, standard_map: np.ndarray) -> np.ndarray:
        """A map ``(X, Y, Z)`` of the standard grid on the scan's own grid, float32, 0 outside the brain.

        Linear interpolation; at the brain's rim the map is continued outwards first, so that the zeros outside do
        not leak in. On a grid that differs only by flips, axis order and whole voxels the values are copied.
        """
        nearest = ndimage.distance_transform_edt(~self.mask, return_distances=False, return_indices=True)
        continued = standard_map[tuple(nearest)]
        back = np.linalg.inv(self.transform)
        native = resample(continued, self.grid.geometry, self.source.geometry, transform=back, antialias=False)
        return np.where(self.source_mask, native, 0.0).astype(np.float32)


class StandardisedVolume(PreparedVolume):
    """A prepared volume whose intensities were brought to a learned scale.

    Its masks are asked of the volume it was made from, which may have them in a cache.
    """

    plain: PreparedVolume

    def __init__(self, plain: PreparedVolume, scale: LandmarkScale, config: PreparationConfig) -> None:
        same = {name: getattr(plain, name) for name in ("source", "transform", "registered", "brain_from", "quality")}
        image = standardise(plain.image, plain.mask, scale, config)
        self.__dict__.update(same, plain=plain, grid=plain.grid, image=image)

    @property
    def mask(self) -> np.ndarray:
        """``(X, Y, Z)`` bool on the standard grid."""
        return self.plain.mask

    @property
    def source_mask(self) -> np.ndarray:
        """``(X, Y, Z)`` bool on the scan's own grid."""
        return self.plain.source_mask
