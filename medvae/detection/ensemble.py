"""Several detectors as one: the averaged scores of networks of different kinds, planes or seeds.

``detector/config.yaml``       name, preparation and calibration of the ensemble; the rest is the first member's
``detector/calibration.json``  operating points of the averaged score, and the members' names
``detector/members/NAME/``     the members, each a complete detector folder
``detector/atlas.safetensors`` the members' atlas, if they share one
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from medvae.config import Config
from medvae.detection.base import Calibrated, StandardMaps, read_calibrated
from medvae.detection.detector import ATLAS, Detector, find_detector
from medvae.detection.stored import read_calibration
from medvae.devices import AUTO
from medvae.errors import MedvaeError
from medvae.modality import UNKNOWN, same_modalities
from medvae.normative.atlas import Atlas
from medvae.preparation.prepared import PreparedVolume, standardised
from medvae.schema import parse
from medvae.training.run_folder import MEMBERS


@dataclass(frozen=True, kw_only=True)
class Ensemble(Calibrated):
    """The weighted mean of its members' scores, each in units of the distance from its healthy median to its first
    threshold.

    That unit comes from the healthy validation scans, so scores of any kind can be averaged. The spread of the anomaly
    maps shows where members disagree.
    """

    members: dict[str, Detector]
    weights: tuple[float, ...]
    """One for each member, above 0."""

    @classmethod
    def calibrate(
        cls,
        name: str,
        members: dict[str, Detector],
        validation: Sequence[PreparedVolume],
        subjects: Sequence[str] | None = None,
        sites: Sequence[str] | None = None,
        *,
        weights: Sequence[float] | None = None,
    ) -> Ensemble:
        """Set the operating points of the averaged score on healthy validation scans.

        Parameters
        ----------
        name
            Name of the ensemble in tables and sidecars.
        members
            At least two calibrated detectors with the same preparation, by name.
        validation
            Prepared healthy scans that no member was trained on.
        subjects
            Subject of each scan; by default each scan is a subject of its own.
        sites
            Where each scan was made, as in `medvae.detection.operating_points.operating_points`.
        weights
            Of the members' scores, above 0; equal by default.

        Raises
        ------
        MedvaeError
            With fewer than two members, incompatible members, or weights that are not one for each.
        """
        first = agreeing(members)
        weights = _weights(weights, members)
        calibration = first.config.calibration.on_healthy_scans().model_dump()
        own = first.config.model_dump() | {"name": name, "calibration": calibration}
        config = parse(Config, own, f'ensemble "{name}"')
        counts = {"training": first.calibrated_on["training"], "validation": len(validation)}
        ensemble = cls(
            config=config, modalities=common_modalities(members.values()), calibrated_on=counts, scale=first.scale,
            members=_sharing(members), weights=weights,
        )  # fmt: skip
        return ensemble._with_points(validation, [ensemble.score(volume) for volume in validation], subjects, sites)

    @property
    def thresholds_are_ranks(self) -> bool:
        """A mean of scores has no rank."""
        return False

    def score(self, volume: PreparedVolume) -> np.ndarray:
        """Weighted mean of the members' scaled scores, ``(X, Y, Z)`` float32, 0 outside the brain."""
        return self._mean(self._scores(volume), volume)

    def maps(self, volume: PreparedVolume) -> StandardMaps:
        """The anomaly map of the mean, and the spread of the members' maps."""
        scores = self._scores(volume)
        bounded = [m.bounded(score, volume.mask) for m, score in zip(self.members.values(), scores, strict=True)]
        mean = self.bounded(self._mean(scores, volume), volume.mask)
        return StandardMaps(mean, np.std(bounded, axis=0, dtype=np.float32))

    def _scores(self, volume: PreparedVolume) -> list[np.ndarray]:
        """Score of each member; a shared atlas is warped onto the scan only once."""
        atlas = self.shared_atlas
        fitted = atlas.fit(volume.image, volume.mask) if atlas is not None else None
        scores = []
        for member in self.members.values():
            own = self._on_scale_of(member, volume)
            scores.append(member.score(own, fitted if own is volume and member.atlas is atlas else None))
        return scores

    def _on_scale_of(self, member: Detector, volume: PreparedVolume) -> PreparedVolume:
        """The volume with the intensities that a member has learned from, which may have learned from other people."""
        if member.scale is None or member.scale == self.scale:
            return volume
        return standardised(volume, member.scale, member.config.preparation)

    def _mean(self, scores: Sequence[np.ndarray], volume: PreparedVolume) -> np.ndarray:
        scaled = [
            (score - member.healthy_median) / max(member.points[0].threshold - member.healthy_median, 1e-6)
            for member, score in zip(self.members.values(), scores, strict=True)
        ]
        if len(set(self.weights)) > 1:
            return np.where(volume.mask, np.average(scaled, axis=0, weights=self.weights), 0).astype(np.float32)
        return np.where(volume.mask, np.mean(scaled, axis=0), 0).astype(np.float32)

    def save(self, folder: Path | str) -> Ensemble:
        """Write the ensemble with all its members to ``folder``, whole or not at all."""
        equal = len(set(self.weights)) == 1
        more = {} if equal else {"weights": self.weights}  # as an earlier version wrote it, with the same fingerprint
        with self._saved(folder, members=list(self.members), **more) as temporary:
            atlas = self.shared_atlas
            if atlas is not None:
                atlas.save(temporary / ATLAS)
            for name, member in self.members.items():
                member.write(temporary / MEMBERS / name, with_atlas=atlas is None)
        return Ensemble.load(folder, device=self.device)

    def on(self, device: str) -> Ensemble:
        """The same ensemble with its members' networks moved to another device."""
        return replace(self, members={name: member.on(device) for name, member in self.members.items()})

    @property
    def device(self) -> str:
        """Device of the first member's network; ``auto`` if no member has one."""
        return next((member.device for member in self.members.values() if member.network is not None), AUTO)

    @property
    def shared_atlas(self) -> Atlas | None:
        """The atlas shared by all members that have one, if it is the same object, as after `load`."""
        atlases = [member.atlas for member in self.members.values() if member.atlas is not None]
        return atlases[0] if len(atlases) > 1 and all(atlas is atlases[0] for atlas in atlases) else None

    @classmethod
    def load(cls, folder: Path | str, *, device: str = AUTO) -> Ensemble:
        """Load an ensemble from its folder, or from the folder that holds it as ``detector``.

        The networks are moved to the ``device``, as in `medvae.devices.find_device`.

        Raises
        ------
        MedvaeError
            If there is none, a member is missing, or there is no such device.
        """
        folder = find_detector(folder)
        shared, content = read_calibrated(folder)
        if not content.members:
            raise MedvaeError(f"{folder}: holds a single detector, no ensemble. Load it with load_detector.")
        atlas = Atlas.load(folder / ATLAS, shared["config"].grid.shape) if (folder / ATLAS).is_file() else None
        parts = {name: folder / MEMBERS / name for name in content.members}
        members = {
            name: replace(Detector.load(part, atlas=atlas, device=device), modalities=shared["modalities"])
            for name, part in parts.items()
        }
        agreeing(members)
        return cls(**shared, members=members, weights=_weights(content.weights, members))


