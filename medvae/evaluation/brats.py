"""Lesion-wise Dice and HD95 as in the BraTS challenges of 2023, for gliomas.

Truth is dilated only to group components into lesions: those that then touch are one. A predicted component belongs to
every lesion whose dilated truth it overlaps, and each undilated lesion is compared with all components that belong to
it. A missed lesion and a predicted component that belongs to none each have Dice 0 and HD95 374 mm. Lesions of 50 mm³
or less are excluded, whether found or not; false components count whatever their size. The value of a case is the mean
over lesions and false components.

The rules are those of the organisers' program (https://github.com/rachitsaluja/BraTS-2023-Metrics, for GLI),
reimplemented; HD95 is that of `medvae.evaluation.surfaces`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from medvae.evaluation.surfaces import surface_distances
from medvae.imaging.components import components

DILATIONS = 3
"""Number of dilations of the truth with the 18-neighbourhood (voxels of 1 mm in BraTS)."""
SMALLEST_MM3 = 50.0
PENALTY_MM = 374.0
"""HD95 of missed lesions and false components: the diagonal of the BraTS grid."""


@dataclass(frozen=True)
class LesionWise:
    """Lesion-wise numbers of one case and region."""

    dice: float
    hd95_mm: float
    lesions: int
    """True lesions that count."""
    missed: int
    """Of these, those not found."""
    false: int
    """Predicted components that belong to no lesion."""


def lesion_wise(flagged: np.ndarray, truth: np.ndarray, spacing_mm: tuple[float, ...]) -> LesionWise:
    """Compare the flagged voxels with a region of the truth, ``(X, Y, Z)`` bool each, lesion by lesion.

    Without any lesion or finding, Dice is 1 and HD95 0.
    """
    grown = ndimage.binary_dilation(truth, ndimage.generate_binary_structure(3, 2), iterations=DILATIONS)
    lesions, lesion_sizes = components(grown)
    findings, finding_sizes = components(flagged)
    met = np.zeros((len(lesion_sizes) + 1, len(finding_sizes) + 1), dtype=bool)
    both = (lesions > 0) & (findings > 0)
    met[lesions[both], findings[both]] = True
    voxel_mm3 = float(np.prod(spacing_mm))
    dice: list[float] = []
    hd95: list[float] = []
    missed = 0
    for lesion in range(1, len(lesion_sizes) + 1):
        mine = truth & (lesions == lesion)
        if mine.sum() * voxel_mm3 <= SMALLEST_MM3:
            continue
        if not met[lesion].any():
            dice.append(0.0)
            hd95.append(PENALTY_MM)
            missed += 1
            continue
        found = met[lesion][findings]
        dice.append(2 * float((found & mine).sum()) / float(found.sum() + mine.sum()))
        hd95.append(surface_distances(found, mine, spacing_mm).hd95_mm)
    false = int((~met[:, 1:].any(axis=0)).sum())
    count = len(dice) + false
    if count == 0:
        return LesionWise(1.0, 0.0, 0, 0, 0)
    return LesionWise(math.fsum(dice) / count, (math.fsum(hd95) + false * PENALTY_MM) / count, len(dice), missed, false)
