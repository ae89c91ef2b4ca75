"""Outlines of real infarcts on the standard grid, from a file that `pipelines/make_stroke_outlines.py` makes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medvae.errors import MedvaeError
from medvae.imaging.grid import Grid


@dataclass(frozen=True)
class Outlines:
    """Masks on a standard grid, each in its tight box."""

    masks: tuple[np.ndarray, ...]
    """``(x, y, z)`` bool each."""
    corners: tuple[tuple[int, ...], ...]
    """First voxel of each box."""
    shape: tuple[int, ...]
    """Of the grid, which is symmetric about its middle along the first axis."""

    def __len__(self) -> int:
        return len(self.masks)

    def placed(self, index: int, corner: Sequence[int], shape: Sequence[int], *, mirrored: bool = False) -> np.ndarray:
        """An outline in the box of the grid that begins at ``corner``, ``shape`` bool; what lies beyond is cut off."""
        mask, first = self.masks[index], list(self.corners[index])
        if mirrored:
            mask, first[0] = mask[::-1], self.shape[0] - first[0] - len(mask)
        result = np.zeros(tuple(shape), dtype=bool)
        starts = [f - c for f, c in zip(first, corner, strict=True)]
        into = tuple(slice(max(0, s), max(0, min(n, s + m))) for s, n, m in zip(starts, shape, mask.shape, strict=True))
        if all(part.start < part.stop for part in into):
            taken = tuple(slice(part.start - s, part.stop - s) for part, s in zip(into, starts, strict=True))
            result[into] = mask[taken]
        return result

    def save(self, path: Path | str) -> None:
        """Write a file that `read_outlines` reads."""
        boxes = np.array([mask.shape for mask in self.masks], dtype=np.int16)
        bits = np.packbits(np.concatenate([mask.ravel() for mask in self.masks]))
        np.savez_compressed(path, bits=bits, boxes=boxes, corners=np.array(self.corners, dtype=np.int16),
                            shape=np.array(self.shape, dtype=np.int16))  # fmt: skip


def read_outlines(path: Path | str, grid: Grid) -> Outlines:
    """Read outlines that lie on a grid.

    Raises
    ------
    MedvaeError
        If the file is missing, damaged, or of another grid.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            bits, boxes, corners, shape = (file[name] for name in ("bits", "boxes", "corners", "shape"))
        values = np.unpackbits(bits).astype(bool)
        ends = np.cumsum(boxes.astype(np.int64).prod(axis=1))
        masks = [
            values[end - np.prod(box) : end].reshape(box) for end, box in zip(ends, boxes.astype(int), strict=True)
        ]
    except FileNotFoundError:
        raise MedvaeError(f"objective.patients.outlines: {path}: there is no such file. Check the path.") from None
    except (OSError, ValueError, KeyError, EOFError, AttributeError, TypeError) as error:
        raise MedvaeError(
            f"objective.patients.outlines: {path}: holds no outlines ({error}). Make it with "
            f"pipelines/make_stroke_outlines.py."
        ) from None
    if tuple(shape) != grid.shape:
        raise MedvaeError(
            f"objective.patients.outlines: {path}: lies on a grid of {tuple(map(int, shape))} voxels; {grid.name} has "
            f"{grid.shape}. Make it anew with pipelines/make_stroke_outlines.py --grid {grid.name}."
        )
    return Outlines(tuple(masks), tuple(tuple(map(int, corner)) for corner in corners), grid.shape)
