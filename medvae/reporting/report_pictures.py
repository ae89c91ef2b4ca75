"""Thumbnails for a page: three planes of a case in one strip, as WebP."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image
from scipy import ndimage

from medvae.drawing import TRUTH_COLOUR, rgb
from medvae.reporting.montage import Shown, grey_plane, largest_finding, plane, with_map
from medvae.reporting.report_volumes import Layers

PIXELS_PER_MM = 1.0


def strip(layers: Layers, place_mm: Sequence[float] | None) -> bytes:
    """Axial, coronal and sagittal plane side by side; flagged voxels in the map's colours, the truth outlined.

    Parameters
    ----------
    layers
        The case.
    place_mm
        Intersection of the planes (RAS+); by default the map's maximum.
    """
    shown = Shown.of("", layers.geometry, layers.scan, layers.heat, layers.mask, truth=layers.truth, brain_only=True)
    if place_mm is None:
        centre = largest_finding(shown)
    else:
        voxel = np.rint(np.linalg.inv(shown.geometry.affine) @ [*place_mm, 1])[:3]
        centre = np.clip(voxel, 0, np.array(shown.geometry.shape) - 1).astype(int)
    planes = [_plane(shown, axis, int(centre[axis])) for axis in (2, 1, 0)]
    height = max(plane.height for plane in planes)
    sheet = Image.new("RGB", (sum(plane.width for plane in planes), height))
    left = 0
    for picture in planes:
        sheet.paste(picture, (left, (height - picture.height) // 2))
        left += picture.width
    return webp(sheet, quality=68)


def webp(image: Image.Image, quality: int = 80) -> bytes:
    """The picture as WebP."""
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=quality, method=4)
    return buffer.getvalue()


def data_uri(content: bytes) -> str:
    """A WebP picture as the ``src`` of an ``img``."""
    return "data:image/webp;base64," + base64.b64encode(content).decode()


def _plane(shown: Shown, axis: int, index: int) -> Image.Image:
    flagged = plane(shown.mask, axis, index)
    colours = with_map(grey_plane(shown, axis, index), plane(shown.anomaly, axis, index), flagged)
    spacing = [shown.geometry.spacing_mm[other] for other in range(3) if other != axis]
    size = [max(1, round(n * mm * PIXELS_PER_MM)) for n, mm in zip(flagged.shape[::-1], spacing, strict=True)]
    image = Image.fromarray(np.rint(colours * 255).astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)
    if shown.truth is not None and (truth := plane(shown.truth, axis, index)).any():
        region = np.asarray(Image.fromarray(truth).resize(size, Image.Resampling.NEAREST))
        drawn = np.array(image)
        drawn[ndimage.binary_dilation(region) & ~region] = rgb(TRUTH_COLOUR)
        image = Image.fromarray(drawn)
    return image
