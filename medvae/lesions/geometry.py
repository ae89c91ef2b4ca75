"""Forms of benchmark lesions on a scan's grid: where, how large, and how soft their edges are.

A form is the N voxels of the highest value of some field, with N from the volume that was drawn; so its volume is what
was asked for, on any grid. Nothing here is shared with `medvae.lesions.synthesis`, which makes what detectors learn
from: a benchmark whose lesions are made like those of the training would measure how well the making was learnt.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import ndimage, special

from medvae.imaging.components import largest_component
from medvae.imaging.volume import Geometry, Volume
from medvae.lesions.tissue import depth_mm, grown, tissues, white_matter


@dataclass(frozen=True)
class Scene:
    """A healthy T1 scan and its tissues, ``(X, Y, Z)`` each."""

    array: np.ndarray
    """float32; 0 means no signal."""
    mask: np.ndarray
    """Brain."""
    white: np.ndarray
    """White matter."""
    tissue: np.ndarray
    """Brain without fluid."""
    depth: np.ndarray
    """mm below the surface of the brain."""
    level: float
    """Median intensity of the white matter: contrasts are relative to it."""
    geometry: Geometry

    @classmethod
    def of(cls, volume: Volume, mask: np.ndarray) -> Scene:
        """Tissues from the scan's intensities."""
        spacing = volume.geometry.spacing_mm
        white = white_matter(volume, mask)
        smooth, (fluid, _) = tissues(volume, mask)
        depth = depth_mm(ndimage.binary_fill_holes(mask), spacing)
        level = float(np.median(volume.array[white if white.any() else mask]))
        return cls(volume.array, mask, white, mask & (smooth > fluid), depth, level, volume.geometry)


def radius_mm(volume_ml: float) -> float:
    """Of the ball of a volume."""
    return (3000 * volume_ml / (4 * math.pi)) ** (1 / 3)


