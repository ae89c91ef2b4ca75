"""A common intensity scale learned from healthy scans: percentile landmarks (Nyúl, Udupa & Zhang 2000,
doi:10.1109/42.836373).

The percentiles and the deciles between them are the landmarks of a scan. Their mean over the training scans, each
brought to 0 at its first and 1 at its last landmark, is the standard scale; a scan is mapped onto it piece by piece.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import Field, model_validator

from medvae.errors import MedvaeError
from medvae.schema import Strict


class LandmarkScale(Strict):
    """Where the landmarks of each modality lie on the standard scale; frozen, learned by :func:`fit_landmarks`."""

    percentiles: tuple[float, ...] = Field(min_length=2)
    """Percentiles inside the brain that are landmarks, ascending."""
    levels: tuple[tuple[float, ...], ...] = Field(min_length=1)
    """For each modality, the intensity of each landmark: ascending from 0 to 1."""

    @model_validator(mode="after")
    def _ascending(self) -> LandmarkScale:
        for row in (self.percentiles, *self.levels):
            if len(row) != len(self.percentiles) or not (np.diff(row) > 0).all():
                raise ValueError(f"the landmarks must be as many as the percentiles and ascend; found {list(row)}.")
        return self

    def apply(self, image: np.ndarray, mask: np.ndarray, modality: int = 0) -> np.ndarray:
        """Map one modality onto the standard scale.

        Linear between the scan's own landmarks; beyond the ends with the slope of the first and of the last piece, so
        that what is darker or brighter than all healthy tissue stays so.

        Parameters
        ----------
        image, mask
            ``(X, Y, Z)``, float and bool, with at least two intensities in the mask.
        modality
            Which row of ``levels``.

        Returns
        -------
        ndarray
            ``(X, Y, Z)`` float64.
        """
        own, kept = np.unique(np.percentile(image[mask], self.percentiles), return_index=True)
        levels = np.array(self.levels[modality])[kept]
        mapped = np.interp(image, own, levels)
        first, last = ((levels[i + 1] - levels[i]) / (own[i + 1] - own[i]) for i in (0, len(own) - 2))
        return mapped + first * np.minimum(image - own[0], 0) + last * np.maximum(image - own[-1], 0)


def landmark_percentiles(ends: tuple[float, float]) -> tuple[float, ...]:
    """The two ends and the deciles between them."""
    return (ends[0], *(float(n) for n in range(10, 100, 10) if ends[0] < n < ends[1]), ends[1])


def fit_landmarks(
    images: Sequence[np.ndarray], masks: Sequence[np.ndarray], ends: tuple[float, float] = (1.0, 99.0)
) -> LandmarkScale:
    """Learn the standard scale from healthy training scans, never from the scans to be scored.

    Parameters
    ----------
    images, masks
        ``(C, X, Y, Z)`` float and ``(X, Y, Z)`` bool, one of each for every scan; of any gain and offset.
    ends
        First and last percentile.

    Raises
    ------
    MedvaeError
        If there is no scan, or the mean landmarks do not ascend, as those of a label map.
    """
    if not images:
        raise MedvaeError("An intensity scale is learned from healthy training scans, and there is none.")
    percentiles = landmark_percentiles(ends)
    found = np.array(
        [
            [np.percentile(channel[mask], percentiles) for channel in image]
            for image, mask in zip(images, masks, strict=True)
        ]
    )
    low, high = found[..., :1], found[..., -1:]
    levels = ((found - low) / np.maximum(high - low, 1e-12)).mean(axis=0)
    try:
        return LandmarkScale(percentiles=percentiles, levels=levels.tolist())
    except ValueError:
        raise MedvaeError(
            f"The deciles of the training scans do not ascend ({np.round(levels, 3).tolist()}): scans with many "
            f"intensities were expected. Look at the files: they may be masks or label maps."
        ) from None
