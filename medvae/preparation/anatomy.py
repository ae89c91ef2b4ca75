"""What a prepared scan shows of one person's whole brain, in numbers that any contrast and scale of intensity give.

The limits lie beyond what ordinary scans show. They were chosen on 120 T1 scans of IXI and 48 of Novosibirsk, and then
tried on others; see docs/PREPARATION.md.
"""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import numpy as np
from scipy import ndimage

from medvae.imaging.boxes import box_of
from medvae.imaging.grid import Grid
from medvae.imaging.volume import Geometry
from medvae.preparation.contrast import tissues
from medvae.preparation.standard_brain import read_template

SIDES = (("left", "right"), ("back", "front"), ("bottom", "top"))
"""The two ends of each axis, as RAS+ runs."""
POLE_MM = 5.0
"""An uncut brain ends within this length, and a slice, of where an ellipsoid would: 5 mm at most in IXI, whose slices
have 2 mm."""
END_MM, LEAST_END = 20.0, 0.35
"""Depth of the template's six ends, and the share of one that a brain must cover: at least 0.59 was found in IXI, 0.40
in Novosibirsk."""
LEAST_CEREBELLUM = 0.5
"""Share of the template's cerebellum that a brain must cover: at least 0.83 was found."""
MOST_SYMMETRY = 0.93
"""Correlation of both halves of one person's brain: at most 0.84 was found (a mean of 5 people: 0.92, of 10: 0.95)."""
BRIGHTEST_SINUS = 0.3
"""Of a scan without contrast agent: at most 0.10 was found. Real scans with it were not at hand."""

_SINUS_MM = ((0, -40, 4), (0, -46, 2), (0, -54, -2), (0, -64, -8), (0, -74, -14))
"""The vein of Galen and the straight sinus in MNI152 space: no white matter, and inside every brain mask."""
_SINUS_RADIUS_MM, _NEARBY_MM = 5.0, 20.0


def cut_ends(brain: np.ndarray, geometry: Geometry) -> dict[str, float]:
    """Sides on which a brain ends in a plane, each with the area of its outermost slice as a share of the largest.

    A slice at the end of an ellipsoid of length L has the share ``4 x (1 − x)`` of the largest if it lies ``x L`` from
    the pole. A larger one belongs to a brain of which something is missing.

    Parameters
    ----------
    brain
        ``(X, Y, Z)`` bool, on the scan's own grid: there a cut follows a slice.
    geometry
        Its grid.
    """
    found = {}
    for axis, code in enumerate(geometry.orientation):
        world = next(n for n, ends in enumerate(("LR", "PA", "IS")) if code in ends)
        names = SIDES[world] if code in "RAS" else SIDES[world][::-1]
        areas = np.count_nonzero(brain, axis=tuple(other for other in range(3) if other != axis))
        slices = np.flatnonzero(areas)
        if not slices.size:
            continue
        pole = (POLE_MM + geometry.spacing_mm[axis]) / (np.ptp(slices) + 1) / geometry.spacing_mm[axis]
        usual = 4 * pole * (1 - pole) if pole < 0.5 else 1.0
        for name, end in zip(names, (slices[0], slices[-1]), strict=True):
            share = float(areas[end] / areas.max())
            if share > usual:
                found[name] = share
    return found


def uncovered_ends(mask: np.ndarray, grid: Grid) -> dict[str, float]:
    """Sides of the template, to `END_MM`, of which a brain ``(X, Y, Z)`` bool covers too little, with that share.

    It also tells a cut that is tilted, because the scan was turned after it.
    """
    shares = {side: float(mask[end].mean()) for side, end in _ends(grid).items()}
    return {side: share for side, share in shares.items() if share < LEAST_END}


def cerebellum_share(mask: np.ndarray, grid: Grid) -> float:
    """The share of the template's cerebellum that lies in a brain ``(X, Y, Z)`` bool."""
    return float(mask[_cerebellum(grid)].mean())


def symmetry(image: np.ndarray, mask: np.ndarray) -> float:
    """Correlation between a brain and its mirror image, where both are: folds differ between a person's two halves, but
    hardly between those of a mean of many people.

    Parameters
    ----------
    image, mask
        ``(X, Y, Z)`` on a standard grid, float and bool.
    """
    both = mask & mask[::-1]
    one, other = image[both], image[::-1][both]
    if one.size < 2 or not one.std() > 0:
        return 0.0
    return float(np.corrcoef(one, other)[0, 1])


def sinus_brightness(image: np.ndarray, mask: np.ndarray, grid: Grid) -> float | None:
    """How much brighter the straight sinus is than the white matter around it, in units of the difference between white
    matter and fluid: below 0 without contrast agent.

    Its 90th percentile, as a vessel fills only part of the place where it may lie.

    Parameters
    ----------
    image, mask
        ``(X, Y, Z)`` on a standard grid, float and bool; a T1.
    grid
        The standard grid of both.

    Returns
    -------
    float or None
        None if the place is not in the brain.
    """
    white, _, _, fluid = tissues(grid)
    white, fluid, sinus = (tissue & mask for tissue in (white, fluid, _sinus(grid)))
    if not (white.any() and fluid.any() and sinus.any()):
        return None
    contrast = float(np.median(image[white]) - np.percentile(image[fluid], 25))
    if not contrast > 0:
        return None
    near = box_of(_sinus(grid), margin=round(2 * _NEARBY_MM / grid.voxel_mm))
    sigma = _NEARBY_MM / 2 / grid.voxel_mm
    weight = ndimage.gaussian_filter(white[near].astype(np.float32), sigma)
    around = ndimage.gaussian_filter(np.where(white[near], image[near], 0).astype(np.float32), sigma)
    above = (image[near] - around / np.maximum(weight, 1e-3)) / contrast
    return float(np.percentile(above[sinus[near]], 90))


@cache
def _ends(grid: Grid) -> dict[str, tuple[np.ndarray, ...]]:
    """Indices of the voxels of each end of the template's brain."""
    places = np.argwhere(read_template(grid)[1])
    low, high, depth = places.min(axis=0), places.max(axis=0), round(END_MM / grid.voxel_mm)
    ends = {}
    for axis, (first, last) in enumerate(SIDES):
        ends[first] = tuple(places[places[:, axis] < low[axis] + depth].T)
        ends[last] = tuple(places[places[:, axis] > high[axis] - depth].T)
    return ends


@cache
def _cerebellum(grid: Grid) -> np.ndarray:
    """The part of the template's brain that is cerebellum and nothing else, ``(X, Y, Z)`` bool."""
    _, y, z = _world(grid)
    return read_template(grid)[1] & (y < -36) & (z < -24)


@cache
def _sinus(grid: Grid) -> np.ndarray:
    """Where the straight sinus may lie, ``(X, Y, Z)`` bool."""
    world = np.stack(_world(grid), axis=-1)
    stops = np.array(_SINUS_MM, np.float64)
    line = np.concatenate([np.linspace(a, b, 8) for a, b in pairwise(stops)])
    near = np.zeros(grid.shape, bool)
    for point in line:
        near |= np.square(world - point).sum(axis=-1) <= _SINUS_RADIUS_MM**2
    return near & read_template(grid)[1]


def _world(grid: Grid) -> tuple[np.ndarray, ...]:
    """World coordinates of the grid's voxels in mm, ``(X, Y, Z)`` each; a standard grid is not turned."""
    affine = grid.geometry.affine
    return tuple(affine[axis, axis] * n + affine[axis, 3] for axis, n in enumerate(np.indices(grid.shape)))