def noise(shape: tuple[int, ...], sigma_mm: float, scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """A random field of zero mean and unit SD, smooth over ``sigma_mm``."""
    sigma = sigma_mm / np.array(scene.geometry.spacing_mm)
    field = ndimage.gaussian_filter(rng.standard_normal(shape, np.float32), sigma, mode="wrap", truncate=3.0)
    return field / max(float(field.std()), 1e-6)


def offsets_mm(box: tuple[slice, ...], centre: np.ndarray, scene: Scene) -> np.ndarray:
    """mm from a voxel to those of a box along the array axes, ``(3, *box)``."""
    axes = [np.arange(part.start, part.stop) for part in box]
    grid = np.stack(np.meshgrid(*axes, indexing="ij")) - np.reshape(centre, (3, 1, 1, 1))
    return grid * np.reshape(scene.geometry.spacing_mm, (3, 1, 1, 1))


def around(centre: np.ndarray, reach_mm: float, scene: Scene) -> tuple[slice, ...]:
    """The box of the grid within ``reach_mm`` of a voxel."""
    voxel = tuple(slice(int(c), int(c) + 1) for c in centre)
    box = grown(voxel, reach_mm, scene.geometry.spacing_mm)
    return tuple(slice(part.start, min(part.stop, n)) for part, n in zip(box, scene.mask.shape, strict=True))


def highest(field: np.ndarray, allowed: np.ndarray, volume_ml: float, scene: Scene) -> np.ndarray | None:
    """The allowed voxels of the highest field, as many as make the volume, without splinters.

    Returns
    -------
    ndarray or None
        One 26-connected region of at least 80 % of the volume, bool, or None if there is none.
    """
    wanted = round(volume_ml / scene.geometry.voxel_volume_ml)
    places = np.flatnonzero(allowed)
    if not 1 <= wanted <= len(places):
        return None
    best = places[np.argpartition(-field.ravel()[places], wanted - 1)[:wanted]]
    form = np.zeros(field.shape, dtype=bool)
    form.flat[best] = True
    form = largest_component(form)
    return form if form.sum() >= 0.8 * wanted else None


def lobes(
    centre: np.ndarray, allowed: np.ndarray, volume_ml: float, scene: Scene, rng: np.random.Generator
) -> np.ndarray | None:
    """A lobed body about a voxel, ``(X, Y, Z)`` bool: where several Gaussians around it, roughened, add up to most."""
    radius = radius_mm(volume_ml)
    box = around(centre, 3.0 * radius + 4.0, scene)
    offsets = offsets_mm(box, centre, scene)
    field = np.zeros(offsets.shape[1:])
    for number in range(int(rng.integers(4, 8))):
        direction = rng.standard_normal(3)
        away = 0.0 if number == 0 else rng.uniform(0.4, 1.0) * radius
        place = direction / np.linalg.norm(direction) * away
        width = rng.uniform(0.4, 0.7) * radius
        squared = ((offsets - place.reshape(3, 1, 1, 1)) ** 2).sum(axis=0)
        field += np.exp(-squared / (2 * width**2))
    field *= np.exp(0.3 * noise(field.shape, max(0.3 * radius, 1.5), scene, rng))
    return _whole(highest(field, allowed[box], volume_ml, scene), box, scene)


def wedge(volume_ml: float, scene: Scene, rng: np.random.Generator) -> np.ndarray | None:
    """A cone from deep in the brain to its surface, ``(X, Y, Z)`` bool, without fluid.

    Its length follows from the volume, so that its half angle is about 30° whatever its size.
    """
    length = (1000 * volume_ml / 0.28) ** (1 / 3)
    surface = np.argwhere(scene.tissue & (scene.depth < 5.0))
    inner = np.argwhere(scene.mask).mean(axis=0)
    spacing = np.array(scene.geometry.spacing_mm)
    outer = surface[rng.integers(len(surface))]
    inward = (inner - outer) * spacing / np.linalg.norm((inner - outer) * spacing) + 0.25 * rng.standard_normal(3)
    inward /= np.linalg.norm(inward)
    apex = outer + length * inward / spacing
    box = around(outer, 2.0 * length + 4.0, scene)
    offsets = offsets_mm(box, apex, scene)
    along = -np.tensordot(inward, offsets, axes=1)
    distance = np.sqrt((offsets**2).sum(axis=0))
    angle = np.degrees(np.arccos(np.clip(along / np.maximum(distance, 1e-3), -1, 1)))
    angle *= np.exp(0.2 * noise(angle.shape, 0.25 * length, scene, rng))
    reached = (along > 0) & (distance < 1.3 * length)
    return _whole(highest(-angle, scene.tissue[box] & reached, volume_ml, scene), box, scene)


def soft(form: np.ndarray, edge_mm: float, scene: Scene) -> np.ndarray:
    """How strongly each voxel belongs to a form: ½ at its border, 1 well inside and 0 well outside, float32.

    The edge is the integral of a Gaussian of SD ``edge_mm``, cut off 3 SD outside.
    """
    away = signed_mm(form, 3 * edge_mm, scene)
    return np.where(away > -3 * edge_mm, special.ndtr(away / edge_mm), 0.0).astype(np.float32)


def signed_mm(form: np.ndarray, reach_mm: float, scene: Scene) -> np.ndarray:
    """mm from a voxel to the border of a form, positive inside; −∞ farther outside than ``reach_mm`` or so."""
    away = np.full(form.shape, -np.inf)
    tight = ndimage.find_objects(form.astype(np.int8))
    if tight:
        spacing = scene.geometry.spacing_mm
        box = grown(tight[0], reach_mm + 2 * max(spacing), spacing)
        inside, outside = (ndimage.distance_transform_edt(part, spacing) for part in (form[box], ~form[box]))
        away[box] = np.where(form[box], inside - min(spacing) / 2, min(spacing) / 2 - outside)
    return away


def _whole(form: np.ndarray | None, box: tuple[slice, ...], scene: Scene) -> np.ndarray | None:
    if form is None:
        return None
    whole = np.zeros(scene.mask.shape, dtype=bool)
    whole[box] = form
    return whole
