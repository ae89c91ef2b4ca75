"""Measure the T1 contrast of multiple sclerosis lesions, for lesions inserted into healthy scans.

    python pipelines/measure_lesion_contrast.py --source open_ms

The folder holds one folder per patient with ``T1.nii.gz`` (skull-stripped) and ``lesions.nii.gz``. Every connected
lesion of at least 20 mm³ is compared with the white matter 3–6 mm around it. ``--grid`` first resamples the scans to
another voxel size, which shows how partial volume reduces the contrast of small lesions.
The ratios' quantiles are ``medvae.lesions.T1_CONTRAST``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.table import Table
from scipy import ndimage

from medvae.errors import MedvaeError
from medvae.imaging.volume import Geometry, Volume, read_volume, resample
from medvae.lesions import Contrast, lesion_contrast, white_matter

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def measure(folder: Path, grid_mm: float | None = None) -> list[Contrast]:
    """Contrast of the lesions of one patient."""
    scan, lesions = read_volume(folder / "T1.nii.gz"), read_volume(folder / "lesions.nii.gz")
    if not scan.geometry.same_grid(lesions.geometry):
        raise MedvaeError(f"{lesions.path}: lies on another grid than {scan.path}.")
    array = np.maximum(scan.array, 0.0)  # resampling leaves small negative values
    brain = ndimage.binary_fill_holes(array > 0).astype(np.float32)
    truth, geometry = lesions.array, scan.geometry
    if grid_mm is not None:
        target = coarser(geometry, grid_mm)
        array, brain, truth = (resample(part, geometry, target) for part in (array, brain, truth))
        geometry = target
    volume = Volume(array, geometry)
    return lesion_contrast(volume, truth >= 0.5, white_matter(volume, brain >= 0.5))


def coarser(geometry: Geometry, grid_mm: float) -> Geometry:
    """The same field of view in voxels of ``grid_mm``."""
    steps = grid_mm / np.array(geometry.spacing_mm)
    shape = tuple(int(n) for n in np.ceil(np.array(geometry.shape) / steps))
    return Geometry(geometry.affine @ np.diag([*steps, 1.0]), shape)


def show(console: Console, title: str, rows: list[Contrast]) -> None:
    """Print the quantiles of every measure over lesions."""
    table = Table("", *(f"{quantile:.0%}" for quantile in QUANTILES), title=f"{title}: n = {len(rows)}")
    measures = {
        "volume (ml)": [row.volume_ml for row in rows],
        "median / white matter": [row.ratio for row in rows],
        "10 % quantile / white matter": [row.darkest for row in rows],
        "90 % quantile / white matter": [row.brightest for row in rows],
        "SD / SD of white matter": [row.texture for row in rows],
    }
    for name, values in measures.items():
        table.add_row(name, *(f"{value:.3f}" for value in np.quantile(values, QUANTILES)))
    console.print(table)


def main(
    source: Annotated[Path, typer.Option(help="Folder of patients, each with T1.nii.gz and lesions.nii.gz.")],
    grid: Annotated[float | None, typer.Option(help="Voxel size in mm to take the scans to first.")] = None,
) -> None:
    """Print the contrast of lesions on T1: quantiles over the lesions of each patient and of all."""
    folders = sorted(path.parent for path in source.glob("*/T1.nii.gz"))
    if not folders:
        raise MedvaeError(f"{source}: holds no folder with a T1.nii.gz.")
    console, everything = Console(), []
    for folder in folders:
        rows = measure(folder, grid)
        everything += rows
        show(console, folder.name, rows)
    show(console, "all patients", everything)


if __name__ == "__main__":
    typer.run(main)
