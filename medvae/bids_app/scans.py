"""The scans of a BIDS data set that a detector takes: by the suffix of its sequence, over sessions and runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medvae.bids_app.data_set import Chosen, DataSet
from medvae.detection.by_sequence import by_sequence
from medvae.detection.scan import Scan, scans_of_files
from medvae.errors import MedvaeError
from medvae.imaging.endings import scan_name
from medvae.importing.bids import choose_images, images_of
from medvae.importing.bids_names import BIDSFile, take_apart
from medvae.importing.ledger import Ledger
from medvae.importing.listing import is_scan, some
from medvae.modality import modality_of_file

NOT_RAW = ("derivatives", "sourcedata", "code", "stimuli")
"""Folders of a data set that hold no scans of its own."""
_SUFFIX = {"T1": "T1w", "T2": "T2w", "PD": "PDw", "T2star": "T2starw"}


@dataclass(frozen=True)
class RawScans:
    """The scans of a data set, and what a person should know of those that are not among them."""

    scans: list[Scan]
    """Named after their files."""
    broken: dict[str, str]
    """Name to the error of an image that is there and cannot be read: an empty file, a link to nothing."""
    notes: list[str]


class RawData:
    """The images of a data set, without its derivatives, as they lie on the disk."""

    def __init__(self, data_set: DataSet) -> None:
        self._set = data_set
        self._ledger = Ledger(data_set.root, without=NOT_RAW)
        self._known = [taken for path in self._ledger.scans if (taken := take_apart(path))]
        self._unusable = [
            taken for path in self._ledger.unusable if is_scan(path) and (taken := take_apart(path)) is not None
        ]

    def detector(self) -> str:
        """The name of the detector that comes with medvae for the first of T1w, FLAIR and T2w that there is.

        All of the data set decides, so that it is the same for each of its participants.

        Raises
        ------
        MedvaeError
            If there is none of them.
        """
        known = by_sequence()
        in_order = sorted(known, key=lambda modality: (modality != "T1", modality))
        for modality in in_order:
            if self._there(suffix_of(modality)):
                return known[modality]
        raise self._nothing(" or ".join(map(suffix_of, in_order)))

    def scans(self, modality: str, chosen: Chosen, *, entity: Sequence[str] = ()) -> RawScans:
        """The scans of a sequence.

        Parameters
        ----------
        modality
            The sequence, as a detector names it.
        chosen
            Of which participants and sessions.
        entity
            ``NAME=VALUE``, as in `medvae.importing.bids.find_bids`.

        Raises
        ------
        MedvaeError
            If there is none, or none of a participant who was asked for.
        """
        suffix = suffix_of(modality)
        if not self._there(suffix):
            raise self._nothing(suffix)
        asked = [f for f in self._known if _is_asked(f, chosen)]
        images = images_of(asked, suffix, self._ledger)
        contrast = [f for f in images if modality_of_file(f.path) != modality]  # ce-gadolinium_T1w is another sequence
        images = [f for f in images if f not in contrast]
        broken = {scan_name(f.path): f for f in self._unusable if _is_asked(f, chosen) and _is_scan(f, suffix)}
        notes: list[str] = []
        if images:
            images, notes = choose_images(images, self._ledger, entity=entity)
        if contrast:
            notes.append(f"{_number(contrast)} after contrast agent left out, as {contrast[0].path.name}.")
        if left_out := self._left_out(suffix, chosen):
            notes.append(f"left out: {some(left_out)}.")
        found = {f.entities["sub"] for f in (*images, *broken.values())}
        without = [label for label in chosen.participants if label not in found]
        of = f" of session {', '.join(chosen.sessions)}" if chosen.sessions else ""
        if without and (chosen.named or not found):
            raise MedvaeError(
                f"{self._set.root}: has no {suffix} image{of} of sub-{', sub-'.join(without[:4])} that can be taken "
                f"(sub-LABEL/[ses-LABEL/]anat/*_{suffix}.nii.gz). Leave out the participant, or choose another "
                f"--detector.{' Note: ' + notes[-1] if notes else ''}"
            )
        if without:
            notes.append(f"{_number(without, 'participant')} without {suffix} image{of}: {some(without, 4)}.")
        errors = {name: f"{f.path}: {self._why(f.path)}." for name, f in broken.items()}
        return RawScans(scans_of_files([f.path for f in images], name_by="file"), errors, notes)

    def _there(self, suffix: str) -> bool:
        return any(_is_scan(f, suffix) for f in (*self._known, *self._unusable))

    def _left_out(self, suffix: str, chosen: Chosen) -> list[str]:
        """Images of this suffix that are not taken, with the reason."""
        own = [f for f in self._known if _is_scan(f, suffix) and _is_asked(f, chosen)]
        names = {f.id: f.id for f in own} | {self._ledger.shown(f.path): f.path.name for f in own}
        return [f"{names[entry.what]} {entry.why}" for entry in self._ledger.entries if entry.what in names]

    def _why(self, path: Path) -> str:
        shown = self._ledger.shown(path)
        return next(entry.why for entry in self._ledger.entries if entry.what == shown)

    def _nothing(self, suffix: str) -> MedvaeError:
        kinds = Counter(f.suffix for f in self._known if f.path.parent.name.lower() == "anat")
        there = ", ".join(f"{number} {kind}" for kind, number in sorted(kinds.items())) or "no image"
        fitting = [name for modality, name in by_sequence().items() if suffix_of(modality) in kinds]
        advice = f" Choose --detector {' or '.join(fitting)}." if fitting else ""
        return MedvaeError(
            f"{self._set.root}: has no {suffix} image, which would be sub-LABEL/[ses-LABEL/]anat/*_SUFFIX.nii.gz; its "
            f"anat folders hold {there}.{advice}"
        )


def suffix_of(modality: str) -> str:
    """The suffix of a sequence in BIDS: T1w for T1."""
    return _SUFFIX.get(modality, modality)


def _is_scan(f: BIDSFile, suffix: str) -> bool:
    return f.suffix.lower() == suffix.lower() and f.path.parent.name.lower() == "anat"


def _is_asked(f: BIDSFile, chosen: Chosen) -> bool:
    in_time = not chosen.sessions or f.entities.get("ses") in chosen.sessions
    return f.entities["sub"] in chosen.participants and in_time


def _number(things: Sequence[object], of: str = "image") -> str:
    return f"{len(things)} {of}{'s' * (len(things) != 1)}"
