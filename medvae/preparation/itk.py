"""From arrays on a grid to SimpleITK images and back; SimpleITK is imported only when it is needed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from medvae.imaging.volume import Geometry

if TYPE_CHECKING:
    import SimpleITK

RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""World coordinates of nibabel (x right, y front) to those of ITK (x left, y back); its own inverse."""


def to_image(array: np.ndarray, geometry: Geometry) -> SimpleITK.Image:
    """An array ``(X, Y, Z)`` as a SimpleITK image that lies where ``geometry`` says."""
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(np.ascontiguousarray(array.transpose(2, 1, 0)))
    affine = RAS_TO_LPS @ geometry.affine
    spacing = np.array(geometry.spacing_mm)
    image.SetSpacing([float(n) for n in spacing])
    image.SetOrigin([float(n) for n in affine[:3, 3]])
    image.SetDirection([float(n) for n in (affine[:3, :3] / spacing).ravel()])
    return image


def to_array(image: SimpleITK.Image) -> np.ndarray:
    """The values of a SimpleITK image as an array ``(X, Y, Z)``."""
    import SimpleITK as sitk

    return sitk.GetArrayFromImage(image).transpose(2, 1, 0)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Let ITK use one thread inside the block.

    ITK adds up what its threads have computed in the order in which they finish or in which the cores divide the
    image: the last bits of a bias field or of a registration then differ between runs or machines.
    """
    import SimpleITK as sitk

    before = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(before)
