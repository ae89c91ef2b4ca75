"""Slices to series: which belong together, where their volume lies, and what is wrong with it."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from medvae.dicom.sequence import sequence_of
from medvae.dicom.slices import Slice
from medvae.files import sha256
from medvae.imaging.volume import Geometry

SAME_DIRECTION = 1e-3
"""Largest difference between the axes of slices that lie in one direction; headers have four digits and more."""
EVEN = 0.02
"""Largest share by which a step between slices may differ from the others, as positions are rounded."""
ROUNDING_MM = 0.01

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Series:
    """Slices that make one volume, in the order of their normal: a whole series, or an echo or a time point of it."""

    slices: tuple[Slice, ...]
    label: str = ""
    """What a person calls it by: its number in the study, with a second one where that is not enough."""
    part: str = ""
    """Of a series that holds several volumes: which this is."""
    copies: int = 0
    """Files left out because another one is the same image."""

    @property
    def first(self) -> Slice:
        """A slice, for what all have in common."""
        return self.slices[0]

    @property
    def sequence(self) -> str | None:
        """Its sequence by its description; None if that does not tell."""
        return sequence_of(self.first.description, self.first.protocol, self.first.contrast_agent)

    @property
    def name(self) -> str:
        """How it is called on the screen."""
        what = f'"{self.first.description or "without a description"}"'
        return f"series {self.label} {what}" + (f", {self.part}" if self.part else "")

    @property
    def directions(self) -> int:
        """In how many directions its slices lie."""
        known: list[np.ndarray] = []
        for one in self.slices:
            axes = np.array(one.orientation if one.orientation is not None else np.zeros(6))
            if not any(np.abs(axes - other).max() <= SAME_DIRECTION for other in known):
                known.append(axes)
        return len(known)

    @property
    def step_mm(self) -> float:
        """Distance from slice to slice: the median; 0 of a single one, or where positions are unknown."""
        steps = self._steps()
        return float(np.median(np.linalg.norm(steps, axis=1))) if len(steps) else 0.0

    @property
    def extent_mm(self) -> float:
        """From the first slice to the last, with the last one's thickness."""
        return self.step_mm * len(self.slices)

    def _steps(self) -> np.ndarray:
        if not all(one.placed for one in self.slices):
            return np.zeros((0, 3))
        return np.diff(np.array([one.position for one in self.slices]), axis=0)

    @property
    def defect(self) -> str:
        """What is wrong with its geometry, in one sentence; empty if nothing is."""
        unplaced = sum(not one.placed for one in self.slices)
        if unplaced:
            return f"{unplaced} of its {len(self.slices)} slices do not say where they lie"
        if (count := self.directions) > 1:
            return f"its slices lie in {count} directions"
        sizes = {(one.columns, one.rows) for one in self.slices}
        if len(sizes) > 1:
            return f"its slices differ in size ({', '.join(f'{x} × {y}' for x, y in sorted(sizes))} pixels)"
        spacings = np.array([one.spacing for one in self.slices])
        if np.ptp(spacings, axis=0).max() > 1e-3 * spacings.max():
            return "its slices differ in the size of their pixels"
        if len(self.slices) < 2:
            return "it is a single slice"
        if twice := _repeats(self.slices):
            return f"{twice} of its slices lie where another one lies, and nothing in their headers tells them apart"
        return self._uneven()

    def _uneven(self) -> str:
        """What is wrong with the steps between slices."""
        steps = self._steps()
        lengths, usual = np.linalg.norm(steps, axis=1), self.step_mm
        tolerance = EVEN * usual + ROUNDING_MM
        typical = np.median(steps, axis=0)
        far = np.linalg.norm(steps - typical, axis=1) > tolerance
        if not far.any():
            return ""
        at = int(np.argmax(far))
        along = np.linalg.norm(np.cross(steps[at], typical)) <= tolerance * lengths[at]
        fold = lengths[at] / usual
        if along and fold > 1.5 and abs(fold - round(fold)) < 0.1:
            missing = int((np.rint(lengths[far] / usual) - 1).clip(1).sum())
            are = "1 slice is" if missing == 1 else f"{missing} slices are"
            return (
                f"{are} missing: {lengths[at]:.3g} mm lie between slices {at + 1} and {at + 2} of {len(self.slices)}, "
                f"{usual:.3g} mm between the others"
            )
        if along:
            return f"its slices lie {lengths.min():.3g} to {lengths.max():.3g} mm apart"
        return f"slice {at + 2} of {len(self.slices)} is shifted sideways"

    @property
    def geometry(self) -> Geometry:
        """Where its voxels lie: x along a row, y down a column, z from slice to slice; RAS+ mm as everywhere here."""
        first, last = (np.array(self.slices[end].position) for end in (0, -1))
        axes = np.array(self.first.orientation).reshape(2, 3)
        assert self.first.spacing is not None  # a series without `defect` is placed
        between_rows, between_columns = self.first.spacing
        lps = np.eye(4)
        lps[:3, 0], lps[:3, 1] = axes[0] * between_columns, axes[1] * between_rows
        lps[:3, 2], lps[:3, 3] = (last - first) / (len(self.slices) - 1), first
        return Geometry(_LPS_TO_RAS @ lps, (self.first.columns, self.first.rows, len(self.slices)))

    @property
    def files(self) -> tuple[Path, ...]:
        """Its files, each once."""
        return tuple(dict.fromkeys(one.file for one in self.slices))

    def sha256(self) -> str:
        """Of its files, whatever they are called."""
        return hashlib.sha256("".join(sorted(map(sha256, self.files))).encode()).hexdigest()


