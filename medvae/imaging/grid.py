"""Standard grids: boxes in MNI152 space on which scans of different people can be compared.

A run names its grid (``preparation.grid``); everything downstream takes it from the config or from the prepared volume.
Another grid is one line of `GRIDS` and two template files, which ``pipelines/make_template.py`` makes.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable

import numpy as np

from medvae.imaging.volume import Geometry

TEMPLATES = resources.files("medvae") / "preparation" / "template"
"""The folder of the templates that come with medvae."""

BOX_MM = ((-80.0, 80.0), (-114.0, 78.0), (-74.0, 86.0))
"""The box around the MNI152 brain, from edge to edge along x, y and z, in mm."""


@dataclass(frozen=True)
class Grid:
    """A standard grid: where its voxels lie in MNI152 space, and the brain that scans are registered to.

    Parameters
    ----------
    name
        What configs call it.
    geometry
        Isotropic voxels along the RAS axes, symmetric about the midline, so that mirroring the array mirrors the brain.
        Networks that halve a tile n times need lengths divisible by 2ⁿ.
    template, template_mask
        NIfTI files on this grid: a T1 brain without its skull, and its mask (above 0).

    Raises
    ------
    ValueError
        If the voxels are not isotropic, do not lie along the RAS axes, or are not symmetric about the midline.
    """

    name: str
    geometry: Geometry
    template: Traversable
    template_mask: Traversable

    def __post_init__(self) -> None:
        affine, edge = self.geometry.affine, self.geometry.affine[0, 0]
        if edge <= 0 or not np.allclose(affine[:3, :3], edge * np.eye(3), atol=1e-6):
            raise ValueError(
                f'grid "{self.name}": its voxels must be cubes along the RAS axes; found {affine[:3, :3]}.'
            )
        if abs(2 * affine[0, 3] + (self.shape[0] - 1) * edge) > 1e-3:
            raise ValueError(
                f'grid "{self.name}": must be symmetric about x = 0; its first voxel lies at {affine[0, 3]}.'
            )

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of voxels ``(X, Y, Z)``."""
        return self.geometry.shape

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Length of a voxel along each axis, in mm: three times `voxel_mm`."""
        return self.geometry.spacing_mm

    @property
    def voxel_mm(self) -> float:
        """Edge of a voxel, in mm."""
        return self.geometry.spacing_mm[0]

    @property
    def voxel_volume_ml(self) -> float:
        """Volume of one voxel, in ml."""
        return self.geometry.voxel_volume_ml


def mni152_grid(name: str, voxel_mm: float, template: str, *, folder: Traversable = TEMPLATES) -> Grid:
    """The grid of `BOX_MM` with voxels of ``voxel_mm``, which must divide the edges of the box.

    ``folder`` holds the files ``{template}_t1.nii.gz`` and ``{template}_brain_mask.nii.gz``.
    """
    affine = np.diag([voxel_mm, voxel_mm, voxel_mm, 1.0])
    affine[:3, 3] = [low + voxel_mm / 2 for low, _ in BOX_MM]
    x, y, z = (round((high - low) / voxel_mm) for low, high in BOX_MM)
    files = (folder / f"{template}_{kind}.nii.gz" for kind in ("t1", "brain_mask"))
    return Grid(name, Geometry(affine, (x, y, z)), *files)


GRIDS: dict[str, Grid] = {
    grid.name: grid
    for grid in (
        mni152_grid("mni152-2mm", 2.0, "mni152"),
    )
}  # fmt: skip
"""The grids that a run can name. ``mni152-2mm``: 80 × 96 × 80 voxels, divisible by 16 along every axis."""

DEFAULT_GRID = GRIDS["mni152-2mm"]
"""The grid of a run that names none, and of detectors that were made when there was no other.

Modules take the grid from the config or the volume; they use this one only as a documented default argument.
"""


def require_known(name: str) -> str:
    """The name of a grid, if it is one of `GRIDS`.

    Raises
    ------
    ValueError
        If there is no such grid; the nearest name is given.
    """
    if name not in GRIDS:
        near = difflib.get_close_matches(name, GRIDS, n=1, cutoff=0.4)
        hint = f'did you mean "{near[0]}"?' if near else f"known grids are {', '.join(GRIDS)}."
        raise ValueError(f'there is no grid "{name}": {hint}')
    return name
