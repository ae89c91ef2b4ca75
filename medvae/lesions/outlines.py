"""Shapes of real lesions, and a shape moved, deformed and rasterised on a scan's grid."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from medvae.errors import MedvaeError
from medvae.imaging.volume import Geometry


@dataclass(frozen=True)
class Shapes:
    """A library of lesion shapes.

    Parameters
    ----------
    bits
        All shapes one after the other as packed bits, ``(B,)`` uint8.
    boxes
        Voxels of each shape's tight box along x, y, z, ``(n, 3)``.
    offsets
        First bit of each shape, ``(n,)``.
    patients
        Number of the patient each shape comes from, ``(n,)``.
    volumes_ml
        ``(n,)``.
    spacing_mm
        Size of a shape's voxel, ``(3,)``; axes RAS.
    """

    bits: np.ndarray
    boxes: np.ndarray
    offsets: np.ndarray
    patients: np.ndarray
    volumes_ml: np.ndarray
    spacing_mm: np.ndarray

    def __len__(self) -> int:
        return len(self.boxes)

    def shape(self, index: int) -> np.ndarray:
        """Shape ``index`` as a boolean array in its tight box."""
        start, box = int(self.offsets[index]), self.boxes[index]
        stop = start + int(np.prod(box))
        bits = np.unpackbits(self.bits[start // 8 : -(-stop // 8)])
        return bits[start % 8 : start % 8 + stop - start].reshape(box).astype(bool)


def read_shapes(path: Path | str) -> Shapes:
    """Read a shape library such as ``data_manifests/included/lesion_shapes.npz`` (format: the README beside it).

    Raises
    ------
    MedvaeError
        If the file is missing or is no shape library.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            keys = ("bits", "shapes", "offsets", "patients", "volumes_mm3", "spacing_mm")
            bits, boxes, offsets, patients, volumes, spacing = (file[key] for key in keys)
    except FileNotFoundError:
        raise MedvaeError(f"{path}: there is no such file. Check the path.") from None
    except (OSError, ValueError, KeyError, EOFError, AttributeError) as error:
        raise MedvaeError(
            f"{path}: is no library of lesion shapes ({error}). Make one with pipelines/make_lesion_shapes.py."
        ) from None
    return Shapes(bits, boxes, offsets, patients, volumes / 1000.0, spacing.astype(np.float64))


def rasterise(
    shape: np.ndarray,
    shape_mm: np.ndarray,
    geometry: Geometry,
    rng: np.random.Generator,
    *,
    scale: tuple[float, float] = (1.0, 1.0),
    rotation_deg: float = 0.0,
    warp: float = 0.0,
    edge_mm: float = 0.0,
    texture: float = 0.0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A shape, moved and deformed at random, on a box of the grid's voxels.

    Parameters
    ----------
    shape
        A boolean array, axes RAS.
    shape_mm
        Size of its voxels, ``(3,)``.
    geometry
        The grid; only its axes matter, not where it lies.
    rng
        Draws the deformation.
    scale, rotation_deg, warp, edge_mm, texture
        As in ``Settings``.

    Returns
    -------
    first
        First voxel of the box relative to the voxel the lesion is centred in, ``(3,)`` int.
    fraction
        Part of each voxel that is lesion, 0 to 1.
    depth
        How strongly each voxel is lesion, about 1 inside; exactly 0 from two to three ``edge_mm`` outside on.
    """
    size = np.array(shape.shape) * shape_mm
    diameter = float((np.count_nonzero(shape) * np.prod(shape_mm) * 6 / np.pi) ** (1 / 3))
    axis = rng.standard_normal(3)
    angle = np.deg2rad(rng.uniform(-1.0, 1.0) * rotation_deg)
    mirror = rng.choice([-1.0, 1.0])
    shortest, longest = np.log(scale)
    stretch = np.exp(rng.uniform(shortest, longest, 3))
    turned = Rotation.from_rotvec(axis / np.linalg.norm(axis) * angle).as_matrix() @ np.diag(stretch * [mirror, 1, 1])
    shift = rng.uniform(-0.5, 0.5, 3)  # of a voxel
    warp_mm = min(warp * diameter, 2.0)

    # Every voxel is cut into parts of at most 1 mm, the resolution of the shapes, and at least two along each axis.
    spacing = np.array(geometry.spacing_mm)
    parts = np.maximum(np.ceil(spacing - 1e-3).astype(int), 2)
    to_world = geometry.affine[:3, :3]
    half = np.abs(np.linalg.inv(to_world) @ turned) @ (size / 2 + 2 * warp_mm) + 3 * edge_mm / spacing
    first = np.floor(shift - half).astype(int) - 1
    count = np.ceil(shift + half).astype(int) + 2 - first
    axes = [(np.arange(n * k) + 0.5) / k - 0.5 + a - s for n, k, a, s in zip(count, parts, first, shift, strict=True)]
    grid = np.stack(np.meshgrid(*axes, indexing="ij")).reshape(3, -1)
    points = np.linalg.inv(turned) @ to_world @ grid  # mm from the shape's centre, along the shape's axes
    fine_mm, fine_shape = spacing / parts, tuple(count * parts)
    if warp_mm > 0:
        sigma = max(diameter / 6, 1.5) / fine_mm
        points += warp_mm * np.stack([_smooth_noise(fine_shape, sigma, rng).ravel() for _ in range(3)])
    index = points / shape_mm[:, None] + (np.array(shape.shape)[:, None] - 1) / 2
    fine = ndimage.map_coordinates(shape.astype(np.float32), index, order=1, mode="grid-constant") >= 0.5
    fine = fine.reshape(fine_shape)
    soft = fine.astype(np.float32)
    if edge_mm > 0:
        soft = ndimage.gaussian_filter(soft, edge_mm / fine_mm, truncate=3.0, mode="constant")
    if texture > 0:
        soft *= np.maximum(1.0 + texture * _smooth_noise(fine_shape, 1.5 / fine_mm, rng), 0.1)
    blocks = np.stack([count, parts], axis=1).ravel()
    fraction = fine.reshape(blocks).mean(axis=(1, 3, 5))
    depth = soft.reshape(blocks).mean(axis=(1, 3, 5))
    depth[depth < 0.02] = 0.0  # of the typical depth inside: the far tail of the Gaussian, which nobody could see
    return first, fraction, depth


def _smooth_noise(shape: tuple[int, ...], sigma: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """White noise smoothed by a Gaussian of ``sigma`` voxels: a random field of zero mean and unit SD."""
    noise = ndimage.gaussian_filter(rng.standard_normal(shape, np.float32), sigma, mode="wrap", truncate=2.5)
    return noise * np.sqrt(np.prod(2.0 * np.sqrt(np.pi) * sigma))
