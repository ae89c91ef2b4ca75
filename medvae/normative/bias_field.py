"""Residual bias field: the smooth multiplicative field between a scan and the mean of healthy scans."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from medvae.files import write_bytes
from medvae.normative.statistics import mean_and_sd
from medvae.preparation.prepared import PreparedVolume
from medvae.tensors import read_arrays

ORDERS = (3, 5)
"""Orders of the polynomials. A cubic follows only structures wider than any lesion; order 5 also absorbs part of
lesions above 8 ml, and is fitted only where the bias field is strong."""

PLAIN, STRONG = 0.09, 0.12
"""SD over the brain of the cubic log field: up to the first value only the cubic is removed, from the second on the
finer one, in between a blend. Of 101 healthy scans after N4 none lies above 0.083; a bias field of ± 30 % leaves 0.13
to 0.18 after N4."""

MINIMUM_INTENSITY = 0.1
"""Smallest intensity of scan and mean, normalised: ratios of darker values are unreliable."""

SMALLEST_SPREAD = 0.05
"""Lower bound of the relative SD of the healthy scans at a voxel, which limits its weight."""

ROUNDS, CUT = 5, 4.685
"""Iterations of the robust fit, and the SDs beyond which Tukey's biweight is 0 (95 % efficiency on normal errors)."""

NEAR = (1.5, 2.5, 2.5)
"""A voxel enters the finer fit only within this many SDs: of the cubic at first, then of the finer polynomial itself.
Most of a lesion lies outside, so a polynomial flexible enough to follow it does not see it."""

STEP = (slice(None, None, 2),) * 3
"""Voxels used: every second along each axis, on any grid (4 mm on the 2 mm grid). A reference stores only these."""

SHRINKAGE = 5.0
"""Pseudo-subjects with which the variance of each voxel is shrunk towards the average."""


