"""Any folder, by patterns of file names.

In a pattern, ``{id}`` is the name of the case, ``*`` any part of a name and ``**/`` any folders. Where a subject has
several scans, ``{subject}`` and ``{session}`` stand in for ``{id}``: the case is then named SUBJECT_SESSION, and all
scans of a person go to one split. A pattern without ``/`` is looked for in every folder.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from medvae.errors import MedvaeError
from medvae.importing.found import Found, Skipped
from medvae.importing.importer import HEALTHY, Importer, Request
from medvae.importing.listing import is_nifti, list_files, nothing_found, stem
from medvae.importing.people import Row, age_of, people_by_name, read_table, sex_of, site_of
from medvae.importing.scan import FoundScan

_TOKEN = re.compile(r"\{(id|subject|session)\}|(\*\*/)|(\*)|(\?)|([^{}*?]+)|(.)")


def find_folder(
    source: Path,
    images: Sequence[str],
    modalities: Sequence[str] = ("T1",),
    *,
    mask: str | None = None,
    label: str | None = None,
    healthy: bool = False,
    participants: Path | None = None,
) -> Found:
    """Scans of a folder.

    Parameters
    ----------
    source
        The folder.
    images
        One pattern per modality.
    modalities
        Their names.
    mask, label
        Patterns of brain masks and lesion label maps. A scan without the mask asked for is skipped.
    healthy
        Scans without a label are healthy. Otherwise they are unlabelled.
    participants
        Table with age, sex and site; ``participants.tsv`` of the folder by default.

    Raises
    ------
    MedvaeError
        For a pattern that is ambiguous or matches nothing.
    """
    if len(images) != len(modalities):
        raise MedvaeError(
            f"{len(images)} --image patterns and {len(modalities)} --modality names: give one name for each pattern."
        )
    files, skipped = list_files(source)
    nifti = [path for path in files if is_nifti(path)]
    found = [_matches(pattern, "--image", source, nifti, files, skipped) for pattern in images]
    masks = _matches(mask, "--mask", source, nifti, files, skipped) if mask else {}
    labels = _matches(label, "--label", source, nifti, files, skipped) if label else {}
    keys = sorted(set().union(*found))
    taken = {path for table in (*found, masks, labels) for path in table.values()}
    reported = {entry.what for entry in skipped}
    others = [str(path.relative_to(source)) for path in nifti if path not in taken]
    skipped += [Skipped(name, "fits no pattern") for name in others if name not in reported]

    people, notes = _people(source, participants)
    scans = []
    for key in keys:
        subject, session = key
        name = f"{subject}_{session}" if session else subject
        missing = [m for m, table in zip(modalities, found, strict=True) if key not in table]
        if missing:
            skipped.append(Skipped(name, f"has no {' and no '.join(missing)}"))
        elif mask and key not in masks:
            skipped.append(Skipped(name, f"has no mask ({mask})"))
        else:
            row = people.get(subject.removeprefix("sub-")) or people.get(name) or {}
            scans.append(
                FoundScan(
                    name, tuple(table[key] for table in found), healthy, labels.get(key), masks.get(key), subject,
                    site_of(row), age_of(row), sex_of(row),
                )
            )  # fmt: skip
    if not scans:
        raise MedvaeError(f"{source}: no case has all its files. {skipped[-1].what} {skipped[-1].why}.")
    ill = {scan.subject_id for scan in scans if scan.label}
    # A subject with a lesion in one session is not known to be free of it in another.
    scans = [replace(scan, healthy=False) if scan.subject_id in ill else scan for scan in scans]
    unknown = sum(scan.kind == "unlabelled" for scan in scans)
    if unknown and not healthy:
        notes.append(
            f"{unknown} scans have no label: they are unlabelled, and neither trained on nor measured. If they are "
            f"healthy, say so with --healthy."
        )
    return Found(source.resolve().name, tuple(modalities), scans, None, None, skipped, notes)


def _matches(
    pattern: str, option: str, source: Path, nifti: Sequence[Path], files: Sequence[Path], skipped: list[Skipped]
) -> dict[tuple[str, str], Path]:
    """Matching files, by (subject, session)."""
    expression = _compile(pattern, option)
    table: dict[tuple[str, str], Path] = {}
    for path in nifti:
        shown = path.relative_to(source).as_posix()
        match = expression.fullmatch(shown)
        if match is None:
            continue
        groups = match.groupdict()
        key = (groups.get("id") or groups["subject"], groups.get("session") or "")
        other = table.setdefault(key, path)
        if other == path:
            continue
        if other.parent == path.parent and stem(other) == stem(path):
            skipped.append(Skipped(shown, "is there a second time, packed and unpacked"))
            continue
        raise MedvaeError(
            f'{option} "{pattern}": fits {other.relative_to(source)} and {shown}, both named '
            f'"{"_".join(filter(None, key))}". Make the pattern tell them apart, for instance with the folder in it.'
        )
    if not table:
        raise nothing_found(source, files, f"file for {option}", f'"{pattern}"')
    return table


def _compile(pattern: str, option: str) -> re.Pattern[str]:
    """The pattern as a regular expression on paths relative to the folder."""
    if not re.search(r"\{(id|subject)\}", pattern):
        head, _, name = pattern.rpartition("/")
        if "{" in pattern or name.count("*") != 1:
            raise MedvaeError(
                f'{option} "{pattern}": mark what names the case with {{id}}, as in "{{id}}_T1.nii.gz" or '
                f'"{{id}}/T1.nii.gz"; or with {{subject}} and {{session}}, where people have several scans.'
            )
        pattern = f"{head}{'/' if head else ''}{name.replace('*', '{id}')}"
    if "{id}" in pattern and "{subject}" in pattern:
        raise MedvaeError(f'{option} "{pattern}": use {{id}}, or {{subject}} and {{session}}, not both.')
    if not pattern.endswith((".nii", ".nii.gz", "*")):
        raise MedvaeError(f'{option} "{pattern}": must end in .nii or .nii.gz.')
    result, seen = "" if "/" in pattern else "(?:.*/)?", set()
    for name, folders, star, mark, text, odd in _TOKEN.findall(pattern.removeprefix("./")):
        if odd:
            raise MedvaeError(f'{option} "{pattern}": "{odd}" is not understood; {{id}}, {{subject}}, {{session}} are.')
        if name:
            result += f"(?P={name})" if name in seen else f"(?P<{name}>[^/]+?)"
            seen.add(name)
        else:
            result += "(?:.*/)?" if folders else "[^/]*" if star else "[^/]" if mark else re.escape(text)
    return re.compile(result)


def _people(source: Path, participants: Path | None) -> tuple[dict[str, Row], list[str]]:
    path = participants or source / "participants.tsv"
    if participants is None and not path.is_file():
        return {}, ["Ages and sites are not known, splits ignore them. Give a table with --participants."]
    return people_by_name(read_table(path), path), []


@dataclass(frozen=True)
class Options:
    """Of ``medvae manifest folder``."""

    image: Annotated[tuple[str, ...], 'Pattern of the images, as "{id}_T1.nii.gz"; one per modality.']
    modality: Annotated[tuple[str, ...], "Name of each --image."] = ("T1",)
    mask: Annotated[str | None, 'Pattern of the brain masks, as "{id}_mask.nii.gz".'] = None
    label: Annotated[str | None, 'Pattern of the lesion maps, as "{id}_lesion.nii.gz".'] = None
    healthy: Annotated[bool, HEALTHY] = False
    participants: Annotated[
        Path | None, "Table (.tsv, .csv) with age, sex, site; SOURCE/participants.tsv by default."
    ] = None


def _find(request: Request, options: Options) -> Found:
    return find_folder(
        request.source, options.image, options.modality, mask=options.mask, label=options.label,
        healthy=options.healthy, participants=options.participants,
    )  # fmt: skip


FOLDER = Importer(
    name="folder",
    help="""
    Any folder, by patterns of file names.

    {id} is what names the case, * any part of a name, **/ any folders; a pattern without / is looked for everywhere.
    Where people have several scans, write {subject} and {session} instead of {id}: they then share a split. Quote the
    patterns. Scans without a label are unlabelled, unless --healthy.
    """,
    example='medvae manifest folder scans --image "{id}/T1.nii.gz" --mask "{id}/mask.nii.gz" --healthy '
    "--out scans.json",
    options=Options,
    find=_find,
    has_healthy=True,
)
