"""Make the registration template from the ICBM152 2009a average brain (see medvae/preparation/template/NOTICE.txt).

    pip download --no-deps nilearn -d wheel && unzip wheel/nilearn-*.whl -d wheel
    python pipelines/make_template.py --source \
        wheel/nilearn/datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz

The average brain is skull-stripped; it is resampled from 1 mm to a standard grid. For a new grid, add its line to
GRIDS in medvae/imaging/grid.py and run this program with --grid NAME.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from medvae.imaging.grid import DEFAULT_GRID, GRIDS
from medvae.imaging.volume import read_volume, write_volume
from medvae.preparation.mask import mask_from_background
from medvae.preparation.registration import move_brain


def main(
    source: Annotated[Path, typer.Option(help="The ICBM152 T1 average, skull-stripped, 1 mm.")],
    name: Annotated[str, typer.Option("--grid", help="Name of the standard grid.")] = DEFAULT_GRID.name,
    out: Annotated[Path, typer.Option(help="Folder of the template.")] = Path("medvae/preparation/template"),
) -> None:
    """Write the T1 brain and the brain mask of a grid, as mni152_t1.nii.gz and mni152_brain_mask.nii.gz."""
    grid = GRIDS[name]
    volume = read_volume(source)
    mask = mask_from_background(volume.array, volume.geometry)
    brain, mask = move_brain(volume.array, mask, volume.geometry, grid.geometry)
    stored = np.where(mask, np.clip(np.rint(brain), 1, 255), 0).astype(np.uint8)
    write_volume(out / grid.template.name, stored, grid.geometry, space="mni152")
    write_volume(out / grid.template_mask.name, mask.astype(np.uint8), grid.geometry, space="mni152")
    print(f"{out}: brain of {np.count_nonzero(mask) * grid.voxel_volume_ml:.0f} ml on the grid {name}")


if __name__ == "__main__":
    typer.run(main)
