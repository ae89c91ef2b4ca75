"""Lesions inserted into healthy scans, with exact truth: for benchmarks, and for methods that learn from them.

Benchmarks take `insertion` (the family ``ms``) and `families`; methods learn from `synthesis`, which shares no code
with either. The shapes of ``ms`` are those of real multiple sclerosis lesions, the contrast is the one that real
lesions show on T1. Such a lesion *multiplies* the scan by ``1 - strength * depth``, so the scan's own noise, anatomy
and bias field go on through it; ``depth`` is soft at the edges and uneven inside, as real lesions are, and ``strength``
gives the contrast drawn.
"""

from medvae.lesions.cohort import insert_cohort
from medvae.lesions.families import FAMILIES, SIZES_ML, insert_family
from medvae.lesions.insertion import T1_CONTRAST, Inserted, Lesion, Settings, insert
from medvae.lesions.outlines import Shapes, read_shapes
from medvae.lesions.tissue import Contrast, lesion_contrast, white_matter

__all__ = [
    "FAMILIES",
    "SIZES_ML",
    "T1_CONTRAST",
    "Contrast",
    "Inserted",
    "Lesion",
    "Settings",
    "Shapes",
    "insert",
    "insert_cohort",
    "insert_family",
    "lesion_contrast",
    "read_shapes",
    "white_matter",
]
