"""Does a prepared scan look like its stated sequence? Compares intensities where each tissue is known to be.

On T1 white matter is brighter than grey matter and fluid is darker; on FLAIR fluid is dark too, but white matter is not
brighter; on T2 fluid is bright. The MNI152 template, to which a prepared scan is aligned, gives the location of the
tissues. They are compared in small blocks, so that a bias field has no effect and a lesion affects its own blocks only,
and by rank of intensity, so that normalisation has no effect (but for the step between white and grey matter, a share
of the range).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise, product

import numpy as np
from scipy import ndimage

from medvae.imaging.grid import DEFAULT_GRID, Grid
from medvae.preparation.fingerprint import DEEP_MM
from medvae.preparation.standard_brain import read_template

EXPECTED = {
    "T1": ((0.6, 1.0), (0.0, 0.45)),
    "T1c": ((0.6, 1.0), (0.0, 0.45)),
    "FLAIR": ((0.0, 0.75), (0.0, 0.45)),
    "T2": ((0.0, 0.6), (0.45, 1.0)),
}
"""Lowest and highest `TissueContrast.white` and ``fluid`` of each sequence, chosen with all of these in view:

| | scans | white | fluid |
|---|---:|---|---|
| healthy T1, IXI | 59 | 0.69–0.90 | 0.09–0.15 |
| healthy T1, other scanners (Novosibirsk, IBSR) | 16 | 0.83–0.92 | 0.06–0.16 |
| T1 of the elderly, 69 to 96 years | 21 | 0.64–0.84 | 0.11–0.24 |
| T1 with tumours, strokes, MS | 6, 2, 2 | 0.68–0.91 | 0.08–0.26 |
| T1 inverted, all of these | 106 | 0.08–0.36 | 0.74–0.94 |
| T2, tumours and MS | 7, 2 | 0.16–0.47 | 0.57–0.84 |
| FLAIR, tumours and MS | 6, 2 | 0.20–0.52 | 0.10–0.32 |
| FLAIR of the elderly | 16 | 0.49–0.69 | 0.08–0.18 |

