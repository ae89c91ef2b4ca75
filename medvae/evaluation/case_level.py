"""One number per scan: does this scan hold a lesion at all?

A scan's score is the mean, the 99th percentile or the maximum of its map in the brain. Lesion cases (with a lesion
voxel in the brain) are ranked against cases declared healthy; a labelled case without a lesion voxel is neither.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from itertools import compress
from typing import Any

import numpy as np

from medvae.evaluation.bootstrap import FEW_SUBJECTS, SubjectCurves, curve_intervals
from medvae.evaluation.curves import SparseCounts

SCORES = ("mean", "p99", "max")


def case_scores(values: np.ndarray) -> dict[str, float]:
    """The scores of a scan from the values ``(V,)`` of its map in the brain; −∞ for a scan without a map."""
    if np.isneginf(values).all():
        return dict.fromkeys(SCORES, -math.inf)
    return {"mean": float(values.mean()), "p99": float(np.percentile(values, 99)), "max": float(values.max())}


def case_level(
    subjects: Sequence[str], diseased: Sequence[bool], scores: dict[str, Sequence[float]], *, resamples: int
) -> dict[str, Any]:
    """AUROC and AP of lesion scans against healthy scans, with intervals over subjects.

    The AP is the sample-level number of the MOOD challenge (Zimmerer et al. 2022, doi:10.1109/TMI.2022.3170077): the
    average precision of one score per scan, over all scans, healthy and not.

    Parameters
    ----------
    subjects, diseased
        The person of each scan, and whether it holds a lesion.
    scores
        One score per scan under each name.

    Returns
    -------
    dict
        ``n_lesion``, ``n_healthy``, ``prevalence`` (the AP of chance), and under each score's name ``auroc`` and ``ap``
        as intervals. Without the scores if one of the two kinds is missing.
    """
    n_lesion, n = sum(diseased), len(diseased)
    found: dict[str, Any] = {"n_lesion": n_lesion, "n_healthy": n - n_lesion}
    if not 0 < n_lesion < n:
        return found
    found["prevalence"] = n_lesion / n
    people = [set(compress(subjects, kind)) for kind in (diseased, [not ill for ill in diseased])]
    few = min(map(len, people)) < FEW_SUBJECTS  # two patients among a hundred healthy people are two
    for name, values in scores.items():
        _, ranks = np.unique(values, return_inverse=True)  # a scan is counted like a voxel, in a bin of its own
        cases = [
            (subject, SparseCounts(*(np.array([number]) for number in (rank, int(ill), int(not ill)))))
            for subject, rank, ill in zip(subjects, ranks, diseased, strict=True)
        ]
        intervals = curve_intervals(SubjectCurves.of(cases), resamples=resamples)
        found[name] = {number: asdict(intervals[number]) | {"means_little": few} for number in ("auroc", "ap")}
    return found
