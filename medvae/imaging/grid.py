"""The standard grid: one box in MNI152 space on which scans of different people can be compared."""

from __future__ import annotations

import numpy as np

from medvae.imaging.volume import Geometry

STANDARD_GRID = Geometry(
    np.array([[2.0, 0, 0, -79.0], [0, 2.0, 0, -113.0], [0, 0, 2.0, -73.0], [0, 0, 0, 1.0]]), (80, 96, 80)
)
"""80 × 96 × 80 voxels of 2 mm, RAS, around the MNI152 brain.

Symmetric about the midline, so that mirroring the array mirrors the brain, and divisible by 16 along every axis,
as the strides of the networks need.
"""
