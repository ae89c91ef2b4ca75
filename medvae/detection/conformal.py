"""Conformal guarantees from healthy subjects for the next one: functions of arrays; the unit is the subject.

Voxels of a scan are dependent, subjects are not. All guarantees here assume that the healthy subjects and the new one
are *exchangeable* (any order of them equally likely). They hold for any distribution and any number of subjects, on
average over the choice of the healthy ones. `voxel_p_values` is the exception and is called approximate.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from medvae.errors import MedvaeError

ROUNDING = 1e-9
"""A level such as 0.1 is not a binary fraction: 10 · 0.1 must still count as 1."""


def subjects_needed(level: float) -> int:
    """Fewest healthy subjects that can guarantee ``level``: n subjects guarantee nothing below 1/(n + 1)."""
    return max(1, math.ceil(1 / level - ROUNDING) - 1)


def worst_of_subjects(values: ArrayLike, subjects: Sequence[str]) -> np.ndarray:
    """The largest value over each subject's scans: ``(scans, ...)`` to ``(subjects, ...)``, in order of appearance.

    Scans of one person are not exchangeable with those of others; the worst of them is one valid unit.
    """
    of_scans = np.asarray(values)
    rows: dict[str, list[int]] = {}
    for row, subject in enumerate(subjects):
        rows.setdefault(subject, []).append(row)
    return np.stack([of_scans[found].max(axis=0) for found in rows.values()])


def family_wise_threshold(healthy: np.ndarray, level: float) -> float:
    """The value that a new healthy subject exceeds with a probability of at most ``level``.

    The ``⌈(n + 1)(1 − level)⌉``-th smallest of the healthy values (split conformal prediction: Vovk et al. 2005,
    doi:10.1007/b106715; Angelopoulos & Bates 2021, arXiv 2107.07511, section 1). With each scan's largest score as
    its value this bounds the family-wise error: any false finding in the scan at all.

    Parameters
    ----------
    healthy
        ``(n,)``, one value per healthy subject.
    level
        Between 0 and 1.

    Raises
    ------
    MedvaeError
        If n subjects cannot guarantee the level; says how many could.
    """
    n = len(healthy)
    allowed = math.floor((n + 1) * level + ROUNDING)  # how many of n + 1 may lie above
    if allowed < 1:
        raise MedvaeError(
            f"{n} healthy subjects cannot promise a level of {level:g}: their smallest is 1/{n + 1} = "
            f"{1 / (n + 1):.3g}. {subjects_needed(level)} healthy validation subjects would be needed."
        )
    return float(np.sort(healthy)[n - min(allowed, n)])


def risk_controlled(losses: np.ndarray, bound: float, largest_loss: float) -> int:
    """Index of the lowest threshold at which a new healthy subject's expected loss is at most ``bound``.

    Conformal risk control (Angelopoulos et al. 2022, arXiv 2208.02814, theorem 1): the first λ with
    ``n/(n + 1) · R̂(λ) + B/(n + 1) ≤ bound``, R̂ being the mean loss of the n healthy subjects.

    Parameters
    ----------
    losses
        ``(n, K)``, for K rising thresholds; they fall along each row. Values above ``largest_loss`` count as that.
    bound
        On the expected loss, in the unit of the losses.
    largest_loss
        B, fixed before the losses are seen.

    Raises
    ------
    MedvaeError
        If n subjects cannot guarantee the bound at any threshold; says how many could.
    """
    n = len(losses)
    risk = (np.minimum(losses, largest_loss).sum(axis=0) + largest_loss) / (n + 1)
    kept = np.flatnonzero(risk <= bound + ROUNDING)
    if not len(kept):
        raise MedvaeError(
            f"{n} healthy subjects cannot promise an expected {bound:g} when a single scan may count {largest_loss:g}: "
            f"their smallest is {risk.min():.3g}. {subjects_needed(bound / largest_loss)} healthy validation subjects "
            f"would be needed."
        )
    return int(kept[0])


def p_value(case: float, healthy: np.ndarray) -> float:
    """How unusual a subject is among ``(n,)`` healthy ones: ``(1 + #{healthy ≥ case}) / (n + 1)``.

    A healthy subject's p-value is at most u with a probability of at most u, for every u (conformal p-value: Vovk et
    al. 2005; Bates et al. 2021, arXiv 2104.08279). It is never below 1/(n + 1).
    """
    return (1 + int(np.count_nonzero(np.asarray(healthy) >= case))) / (len(healthy) + 1)


def voxel_p_values(values: np.ndarray, thresholds: np.ndarray, at_or_above: np.ndarray, voxels: int) -> np.ndarray:
    """Share of healthy voxels, pooled over locations and subjects, at or above each value. *Approximate*.

    Pooling assumes that all brain locations are alike, which holds only roughly for a normative score, and that
    voxels are independent: the tail of a few subjects' voxels says little about another subject's. Read the result
    as a scale, not as a guarantee.

    Parameters
    ----------
    values
        Any shape.
    thresholds, at_or_above
        ``(K,)`` rising thresholds, and how many healthy voxels lie at or above each; a value takes the count of the
        next lower threshold, so that its p-value is never too small.
    voxels
        Number of healthy voxels.
    """
    index = np.searchsorted(thresholds, values, side="right") - 1
    counts = np.where(index >= 0, np.asarray(at_or_above)[np.maximum(index, 0)], voxels)
    return (1 + counts) / (voxels + 1)


def benjamini_hochberg(p_values: np.ndarray, level: float) -> np.ndarray:
    """Which of ``(m,)`` p-values are found at a false discovery rate of ``level``, ``(m,)`` bool.

    All up to the largest ``p₍ₖ₎ ≤ k · level / m`` (Benjamini & Hochberg 1995, doi:10.1111/j.2517-6161.1995.tb02031.x).
    """
    m = len(p_values)
    ordered = np.sort(p_values)
    passing = np.flatnonzero(ordered <= np.arange(1, m + 1) * level / m)
    return p_values <= ordered[passing[-1]] if len(passing) else np.zeros(m, bool)
