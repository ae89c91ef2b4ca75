"""Thresholds from healthy scores only, or from the ranks within a scan; no lesion is used."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medvae.config.maps import rank_name
from medvae.errors import MedvaeError
from medvae.scoring.intensity import rank_score

_RANK = re.compile(r"rank_(0?\.\d+)")


@dataclass(frozen=True)
class OperatingPoint:
    """A threshold: voxels with a score above it are flagged."""

    name: str
    """``"fpr_0.01"`` for a false-positive rate of 1 %; `medvae.detection.guarantees` makes others."""
    false_positive_rate: float | None
    """Nominal share of healthy brain voxels above the threshold; for other kinds, the approximate observed share; None
    for "rank", as no healthy scan was used."""
    threshold: float
    """Threshold on the calibrated score."""
    kind: str = "voxel_rate"
    """"voxel_rate", "rank" or, with a guarantee, "family_wise", "family_wise_cluster", "false_positive_volume"."""
    guarantee: str = ""
    """The guarantee for a new healthy scan and its assumption; empty for a voxel rate."""
    minimum_lesion_ml: float = 0.0
    """Findings of this volume or less are not flagged ("family_wise_cluster")."""


def operating_points(
    scores: Sequence[np.ndarray],
    masks: Sequence[np.ndarray],
    rates: Sequence[float],
    sites: Sequence[str] | None = None,
) -> tuple[list[OperatingPoint], float]:
    """Thresholds from healthy validation scans, and the median healthy score.

    The threshold for a rate is the smallest score of the pooled brain voxels with at most that share of them above it,
    at the site where it is highest: a scanner that nobody has seen is as likely to be like the worst site as like the
    mean of all.

    Parameters
    ----------
    scores, masks
        ``(X, Y, Z)`` float and bool, of each scan.
    rates
        Shares of healthy voxels.
    sites
        Where each scan was made; by default all at one place.

    Raises
    ------
    MedvaeError
        Without a scan.
    """
    if not scores:
        raise MedvaeError(
            "There is no healthy validation scan, so no threshold can be set. Mark some healthy cases as split "
            '"validation" in the manifest.'
        )
    sites = [""] * len(scores) if sites is None else sites
    of_site: dict[str, list[np.ndarray]] = {}
    for score, mask, site in zip(scores, masks, sites, strict=True):
        of_site.setdefault(site, []).append(score[mask])
    pooled = [np.sort(np.concatenate(values)) for values in of_site.values()]
    points = []
    for rate in rates:
        threshold = max(float(values[len(values) - 1 - int(np.floor(rate * len(values)))]) for values in pooled)
        points.append(OperatingPoint(f"fpr_{rate:g}", rate, threshold))
    everybody = np.concatenate(pooled)
    return points, float(np.partition(everybody, len(everybody) // 2)[len(everybody) // 2])


def rank_point(rank: float) -> OperatingPoint:
    """The operating point "rank_0.9": what lies above this smoothed rank in its own scan, for "brightness_rank"."""
    guarantee = (
        "None: the threshold is a rank within the scan itself, fixed beforehand; no healthy scan was used. "
        "medvae calibrate sets thresholds on healthy scans."
    )
    return OperatingPoint(rank_name(rank), None, rank_score(rank), "rank", guarantee)


def named_rank(name: str) -> float | None:
    """The rank of a name such as "rank_0.9", between 0 and 1; None if the name is not one of these."""
    found = _RANK.fullmatch(name)
    rank = float(found[1]) if found else 0.0
    return rank if 0 < rank < 1 else None
