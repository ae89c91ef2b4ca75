"""What the sequence of a scan decides: where healthy tissues lie on its intensity scale, and what lesions look like.

Levels are shares of the way from fluid (0) to white matter (1), in any sequence. Lesions are described as on T1, where
water makes tissue darker, from fluid to white matter; a curve says what the same tissue looks like elsewhere. On FLAIR
tissue with more water is bright, and free fluid is not; on T2 both are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Sequence:
    """How tissues look."""

    fluid: float
    """Percentile of a healthy brain's intensities at which fluid lies."""
    grey: float
    white: float
    curve: tuple[tuple[float, tuple[float, float]], ...] = ()
    """Levels of a lesion on T1, and the range of the level there in this sequence; none where it is T1."""
    oedema: tuple[float, float, float] = (0.1, 0.75, 1.3)
    """How much of the tissue's look the oedema replaces: lowest, highest, and an exponent."""

    def draw(self, rng: np.random.Generator) -> tuple[list[float], list[float]]:
        """One curve of `curve`: levels on T1 and in this sequence."""
        return [level for level, _ in self.curve], [float(rng.uniform(*span)) for _, span in self.curve]


SEQUENCES = {
    "T1": Sequence(3, 45, 85),
    "FLAIR": Sequence(
        3, 75, 35,
        curve=((-0.12, (0, 0.5)), (0.02, (0, 0.8)), (0.2, (1.5, 2.4)), (0.5, (1.35, 2.2)), (1, (0.95, 1.2)),
               (1.5, (0.5, 1.4))),
        oedema=(0.35, 1, 1),
    ),
    "T2": Sequence(
        96, 60, 20,
        curve=((-0.12, (-0.1, 0.05)), (0.02, (-0.05, 0.15)), (0.2, (0.1, 0.4)), (0.5, (0.3, 0.6)), (1, (0.85, 1.05)),
               (1.5, (0.8, 1.3))),
        oedema=(0.35, 1, 1),
    ),
}  # fmt: skip
"""Ranges as in textbooks: none was fitted to scans."""
