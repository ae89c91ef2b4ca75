"""Combined scores: a product or a sum of others, each divided by its healthy mean first."""

from __future__ import annotations

import numpy as np

from medvae.scoring.registry import Scored, score


@score("product")
def product(scan: Scored) -> np.ndarray:
    """The product of the scaled parts (Zimmerer et al. 2019, arXiv 1907.02796)."""
    return np.prod(_scaled(scan), axis=0)


@score("sum")
def total(scan: Scored) -> np.ndarray:
    """The sum of the scaled parts."""
    return np.sum(_scaled(scan), axis=0)


def unscaled_parts(scan: Scored) -> list[np.ndarray]:
    """Absolute, smoothed maps ``(X, Y, Z)`` of the parts of a combined score, not yet scaled."""
    return [scan.smoothed(np.abs(score[part.kind](scan)), part.smoothing_mm) for part in scan.config.score.parts]


def _scaled(scan: Scored) -> list[np.ndarray]:
    return [part / scale for part, scale in zip(unscaled_parts(scan), scan.part_scales, strict=True)]
