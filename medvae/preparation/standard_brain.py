"""The MNI152 brain on a standard grid: what scans are registered to."""

from __future__ import annotations

from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable

import numpy as np

from medvae.errors import MedvaeError
from medvae.imaging.grid import DEFAULT_GRID, Grid
from medvae.imaging.volume import read_volume


@cache
def read_template(grid: Grid = DEFAULT_GRID) -> tuple[np.ndarray, np.ndarray]:
    """The T1 MNI152 brain (float32) and its mask (bool) on a standard grid; without one, on the default grid.

    Raises
    ------
    MedvaeError
        If a file of the template is missing or lies on another grid.
    """
    brain, mask = (_read_on(grid, file) for file in (grid.template, grid.template_mask))
    mask = mask > 0
    for array in (brain, mask):
        array.setflags(write=False)
    return brain, mask


def _read_on(grid: Grid, file: Traversable) -> np.ndarray:
    with resources.as_file(file) as path:
        volume = read_volume(path)
    if not volume.geometry.same_grid(grid.geometry):
        raise MedvaeError(
            f'{file}: lies on another grid than "{grid.name}", whose template it is meant to be: {volume.array.shape} '
            f"voxels of {volume.geometry.spacing_mm[0]:g} mm were found, {grid.shape} of {grid.voxel_mm:g} mm "
            f"expected. Make it with pipelines/make_template.py --grid {grid.name}."
        )
    return volume.array