def series_of(slices: Sequence[Slice]) -> list[Series]:
    """Group slices into series, and a series that holds several volumes into these; sorted by their numbers."""
    by_uid: dict[str, list[Slice]] = {}
    for one in slices:
        by_uid.setdefault(one.series, []).append(one)
    found = []
    for group in by_uid.values():
        images = {(one.instance or one.file, one.frame): one for one in sorted(group, key=lambda one: str(one.file))}
        parts = _parts(list(images.values()))
        for part, members in parts.items():
            found.append(Series(_in_order(members), part=part, copies=len(group) - len(images)))
    found.sort(key=lambda volume: (volume.first.number, volume.first.series, _natural(volume.part)))
    counts = Counter(volume.first.number for volume in found)
    seen: Counter[int] = Counter()
    labelled = []
    for volume in found:
        number = volume.first.number
        seen[number] += 1
        labelled.append(replace(volume, label=f"{number}" if counts[number] == 1 else f"{number}.{seen[number]}"))
    return labelled


_TELL_APART: tuple[tuple[Callable[[Slice], str], str], ...] = (
    (lambda one: one.echo_time, "TE {} ms"),
    (lambda one: one.kind, "{}"),
    (lambda one: one.time_point, "time point {}"),
    (lambda one: one.acquisition, "acquisition {}"),
)
"""Fields that may differ between the volumes of one series, and how these are then called."""


def _parts(slices: list[Slice]) -> dict[str, list[Slice]]:
    """The volumes of a series by what tells them apart; one, called "", where no two slices lie at one place."""
    if not _repeats(slices):
        return {"": slices}
    words: list[tuple[str, ...]] = [()] * len(slices)
    for field, called in _TELL_APART:
        if len({field(one) for one in slices}) < 2:
            continue
        words = [(*had, called.format(field(one) or "unknown")) for had, one in zip(words, slices, strict=True)]
        groups: dict[str, list[Slice]] = {}
        for name, one in zip(words, slices, strict=True):
            groups.setdefault(", ".join(name), []).append(one)
        if not any(_repeats(group) for group in groups.values()):
            return groups
    return {"": slices}


def _repeats(slices: Sequence[Slice]) -> int:
    """How many slices lie where another one of the same direction lies."""
    places = [
        tuple(np.rint([*np.array(one.position) / ROUNDING_MM, *np.array(one.orientation) / SAME_DIRECTION]).astype(int))
        for one in slices
        if one.position is not None and one.orientation is not None
    ]
    return len(places) - len(set(places))


def _in_order(slices: Sequence[Slice]) -> tuple[Slice, ...]:
    """Slices along the normal of the first; those without a place last."""
    placed = [one for one in slices if one.placed]
    if not placed:
        return tuple(slices)
    normal = placed[0].normal
    placed.sort(key=lambda one: (float(np.dot(normal, one.position or ())), str(one.file), one.frame))
    return (*placed, *(one for one in slices if not one.placed))


def _natural(name: str) -> tuple[tuple[float, str], ...]:
    """A key by which "TE 10 ms" comes after "TE 2.98 ms"."""
    key = []
    for word in name.split():
        try:
            key.append((float(word.strip(",")), ""))
        except ValueError:
            key.append((0.0, word))
    return tuple(key)
