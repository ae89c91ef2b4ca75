"""Lesions inserted into one healthy scan."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from pydantic import Field
from scipy import ndimage

from medvae.errors import MedvaeError
from medvae.imaging.components import TOUCHING, largest_component
from medvae.imaging.volume import Geometry, Volume
from medvae.lesions.outlines import Shapes, rasterise
from medvae.lesions.tissue import depth_mm, distance_mm, grown, tissues, white_around, white_matter
from medvae.schema import Strict

T1_CONTRAST = {0.0: 0.657, 0.05: 0.708, 0.25: 0.772, 0.5: 0.834, 0.75: 0.886, 0.95: 0.940, 1.0: 0.963}
"""Quantiles of (median T1 in a lesion) / (median T1 of the white matter 3–6 mm around it).

Of 28 lesions of at least 20 mm³ in patients 07 and 26 of the open MS data set at 1 mm (Lesjak et al. 2017,
doi:10.1007/s12021-017-9348-7), the same in both patients (medians 0.836 and 0.833), by
``pipelines/measure_lesion_contrast.py``. A result on those two patients by a method that learned from inserted
lesions has therefore seen how dark their lesions are, though not one of their shapes.
"""


class Settings(Strict):
    """How lesions are drawn."""

    count: int | None = Field(default=None, ge=1)
    """Lesions in a scan; if not given, as many and as large as those of one patient of the library, drawn anew for
    every scan."""
    smallest_ml: float = Field(default=0.05, gt=0)
    """Smallest lesion, in ml: one that covers less of the scan's grid is drawn anew and a little larger."""
    largest_ml: float = Field(default=40.0, gt=0)
    """Largest shape taken, in ml. A larger one, and one that fits nowhere, is replaced by two of half its volume:
    the largest confluent lesions are moulded by the ventricles of one person and seldom fit another."""
    scale: tuple[float, float] = (0.7, 1.5)
    """Smallest and largest factor by which a shape is stretched along each of its axes (log-uniform)."""
    rotation_deg: float = Field(default=30.0, ge=0, le=180)
    """Largest rotation, about a random axis. Lesions have a direction: they follow veins and ventricles."""
    warp: float = Field(default=0.12, ge=0)
    """SD of the elastic displacement, as a fraction of the lesion's diameter (at most 2 mm)."""
    edge_mm: float = Field(default=1.2, ge=0)
    """SD in mm of the Gaussian that softens a lesion's edge, besides the partial volume of the grid."""
    texture: float = Field(default=0.5, ge=0)
    """Relative SD of the depth inside a lesion; it varies over about 4 mm."""
    inside: float = Field(default=0.8, ge=0, le=1)
    """Smallest part of a lesion that lies in white matter."""
    periventricular: float = Field(default=0.8, ge=0, le=1)
    """Share of lesions whose place is drawn with a preference for the ventricles; the others fall anywhere in the
    white matter."""
    contrast: dict[float, float] = T1_CONTRAST
    """Quantiles (0 to 1) of lesion over white matter intensity; drawn by linear interpolation between them."""


@dataclass(frozen=True)
class Lesion:
    """One inserted lesion."""

    centre_mm: tuple[float, float, float]
    """Centre of mass of its truth in world coordinates (RAS), mm."""
    volume_ml: float
    """Volume of its truth."""
    contrast: float
    """Median intensity in the lesion over that of the white matter 3–6 mm around it, before any rounding."""


@dataclass(frozen=True)
class Inserted:
    """A scan with lesions: ``array`` ``(X, Y, Z)`` float32, ``truth`` bool on the same grid, and the lesions."""

    array: np.ndarray
    truth: np.ndarray
    lesions: tuple[Lesion, ...]