def load_detector(folder: Path | str, *, device: str = AUTO) -> Detector | Ensemble:
    """A detector, an ensemble or a member of one, from its folder or from the run folder that holds it.

    Its networks are moved to the ``device``, as in `medvae.devices.find_device`.

    Raises
    ------
    MedvaeError
        If there is neither, or no such device.
    """
    folder = find_detector(folder)
    return (Ensemble.load if read_calibration(folder).members else load_single)(folder, device=device)


def load_single(folder: Path | str, *, device: str = AUTO) -> Detector:
    """A detector that is no ensemble, or a member of one, from its folder.

    Raises
    ------
    MedvaeError
        If there is none, it is an ensemble, or there is no such device.
    """
    folder = find_detector(folder)
    if names := read_calibration(folder).members:
        listed = ", ".join(names)
        raise MedvaeError(
            f"{folder}: is an ensemble. Name one of its members ({listed}): {folder / MEMBERS / names[0]}"
        )
    whole = folder.parent.parent
    if folder.parent.name == MEMBERS and (whole / ATLAS).is_file():
        members = Ensemble.load(whole, device=device).members
        if folder.name in members:
            return members[folder.name]
    return Detector.load(folder, device=device)


def member_names(names: Sequence[str]) -> list[str]:
    """Names for members: as given if all differ, else numbered."""
    if len(set(names)) == len(names):
        return list(names)
    return [f"{number}_{name}" for number, name in enumerate(names, start=1)]


def _sharing(members: dict[str, Detector]) -> dict[str, Detector]:
    """The members, with one atlas object for those whose atlases are equal."""
    known: list[Atlas] = []
    shared = {}
    for name, member in members.items():
        alike = [atlas for atlas in known if member.atlas is not None and atlas.equals(member.atlas)]
        if member.atlas is not None and not alike:
            known.append(member.atlas)
        shared[name] = replace(member, atlas=alike[0]) if alike else member
    return shared


def _weights(weights: Sequence[float] | None, members: Mapping[str, Detector]) -> tuple[float, ...]:
    if weights is None:
        return (1.0,) * len(members)
    if len(weights) != len(members) or not all(np.isfinite(weight) and weight > 0 for weight in weights):
        raise MedvaeError(
            f"The weights of an ensemble are one number above 0 for each of its {len(members)} members; found "
            f"{', '.join(f'{weight:g}' for weight in weights) or 'none'}."
        )
    return tuple(float(weight) for weight in weights)


def common_modalities(members: Iterable[Detector]) -> tuple[str, ...]:
    """The modalities of the first member that states them."""
    said = [member.modalities for member in members]
    return next((names for names in said if UNKNOWN not in names), said[0])


def agreeing(members: dict[str, Detector]) -> Detector:
    """The first member, if all of them are compatible.

    Raises
    ------
    MedvaeError
        If there are fewer than two, or one differs from the first in modalities, preparation or its first
        false-positive rate.
    """
    if len(members) < 2:
        raise MedvaeError(f"An ensemble needs at least two detectors; {len(members)} was given.")
    (first_name, first), *others = members.items()
    for name, member in others:
        if not same_modalities(member.modalities, common_modalities(members.values())):
            raise MedvaeError(
                f"{name} was trained on {', '.join(member.modalities)}, {first_name} on {', '.join(first.modalities)}: "
                f"only detectors of the same modalities can be averaged. Leave one of them out."
            )
        for what, of in {
            "preparation": lambda m: m.config.preparation,
            "first false-positive rate": lambda m: m.points[0].false_positive_rate,
        }.items():
            if of(member) != of(first):
                raise MedvaeError(
                    f"{name} and {first_name} differ in their {what} ({of(member)} and {of(first)}): only detectors "
                    f"that agree in it can be averaged. Train one of them again with the other's."
                )
    return first
