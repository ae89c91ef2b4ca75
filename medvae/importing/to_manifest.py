"""The manifest of what an importer found: names tidied, subjects split, paths relative."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from medvae.errors import MedvaeError
from medvae.files import sha256
from medvae.importing.found import Found
from medvae.importing.scan import FoundScan, tidy
from medvae.importing.split import Fractions, split_subjects
from medvae.manifest import Case, Manifest, person_of


def make_manifest(found: Found, out: Path, *, fractions: Fractions, seed: int = 0, checksums: bool = False) -> Manifest:
    """The manifest of what was found, with paths relative to ``out``; nothing is written.

    Healthy subjects are split by ``fractions``; one with a lesion or an unlabelled scan goes to test with all scans.

    Raises
    ------
    MedvaeError
        If two scans have the same id.
    """
    named = (replace(s, id=tidy(s.id), subject=s.subject and tidy(s.subject)) for s in found.scans)
    scans = sorted(named, key=lambda scan: scan.id)
    first: dict[str, FoundScan] = {}
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
                subject=None if scan.subject == scan.id == person_of(scan.id) else scan.subject,
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