def insert(
    volume: Volume,
    mask: np.ndarray,
    shapes: Shapes,
    *,
    rng: np.random.Generator | int,
    settings: Settings | None = None,
    white: np.ndarray | None = None,
) -> Inserted:
    """Insert lesions into the white matter of a healthy scan.

    Parameters
    ----------
    volume
        A healthy, skull-stripped scan; any grid; 0 means no signal. Unless ``settings.contrast`` says otherwise, a T1.
    mask
        Brain mask, ``(X, Y, Z)`` bool.
    shapes
        Where the shapes come from.
    rng
        A generator or a seed; the same seed gives the same lesions.
    settings
        How lesions are drawn.
    white
        White matter, ``(X, Y, Z)`` bool, if it is already known.

    Returns
    -------
    Inserted
        A voxel is truth where lesion makes up at least half of it. Lesions do not touch each other. Voxels no
        lesion reaches keep their value, bit by bit.

    Raises
    ------
    MedvaeError
        If intensities are negative (standardised), or if there is no room: fewer lesions than ``settings.count``
        fit, or none at all.
    """
    rng = np.random.default_rng(rng)
    settings = settings or Settings()
    geometry = volume.geometry
    mask = np.asarray(mask, dtype=bool)
    if np.mean(volume.array[mask] < 0) > 0.01:
        raise MedvaeError(
            f"{volume.path or 'scan'}: holds negative intensities. A lesion multiplies the scan's intensities, so that "
            f"0 must mean no signal: insert lesions before intensities are standardised."
        )
    places = _Places(volume, mask, white_matter(volume, mask) if white is None else white)
    truth = np.zeros(geometry.shape, dtype=bool)
    array = volume.array.copy()
    levels, ratios = np.array(sorted(settings.contrast.items())).T
    lesions: list[Lesion] = []
    pending = _draw(shapes, rng, settings)
    while pending:
        index = pending.pop(0)
        placed = _place(index, shapes, geometry, places, rng, settings)
        if placed is None:
            # Two of half the volume instead: the load stays, and what is too small to be halved is left out.
            half_ml = float(shapes.volumes_ml[index]) / 2
            smaller = np.flatnonzero((shapes.volumes_ml <= half_ml) & (shapes.volumes_ml >= settings.smallest_ml))
            if len(smaller):
                nearest = smaller[np.argsort(-shapes.volumes_ml[smaller], kind="stable")[:20]]
                pending += rng.choice(nearest, 1 if settings.count else 2).tolist()
                pending.sort(key=lambda other: -shapes.volumes_ml[other])
            continue
        box, inside, depth = placed
        truth[box] |= inside
        wanted = float(np.interp(rng.uniform(levels[0], levels[-1]), levels, ratios))
        level = _level(volume, places.white, box, inside)
        array[box] *= _factor(volume.array[box], inside, depth, wanted * level, wanted)
        contrast = float(np.median(array[box][inside])) / level
        centre = np.argwhere(inside).mean(axis=0) + [part.start for part in box]
        x, y, z = (float(mm) for mm in geometry.affine[:3] @ [*centre, 1.0])
        volume_ml = float(inside.sum() * geometry.voxel_volume_ml)
        lesions.append(Lesion((x, y, z), volume_ml, contrast))
    if not lesions or len(lesions) < (settings.count or 0):
        raise MedvaeError(
            f"{volume.path or 'scan'}: there is room for {len(lesions)} lesions in its "
            f"{places.white.sum() * geometry.voxel_volume_ml:.0f} ml of white matter; more were asked for. Check the "
            f"brain mask and that the scan is a bias-corrected T1, or ask for fewer."
        )
    return Inserted(array, truth, tuple(lesions))


def _level(volume: Volume, white: np.ndarray, box: tuple[slice, ...], inside: np.ndarray) -> float:
    """Median intensity of the white matter around a lesion, as ``lesion_contrast`` takes it."""
    lesion = np.zeros(white.shape, dtype=bool)
    lesion[box] = inside
    wide = grown(box, 6.0, volume.geometry.spacing_mm)
    around = white_around(lesion[wide], white[wide], volume.geometry.spacing_mm)
    return float(np.median(volume.array[wide][around] if around.any() else volume.array[white]))


def _factor(values: np.ndarray, inside: np.ndarray, depth: np.ndarray, median: float, contrast: float) -> np.ndarray:
    """What to multiply a box of the scan by, so that the median inside the lesion comes out as asked.

    A lesion that reaches into grey matter is dark there already, and a small one is mostly edge: the strength is
    therefore solved for, by bisection. It is never less than a quarter of the contrast, so that no lesion vanishes.
    """
    typical = float(np.median(depth[inside]))
    low, high = -4.0 / typical, 4.0 / typical
    for _ in range(30):
        strength = (low + high) / 2
        if np.median(values[inside] * _multiplier(depth[inside], strength)) > median:
            low = strength
        else:
            high = strength
    least = 0.25 * (1.0 - contrast) / typical
    return _multiplier(depth, max(strength, least) if contrast <= 1 else min(strength, least))


