"""Rotation and scale about the centre of the tile, as one change: both are interpolated at once."""

from __future__ import annotations

import functools
from typing import ClassVar, NamedTuple

import numpy as np
from pydantic import Field, model_validator

from medvae.augmentation.affine import AffineAugmentation
from medvae.augmentation.base import require_around_one
from medvae.augmentation.randomness import Sample, around_one
from medvae.schema import Strict


class SpatialOptions(Strict):
    """How far the brain is turned and scaled."""

    rotation_degrees: float = Field(default=6.0, ge=0, le=180)
    """Largest rotation to either side, in the plane of a slice or about each of the three axes of a patch (Zimmerer et
    al. 2019 use 0.1 rad)."""
    scale: tuple[float, float] = (0.95, 1.05)
    """Factor on the field of view: above 1 the brain becomes smaller."""

    @model_validator(mode="after")
    def _scale_range(self) -> SpatialOptions:
        require_around_one("scale", self.scale)
        return self


class Pose(NamedTuple):
    """What is drawn for one sample."""

    angles: np.ndarray
    """Radians: one turns axis 0 towards axis 1; three are ``R_x R_y R_z``, right-handed."""
    scale: float
    """Factor on the field of view."""


class Spatial(AffineAugmentation[SpatialOptions, Pose]):
    """Turn and scale image and mask."""

    fields: ClassVar[type[Strict]] = SpatialOptions

    @property
    def active(self) -> bool:
        """Whether there is a rotation or a scale."""
        return self._turns or self._scales

    @property
    def _turns(self) -> bool:
        return self.options.rotation_degrees > 0

    @property
    def _scales(self) -> bool:
        return self.options.scale != (1.0, 1.0)

    def draw(self, sample: Sample) -> Pose:
        """Angles and scale."""
        largest = np.deg2rad(self.options.rotation_degrees)
        angles = sample.generator("rotation").uniform(-largest, largest, 3)
        return Pose(angles[: _angles(sample.dimensions)], around_one(sample.generator("scale"), self.options.scale))

    def draw_for_array(self, rng: np.random.RandomState, sample: Sample, voxels: int) -> Pose:
        """In the order of batchgenerators' SpatialTransform, which draws before each change whether it happens."""
        angles, scale = np.zeros(_angles(sample.dimensions)), 1.0
        if self._turns:
            largest = np.deg2rad(self.options.rotation_degrees)
            rng.random()
            for axis in range(len(angles)):
                rng.random()
                angles[axis] = rng.uniform(-largest, largest)
        if self._scales:
            rng.random()
            scale = around_one(rng, self.options.scale)
        return Pose(angles, scale)

    def matrix(self, drawn: Pose, dimensions: int) -> np.ndarray:
        """Turned, then scaled."""
        rotation = np.eye(dimensions)
        planes = [(0, 1)] if dimensions == 2 else [(1, 2), (2, 0), (0, 1)]
        for (i, j), cosine, sine in zip(planes, np.cos(drawn.angles), np.sin(drawn.angles), strict=True):
            turn = np.eye(dimensions)
            turn[[i, j], [i, j]] = cosine
            turn[i, j], turn[j, i] = -sine, sine
            rotation = rotation @ turn
        return rotation.T * drawn.scale

    def apply_to_array(self, image: np.ndarray, mask: np.ndarray, drawn: Pose) -> tuple[np.ndarray, np.ndarray]:
        """With batchgenerators' coordinates; image linear (order 1 decides the time), mask nearest, 0 from outside."""
        from batchgenerators.augmentations.utils import rotate_coords_2d, rotate_coords_3d, scale_coords
        from scipy.ndimage import map_coordinates  # to the type that is wanted: interpolate_img goes by way of float64

        spatial = mask.shape[1:]
        coordinates = _centred_mesh(spatial)
        if self._turns:
            rotate = rotate_coords_2d if len(spatial) == 2 else rotate_coords_3d
            coordinates = rotate(coordinates, *drawn.angles)
        else:
            coordinates = coordinates.copy()
        if self._scales:
            coordinates = scale_coords(coordinates, drawn.scale)
        for axis, length in enumerate(spatial):
            coordinates[axis] += length / 2.0 - 0.5
        moved = np.empty_like(image)
        for channel, result in zip(image, moved, strict=True):
            map_coordinates(channel, coordinates, result, order=1, mode="constant")
        brain = map_coordinates(mask[0].view(np.uint8), coordinates, np.uint8, order=0, mode="constant")
        return moved, brain[None].view(bool)


@functools.lru_cache(maxsize=4)
def _centred_mesh(spatial: tuple[int, ...]) -> np.ndarray:
    """batchgenerators' coordinates ``(D, *spatial)`` of a tile, from its centre."""
    from batchgenerators.augmentations.utils import create_zero_centered_coordinate_mesh

    mesh = create_zero_centered_coordinate_mesh(spatial)
    mesh.flags.writeable = False  # every caller gets the same array
    return mesh


def _angles(dimensions: int) -> int:
    return 1 if dimensions == 2 else 3
