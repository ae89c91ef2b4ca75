"""White matter of a T1 scan from its intensities alone, and the contrast of lesions against it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from medvae.errors import MedvaeError
from medvae.imaging.components import components
from medvae.imaging.volume import Volume


def white_matter(volume: Volume, mask: np.ndarray, *, erode_mm: float = 0.0) -> np.ndarray:
    """White matter of a skull-stripped T1 scan: the brightest of three intensity classes, without the brain's rim.

    Three-means on the whole brain, then the threshold between grey and white follows their means in a neighbourhood
    of 25 mm: the deep nuclei and a remaining bias field would mislead one threshold for the whole brain.

    Parameters
    ----------
    volume
        A T1 scan, bias-corrected; background and skull are ignored.
    mask
        Brain mask, ``(X, Y, Z)`` bool.
    erode_mm
        Depth below the surface of the white matter from which on voxels count.

    Returns
    -------
    ndarray
        ``(X, Y, Z)`` bool.
    """
    spacing = volume.geometry.spacing_mm
    smooth, (fluid, threshold) = tissues(volume, mask)
    local = np.full(smooth.shape, threshold, dtype=np.float32)
    for _ in range(3):
        white = mask & (smooth > local)
        # Fluid, too, is told apart by the local brightness, which the threshold follows.
        grey = mask & ~white & (smooth > local * (fluid / threshold))
        local = (_mean_around(smooth, white, spacing) + _mean_around(smooth, grey, spacing)) / 2
    white = mask & (smooth > local) & (depth_mm(ndimage.binary_fill_holes(mask), spacing) > 4.0)
    labels, _ = ndimage.label(white)
    white &= (np.bincount(labels.ravel()) * volume.geometry.voxel_volume_ml >= 1.0)[labels]
    return white if erode_mm <= 0 else depth_mm(white, spacing) > erode_mm


@dataclass(frozen=True)
class Contrast:
    """What a lesion looks like against the white matter around it."""

    volume_ml: float
    ratio: float
    """Median in the lesion over median of the white matter 3–6 mm around it."""
    darkest: float
    """10 % quantile in the lesion over the same median."""
    brightest: float
    """90 % quantile in the lesion over the same median."""
    texture: float
    """SD in the lesion over SD of the white matter 3–6 mm around it; NaN if that is constant."""


def lesion_contrast(
    volume: Volume, lesions: np.ndarray, white: np.ndarray, *, smallest_mm3: float = 20.0
) -> list[Contrast]:
    """Contrast of every 26-connected lesion that has white matter around it.

    Parameters
    ----------
    volume
        The scan.
    lesions
        Lesion mask, ``(X, Y, Z)`` bool.
    white
        White matter, ``(X, Y, Z)`` bool; what is lesion is left out.
    smallest_mm3
        Smaller lesions are left out.
    """
    geometry = volume.geometry
    labels = components(lesions).labels
    rows = []
    for number, tight in enumerate(ndimage.find_objects(labels), start=1):
        box = grown(tight, 6.0, geometry.spacing_mm)
        lesion = labels[box] == number
        volume_ml = float(lesion.sum() * geometry.voxel_volume_ml)
        around = white_around(lesion, white[box] & (labels[box] == 0), geometry.spacing_mm)
        if volume_ml * 1000.0 < smallest_mm3 or around.sum() * geometry.voxel_volume_ml < 0.1:
            continue
        values, outside = volume.array[box][lesion], volume.array[box][around]
        darkest, middle, brightest = np.quantile(values, [0.1, 0.5, 0.9]) / np.median(outside)
        spread = float(outside.std())
        texture = float(values.std()) / spread if spread > 0 else float("nan")
        rows.append(Contrast(volume_ml, float(middle), float(darkest), float(brightest), texture))
    return rows


def white_around(lesion: np.ndarray, white: np.ndarray, spacing_mm: tuple[float, ...]) -> np.ndarray:
    """The white matter 3–6 mm from a lesion, the reference for its contrast."""
    distance = distance_mm(lesion, spacing_mm)
    return (distance >= 3.0) & (distance <= 6.0) & white


def grown(box: tuple[slice, ...], by_mm: float, spacing_mm: tuple[float, ...]) -> tuple[slice, ...]:
    """A box of voxels with ``by_mm`` more on every side, as far as the grid goes."""
    reach = [int(np.ceil(by_mm / step)) for step in spacing_mm]
    return tuple(slice(max(part.start - n, 0), part.stop + n) for part, n in zip(box, reach, strict=True))


def tissues(volume: Volume, mask: np.ndarray) -> tuple[np.ndarray, tuple[float, float]]:
    """The scan smoothed by 0.7 mm, and the thresholds between fluid, grey and white matter (three-means)."""
    inside = mask.astype(np.float32)
    sigma = 0.7 / np.array(volume.geometry.spacing_mm)
    weight = ndimage.gaussian_filter(inside, sigma)
    smooth = ndimage.gaussian_filter(volume.array * inside, sigma) / np.maximum(weight, 1e-3)
    values = smooth[mask]
    if not values.size:
        raise MedvaeError(f"{volume.path or 'scan'}: its brain mask is empty.")
    means = np.percentile(values, [5, 40, 85])
    for _ in range(50):
        thresholds = (means[1:] + means[:-1]) / 2
        groups = np.digitize(values, thresholds)
        counts = np.bincount(groups, minlength=3)
        means = np.where(counts > 0, np.bincount(groups, values, 3) / np.maximum(counts, 1), means)
    return smooth, (float(thresholds[0]), float(thresholds[1]))


def distance_mm(region: np.ndarray, spacing_mm: tuple[float, ...]) -> np.ndarray:
    """Distance to the region in mm; infinite if it is empty."""
    if not region.any():
        return np.full(region.shape, np.inf)
    return ndimage.distance_transform_edt(~region, spacing_mm)


def depth_mm(region: np.ndarray, spacing_mm: tuple[float, ...]) -> np.ndarray:
    """Distance in mm from a voxel of the region to the nearest one outside it; the grid's edge counts as outside."""
    framed = np.pad(region, 1)
    return ndimage.distance_transform_edt(framed, spacing_mm)[1:-1, 1:-1, 1:-1]


def _mean_around(values: np.ndarray, region: np.ndarray, spacing_mm: tuple[float, ...]) -> np.ndarray:
    """Mean of the region's values in a neighbourhood of about 25 mm; their overall mean where there are none."""
    width = [2 * round(12.0 / step) + 1 for step in spacing_mm]
    inside = region.astype(np.float32)
    overall = values[region].mean() if region.any() else 0.0
    few = 1e-2  # of the neighbourhood, so that the mean goes over into the overall mean smoothly
    total = ndimage.uniform_filter(values * inside, width, mode="constant") + few * overall
    return total / (ndimage.uniform_filter(inside, width, mode="constant") + few)
