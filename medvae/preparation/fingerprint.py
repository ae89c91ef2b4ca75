"""A cohort's scans in a few numbers, and the cases and sites that differ from its healthy training scans.

A network that has seen one scanner calls another scanner's brains abnormal: anatomy looks sharper, fluid darker, the
brain larger. These numbers need no network and reveal such drift before training. None depends on the unit of
intensity: contrasts are shares of the range between the 2nd and the 98th percentile inside the brain.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from medvae.imaging.volume import Geometry

RIM_MM, DEEP_MM = 5.0, 20.0
"""The rim of the brain, up to this depth, is cortex and the fluid around it; deeper than the other are mostly white
matter, deep nuclei and ventricles."""
QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
SMALLEST_REFERENCE = 8
"""Fewer healthy training scans do not define a reference."""

FEATURES = {
    "brain_ml": "volume of the brain mask, ml",
    "spacing_mm": "cube root of the volume of a voxel, mm",
    "thickness_mm": "longest edge of a voxel, mm",
    "contrast": "median of the deep brain minus median of its rim, share of the range",
    "fluid": "skewness of the deep brain by quantiles, from -1 (fluid is dark) to 1 (fluid is bright)",
    "sharpness": "median gradient inside the brain, share of the range per mm: folds, and contrast",
    "grain": "noise and fine texture: robust SD of second differences inside the brain, share of the range",
}
"""The features and what they are."""


CASE_DRIFT, SITE_DRIFT = 4.5, 3.0
"""Robust z score from which a case, or the median of a site's cases, counts as unlike the reference. Among 120 raw
healthy T1 scans of one scanner (IXI) the largest of 840 values was 3.4 against all of them; with a reference of 18, the
largest of 24 scans was 4.0."""
SMALLEST_SPREAD = 0.02
"""The spread of a feature counts as at least this share of its median: where all spacings are equal it would be 0."""


def brain_features(brain: np.ndarray, geometry: Geometry) -> dict[str, float]:
    """Features of a case that its brain mask ``(X, Y, Z)`` and its grid give."""
    return {
        "brain_ml": float(np.count_nonzero(brain) * geometry.voxel_volume_ml),
        "spacing_mm": float(np.cbrt(geometry.voxel_volume_ml * 1000)),
        "thickness_mm": max(geometry.spacing_mm),
    }


def intensity_features(array: np.ndarray, brain: np.ndarray, geometry: Geometry) -> dict[str, float]:
    """Features of one modality ``(X, Y, Z)`` inside its brain, which must not be empty; without the ones that the
    brain is too small, or too flat, to have."""
    box = _box(brain)
    array, brain = array[box], np.ascontiguousarray(brain[box])
    low, high = np.percentile(sample(array[brain]), (2, 98))
    if not high > low:
        return {}
    scaled = np.ascontiguousarray((array - low) / (high - low), dtype=np.float32)

    # Depths are needed to a few millimetres only, so every third millimetre is enough.
    step = [max(1, round(3 / spacing)) for spacing in geometry.spacing_mm]
    sparse = tuple(slice(None, None, n) for n in step)
    edges_mm = [n * spacing for n, spacing in zip(step, geometry.spacing_mm, strict=True)]
    depth_mm = ndimage.distance_transform_edt(np.pad(brain[sparse], 1), sampling=edges_mm)[1:-1, 1:-1, 1:-1]
    rim = scaled[sparse][(depth_mm > 0) & (depth_mm <= RIM_MM)]
    deep = scaled[sparse][depth_mm > DEEP_MM]
    features = {}
    if len(rim) >= 100 and len(deep) >= 100:
        dark, middle, bright = np.percentile(deep, (2, 50, 98))
        features["contrast"] = float(middle - np.median(rim))
        if bright > dark:
            features["fluid"] = float((bright + dark - 2 * middle) / (bright - dark))

    places = sample(np.flatnonzero(_inside(brain)))
    if len(places) >= 1000:
        values, squares, seconds = scaled.ravel(), np.zeros(len(places), np.float32), []
        for axis, spacing in enumerate(geometry.spacing_mm):
            step_to_next = scaled.strides[axis] // scaled.itemsize
            before, after = values[places - step_to_next], values[places + step_to_next]
            squares += ((after - before) / (2 * spacing)) ** 2
            seconds.append(np.median(np.abs(values[places] - (before + after) / 2)))
        features["sharpness"] = float(np.median(np.sqrt(squares)))
        features["grain"] = float(min(seconds) / 0.6745 / np.sqrt(1.5))
    return features


def sample(values: np.ndarray) -> np.ndarray:
    """At most 200,000 of the values, evenly spaced: quantiles of millions are slow and no better."""
    return values[:: len(values) // 200_000 + 1]


def _box(mask: np.ndarray) -> tuple[slice, ...]:
    ends = [np.flatnonzero(mask.any(tuple(a for a in range(3) if a != axis)))[[0, -1]] for axis in range(3)]
    return tuple(slice(first, last + 1) for first, last in ends)


def _inside(mask: np.ndarray) -> np.ndarray:
    """Voxels whose six neighbours are in the mask too."""
    inside = np.zeros_like(mask)
    core = mask[1:-1, 1:-1, 1:-1].copy()
    for axis in range(3):
        for shift in (slice(None, -2), slice(2, None)):
            place = [slice(1, -1)] * 3
            place[axis] = shift
            core &= mask[tuple(place)]
    inside[1:-1, 1:-1, 1:-1] = core
    return inside


@dataclass(frozen=True)
class FeatureRange:
    """How a feature is distributed over the healthy training scans."""

    median: float
    spread: float
    """1.4826 times the median absolute deviation: the SD if the values are Gaussian."""
    minimum: float
    maximum: float

    @classmethod
    def of(cls, values: Sequence[float]) -> FeatureRange:
        """The distribution of at least one value."""
        middle = float(np.median(values))
        spread = float(1.4826 * np.median(np.abs(np.array(values) - middle)))
        return cls(middle, spread, float(min(values)), float(max(values)))

    def z(self, value: float) -> float:
        """Robust z score of ``value``."""
        return (value - self.median) / max(self.spread, SMALLEST_SPREAD * abs(self.median), 1e-6)


@dataclass(frozen=True)
class Fingerprint:
    """A cohort in numbers."""

    reference: tuple[str, ...]
    """Ids of the healthy training cases that stand for what is usual."""
    ranges: dict[str, FeatureRange]
    """Feature to its distribution over the reference; empty if the reference is too small."""
    z: dict[str, dict[str, float]]
    """Case id to feature to robust z score."""
    site_z: dict[str, dict[str, float]]
    """Site to feature to the median z score of its cases, for sites of at least two."""

    def drift_of_sites(self) -> dict[str, list[str]]:
        """Site to the features in which it is unlike the reference."""
        return _beyond(self.site_z, SITE_DRIFT)

    def drift_of_cases(self) -> dict[str, list[str]]:
        """Case id to the features in which it is unlike the reference."""
        return _beyond(self.z, CASE_DRIFT)


def fingerprint(
    features: Mapping[str, Mapping[str, float]], reference: Sequence[str], sites: Mapping[str, str | None]
) -> Fingerprint:
    """Compare cases with the healthy training scans.

    Parameters
    ----------
    features
        Case id to its features.
    reference
        Ids of healthy training cases; with fewer than `SMALLEST_REFERENCE` nothing is compared.
    sites
        Case id to site.
    """
    reference = tuple(name for name in reference if features.get(name))
    if len(reference) < SMALLEST_REFERENCE:
        return Fingerprint(reference, {}, {}, {})
    ranges = {}
    for key in dict.fromkeys(key for name in reference for key in features[name]):
        values = [features[name][key] for name in reference if key in features[name]]
        if len(values) >= SMALLEST_REFERENCE:
            ranges[key] = FeatureRange.of(values)
    z = {
        name: {key: ranges[key].z(value) for key, value in found.items() if key in ranges}
        for name, found in features.items()
    }
    site_z = {}
    for site, count in Counter(known for name in z if (known := sites.get(name))).items():
        if count >= 2:
            members = [z[name] for name in z if sites.get(name) == site]
            site_z[site] = {
                key: float(np.median([m[key] for m in members if key in m]))
                for key in ranges
                if any(key in m for m in members)
            }
    return Fingerprint(reference, ranges, z, site_z)


def _beyond(z: Mapping[str, Mapping[str, float]], limit: float) -> dict[str, list[str]]:
    found = {
        name: sorted((key for key, value in values.items() if abs(value) > limit), key=lambda key: -abs(values[key]))
        for name, values in z.items()
    }
    return {name: keys for name, keys in found.items() if keys}
