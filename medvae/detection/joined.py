"""Several sequences of a person as one: the mean of what the detector of each sequence finds.

Nothing is learned for it. Each anomaly map says how far a score lies from its healthy median, in units of the distance
to its first threshold; these are averaged, voxel by voxel, over the sequences whose brain holds the voxel, with
`WEIGHTS`. They are averaged on the grid of the first sequence, onto which the others are brought by where their headers
say that they lie, or, where that is wrong, by way of the template.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from medvae.config.maps import PostprocessingConfig
from medvae.detection.base import Calibrated, Maps
from medvae.detection.bounded import bounded, distance
from medvae.detection.masks import Findings
from medvae.detection.operating_points import OperatingPoint
from medvae.errors import MedvaeError
from medvae.imaging.volume import Geometry, resample
from medvae.preparation.prepared import PreparedVolume

JOINT = "joint"
POINT = OperatingPoint("joined", None, 1.0, "joined")
"""Where the mean reaches what each member's first threshold is in its own units. No healthy scan set it."""

APART_MM = 4.0
"""Mean distance between two brains, by their registrations to the template, from which headers are not believed. It is
0.6 to 2.0 mm between sequences that lie on each other (T1, T2 and FLAIR of seven gliomas and two MS patients)."""
LEAST_OVERLAP = 0.7
"""Dice of two brains, of which one could not be registered, from which headers are believed."""

WEIGHTS = {"T1": 0.5, "FLAIR": 2.0}
"""Of a sequence in the mean, 1 where nothing is said: T1 shows oedema faintly, and of small lesions T2 shows nothing.
Chosen on seven gliomas and two patients with multiple sclerosis."""


@dataclass(frozen=True, kw_only=True)
class Joined(Calibrated):
    """Detectors of one sequence each, for scans that have all of these sequences."""

    members: dict[str, Calibrated]
    """By the sequence."""

    @classmethod
    def of(cls, members: Mapping[str, Calibrated]) -> Joined:
        """Join detectors, by their sequences in the order of a scan's images.

        Raises
        ------
        MedvaeError
            With fewer than two, or detectors of other sequences than is said.
        """
        for sequence, member in members.items():
            if member.modalities != (sequence,):
                raise MedvaeError(f"{member.config.name}: is for {', '.join(member.modalities)}, not for {sequence}.")
        if len(members) < 2:
            raise MedvaeError(f"{JOINT}: joins the detectors of two or more sequences; {len(members)} was given.")
        first = next(iter(members.values()))
        calibration = first.config.calibration.model_copy(update={"mask_at": POINT.name, "made_of": None})
        config = first.config.model_copy(
            update={"name": JOINT, "calibration": calibration, "postprocessing": PostprocessingConfig()}
        )
        prints = "\n".join(f"{name} {WEIGHTS.get(name, 1)} {one.fingerprint}" for name, one in members.items())
        counts = {key: min(member.calibrated_on[key] for member in members.values()) for key in first.calibrated_on}
        return cls(
            config=config, modalities=tuple(members), calibrated_on=counts, points=(POINT,), healthy_median=0.0,
            fingerprint=hashlib.sha256(prints.encode()).hexdigest(), members=dict(members),
        )  # fmt: skip

    def find(self, volumes: Mapping[str, PreparedVolume]) -> Maps:
        """What the members find in the sequences of a scan, each prepared for its member, joined on the scan's grid.

        Raises
        ------
        MedvaeError
            If a sequence does not lie on the first one, and nobody knows how it would.
        """
        first, ways, moved = next(iter(volumes.values())), dict[str, np.ndarray](), []
        for name, volume in volumes.items():
            ways[name], told = way_to(volume, first)
            moved += [f"{name}: {told}"] if told else []
        found = {name: self.members[name].native_maps(volume, self.members[name].points[0])
                 for name, volume in volumes.items()}  # fmt: skip
        grid = first.source.geometry
        brought = [
            _brought(one.anomaly, one.brain_mask, volumes[name].source.geometry, grid, ways[name])
            for name, one in found.items()
        ]
        maps, brains = [anomaly for anomaly, _ in brought], [brain for _, brain in brought]
        anomaly = joined_map(maps, brains, [WEIGHTS.get(name, 1.0) for name in found])
        brain = np.logical_or.reduce(brains)
        mask = (anomaly > self.map_threshold(POINT)) & brain
        volume_ml = round(float(mask.sum() * grid.voxel_volume_ml), 4)
        findings = Findings(mask.astype(np.uint8), self.map_threshold(POINT), "None: no healthy scan set it.", {}, {})
        notes = (*moved, *(f"{name}: {note}" for name, one in found.items() for note in one.notes))
        spread = np.where(brain, np.std(maps, axis=0), 0).astype(np.float32)
        return Maps(anomaly, spread, brain, POINT, findings, volume_ml, notes)

    def score(self, volume: PreparedVolume) -> np.ndarray:
        """Not defined: the sequences of a scan are prepared one by one; see `find`."""
        raise TypeError("Joined detectors have no score of one prepared volume; call find.")

    def on(self, device: str) -> Joined:
        """The same with its members on another device."""
        return replace(self, members={name: member.on(device) for name, member in self.members.items()})

    @property
    def device(self) -> str:
        """Device of the first member."""
        return next(iter(self.members.values())).device


