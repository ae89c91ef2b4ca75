"""Small pictures for a page: three planes of a case in one strip, as WebP."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import matplotlib
import numpy as np
from PIL import Image
from scipy import ndimage

from medvae.reporting.report_volumes import Layers, upright

PIXELS_PER_MM = 1.0
TRUTH = (53, 196, 232)
MARGIN_MM = 6.0


def strip(layers: Layers, place_mm: Sequence[float] | None) -> bytes:
    """Axial, coronal and sagittal plane side by side; flagged voxels in the map's colours, the truth outlined.

    Parameters
    ----------
    layers
        The case.
    place_mm
        Where the planes go through (RAS+); without it through the map's largest value.
    """
    layers = upright(layers)
    if place_mm is None:
        centre = np.unravel_index(int(np.argmax(layers.heat)), layers.heat.shape)
    else:
        centre = np.rint(np.linalg.inv(layers.geometry.affine) @ [*place_mm, 1])[:3]
        centre = np.clip(centre, 0, np.array(layers.geometry.shape) - 1)
    inside = layers.scan[layers.scan != 0]
    top = float(np.percentile(inside, 99.5)) if inside.size else 1.0
    box = _box(layers)
    planes = [_plane(layers, box, axis, int(centre[axis]), max(top, 1e-6)) for axis in (2, 1, 0)]
    height = max(plane.height for plane in planes)
    sheet = Image.new("RGB", (sum(plane.width for plane in planes), height))
    left = 0
    for plane in planes:
        sheet.paste(plane, (left, (height - plane.height) // 2))
        left += plane.width
    return webp(sheet, quality=68)


def webp(image: Image.Image, quality: int = 80) -> bytes:
    """The picture as WebP."""
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=quality, method=4)
    return buffer.getvalue()


def data_uri(content: bytes) -> str:
    """A WebP picture as the ``src`` of an ``img``."""
    return "data:image/webp;base64," + base64.b64encode(content).decode()


def _plane(layers: Layers, box: tuple[slice, ...], axis: int, index: int, top: float) -> Image.Image:
    def cut(array: np.ndarray) -> np.ndarray:
        across = [box[other] for other in range(3) if other != axis]
        return np.rot90(np.take(array, index, axis=axis)[tuple(across)])[:, ::-1]  # right, or front, on the left

    grey = np.clip(cut(layers.scan) / top, 0, 1)
    picture = np.repeat(grey[..., None] * 255, 3, axis=2)
    heat, flagged = cut(layers.heat), cut(layers.mask)
    colour = matplotlib.colormaps["inferno"](heat)[..., :3] * 255
    opacity = np.where(flagged, 0.85, 0.0)[..., None]
    picture = picture * (1 - opacity) + colour * opacity
    spacing = [layers.geometry.spacing_mm[other] for other in range(3) if other != axis]
    size = [max(1, round(n * mm * PIXELS_PER_MM)) for n, mm in zip(grey.shape[::-1], spacing, strict=True)]
    image = Image.fromarray(picture.astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)
    if layers.truth is not None and cut(layers.truth).any():
        region = np.asarray(Image.fromarray(cut(layers.truth)).resize(size, Image.Resampling.NEAREST))
        drawn = np.array(image)
        drawn[ndimage.binary_dilation(region) & ~region] = TRUTH
        image = Image.fromarray(drawn)
    return image


def _box(layers: Layers) -> tuple[slice, ...]:
    """Where the map is not empty, or else the scan, with a margin."""
    region = layers.heat > 0 if (layers.heat > 0).any() else layers.scan != 0
    boxes = ndimage.find_objects(region.astype(np.uint8))
    if not boxes:
        return (slice(None),) * 3
    margins = [round(MARGIN_MM / mm) for mm in layers.geometry.spacing_mm]
    return tuple(slice(max(0, s.start - m), s.stop + m) for s, m in zip(boxes[0], margins, strict=True))
