"""Mean and standard deviation of numbers some of which do not exist."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class MeanSd:
    """Of the numbers that exist; NaN where there are too few of them."""

    mean: float
    sd: float
    """Sample standard deviation."""
    n: int
    """How many they are."""


def mean_sd(values: Sequence[float]) -> MeanSd:
    """Mean and sample standard deviation of the finite ones of some numbers."""
    there = np.array([v for v in values if math.isfinite(v)])
    return MeanSd(
        mean=float(there.mean()) if len(there) else math.nan,
        sd=float(there.std(ddof=1)) if len(there) > 1 else math.nan,
        n=len(there),
    )
