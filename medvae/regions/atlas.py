"""The atlas of regions and tissues in MNI152 space, read once for each process.

``pipelines/make_regions.py`` makes its files. Places are looked up in mm, so it serves scans prepared on any grid.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import resources

import numpy as np
from scipy import ndimage

from medvae.errors import MedvaeError
from medvae.imaging.volume import Geometry, read_volume
from medvae.regions.names import CORTICAL, GREY, LATERAL_VENTRICLE

FILES = resources.files("medvae") / "regions"
"""The folder of the atlas."""


@dataclass(frozen=True)
class Places:
    """What the atlas says of places, ``(N,)`` each."""

    region: np.ndarray
    """Numbers of `medvae.regions.names.REGIONS`."""
    tissue: np.ndarray
    """Numbers of `medvae.regions.names.TISSUES`."""
    to_ventricle_mm: np.ndarray
    """Distance from the nearest voxel of a lateral ventricle."""
    to_cortex_mm: np.ndarray
    """Distance from the nearest voxel of cortical grey matter."""

    def of(self, some: np.ndarray) -> Places:
        """The same of some of the places, by their numbers ``(M,)``."""
        return Places(self.region[some], self.tissue[some], self.to_ventricle_mm[some], self.to_cortex_mm[some])


@dataclass(frozen=True)
class RegionAtlas:
    """Arrays ``(X, Y, Z)`` over the brain and around it, on a grid in MNI152 space."""

    geometry: Geometry
    region: np.ndarray
    tissue: np.ndarray
    to_ventricle_mm: np.ndarray
    to_cortex_mm: np.ndarray

    def at(self, points_mm: np.ndarray) -> Places:
        """What lies at points ``(N, 3)`` of MNI152 space, in mm; beyond the grid, what lies at its edge."""
        maps = (self.region, self.tissue, self.to_ventricle_mm, self.to_cortex_mm)
        voxels = nearest_voxels(points_mm, self.geometry)
        return Places(*(values[voxels] for values in maps))


def nearest_voxels(points_mm: np.ndarray, geometry: Geometry) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Indices of the voxels nearest to points ``(N, 3)`` in mm, as an index into an array on ``geometry``."""
    to_voxel = np.linalg.inv(geometry.affine)
    voxels = np.rint(points_mm @ to_voxel[:3, :3].T + to_voxel[:3, 3]).astype(np.int64)
    x, y, z = np.clip(voxels, 0, np.array(geometry.shape) - 1).T
    return x, y, z


@cache
def region_atlas() -> RegionAtlas:
    """The atlas that comes with medvae.

    Raises
    ------
    MedvaeError
        If a file of it is missing, or its two files lie on different grids.
    """
    (region, geometry), (tissue, other) = (_read(f"mni152_{name}.nii.gz") for name in ("regions", "tissues"))
    if not geometry.same_grid(other):
        raise MedvaeError(f"{FILES}: its regions and tissues lie on different grids. Install medvae again.")
    cortex = np.isin(region, CORTICAL) & (tissue == GREY)
    to_ventricle, to_cortex = (
        ndimage.distance_transform_edt(~there, sampling=geometry.spacing_mm).astype(np.float32)
        for there in (region == LATERAL_VENTRICLE, cortex)
    )
    # Brains reach a little beyond the template's: what lies there is told by the nearest voxel inside.
    nearest = tuple(ndimage.distance_transform_edt(region == 0, return_distances=False, return_indices=True))
    atlas = RegionAtlas(geometry, region[nearest], tissue[nearest], to_ventricle, to_cortex)
    for array in (atlas.region, atlas.tissue, atlas.to_ventricle_mm, atlas.to_cortex_mm):
        array.setflags(write=False)
    return atlas


def _read(name: str) -> tuple[np.ndarray, Geometry]:
    with resources.as_file(FILES / name) as path:
        volume = read_volume(path)
    return volume.array.astype(np.uint8), volume.geometry