@dataclass(frozen=True)
class BiasFieldReference:
    """Mean and SD of healthy scans at every second voxel, ``(C, X/2, Y/2, Z/2)`` float32 each."""

    mean: np.ndarray
    sd: np.ndarray

    def remove(self, image: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """A scan ``(C, X, Y, Z)`` without its residual bias field, float32; see `without_bias_field`."""
        return np.stack(
            [without_bias_field(x, mask, mean, sd) for x, mean, sd in zip(image, self.mean, self.sd, strict=True)]
        )

    def save(self, path: Path) -> None:
        """Write a half-precision safetensors file; lossless for a reference made by `fit_reference`."""
        write_bytes(path, save({name: getattr(self, name).astype(np.float16) for name in ("mean", "sd")}))

    @classmethod
    def load(cls, path: Path, shape: Sequence[int]) -> BiasFieldReference:
        """Read a reference written by `save`, of a grid of ``shape``."""
        half = tuple((length + 1) // 2 for length in shape)
        arrays = read_arrays(path, {name: (None, *half) for name in ("mean", "sd")})
        return cls(*(arrays[name].astype(np.float32) for name in ("mean", "sd")))


def fit_reference(volumes: Sequence[PreparedVolume]) -> BiasFieldReference:
    """The reference of some healthy scans, rounded to half precision.

    Raises
    ------
    MedvaeError
        With fewer than three scans.
    """
    found = mean_and_sd([volume.image for volume in volumes], [volume.mask for volume in volumes], SHRINKAGE)
    return BiasFieldReference(*(array[:, *STEP].astype(np.float16).astype(np.float32) for array in found))


def without_bias_field(image: np.ndarray, mask: np.ndarray, mean: np.ndarray, sd: np.ndarray) -> np.ndarray:
    """Divide a scan by the smooth field by which it differs from the mean of healthy scans.

    A polynomial in the three coordinates is fitted to the logarithm of scan over mean, robustly against lesions and
    individual sulci (iteratively reweighted least squares with Tukey's biweight: Beaton & Tukey 1974,
    doi:10.1080/00401706.1974.10489171). Every eighth voxel is used. N4 has no reference brain, so it leaves the part of
    a bias field that resembles anatomy.

    A strong field also has finer components, which a cubic misses. A polynomial of order 5 is then fitted as well, to
    the voxels near it; the stronger the cubic field, the more of the finer one is removed, see `PLAIN`.

    Parameters
    ----------
    image, mask
        ``(X, Y, Z)``, float in normalised intensity and bool.
    mean, sd
        Of healthy scans at every second voxel, ``(X/2, Y/2, Z/2)``.

    Returns
    -------
    ndarray
        ``(X, Y, Z)`` float32; 0 outside the mask. A scan with almost no usable voxels is returned unchanged.
    """
    seen = image[STEP]
    usable = mask[STEP] & (mean > MINIMUM_INTENSITY) & (seen > MINIMUM_INTENSITY)
    places = np.nonzero(usable)
    ratio = np.log(seen[usable] / mean[usable])
    spread = np.maximum(sd[usable] / mean[usable], SMALLEST_SPREAD)
    polynomials = [_Polynomial(order, image.shape) for order in ORDERS]
    if len(ratio) < 10 * len(polynomials[-1].terms):
        return np.where(mask, image, 0).astype(np.float32)
    coefficients, there = _fit(polynomials[0].terms_at(places), ratio, spread)
    field = polynomials[0].everywhere(coefficients)
    share = float(np.clip((there.std() - PLAIN) / (STRONG - PLAIN), 0, 1))
    if share:
        terms = polynomials[1].terms_at(places)
        for distance in NEAR:
            off = (ratio - there) / spread
            near = np.abs(off) < distance * _scale(off)
            coefficients, _ = _fit(terms[near], ratio[near], spread[near])
            there = terms @ coefficients
        field += share * (polynomials[1].everywhere(coefficients) - field)
    return np.where(mask, image / np.exp(np.clip(field, -1, 1)), 0).astype(np.float32)


class _Polynomial:
    """Polynomial in the coordinates of a grid of ``shape`` voxels, as products of Legendre polynomials."""

    def __init__(self, order: int, shape: Sequence[int]) -> None:
        self._axes = [np.polynomial.legendre.legvander(np.linspace(-1, 1, n), order) for n in shape]
        self._size = (order + 1,) * 3
        self.terms = [term for term in np.ndindex(*self._size) if sum(term) <= order]

    def terms_at(self, places: Sequence[np.ndarray]) -> np.ndarray:
        """Each term ``(N, terms)`` at three index arrays ``(N,)`` into the grid of every second voxel."""
        orders: np.ndarray = np.transpose(self.terms)
        x, y, z = (axis[::2][place][:, n] for axis, place, n in zip(self._axes, places, orders, strict=True))
        return x * y * z

    def everywhere(self, coefficients: np.ndarray) -> np.ndarray:
        """The polynomial at all voxels of the grid, ``shape``."""
        cube = np.zeros(self._size)
        cube[tuple(np.transpose(self.terms))] = coefficients
        return np.einsum("ijk,xi,yj,zk->xyz", cube, *self._axes, optimize=True)


def _fit(terms: np.ndarray, values: np.ndarray, spread: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients ``(terms,)`` of a robust fit of ``terms`` ``(N, terms)`` to ``values`` ``(N,)``, and the fit."""
    weights = spread**-2.0
    for _ in range(ROUNDS):
        weighted = terms * weights[:, None]
        found, *_ = np.linalg.lstsq(weighted.T @ terms, weighted.T @ values, rcond=None)
        fitted = terms @ found
        residual = (values - fitted) / spread
        weights = spread**-2.0 * np.maximum(0, 1 - (residual / (CUT * _scale(residual))) ** 2) ** 2
    return found, fitted


def _scale(residual: np.ndarray) -> float:
    """Robust SD, never 0."""
    return max(1.4826 * float(np.median(np.abs(residual))), 1e-6)
