"""Mean and standard deviation of numbers, some of which may be undefined."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class MeanSd:
    """Mean and SD of the defined numbers; NaN if there are too few."""

    mean: float
    sd: float
    """Sample standard deviation."""
    n: int
    """How many numbers are defined."""


def mean_sd(values: Sequence[float]) -> MeanSd:
    """Mean and sample standard deviation of the finite values."""
    there = np.array([v for v in values if math.isfinite(v)])
    return MeanSd(
        mean=float(there.mean()) if len(there) else math.nan,
        sd=float(there.std(ddof=1)) if len(there) > 1 else math.nan,
        n=len(there),
    )
