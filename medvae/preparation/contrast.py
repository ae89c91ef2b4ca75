"""Does a prepared scan look like the sequence it is taken for? Which tissue is brighter where tissue is known to be.

On T1 white matter is brighter than grey matter and fluid is darker; on FLAIR fluid is dark too, but white matter is not
brighter; on T2 fluid is bright. Where the tissues are is known from the MNI152 template, on which a prepared scan lies.
Both measures are shares of pairs of voxels, so they depend on the order of intensities only: on no normalisation, on
no intensity scale that a detector has learned.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import numpy as np
from scipy import ndimage

from medvae.imaging.grid import STANDARD_GRID
from medvae.preparation.registration import read_template

WHITE_BRIGHTER = 0.6
"""Share of pairs of a white and a grey voxel in which white is brighter, above which a scan can be T1."""
FLUID_BRIGHTER = 0.5
"""Share of pairs of a ventricle's and a grey voxel in which fluid is brighter, above which a scan can be T2."""
SMALLEST_TISSUE = 200
"""Voxels of a tissue below which nothing is said, as of a part of a brain."""

_GREY_FROM, _WHITE_FROM = 141.0, 190.0
"""Intensities of the template between its tissues: halfway between the three means of k-means in its brain."""
_VENTRICLE_DEPTH_MM = 15.0
_LOOKS = {
    (True, False): "T1",
    (False, False): "FLAIR",
    (False, True): "T2 (or an inverted T1)",
    (True, True): "none of T1, T2 and FLAIR",
}
_EXPECTED = {"T1": (True, False), "T1c": (True, False), "FLAIR": (False, False), "T2": (False, True)}
"""Modality to whether white matter and fluid are brighter than grey matter; others are not judged."""


@dataclass(frozen=True)
class TissueContrast:
    """How white matter and fluid compare with grey matter: shares of pairs of voxels in which they are brighter."""

    white: float
    fluid: float

    @property
    def order(self) -> tuple[bool, bool]:
        """Whether white matter, and whether fluid, counts as brighter than grey matter."""
        return self.white > WHITE_BRIGHTER, self.fluid > FLUID_BRIGHTER


def tissue_contrast(image: np.ndarray, mask: np.ndarray) -> TissueContrast | None:
    """Compare the tissues of one modality.

    Parameters
    ----------
    image, mask
        ``(X, Y, Z)`` on the standard grid, float and bool; of any intensity scale that ascends.

    Returns
    -------
    TissueContrast or None
        None if too little of the brain is there.
    """
    white, grey, fluid = (image[tissue & mask] for tissue in _tissues())
    if min(len(white), len(grey), len(fluid)) < SMALLEST_TISSUE:
        return None
    grey = np.sort(grey)
    return TissueContrast(_share_brighter(white, grey), _share_brighter(fluid, grey))


def unlike(modality: str, image: np.ndarray, mask: np.ndarray) -> str | None:
    """What to tell a person if a prepared image does not look like its modality: one sentence, or None.

    Judged are T1, T1c, T2 and FLAIR; of other names nothing is said.

    Parameters
    ----------
    modality
        Name of the sequence, as `medvae.modality.modality_name` gives it.
    image, mask
        As in `tissue_contrast`.
    """
    expected, found = _EXPECTED.get(modality), tissue_contrast(image, mask)
    if expected is None or found is None or found.order == expected:
        return None
    white, fluid = ("over" if brighter else "at most" for brighter in expected)
    return (
        f"this scan looks like {_LOOKS[found.order]}, not like {modality}: white matter is brighter than grey matter "
        f"in {found.white:.0%} of pairs of voxels ({modality}: {white} {WHITE_BRIGHTER:.0%}) and fluid in "
        f"{found.fluid:.0%} ({modality}: {fluid} {FLUID_BRIGHTER:.0%}); check its sequence and orientation in a "
        f"viewer, for the maps of a scan that is not {modality} mean nothing."
    )


def _share_brighter(values: np.ndarray, others: np.ndarray) -> float:
    """Share of pairs in which a value exceeds one of the others, which ascend; ties count half."""
    ends = [np.searchsorted(others, values, side) for side in ("left", "right")]
    return float(np.mean(ends) / len(others))


@cache
def _tissues() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """White matter, grey matter and ventricles of the template, ``(80, 96, 80)`` bool, without their borders."""
    template, brain = read_template()
    depth_mm = ndimage.distance_transform_edt(brain, sampling=STANDARD_GRID.spacing_mm)
    tissues = [
        brain & (template >= low) & (template < high)
        for low, high in pairwise((-np.inf, _GREY_FROM, _WHITE_FROM, np.inf))
    ]
    fluid, grey, white = (tissue & (ndimage.uniform_filter(tissue.astype(np.float32), 3) > 0.65) for tissue in tissues)
    return white, grey, fluid & (depth_mm > _VENTRICLE_DEPTH_MM)
