"""Mass effect: tissue pushed outwards by something that itself is hardly seen.

At distance r from the centre tissue has moved outwards by A g(r / R), g(t) = t exp((1 − t²) / 2), which is largest, A,
at r = R. Tissue at r comes from r − A g(r / R), which rises everywhere if A < R exp(−½) = 0.607 R: nothing folds or
tears. Towards the skull the movement fades, and a place where that would fold the tissue is not taken.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from medvae.lesions.geometry import Scene, around, offsets_mm, radius_mm

PUSHED_MM = 2.0
"""Tissue that has moved so far or farther is truth, beside the core: a voxel of the grid of 2 mm."""
STRENGTH = (0.45, 0.56)
"""A / R."""
CORE = 0.5
"""Radius of the core over R."""
FADE = (0.04, 0.15)
"""Share of its intensity that the core loses: less than a typical MS lesion (0.17), so that it alone says little."""


def mass_effect(scene: Scene, volume_ml: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray] | None:
    """Tissue pushed outwards from a small, mild core in white matter; None if it would fold there.

    Truth is the core and all tissue that has moved by `PUSHED_MM` or more. Farther tissue is displaced as well, but by
    less than can be told from the variety of healthy brains.
    """
    places = np.argwhere(scene.white & (scene.depth > 10.0))
    centre = places[rng.integers(len(places))]
    stretch = np.exp(rng.uniform(-0.2, 0.2, 3))
    turn, _ = np.linalg.qr(rng.standard_normal((3, 3)))
    axes = turn @ np.diag(stretch / stretch.prod() ** (1 / 3)) @ turn.T
    strength = rng.uniform(*STRENGTH)
    box = around(centre, 5.0 * radius_mm(volume_ml) + 6.0, scene)
    offsets = offsets_mm(box, centre, scene)
    low, high = 2.0, 1.5 * radius_mm(volume_ml)
    for _ in range(12):  # R from the volume of the truth, which grows with it
        radius = (low + high) / 2
        moved, reach = _movement(offsets, scene.depth[box], axes, radius, strength)
        truth = _truth(moved, reach, radius) & scene.mask[box]
        low, high = (radius, high) if truth.sum() * scene.geometry.voxel_volume_ml < volume_ml else (low, radius)
    if not truth.any() or _smallest_volume(moved, scene) <= 0:
        return None
    array = _pulled(scene, box, moved)
    core = np.clip((CORE * radius - reach) / 2.0 + 0.5, 0, 1)  # an edge of 2 mm
    array *= 1 - rng.uniform(*FADE) * core
    kept = scene.array.copy()
    seen = scene.mask[box] & ((np.linalg.norm(moved, axis=0) > 0.02) | (core > 0))
    kept[box] = np.where(seen, array, scene.array[box])
    whole = np.zeros(scene.mask.shape, dtype=bool)
    whole[box] = truth
    return kept, whole


def _movement(
    offsets: np.ndarray, depth: np.ndarray, axes: np.ndarray, radius: float, strength: float
) -> tuple[np.ndarray, np.ndarray]:
    """How far the tissue now at each voxel has moved, ``(3, *box)`` in mm, and its elliptic distance in mm."""
    reach = np.linalg.norm(np.tensordot(axes, offsets, axes=1), axis=0)
    relative = reach / radius
    fading = 1 - np.exp(-((depth / 8.0) ** 2))  # 0 at the skull
    # offsets / reach has length about 1; times g(t) A this is A / R exp((1 - t²) / 2) offsets
    return strength * np.exp((1 - relative**2) / 2) * fading * offsets, reach


def _truth(moved: np.ndarray, reach: np.ndarray, radius: float) -> np.ndarray:
    return ndimage.binary_fill_holes((np.linalg.norm(moved, axis=0) >= PUSHED_MM) | (reach < CORE * radius))


def _smallest_volume(moved: np.ndarray, scene: Scene) -> float:
    """The smallest determinant of the Jacobian of the way back, voxel by voxel."""
    spacing = scene.geometry.spacing_mm
    slopes = [[np.gradient(moved[i], spacing[j], axis=j) for j in range(3)] for i in range(3)]
    jacobian = np.eye(3) - np.moveaxis(np.array(slopes), (0, 1), (-2, -1))
    return float(np.linalg.det(jacobian).min())


def _pulled(scene: Scene, box: tuple[slice, ...], moved: np.ndarray) -> np.ndarray:
    """A box of the scan with each voxel taken from where its tissue was; background counts as the nearest brain."""
    nearest = ndimage.distance_transform_edt(
        ~scene.mask, scene.geometry.spacing_mm, return_distances=False, return_indices=True
    )
    filled = scene.array[tuple(nearest)]
    places = np.stack(np.meshgrid(*(np.arange(p.start, p.stop) for p in box), indexing="ij")).astype(np.float64)
    places -= moved / np.reshape(scene.geometry.spacing_mm, (3, 1, 1, 1))
    values = ndimage.map_coordinates(filled, places, order=3, mode="nearest")
    return np.clip(values, 0, float(scene.array.max())).astype(np.float32)