So none of these T1s is reported, and every T2 and inverted T1 is. T1 and FLAIR of the elderly overlap from 0.6 on, and
`LEAST_STEP` tells most of them apart.
"""
BLOCK_MM = 16.0
"""Edge of a block: some folds of the cortex, and less than the lesions that matter."""
CLEARLY_WHITE, LEAST_STEP = 0.67, 0.09
"""A T1 whose `TissueContrast.white` is less than the first must have the second as its step: seven of 23 FLAIRs of the
elderly have 0.60 to 0.67, six of them with a step below 0.09; the smallest step of 56 healthy T1 (IXI, Novosibirsk) is
0.15."""
SMALLEST_PIECE, FEWEST_BLOCKS = 10, 20
"""Voxels of each tissue that a block must have, and the number of blocks below which nothing is reported, as for part
of a brain. Tuned on the grid of 2 mm, as the borders of the tissues, which are one voxel wide."""

_GREY_FROM, _WHITE_FROM = 141.0, 190.0
"""Intensities of the template between its tissues: halfway between the three means of k-means in its brain."""
_WHITE_STANDS_OUT = ("T1", "T1c")
_TOLD_APART = ("T1", "FLAIR", "T2")


@dataclass(frozen=True)
class TissueContrast:
    """How white matter and fluid compare with grey matter: medians over the blocks of the brain."""

    white: float
    """Fraction of voxel pairs in which white matter is brighter than deep grey matter (deeper than 20 mm, where atrophy
    adds no fluid to it)."""
    fluid: float
    """Fraction of voxel pairs in which fluid is brighter than grey matter."""
    step: float = 1.0
    """Difference of the medians of white and grey matter, as a share of the range from the 5th to the 95th
    percentile."""

    def fits(self, modality: str) -> bool:
        """Whether both are as `EXPECTED` of a modality."""
        white, fluid = EXPECTED[modality]
        if modality in _WHITE_STANDS_OUT and self.white < CLEARLY_WHITE and self.step < LEAST_STEP:
            return False
        return white[0] <= self.white <= white[1] and fluid[0] <= self.fluid <= fluid[1]


def tissue_contrast(image: np.ndarray, mask: np.ndarray, grid: Grid = DEFAULT_GRID) -> TissueContrast | None:
    """Compare the tissues of one modality.

    Parameters
    ----------
    image, mask
        ``(X, Y, Z)`` on the standard grid, float and bool; of any intensity scale that ascends.
    grid
        The standard grid of both; the default grid if not given.

    Returns
    -------
    TissueContrast or None
        None if too little of the brain is covered.
    """
    white, grey, deep_grey, fluid = (tissue & mask for tissue in tissues(grid))
    whites, fluids = (
        _shares_brighter(image, tissue, other, grid) for tissue, other in ((white, deep_grey), (fluid, grey))
    )
    if min(len(whites), len(fluids)) < FEWEST_BLOCKS:
        return None
    steps = [float(np.median(one) - np.median(other)) for one, other in _blocks(image, white, grey, grid)]
    low, high = np.percentile(image[mask], (5, 95))
    step = float(np.median(steps)) / max(float(high - low), 1e-12) if steps else 1.0
    return TissueContrast(float(np.median(whites)), float(np.median(fluids)), step)


def unlike(modality: str, image: np.ndarray, mask: np.ndarray, grid: Grid = DEFAULT_GRID) -> str | None:
    """The warning if a prepared image does not look like its modality: one sentence, or None.

    T1, T1c, T2 and FLAIR are checked; other names are not.

    Parameters
    ----------
    modality
        Name of the sequence, as `medvae.modality.modality_name` gives it.
    image, mask, grid
        As in `tissue_contrast`; the default grid if none is given.
    """
    found = tissue_contrast(image, mask, grid) if modality in EXPECTED else None
    if found is None or found.fits(modality):
        return None
    looks = " or ".join(name for name in _TOLD_APART if found.fits(name)) or f"none of {', '.join(_TOLD_APART)}"
    faint = f", by {found.step:.0%} of the range" if found.step < LEAST_STEP and modality in _WHITE_STANDS_OUT else ""
    white, fluid = (f"{low:.0%} to {high:.0%}" for low, high in EXPECTED[modality])
    return (
        f"this scan looks like {looks}, not like {modality}: white matter is brighter than grey matter in "
        f"{found.white:.0%} of pairs of voxels{faint} ({modality}: {white}) and fluid in {found.fluid:.0%} "
        f"({modality}: {fluid}); check its sequence and orientation in a viewer, for the maps of a scan that is not "
        f"{modality} mean nothing."
    )


def _shares_brighter(image: np.ndarray, tissue: np.ndarray, grey: np.ndarray, grid: Grid) -> list[float]:
    """The share of pairs in which the tissue is brighter, of each block that holds both; ties count half."""
    shares = []
    for values, others in _blocks(image, tissue, grey, grid):
        ends = [np.searchsorted(np.sort(others), values, side) for side in ("left", "right")]
        shares.append(float(np.mean(ends) / len(others)))
    return shares


def _blocks(
    image: np.ndarray, tissue: np.ndarray, grey: np.ndarray, grid: Grid
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The values of both, of each block that holds both."""
    edges = [round(BLOCK_MM / spacing) for spacing in grid.spacing_mm]
    for corner in product(*(range(0, length, edge) for length, edge in zip(image.shape, edges, strict=True))):
        block = tuple(slice(start, start + edge) for start, edge in zip(corner, edges, strict=True))
        values, others = image[block][tissue[block]], image[block][grey[block]]
        if min(len(values), len(others)) >= SMALLEST_PIECE:
            yield values, others


@cache
def tissues(grid: Grid) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """White, grey, deep grey matter and fluid of a grid's template, ``(X, Y, Z)`` bool, without their borders."""
    template, brain = read_template(grid)
    levels = pairwise((-np.inf, _GREY_FROM, _WHITE_FROM, np.inf))
    tissues = [brain & (template >= low) & (template < high) for low, high in levels]
    fluid, grey, white = (tissue & (ndimage.uniform_filter(tissue.astype(np.float32), 3) > 0.6) for tissue in tissues)
    depth_mm = ndimage.distance_transform_edt(brain, sampling=grid.spacing_mm)
    return white, grey, grey & (depth_mm > DEEP_MM), fluid
