"""Lesion-level detection: which lesions were found, and which findings are false.

A lesion is a 26-connected component. By default a true lesion is found if at least 10 % of its volume is flagged, and a
flagged component is a true positive if at least 10 % of its volume is lesion: the overlap criterion of the MSSEG 2016
challenge (Commowick et al. 2018, doi:10.1038/s41598-018-31911-7), in both directions, without that challenge's further
condition on merging lesions. One voxel in common (``overlap=0``) is the more usual rule, and the weaker one: a detector
that flags the whole brain then finds everything without a false positive.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from medvae.imaging.components import Components, components

OVERLAP = 0.1
"""Share of a component that must be covered."""
SMALLEST_ML = 0.003
"""Smaller components count neither as lesions nor as findings: 3 mm³, as in MSSEG 2016."""
SIZE_BINS_ML = (0.1, 0.3, 1.0, 3.0)
"""Boundaries of the lesion size classes, in ml."""


@dataclass(frozen=True)
class LesionMatch:
    """The lesions of one scan matched with its findings."""

    sizes_ml: np.ndarray
    """``(L,)`` volume of each true lesion."""
    found: np.ndarray
    """``(L,)`` bool: which were found."""
    flagged_ml: np.ndarray
    """``(P,)`` volume of each flagged component."""
    right: np.ndarray
    """``(P,)`` bool: whether it is a true positive."""


@dataclass(frozen=True)
class LesionNumbers:
    """Lesions and findings of several scans, pooled; NaN where a denominator is 0."""

    lesions: int
    lesions_found: int
    lesion_sensitivity: float
    """Share of the lesions that were found."""
    findings: int
    false_positives: int
    """Findings that are not true positives."""
    false_positives_per_scan: float
    lesion_precision: float
    """Share of the findings that are true positives."""
    lesion_f1: float
    """The harmonic mean of sensitivity and precision, 0 where nothing was flagged."""


@dataclass(frozen=True)
class SizeClass:
    """Lesions of a volume class, and how many were found."""

    size_ml: str
    """As text: "0.1–0.3"."""
    lesions: int
    found: int
    sensitivity: float
    """Share that was found; NaN without a lesion."""


def match_lesions(
    flagged: np.ndarray,
    truth: np.ndarray,
    voxel_ml: float,
    *,
    overlap: float = OVERLAP,
    smallest_ml: float = SMALLEST_ML,
) -> LesionMatch:
    """Compare flagged components with true lesions.

    Parameters
    ----------
    flagged, truth
        ``(X, Y, Z)`` bool.
    voxel_ml
        Volume of a voxel in ml.
    overlap
        Share of a component, from 0 to 1, that must be covered for it to count; always at least one voxel.
    smallest_ml
        Components below this volume count neither as lesions nor as findings. A finding that
        covers a small lesion is still a true positive.
    """
    return match_components(flagged, components(truth), voxel_ml, overlap=overlap, smallest_ml=smallest_ml)


def match_components(
    flagged: np.ndarray, lesions: Components, voxel_ml: float, *, overlap: float, smallest_ml: float
) -> LesionMatch:
    """`match_lesions` of ``flagged`` ``(X, Y, Z)`` bool with true lesions that are already labelled.

    For one scan at many thresholds, with the same lesions.
    """
    labels, sizes = lesions
    findings, finding_sizes = components(flagged)
    kept = finding_sizes * voxel_ml >= smallest_ml * (1 - 1e-6)  # a component of exactly this size counts
    covering = np.concatenate([[False], kept])[findings]
    covered = np.bincount(labels[covering], minlength=len(sizes) + 1)[1:]
    lesion_inside = np.bincount(findings[labels > 0], minlength=len(finding_sizes) + 1)[1:]
    large = sizes * voxel_ml >= smallest_ml * (1 - 1e-6)
    found = (covered > 0) & (covered >= overlap * sizes)
    right = (lesion_inside > 0) & (lesion_inside >= overlap * finding_sizes)
    return LesionMatch(sizes[large] * voxel_ml, found[large], finding_sizes[kept] * voxel_ml, right[kept])


def lesion_numbers(matches: Iterable[LesionMatch]) -> LesionNumbers:
    """Lesions and findings of several scans, pooled."""
    matches = list(matches)
    lesions = sum(len(match.found) for match in matches)
    found = sum(int(match.found.sum()) for match in matches)
    findings = sum(len(match.right) for match in matches)
    right = sum(int(match.right.sum()) for match in matches)
    sensitivity = found / lesions if lesions else math.nan
    precision = right / findings if findings else math.nan
    if lesions == 0:
        f1 = math.nan
    elif found == 0 or right == 0:
        f1 = 0.0
    else:
        f1 = 2 * sensitivity * precision / (sensitivity + precision)
    return LesionNumbers(
        lesions=lesions,
        lesions_found=found,
        lesion_sensitivity=sensitivity,
        findings=findings,
        false_positives=findings - right,
        false_positives_per_scan=(findings - right) / len(matches) if matches else math.nan,
        lesion_precision=precision,
        lesion_f1=f1,
    )


def sensitivity_by_size(matches: Iterable[LesionMatch]) -> list[SizeClass]:
    """Lesions and how many were found, per volume class (`SIZE_BINS_ML`); a boundary belongs to the larger class."""
    matches = list(matches)
    sizes = np.concatenate([match.sizes_ml for match in matches]) if matches else np.zeros(0)
    found = np.concatenate([match.found for match in matches]) if matches else np.zeros(0, dtype=bool)
    edges = [0.0, *SIZE_BINS_ML, math.inf]
    rows: list[SizeClass] = []
    for low, high in itertools.pairwise(edges):
        inside = (sizes >= low) & (sizes < high)
        name = f"< {high:g}" if low == 0 else f"≥ {low:g}" if high == math.inf else f"{low:g}–{high:g}"
        total, hits = int(inside.sum()), int((inside & found).sum())
        share = hits / total if total else math.nan
        rows.append(SizeClass(name, total, hits, share))
    return rows