def _multiplier(depth: np.ndarray, strength: float) -> np.ndarray:
    # A quarter of the white matter's intensity is that of fluid: nothing in a brain is darker on T1.
    return np.maximum(1.0 - strength * depth, 0.25).astype(np.float32)


class _Places:
    """Where lesions may lie in one brain, and where some lie already."""

    def __init__(self, volume: Volume, mask: np.ndarray, white: np.ndarray) -> None:
        spacing = volume.geometry.spacing_mm
        self.white = white
        # A lesion may bulge a little into what is not white matter, but not into a ventricle or across a sulcus.
        self.tissue = (distance_mm(white, spacing) <= 2.0) & mask
        self.taken = np.zeros(white.shape, dtype=bool)
        core = white & (depth_mm(white, spacing) > 2.0)
        self.voxels = np.argwhere(core)
        smooth, (fluid, _) = tissues(volume, mask)
        ventricles = mask & (smooth < fluid) & (depth_mm(ndimage.binary_fill_holes(mask), spacing) > 25.0)
        near = np.exp(-distance_mm(ventricles, spacing)[core] / 5.0)
        self.near = np.cumsum(near) if ventricles.any() else np.arange(1.0, len(near) + 1)

    def draw(self, periventricular: bool, rng: np.random.Generator) -> np.ndarray:
        """A voxel more than 2 mm deep in white matter, ``(3,)``."""
        if periventricular:
            return self.voxels[np.searchsorted(self.near, rng.uniform(0.0, self.near[-1]))]
        return self.voxels[rng.integers(len(self.voxels))]


def _draw(shapes: Shapes, rng: np.random.Generator, settings: Settings) -> list[int]:
    """Shapes for one scan, the largest first."""
    usable = np.flatnonzero(shapes.volumes_ml >= settings.smallest_ml)
    if settings.count:
        chosen = rng.choice(usable, settings.count)
    else:
        patient = rng.choice(np.unique(shapes.patients[usable]))
        chosen = usable[shapes.patients[usable] == patient]
    return sorted((int(one) for one in chosen), key=lambda one: -shapes.volumes_ml[one])


def _place(
    index: int, shapes: Shapes, geometry: Geometry, places: _Places, rng: np.random.Generator, settings: Settings
) -> tuple[tuple[slice, ...], np.ndarray, np.ndarray] | None:
    """A box of the grid, the truth and the depth in it; None if the shape fits nowhere it was tried."""
    if shapes.volumes_ml[index] > settings.largest_ml or not len(places.voxels):
        return None
    shape = shapes.shape(index)
    scale = settings.scale
    periventricular = rng.uniform() < settings.periventricular
    for _ in range(6):
        first, fraction, depth = rasterise(
            shape, shapes.spacing_mm, geometry, rng, scale=scale, rotation_deg=settings.rotation_deg,
            warp=settings.warp, edge_mm=settings.edge_mm, texture=settings.texture,
        )  # fmt: skip
        whole = np.count_nonzero(fraction >= 0.5)
        if whole * geometry.voxel_volume_ml < settings.smallest_ml:
            scale = (1.15 * scale[0], 1.15 * scale[1])
            continue
        for _ in range(50):
            start = places.draw(periventricular, rng) + first
            stop = start + fraction.shape
            if (start < 0).any() or (stop > geometry.shape).any():
                continue
            box = tuple(slice(a, b) for a, b in zip(start.tolist(), stop.tolist(), strict=True))
            tissue = places.tissue[box]
            inside = largest_component((fraction >= 0.5) & tissue)
            kept = np.count_nonzero(inside)
            if (
                kept * geometry.voxel_volume_ml < settings.smallest_ml
                or kept < 0.5 * whole
                or np.count_nonzero(inside & places.white[box]) < settings.inside * kept
                or (places.taken[box] & (depth > 0)).any()
            ):
                continue
            splinters = (fraction >= 0.5) & tissue & ~inside
            here = distance_mm(inside, geometry.spacing_mm) <= distance_mm(splinters, geometry.spacing_mm)
            depth = depth * (tissue & here)
            places.taken[box] |= ndimage.binary_dilation(depth > 0, TOUCHING)
            return box, inside, depth
    return None
