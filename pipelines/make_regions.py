"""Make the atlas of regions and tissues from anatomical label maps (see medvae/regions/LICENCES.md).

    python pipelines/make_regions.py --data DATA/healthy_t1.json --cache CACHE

The masks of the manifest's healthy cases are label maps of DLMUSE: those of the 120 people of IXI in
``data_manifests/lists/healthy_t1.json``. Cases without a mask are left out. Each label map is brought to the standard
grid by the registration of its scan, as any scan is prepared. A voxel gets the region of most people, and the tissue of
more than half of them. People of all splits have a vote: no network and no threshold learns from this atlas.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from scipy import ndimage

from medvae.config import read_config
from medvae.imaging.grid import GRIDS
from medvae.imaging.volume import read_volume, write_volume
from medvae.manifest import read_manifest
from medvae.preparation.intensity import before_scale
from medvae.preparation.prepare import prepare_case
from medvae.preparation.standard_brain import read_template
from medvae.regions.atlas import nearest_voxels
from medvae.regions.names import BORDER, FLUID, GREY, REGIONS, TISSUES, WHITE

DLMUSE = {
    "frontal lobe": (
        81, 82, 104, 105, 112, 113, 118, 119, 120, 121, 124, 125, 136, 137, 140, 141, 142, 143, 146, 147, 150, 151, 152,
        153, 162, 163, 164, 165, 178, 179, 182, 183, 186, 187, 190, 191, 192, 193, 204, 205,
    ),
    "parietal lobe": (85, 86, 106, 107, 148, 149, 168, 169, 174, 175, 176, 177, 194, 195, 198, 199),
    "temporal lobe": (
        87, 88, 116, 117, 122, 123, 132, 133, 154, 155, 170, 171, 180, 181, 184, 185, 200, 201, 202, 203, 206, 207,
    ),
    "occipital lobe": (83, 84, 108, 109, 114, 115, 128, 129, 134, 135, 144, 145, 156, 157, 160, 161, 196, 197),
    "insula": (102, 103, 172, 173),
    "cingulate gyrus": (100, 101, 138, 139, 166, 167),
    "hippocampus": (47, 48),
    "amygdala": (31, 32),
    "caudate nucleus": (36, 37),
    "putamen": (57, 58),
    "pallidum": (55, 56),
    "nucleus accumbens": (23, 30),
    "basal forebrain": (75, 76),
    "thalamus": (59, 60),
    "ventral diencephalon": (61, 62),
    "internal capsule": (91, 92, 93, 94),
    "corpus callosum": (95,),
    "fornix": (89, 90),
    "brainstem": (35,),
    "cerebellum": (38, 39, 40, 41, 71, 72, 73),
    "lateral ventricle": (49, 50, 51, 52),
    "third ventricle": (4,),
    "fourth ventricle": (11,),
}  # fmt: skip
"""Labels of DLMUSE in each region. As in its own list of lobes, but that the insula is one of its own, the parietal
operculum is parietal, and the entorhinal and parahippocampal gyrus are temporal."""
WHITE_MATTER = (35, 40, 41, 61, 62, *range(81, 96))
"""DLMUSE counts the brainstem as neither; most of it is white matter."""
FLUIDS = (1, 4, 11, 46, 49, 50, 51, 52)
"""1 and 46 are the fluid around the brain."""
LARGEST_LABEL = 255


def tables() -> tuple[np.ndarray, np.ndarray]:
    """Region and tissue of each label, ``(256,)`` uint8; 0 for those that are none (background, optic chiasm)."""
    region, tissue = (np.zeros(LARGEST_LABEL + 1, np.uint8) for _ in range(2))
    for number, name in REGIONS.items():
        region[list(DLMUSE[name])] = number
    tissue[region > 0] = GREY
    tissue[list(WHITE_MATTER)] = WHITE
    tissue[list(FLUIDS)] = FLUID
    return region, tissue


def main(
    data: Annotated[Path, typer.Option(help="Manifest whose masks are label maps of DLMUSE.")],
    config: Annotated[Path, typer.Option(help="Config that says how the scans are prepared.")] = Path(
        "configs/patients_t1.yaml"
    ),
    cache: Annotated[Path | None, typer.Option(help="Folder of prepared scans.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the atlas.")] = Path("medvae/regions"),
) -> None:
    """Write the regions and the tissues of the standard grid, as mni152_regions.nii.gz and mni152_tissues.nii.gz."""
    cohort, options = read_manifest(data), before_scale(read_config(config).preparation)
    grid = GRIDS[options.grid]
    brain = read_template(grid)[1]
    points = np.argwhere(brain) @ grid.geometry.affine[:3, :3].T + grid.geometry.affine[:3, 3]
    everywhere = np.arange(len(points))
    region_of, tissue_of = tables()
    regions = np.zeros((len(REGIONS) + 1, len(points)), np.uint16)
    tissues = np.zeros((len(TISSUES), len(points)), np.uint16)
    cases = [case for case in cohort.cases if case.mask is not None and case.healthy]
    for case in cases:
        to_scan = prepare_case(cohort, case, options, cache=cache).transform
        labels = read_volume(cohort.resolve(case.mask))
        there = nearest_voxels(points @ to_scan[:3, :3].T + to_scan[:3, 3], labels.geometry)
        values = np.rint(labels.array[there]).astype(np.int64)
        regions[region_of[values], everywhere] += 1
        tissues[tissue_of[values], everywhere] += 1
    regions[0] = tissues[0] = 0  # who has no brain there has no vote
    region = np.zeros(grid.shape, np.uint8)
    region[brain] = regions.argmax(axis=0)
    tissue = np.zeros(grid.shape, np.uint8)
    most = 2 * tissues.max(axis=0) > tissues.sum(axis=0)
    tissue[brain] = np.where(most, tissues.argmax(axis=0), BORDER)
    nearest = ndimage.distance_transform_edt(region == 0, return_distances=False, return_indices=True)
    region = np.where(brain, region[tuple(nearest)], 0).astype(np.uint8)  # fluid outside the ventricles has no region
    for name, array in (("regions", region), ("tissues", tissue)):
        path = write_volume(out / f"mni152_{name}.nii.gz", array, grid.geometry, space="mni152")
        print(f"{path}: {len(cases)} people, {path.stat().st_size / 1e3:.1f} kB")


if __name__ == "__main__":
    typer.run(main)
