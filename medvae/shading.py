"""The smooth field by which one scan is brighter here and darker there than healthy scans are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save

from medvae.calibration import mean_and_sd
from medvae.files import write_bytes
from medvae.preparation.prepare import PreparedVolume

ORDER = 3
"""Of the polynomial: what it can follow is wider than any lesion."""

MINIMUM_INTENSITY = 0.1
"""Of scan and mean, in normalised intensity: a ratio of darker values says little."""

SMALLEST_SPREAD = 0.05
"""Relative, of the healthy scans at a place: no voxel is trusted more."""

ROUNDS, CUT = 5, 4.685
"""Of the robust fit; at this many SDs Tukey's biweight gives a voxel no weight (95 % efficiency on normal errors)."""


STEP = (slice(None, None, 2),) * 3
"""The voxels that are looked at: every second along each axis."""

SHRINKAGE = 5.0
"""Pseudo-subjects with which the variance of each place is drawn towards the average one."""


@dataclass(frozen=True)
class ShadingReference:
    """Mean and SD of healthy scans at every second voxel, ``(C, X/2, Y/2, Z/2)`` float32 each."""

    mean: np.ndarray
    sd: np.ndarray

    def remove(self, image: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """A scan ``(C, X, Y, Z)`` freed of its shading, float32; see `without_shading`."""
        return np.stack(
            [without_shading(x, mask, mean, sd) for x, mean, sd in zip(image, self.mean, self.sd, strict=True)]
        )

    def save(self, path: Path) -> None:
        """Write a safetensors file of half precision, which loses nothing of what `fit_reference` made."""
        write_bytes(path, save({name: getattr(self, name).astype(np.float16) for name in ("mean", "sd")}))

    @classmethod
    def load(cls, path: Path) -> ShadingReference:
        """Read what `save` wrote."""
        arrays = load_file(path)
        return cls(*(arrays[name].astype(np.float32) for name in ("mean", "sd")))


def fit_reference(volumes: Sequence[PreparedVolume]) -> ShadingReference:
    """The reference of some healthy scans, rounded to half precision.

    Raises
    ------
    MedvaeError
        With fewer than three scans.
    """
    found = mean_and_sd([volume.image for volume in volumes], [volume.mask for volume in volumes], SHRINKAGE)
    return ShadingReference(*(array[:, *STEP].astype(np.float16).astype(np.float32) for array in found))


class VolumeWithoutShading(PreparedVolume):
    """A prepared volume freed of its shading."""

    plain: PreparedVolume

    def __init__(self, plain: PreparedVolume, reference: ShadingReference) -> None:
        same = {name: getattr(plain, name) for name in ("source", "transform", "registered", "brain_from", "quality")}
        self.__dict__.update(same, plain=plain, image=reference.remove(plain.image, plain.mask))

    @property
    def mask(self) -> np.ndarray:
        """``(X, Y, Z)`` bool on the standard grid."""
        return self.plain.mask

    @property
    def source_mask(self) -> np.ndarray:
        """``(X, Y, Z)`` bool on the scan's own grid."""
        return self.plain.source_mask


def without_shading(image: np.ndarray, mask: np.ndarray, mean: np.ndarray, sd: np.ndarray) -> np.ndarray:
    """Divide a scan by the smooth field in which it differs from the mean of healthy scans.

    The logarithm of scan over mean is fitted by a polynomial in the three coordinates, robustly, so that lesions and
    folds that lie elsewhere do not count (iteratively reweighted least squares with Tukey's biweight: Beaton & Tukey
    1974, doi:10.1080/00401706.1974.10489171). Every eighth voxel is used. N4 knows no other brain, so it leaves the
    part of a field that looks like anatomy.

    Parameters
    ----------
    image, mask
        ``(X, Y, Z)``, float in normalised intensity and bool.
    mean, sd
        Of healthy scans at every second voxel, ``(X/2, Y/2, Z/2)``.

    Returns
    -------
    ndarray
        ``(X, Y, Z)`` float32; 0 outside the mask. A scan with next to no usable voxel is returned as it is.
    """
    seen = image[STEP]
    usable = mask[STEP] & (mean > MINIMUM_INTENSITY) & (seen > MINIMUM_INTENSITY)
    axes = [np.polynomial.legendre.legvander(np.linspace(-1, 1, n), ORDER) for n in image.shape]
    terms = [t for t in np.ndindex(*(ORDER + 1,) * 3) if sum(t) <= ORDER]
    places = np.nonzero(usable)
    if len(places[0]) < 10 * len(terms):
        return np.where(mask, image, 0).astype(np.float32)
    design = np.stack(
        [np.prod([a[2 * p, t] for a, p, t in zip(axes, places, term, strict=True)], 0) for term in terms], 1
    )
    ratio = np.log(seen[places] / mean[places])
    spread = np.maximum(sd[places] / mean[places], SMALLEST_SPREAD)
    weights = spread**-2.0
    for _ in range(ROUNDS):
        weighted = design * weights[:, None]
        found, *_ = np.linalg.lstsq(weighted.T @ design, weighted.T @ ratio, rcond=None)
        residual = (ratio - design @ found) / spread
        scale = max(1.4826 * float(np.median(np.abs(residual))), 1e-6)
        weights = spread**-2.0 * np.maximum(0, 1 - (residual / (CUT * scale)) ** 2) ** 2
    coefficients = np.zeros((ORDER + 1,) * 3)
    coefficients[tuple(np.transpose(terms))] = found
    field = np.einsum("ijk,xi,yj,zk->xyz", coefficients, *axes, optimize=True)
    return np.where(mask, image / np.exp(np.clip(field, -1, 1)), 0).astype(np.float32)
