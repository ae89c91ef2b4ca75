"""Every image of a folder is accounted for: used in a scan, or skipped with a reason; and nobody beside whom an
unpaired lesion map lies is called healthy.

An importer takes its files from a `Ledger`, tells it what it leaves out and why, and returns what ``close`` gives.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import replace
from pathlib import Path

from medvae.derivatives import DESCRIPTION
from medvae.errors import MedvaeError
from medvae.imaging.endings import scan_name
from medvae.importing.found import Found, Skipped
from medvae.importing.lesion_names import is_lesion_map, is_tissue_map
from medvae.importing.listing import is_image, is_scan, list_files, nothing_found
from medvae.importing.owners import Owner, Owners
from medvae.importing.scan import FoundScan

UNPAIRED = "may have a lesion: an unpaired lesion map lies beside the scan"
ANATOMY = "Word in the names of files that are anatomy or other masks, not lesion maps; may be repeated."
"""Help of the option --anatomy, of every importer that calls people healthy."""
PAIRING = "Pair it with its scan, or leave the person out."


class Ledger:
    """The files below a folder, and what became of them; not those in folders at its top that are in ``without``.

    Raises
    ------
    MedvaeError
        If ``source`` is missing or not a folder.
    """

    def __init__(self, source: Path, *, without: Collection[str] = ()) -> None:
        self.source = source
        self.files, unusable = list_files(source, without)
        """All files that can be used, sorted."""
        self.entries = list(unusable)
        """What is left out so far."""
        self._told = {source / entry.what for entry in unusable}
        self.unusable = sorted(self._told)
        """Images that cannot be used, and folders that may not be read."""
        self._harmless: set[Path] = set()
        self._surely: set[Path] = set()
        self._used: set[Path] = set()
        self._predictions = {path.parent for path in self.files if _is_of_medvae(path)}

    @property
    def scans(self) -> list[Path]:
        """The files that are volumes of a format that is read."""
        return [path for path in self.files if is_scan(path)]

    def shown(self, path: Path) -> str:
        """A path as it is shown: relative to the folder."""
        return path.relative_to(self.source).as_posix() if path.is_relative_to(self.source) else str(path)

    def is_prediction(self, path: Path) -> bool:
        """Whether medvae made this file: its lesion masks are no truth, and found in healthy people too."""
        return bool(self._predictions) and not self._predictions.isdisjoint(path.parents)

    def nothing_found(self, what: str, looked_for: str, advice: str = "") -> MedvaeError:
        """The error for a folder without a scan: what was looked for, and what is there instead."""
        if self.unusable:
            first = next(entry for entry in self.entries if self.source / entry.what in self._told)
            advice = f"{len(self.unusable)} cannot be used, as {first.what}: {first.why}. {advice}".strip()
        return nothing_found(self.source, self.files, what, looked_for, advice)

    def skip(self, what: Path | str, why: str, *, name: str | None = None) -> None:
        """A file, or a case by its name, that is left out; of several reasons for a file the first is kept.

        ``name`` is shown in place of the path.
        """
        if isinstance(what, Path):
            if what in self._told:
                return
            self._told.add(what)
            what = name or self.shown(what)
        self.entries.append(Skipped(what, why))

    def no_lesion_maps(self, paths: Iterable[Path]) -> None:
        """Files that are known to be something else, whatever their names say: brain masks, say."""
        self._harmless |= set(paths)

    def lesion_maps(self, paths: Iterable[Path]) -> None:
        """Files that are known to be lesion maps, whatever their names say, and need a scan."""
        self._surely |= set(paths)

    def used(self, paths: Iterable[Path]) -> None:
        """Files that are used though no scan names them."""
        self._used |= set(paths)

    def close(
        self,
        found: Found,
        pairing: str = PAIRING,
        anatomy: Collection[str] = (),
        otherwise: str = "is none of the files that this layout takes",
    ) -> Found:
        """What was found, with every other image of the folder under ``skipped``.

        Parameters
        ----------
        found
            The scans; its ``skipped`` is added to what the ledger was told.
        pairing
            What to do about a lesion map that is paired with no scan.
        anatomy
            Words that tell that a file is no lesion map.
        otherwise
            Why a file is left out of which the ledger was told nothing.

        Returns
        -------
        Found
            Without the healthy people beside whom an unpaired lesion map lies (`medvae.importing.lesion_names`): all
            their scans are skipped.

        Raises
        ------
        MedvaeError
            If nobody is left.
        """
        self.entries += found.skipped
        in_scans = _files_of(found.scans)
        used = in_scans | self._used
        left = sorted(path for path in [*self.files, *self.unusable] if path not in used)
        owners = Owners(self.source, found.scans)
        maps = self._lesion_maps(left, owners, {(path.parent, scan_name(path)) for path in used}, anatomy)
        named = {entry.what for entry in found.skipped}
        for path in left:
            if is_image(path) and self.shown(path) not in named:
                self.skip(path, _why(path, path in maps, otherwise))
        healthy = {scan.subject_id for scan in found.scans if scan.kind == "healthy"}
        doubtful: dict[str, list[tuple[Path, Owner]]] = defaultdict(list)
        for path, whose in maps.items():
            for owner in whose:
                if owner.person in healthy:
                    doubtful[owner.person].append((path, owner))
        for person, files in doubtful.items():
            self.entries.append(Skipped(person, self._doubt(person, files, pairing), UNPAIRED))
        scans = [scan for scan in found.scans if scan.subject_id not in doubtful]
        if found.scans and not scans:
            person, files = next(iter(doubtful.items()))
            raise MedvaeError(
                f"{self.source}: nobody is left. All {len(doubtful)} people called healthy may have a lesion; "
                f"{person} {self._doubt(person, files, pairing)}"
            )
        for path in sorted(in_scans - _files_of(scans)):
            self.skip(path, "belongs to a person who is skipped")
        nobodys = [path for path, whose in maps.items() if not whose]
        notes = list(found.notes)
        if nobodys and healthy:
            notes.append(
                f"{len(nobodys)} files look like lesion maps by their names and belong to nobody that was found, as "
                f"{self.shown(nobodys[0])}. Make sure that they are not of people called healthy."
            )
        return replace(found, scans=scans, skipped=self.entries, notes=notes, accounted=True)

    def _lesion_maps(
        self, left: list[Path], owners: Owners, used: set[tuple[Path, str]], anatomy: Collection[str]
    ) -> dict[Path, list[Owner]]:
        """The lesion maps among the files that are not used, and whose they are."""
        beside: dict[Path, set[str]] = defaultdict(set)
        for path in self.files:
            if is_tissue_map(name := scan_name(path)):
                beside[path.parent].add(name)
        maps: dict[Path, list[Owner]] = {}
        unusable = set(self.unusable)
        for path in left:
            # A second copy of a file that is used, packed and unpacked, says nothing new.
            if path in self._harmless or (path.parent, scan_name(path)) in used:
                continue
            if not is_image(path) and path not in unusable:
                continue
            if self.is_prediction(path):
                continue
            inside = path.relative_to(self.source) if path.is_relative_to(self.source) else Path(path.name)
            above = [self.source.joinpath(*inside.parts[: n + 1]) for n in range(len(inside.parts) - 1)]
            folders = [folder.name for folder in above if not owners.holds_scans(folder)]
            whose = owners.of(path)
            person = next((owner.words for owner in whose), ())
            if path in self._surely or is_lesion_map(
                inside, beside[path.parent], folders=folders, person=person, anatomy=anatomy
            ):
                maps[path] = whose
        return maps

    def _doubt(self, person: str, files: list[tuple[Path, Owner]], pairing: str) -> str:
        path, owner = files[0]
        more = f" (and {len(files) - 1} more)" if len(files) > 1 else ""
        probable = "" if owner.certain else f', probably of "{person}" under another spelling of the name'
        return f"may have a lesion: {self.shown(path)}{more} looks like a lesion map{probable}. {pairing}"


def account(found: Found, source: Path) -> Found:
    """What an importer found, every image accounted for, also if the importer has not used a ledger."""
    return found if found.accounted else Ledger(source).close(found)


def _files_of(scans: Iterable[FoundScan]) -> set[Path]:
    return {path for scan in scans for path in (*scan.images, scan.label, scan.mask) if path}


def _why(path: Path, lesion_map: bool, otherwise: str) -> str:
    if lesion_map:
        return "looks like a lesion map, or a mask, and is paired with no scan"
    if not is_scan(path):
        return "its format is not read: convert it to .nii.gz (DICOM: dcm2niix)"
    return otherwise


def _is_of_medvae(path: Path) -> bool:
    """Whether this is the dataset_description.json of a folder that medvae wrote."""
    if path.name != DESCRIPTION:
        return False
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
        return any(str(made["Name"]).lower() == "medvae" for made in content["GeneratedBy"])
    except (OSError, ValueError, TypeError, KeyError):
        return False
