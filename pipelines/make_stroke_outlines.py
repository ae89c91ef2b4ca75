"""Bring outlines of real strokes to the standard grid, as shapes of the infarcts that networks learn from.

    python pipelines/make_stroke_outlines.py --source DATA/stroke_masks --out stroke_outlines.npz

``DATA/stroke_masks`` holds the lesion masks of LESYMAP (Pustina et al. 2018, doi:10.1002/hbm.23110; Apache-2.0) in
MNI152 space. The output holds 0 and 1 only: no scan, no name.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from scipy import ndimage

from medvae.imaging.grid import DEFAULT_GRID, GRIDS
from medvae.imaging.volume import read_volume, resample
from medvae.lesions.patients.outlines import Outlines


def main(
    source: Annotated[Path, typer.Option(help="Folder of masks, .nii.gz.")],
    out: Annotated[Path, typer.Option(help="File to write, .npz.")],
    grid: Annotated[str, typer.Option(help="Name of the standard grid.")] = DEFAULT_GRID.name,
) -> None:
    """Write the outlines of all masks that are not empty."""
    target = GRIDS[grid]
    masks, corners = [], []
    for path in sorted(source.glob("*.nii.gz")):
        volume = read_volume(path)
        share = resample((volume.array > 0).astype(np.float32), volume.geometry, target.geometry)
        if (share >= 0.5).any():
            box = ndimage.find_objects((share >= 0.5).astype(np.int8))[0]
            masks.append(share[box] >= 0.5)
            corners.append(tuple(part.start for part in box))
    Outlines(tuple(masks), tuple(corners), target.shape).save(out)
    typer.echo(f"{out}: {len(masks)} outlines, {out.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    typer.run(main)
