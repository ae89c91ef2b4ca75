"""Voxels that are NaN or infinite: background around a brain, and a mistake anywhere else."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from scipy import ndimage

from medvae.errors import MedvaeError, MedvaeWarning
from medvae.imaging.boxes import faces


def nan_background(array: np.ndarray) -> np.ndarray:
    """The NaN voxels that surround the brain, ``(X, Y, Z)`` bool: those connected to the border of the volume.

    Some programs write NaN outside of their mask (SPM). NaN in the middle of a brain is something else.
    """
    bad = np.isnan(array)
    if not bad.any():
        return bad
    pieces, count = ndimage.label(bad)
    border = np.concatenate([face.ravel() for face in faces(pieces)])
    outer = np.zeros(count + 1, bool)
    outer[border] = True
    outer[0] = False
    return outer[pieces]


def finite_values(array: np.ndarray, path: Path) -> np.ndarray:
    """The values of a volume, with NaN around the brain as 0, and a warning.

    Raises
    ------
    MedvaeError
        If other voxels are NaN or infinite.
    """
    if np.isfinite(array).all():
        return array
    if array.ndim == 3 and (outer := nan_background(array)).any():
        warnings.warn(f"{path}: {nan_note(outer)}", MedvaeWarning, stacklevel=3)
        array = np.where(outer, np.float32(0), array)
    count = int(np.count_nonzero(~np.isfinite(array)))
    if count:
        raise MedvaeError(
            f"{path}: holds {count:,} voxels that are NaN or infinite; finite intensities were expected. Find out "
            f"which step made them; if they are background, replace them by 0 (numpy.nan_to_num) and save again."
        )
    return array


def nan_note(outer: np.ndarray) -> str:
    """What to tell about the NaN voxels of the background, ``(X, Y, Z)`` bool."""
    return f"its background is NaN ({np.count_nonzero(outer):,} voxels); it is read as 0."
