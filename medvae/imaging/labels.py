"""What a lesion label map says, for every part of medvae that reads one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from medvae.errors import MedvaeError
from medvae.imaging.volume import Volume
from medvae.manifest import IGNORED

TOLERANCE = 1e-3
"""A value this close to a whole number is that number: files scaled or stored as floating point are rounded."""


@dataclass(frozen=True)
class LabelMap:
    """The values of a label map, whole numbers ``(X, Y, Z)``, and the regions that they make up."""

    values: np.ndarray
    regions: Mapping[str, Sequence[int]] | None
    """Region to its values, the lesion first; without it every value above 0 is lesion."""

    @property
    def lesions(self) -> dict[str, np.ndarray]:
        """The lesion and its subregions by name, ``(X, Y, Z)`` bool each.

        The first region is the lesion; a region with values outside it (a resection cavity) is left out.
        """
        named = [(name, set(values)) for name, values in (self.regions or {}).items() if not _is_ignored(name)]
        if not named:
            return {"lesion": (self.values > 0) & ~self.ignored}
        lesion = named[0][1]
        return {name: np.isin(self.values, [*values]) for name, values in named if lesion >= values}

    @property
    def lesion(self) -> np.ndarray:
        """The lesion, ``(X, Y, Z)`` bool."""
        return next(iter(self.lesions.values()))

    @property
    def ignored(self) -> np.ndarray:
        """The voxels of the region `IGNORED`, ``(X, Y, Z)`` bool."""
        values = [value for name, values in (self.regions or {}).items() if _is_ignored(name) for value in values]
        return np.isin(self.values, values)


def label_map(volume: Volume, regions: Mapping[str, Sequence[int]] | None) -> LabelMap:
    """A label map that was read; ``regions`` are the manifest's ``label_values``.

    Raises
    ------
    MedvaeError
        If a value is no whole number, is negative without being named, or is not named although others are.
    """
    values = np.rint(volume.array).astype(np.int64)
    off = np.abs(volume.array - values) > TOLERANCE
    if off.any():
        raise MedvaeError(
            f"{volume.path}: holds values that are no whole numbers (as {volume.array[off][0]:g}); a label map was "
            f"expected. If it was resampled, do so again with nearest neighbours; if it is a probability, threshold it."
        )
    named = {value for group in (regions or {}).values() for value in group}
    lesions_are_named = any(not _is_ignored(name) for name in regions or {})
    found = [int(value) for value in np.unique(values) if value and value not in named]
    unknown = found if lesions_are_named else [value for value in found if value < 0]
    if unknown and not lesions_are_named:
        raise MedvaeError(
            f"{volume.path}: holds negative label values, as {unknown[0]}. Say in the manifest's label_values what "
            f'they are, for instance {{"lesion": [1], "{IGNORED}": [{unknown[0]}]}} for voxels that do not count, or '
            f"correct the file."
        )
    if unknown:
        raise MedvaeError(
            f"{volume.path}: holds the label values {', '.join(map(str, unknown[:8]))}, which the manifest's "
            f"label_values ({', '.join(map(str, sorted(named)))}) do not name. Add them there, as a region called "
            f'"{IGNORED}" if such voxels are not to count, or correct the file.'
        )
    return LabelMap(values, regions)


def _is_ignored(region: str) -> bool:
    return region.casefold() == IGNORED
