"""Thresholds from healthy scores only, or from the ranks within a scan; no lesion is used."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from medvae.config.maps import rank_name
from medvae.errors import MedvaeError, MedvaeWarning
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
    """"voxel_rate", "rank", "joined" (`medvae.detection.joined`) or, with a guarantee, "family_wise",
    "family_wise_cluster", "false_positive_volume"."""
    guarantee: str = ""
    """The guarantee for a new healthy scan and its assumption; empty for a voxel rate."""
    minimum_lesion_ml: float = 0.0
    """Findings of this volume or less are not flagged ("family_wise_cluster")."""


def operating_points(
    scores: Sequence[np.ndarray],
    masks: Sequence[np.ndarray],
    rates: Sequence[float],
    sites: Sequence[str] | None = None,
    subjects: Sequence[str] | None = None,
    confidence: float = 0.0,
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
    subjects
        Whose each scan is; by default each scan is a subject of its own.
    confidence
        With it, the rate of further people of the site is at most the one asked for: the upper bound of a one-sided
        interval of the share over people, instead of the share itself. 0: none. With one subject at a site: none, with
        a warning.

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
    subjects = [str(number) for number in range(len(scores))] if subjects is None else subjects
    of_site: dict[str, dict[str, list[np.ndarray]]] = {}
    for score, mask, site, subject in zip(scores, masks, sites, subjects, strict=True):
        of_site.setdefault(site, {}).setdefault(subject, []).append(score[mask])
    people = [[np.sort(np.concatenate(own)) for own in site.values()] for site in of_site.values()]
    points = []
    for rate in rates:
        threshold = max(_threshold(site, rate, confidence) for site in people)
        points.append(OperatingPoint(f"fpr_{rate:g}", rate, threshold))
    everybody = np.concatenate([values for site in people for values in site])
    return points, float(np.partition(everybody, len(everybody) // 2)[len(everybody) // 2])


def _threshold(people: Sequence[np.ndarray], rate: float, confidence: float) -> float:
    """The smallest score with at most this share of a site's voxels above it, or with an upper bound of it, if a
    confidence is given; ``people`` are each one's sorted scores."""
    pooled = np.sort(np.concatenate(people))
    most = int(np.floor(rate * len(pooled)))
    if confidence > 0 and len(people) < 2:
        warnings.warn(
            "calibration.confidence: one healthy validation subject at a site does not tell how people differ; the "
            "threshold is that of its own share. Add subjects: ten, better twenty.",
            MedvaeWarning,
            stacklevel=2,
        )
    elif confidence > 0:
        least, voxels = -1, np.array([len(own) for own in people])
        while least + 1 < most:
            middle = (least + most) // 2
            threshold = pooled[len(pooled) - 1 - middle]
            flagged = np.array([len(own) - np.searchsorted(own, threshold, "right") for own in people])
            if _upper_bound(flagged, voxels, confidence) <= rate:
                least = middle
            else:
                most = middle
        most = max(least, 0)
    return float(pooled[len(pooled) - 1 - most])


def _upper_bound(flagged: np.ndarray, voxels: np.ndarray, confidence: float) -> float:
    """Upper end of a one-sided interval of the share of flagged voxels over people, by Student's t and the linearised
    variance of a ratio (Cochran, Sampling Techniques, 1977, section 6.4)."""
    share = flagged.sum() / voxels.sum()
    deviations = flagged - share * voxels
    error = np.sqrt(len(voxels) / (len(voxels) - 1) * np.square(deviations).sum()) / voxels.sum()
    return float(share + stdtrit(len(voxels) - 1, confidence) * error)


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
