"""The input of a detector: a scan's files, its brain mask and its declared sequences."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from medvae.detection.base import Calibrated
from medvae.detection.scan_names import NameBy, file_name, names_of
from medvae.errors import MedvaeError
from medvae.manifest import Case, Manifest
from medvae.modality import UNKNOWN, modality_name, modality_of_file, places_of, without_modality
from medvae.preparation.prepare import prepare_scan
from medvae.preparation.prepared import PreparedVolume

FILE_NAME = "the name of its file"

_BIDS_PERSON = re.compile(r"(?:^|(?<=_))(?:sub|ses)-[^_]+")
_NO_NAME = re.compile(r"[/\\\x00-\x1f\x7f]")


@dataclass(frozen=True)
class Scan:
    """A scan to predict: its name, its images (one per modality) and its brain mask, if there is one."""

    id: str
    images: tuple[Path, ...]
    mask: Path | None = None
    modalities: tuple[str, ...] | None = None
    """The sequence of each image, if declared."""
    declared_in: str = ""
    """Where the sequences are declared: the manifest, or "the file's name"."""

    def __post_init__(self) -> None:
        if not self.id or _NO_NAME.search(self.id):
            raise MedvaeError(f"{self.id!r} cannot be the name of a scan: files are called by it. Choose another id.")

    @classmethod
    def of_case(cls, manifest: Manifest, case: Case) -> Scan:
        """A case of a manifest."""
        mask = manifest.resolve(case.mask) if case.mask else None
        return cls(case.id, tuple(manifest.images(case)), mask, manifest.modalities, str(manifest.path))

    def for_detector(self, detector: Calibrated) -> Scan:
        """The same scan with the images that the detector takes, in its order.

        Raises
        ------
        MedvaeError
            If its declared sequences differ from those the detector was trained on, or it has another number of images.
        """
        wanted = detector.modalities
        places = places_of(wanted, self.modalities or (UNKNOWN,) * len(self.images))
        if places is not None:
            images = tuple(self.images[place] for place in places)
            return replace(
                self, images=images, modalities=self.modalities and tuple(self.modalities[i] for i in places)
            )
        if self.modalities is None or UNKNOWN in (*wanted, *self.modalities):
            raise MedvaeError(
                f'scan "{self.id}" has {len(self.images)} modalities, the detector was trained on {len(wanted)} '
                f"({', '.join(wanted)}). Give them in a manifest, one image per modality."
            )
        raise MedvaeError(self._other_sequence(self.modalities, detector))

    def _other_sequence(self, modalities: tuple[str, ...], detector: Calibrated) -> str:
        declared, wanted = ", ".join(modalities), ", ".join(detector.modalities)
        twice = [name for name in detector.modalities if modalities.count(name) > 1]
        lacking = [name for name in detector.modalities if name not in modalities]
        problem = f"{', '.join(lacking)} is missing" if lacking else f"{', '.join(twice)} is there more than once"
        mend = 'correct "modality" in the manifest'
        if len(self.images) == 1 and self.declared_in == FILE_NAME:
            mend = f'rename the file, or list it in a manifest with "modality": {{"0": "{wanted}"}}'
        return (
            f'scan "{self.id}" is {declared} by {self.declared_in}, the detector "{detector.config.name}" was trained '
            f"on {wanted}: {problem}. Give {wanted} of this person, or use a detector trained on {declared}; if it is "
            f"{wanted}, {mend}."
        )

    def prepare(self, detector: Calibrated, *, cache: Path | None = None) -> PreparedVolume:
        """Bring the scan to the standard grid as the detector needs it; ``cache`` as in `prepare_scan`.

        Raises
        ------
        MedvaeError
            As `prepare_scan` and `for_detector`.
        """
        images, options = self.for_detector(detector).images, detector.config.preparation
        return prepare_scan(images, options, mask=self.mask, scale=detector.scale, cache=cache)


def scans_of_files(paths: Sequence[Path | str], *, name_by: NameBy | None = None) -> list[Scan]:
    """One-modality scans, named after their files, of the sequence that a file's name ends in (``_FLAIR.nii.gz``).

    Parameters
    ----------
    paths
        The files. Those that are called alike are named by their folders too.
    name_by
        Name all by the ``file`` alone, or all by the folder of the person (``parent``); see
        `medvae.detection.scan_names.names_of`.

    Raises
    ------
    MedvaeError
        If two files would give outputs of the same name.
    """
    files = list(map(Path, paths))
    return [_scan_of_file(name, path) for name, path in zip(names_of(files, name_by), files, strict=True)]


def scans_of_people(paths: Sequence[Path | str]) -> list[Scan]:
    """A scan of several sequences for each person, from files whose names differ in the sequence alone.

    ``p1_T1.nii.gz`` and ``p1_FLAIR.nii.gz`` of one folder are ``p1``; ``p1/T1.nii.gz`` and ``p1/FLAIR.nii.gz`` too. Of
    the entities of BIDS, ``sub-`` and ``ses-`` count. The images are in the order in which the files are given.

    Raises
    ------
    MedvaeError
        If a name ends in no sequence, or two files of a person in the same one.
    """
    people: dict[tuple[Path, str], dict[str, Path]] = {}
    for path in map(Path, paths):
        sequence = modality_of_file(path)
        if sequence is None:
            raise MedvaeError(
                f"{path}: its name ends in no sequence, as p1_T1.nii.gz and p1_FLAIR.nii.gz do. Rename it, or list the "
                f"sequences of each person in a manifest."
            )
        found = people.setdefault((path.parent, _person(file_name(path))), {})
        if sequence in found:
            raise MedvaeError(f"{path}: is {sequence} of a person, as {found[sequence]} is. Give one of them.")
        found[sequence] = path
    names = [name or file_name(folder.absolute()) for folder, name in people]
    if twice := sorted(name for name, times in Counter(names).items() if times > 1):
        raise MedvaeError(f"{', '.join(twice)}: people in several folders are called so. List them in a manifest.")
    return [
        Scan(name, tuple(found.values()), None, tuple(found), "the names of its files")
        for name, found in zip(names, people.values(), strict=True)
    ]


def _person(name: str) -> str:
    whose = _BIDS_PERSON.findall(name) if name.startswith("sub-") else []
    return "_".join(whose) or without_modality(name)


def scans_of_manifest(manifest: Manifest, splits: Sequence[str] = ("test",)) -> list[Scan]:
    """The cases of some splits of a manifest, as scans."""
    return [Scan.of_case(manifest, case) for case in manifest.cases if case.split in splits]


def scan_of(scan: Path | str | Mapping[str, Path | str], mask: Path | str | None = None) -> Scan:
    """One scan from its file, or from the file of each of its sequences by name, with its brain mask."""
    mask = None if mask is None else Path(mask)
    if not isinstance(scan, Mapping):
        return _scan_of_file(file_name(Path(scan)), Path(scan), mask)
    files = tuple(map(Path, scan.values()))
    names = tuple(map(modality_name, scan))
    return Scan(file_name(files[0]), files, mask, names, "what was given")


def _scan_of_file(name: str, path: Path, mask: Path | None = None) -> Scan:
    modality = modality_of_file(path)
    return Scan(name, (path,), mask, None if modality is None else (modality,), FILE_NAME)
