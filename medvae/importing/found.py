"""What an importer found in a folder, and the manifest made of it."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from medvae.errors import MedvaeError
from medvae.files import sha256
from medvae.importing.split import Fractions, split_subjects
from medvae.manifest import Case, Manifest

Kind = Literal["healthy", "lesion", "unlabelled"]


@dataclass(frozen=True)
class Scan:
    """One scan session: its files and what is known of the person."""

    id: str
    images: tuple[Path, ...]
    """One file per modality."""
    healthy: bool = False
    """Declared free of lesions. A scan that is not, and has no label, is unlabelled."""
    label: Path | None = None
    mask: Path | None = None
    subject: str | None = None
    site: str | None = None
    age: float | None = None
    """In years."""
    sex: Literal["F", "M", "O"] | None = None

    @property
    def kind(self) -> Kind:
        """A label decides; without one, what was declared."""
        return "lesion" if self.label else "healthy" if self.healthy else "unlabelled"

    @property
    def subject_id(self) -> str:
        """The person this scan belongs to."""
        return self.subject or self.id


@dataclass(frozen=True)
class Skipped:
    """A file or case that is not in the manifest, and why."""

    what: str
    why: str


@dataclass(frozen=True)
class Found:
    """The result of reading a folder."""

    name: str
    """Name of the cohort."""
    modality: tuple[str, ...]
    scans: list[Scan]
    label_values: dict[str, list[int]] | None = None
    licence: str | None = None
    skipped: list[Skipped] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What the user should know: what was assumed, what is missing."""


def make_manifest(found: Found, out: Path, *, fractions: Fractions, seed: int = 0, checksums: bool = False) -> Manifest:
    """The manifest of what was found, with paths relative to ``out``; nothing is written.

    Healthy people are split by ``fractions``; whoever has a lesion or an unlabelled scan goes to test with all scans.

    Raises
    ------
    MedvaeError
        If two scans have the same id.
    """
    named = (replace(s, id=tidy(s.id), subject=s.subject and tidy(s.subject)) for s in found.scans)
    scans = sorted(named, key=lambda scan: scan.id)
    first: dict[str, Scan] = {}
    for scan in scans:
        other = first.setdefault(scan.id, scan)
        if other is not scan:
            raise MedvaeError(
                f'{other.images[0]} and {scan.images[0]} would both be case "{scan.id}". Every scan needs a name of '
                f"its own: import a folder that holds only one of them."
            )
    splits = split_subjects(scans, fractions, seed)
    base = Path(os.path.realpath(out.parent))
    cases = []
    for scan in scans:
        images = [relative(image, base) for image in scan.images]
        sums = [sha256(image) for image in scan.images] if checksums else None
        cases.append(
            Case(
                id=scan.id,
                image=images if len(images) > 1 else images[0],
                mask=relative(scan.mask, base) if scan.mask else None,
                label=relative(scan.label, base) if scan.label else None,
                unlabelled=scan.kind == "unlabelled",
                split=splits[scan.subject_id],
                subject=scan.subject if scan.subject != scan.id else None,
                site=scan.site,
                age=scan.age,
                sex=scan.sex,
                sha256=sums if sums is None or len(sums) > 1 else sums[0],
            )
        )
    return Manifest(
        name=found.name,
        licence=found.licence,
        modality={str(index): name for index, name in enumerate(found.modality)},
        label_values=found.label_values,
        cases=cases,
    )


def relative(path: Path, base: Path) -> str:
    """``path`` as it is written in a manifest that lies in the folder ``base`` (without symbolic links)."""
    return Path(os.path.relpath(os.path.abspath(path), base)).as_posix()


def tidy(name: str) -> str:
    """A name that can be a case's id: white space and slashes become underscores."""
    return re.sub(r"[\s/\\]+", "_", name.strip())