def way_to(volume: PreparedVolume, first: PreparedVolume) -> tuple[np.ndarray, str]:
    """From the world of one sequence of a person to that of another, and what is to be said about it.

    Returns
    -------
    transform, told
        ``(4, 4)``, from places in ``first``, in mm, to those in ``volume``: the identity, of which nothing is told,
        unless the registrations to the template say otherwise and the brains lie on each other better as they say.

    Raises
    ------
    MedvaeError
        If the headers put the brains apart, and one of them could not be registered.
    """
    stay = np.eye(4)
    if volume is first:
        return stay, ""
    if volume.quality is None or first.quality is None:
        if _overlap(volume, first, stay) < LEAST_OVERLAP:
            raise MedvaeError(
                f"{volume.source.path}: its brain does not lie on that of {first.source.path}, and cannot be "
                f"registered. Bring the sequences of this person onto each other first."
            )
        return stay, ""
    way = volume.transform @ np.linalg.inv(first.transform)
    inside = np.argwhere(first.mask)[::101]
    places = np.column_stack([inside, np.ones(len(inside))]) @ (first.transform @ first.grid.geometry.affine).T
    apart = float(np.linalg.norm((places @ way.T - places)[:, :3], axis=1).mean())
    if apart <= APART_MM or _overlap(volume, first, way) <= _overlap(volume, first, stay):
        return stay, ""
    return way, (
        f"by the headers its brain lies {apart:.0f} mm from that of the first sequence. It was brought there by "
        f"way of the template, to a few mm; register the files for more."
    )


def _overlap(volume: PreparedVolume, first: PreparedVolume, way: np.ndarray) -> float:
    """Dice of the two brains, one of them brought onto the other."""
    grids = volume.source.geometry, first.source.geometry
    there = resample(volume.source_mask.astype(np.float32), *grids, transform=way) > 0.5
    here = first.source_mask
    return 2 * int((there & here).sum()) / max(1, int(there.sum()) + int(here.sum()))


def _brought(
    anomaly: np.ndarray, brain: np.ndarray, grid: Geometry, to: Geometry, way: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """A map and its brain on another grid, linearly; what lies outside the brain does not count."""
    if grid.same_grid(to) and np.array_equal(way, np.eye(4)):
        return anomaly, brain
    share = resample(brain.astype(np.float32), grid, to, transform=way, antialias=False)
    values = resample(np.where(brain, anomaly, 0), grid, to, transform=way, antialias=False)
    inside = share > 0.5
    return np.where(inside, values / np.where(inside, share, 1), 0).astype(np.float32), inside


def joined_map(maps: Sequence[np.ndarray], brains: Sequence[np.ndarray], weights: Sequence[float]) -> np.ndarray:
    """The mean of anomaly maps in units of their scores, as an anomaly map.

    Parameters
    ----------
    maps, brains
        ``(X, Y, Z)`` each, in [0, 1] and bool.
    weights
        One of each map, above 0.

    Returns
    -------
    ndarray
        ``(X, Y, Z)`` float32, 0 where no brain is.
    """
    total, count = np.zeros(maps[0].shape), np.zeros(maps[0].shape)
    for one, brain, weight in zip(maps, brains, weights, strict=True):
        total += np.where(brain, weight * distance(one), 0)
        count += weight * brain
    mean = total / np.where(count > 0, count, 1)
    return np.where(count > 0, bounded(mean), 0).astype(np.float32)
