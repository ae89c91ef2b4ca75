"""Whether a scan's scores are raised nearly everywhere, as on a scanner that no healthy validation scan came from."""

from __future__ import annotations

import numpy as np

LEAST_SUBJECTS = 19
"""With n healthy subjects, one more of the same population is taken for raised with a probability of 1/(n + 1)."""


def lower_quartile(values: np.ndarray) -> float:
    """The lower quartile of ``(V,)`` scores of a brain, an observed value, which any increasing map preserves.

    A lesion hardly moves it: of a brain of which 15 % scores high, it is the 29th percentile of the rest.
    """
    return float(np.quantile(values, 0.25, method="inverted_cdf"))


def raised_scores(values: np.ndarray, healthy: np.ndarray) -> str | None:
    """A warning for a scan whose lower quartile is above that of every healthy subject.

    Parameters
    ----------
    values
        ``(V,)`` scores of the scan's brain.
    healthy
        ``(n,)`` lower quartiles of healthy subjects, on the same scale; fewer than `LEAST_SUBJECTS` give no warning.
    """
    if len(healthy) < LEAST_SUBJECTS or lower_quartile(values) <= healthy.max():
        return None
    return (
        f"its scores are raised nearly everywhere: their lower quartile is above that of each of the {len(healthy)} "
        f"healthy people who set the thresholds. Its scanner or its skull stripping is unlike all of theirs, or much "
        f"of the brain is abnormal: more may be flagged than the false-positive rate says. medvae calibrate sets "
        f"thresholds on healthy scans of your own scanner."
    )
