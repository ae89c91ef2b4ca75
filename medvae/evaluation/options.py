"""Options for evaluating a folder of maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from medvae.derivatives import MAP_SUFFIX
from medvae.evaluation.bootstrap import RESAMPLES
from medvae.evaluation.lesions import OVERLAP, SMALLEST_ML

PATTERN = f"{{id}}{MAP_SUFFIX}"
"""Name of a case's map, as medvae writes it."""


@dataclass(frozen=True)
class EvaluationOptions:
    """What is measured and by which rules; `medvae.evaluation.study.evaluate` takes it."""

    splits: Sequence[str] = ("test",)
    """Which splits of the manifest to measure."""
    pattern: str = PATTERN
    """Name of a map in the folder; ``{id}`` stands for the case."""
    thresholds: Sequence[float] = ()
    """Additional operating points: voxels above such a score are flagged."""
    resampled: bool = False
    """Resample maps on another grid to their scan's. Otherwise they are refused."""
    overlap: float = OVERLAP
    """Share of a lesion, from 0 to 1, that must be flagged, and of a finding that must be lesion; 0 is one voxel.
    See `medvae.evaluation.lesions.match_lesions`."""
    smallest_ml: float = SMALLEST_ML
    """Smaller lesions and findings do not count."""
    resamples: int = RESAMPLES
    """Resamples of the bootstrap over subjects."""
    protocol: str = "medvae"
    """Whose conventions to follow, by name; see `medvae.evaluation.protocols`."""
    free_response: bool = False
    """Also count lesions and false findings at 40 levels of confidence, see `medvae.evaluation.free_response`: each
    map is read twice."""
    masks: bool = True
    """Also measure the lesion masks that medvae has written next to its maps, if they were post-processed, as the
    operating point `medvae.evaluation.result.MASK`."""
