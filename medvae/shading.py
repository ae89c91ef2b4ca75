"""The smooth field by which one scan is brighter here and darker there than healthy scans are."""

from __future__ import annotations

import numpy as np

ORDER = 3
"""Of the polynomial: what it can follow is wider than any lesion."""

MINIMUM_INTENSITY = 0.1
"""Of scan and mean, in normalised intensity: a ratio of darker values says little."""

SMALLEST_SPREAD = 0.05
"""Relative, of the healthy scans at a place: no voxel is trusted more."""

ROUNDS, CUT = 5, 4.685
"""Of the robust fit; at this many SDs Tukey's biweight gives a voxel no weight (95 % efficiency on normal errors)."""


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
        Of healthy scans at each place, ``(X, Y, Z)``.

    Returns
    -------
    ndarray
        ``(X, Y, Z)`` float32; 0 outside the mask. A scan with next to no usable voxel is returned as it is.
    """
    usable = mask & (mean > MINIMUM_INTENSITY) & (image > MINIMUM_INTENSITY)
    usable[1::2], usable[:, 1::2], usable[:, :, 1::2] = False, False, False
    axes = [np.polynomial.legendre.legvander(np.linspace(-1, 1, n), ORDER) for n in image.shape]
    terms = [t for t in np.ndindex(*(ORDER + 1,) * 3) if sum(t) <= ORDER]
    places = np.nonzero(usable)
    if len(places[0]) < 10 * len(terms):
        return np.where(mask, image, 0).astype(np.float32)
    design = np.stack([np.prod([a[p, t] for a, p, t in zip(axes, places, term, strict=True)], 0) for term in terms], 1)
    ratio = np.log(image[places] / mean[places])
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
