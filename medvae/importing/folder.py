"""Any folder, by patterns of file names.

In a pattern, ``{id}`` is the name of the case, ``*`` any part of a name and ``**/`` any folders. Where a subject has
several scans, ``{subject}`` and ``{session}`` stand in for ``{id}``: the case is then named SUBJECT_SESSION, and all
scans of a person go to one split. With ``{id}``, names that are sessions of one person by their form (``sub-01_ses-2``,
``P01_baseline``) share the person (`medvae.importing.sessions`). A pattern without ``/`` is looked for in every folder.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from medvae.errors import MedvaeError
from medvae.imaging.endings import ENDINGS, scan_name
from medvae.importing.found import Found
from medvae.importing.importer import HEALTHY, Importer, Request
from medvae.importing.ledger import ANATOMY, Ledger
from medvae.importing.lesion_names import ends_as_mask
from medvae.importing.listing import some
from medvae.importing.people import People, age_of, read_people, sex_of, site_of
from medvae.importing.scan import FoundScan
from medvae.importing.sessions import people_of_sessions, perhaps_one_person

_PAIRING = (
    "Pair such files with --label PATTERN (lesion maps) or --mask PATTERN (brain masks); if they are anatomy, say "
    "--anatomy WORD, a word of their names; or rename or remove them."
)
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
    anatomy: Sequence[str] = (),
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
        Scans without a label are healthy, but for people beside whom an unpaired lesion map lies
        (`medvae.importing.lesion_names`): they are skipped. Otherwise scans without a label are unlabelled.
    participants
        Table with age, sex and site; ``participants.tsv`` of the folder by default.
    anatomy
        Files with one of these words in the name are no lesion maps.

    Raises
    ------
    MedvaeError
        For a pattern that is ambiguous or matches nothing.
    """
    if len(images) != len(modalities):
        raise MedvaeError(
            f"{len(images)} --image patterns and {len(modalities)} --modality names: give one name for each pattern."
        )
    ledger = Ledger(source)
    masks = _matches(mask, "--mask", ledger) if mask else {}
    labels = _matches(label, "--label", ledger) if label else {}
    others = {*masks.values(), *labels.values()}
    found = [_matches(pattern, "--image", ledger, others) for pattern in images]
    keys = sorted(set().union(*found))
    ledger.no_lesion_maps(masks.values())
    if label:
        named = _compile(label, "--label")
        ledger.lesion_maps([*labels.values(), *(p for p in ledger.unusable if named.fullmatch(ledger.shown(p)))])
    known, notes = _people(source, participants)
    person_of, told = _persons(keys, said=any("{subject}" in pattern for pattern in images))
    notes += told
    scans = []
    for key in keys:
        subject, session = key
        name = f"{subject}_{session}" if session else subject
        missing = [m for m, table in zip(modalities, found, strict=True) if key not in table]
        if missing or (mask and key not in masks):
            ledger.skip(name, f"has no {' and no '.join(missing)}" if missing else f"has no mask ({mask})")
            for table in (*found, masks, labels):
                if key in table:
                    ledger.skip(table[key], "belongs to a case that is skipped")
        else:
            row = known.row(subject, name, person_of[key])
            scans.append(
                FoundScan(
                    name, tuple(table[key] for table in found), healthy, labels.get(key), masks.get(key),
                    person_of[key], site_of(row), age_of(row), sex_of(row),
                )
            )  # fmt: skip
    if not scans:
        last = ledger.entries[-1]
        raise MedvaeError(f"{source}: no case has all its files. {last.what} {last.why}.")
    for what, table in (("mask (--mask)", masks), ("label (--label)", labels)):
        for key in sorted(table.keys() - set(keys)):
            ledger.skip(table[key], f"is a {what} without a scan of that name")
    # A subject with a lesion in one session is not known to be free of it in another.
    ill = {person_of[key] for key in keys if key in labels}
    scans = [replace(scan, healthy=False) if scan.subject_id in ill else scan for scan in scans]
    unknown = sum(scan.kind == "unlabelled" for scan in scans)
    if unknown and not healthy:
        notes.append(
            f"{unknown} scans have no label: they are unlabelled, and neither trained on nor measured. If they are "
            f"healthy, say so with --healthy."
        )
    notes += known.missing(scan.subject_id for scan in scans)
    return ledger.close(
        Found(source.resolve().name, tuple(modalities), scans, notes=notes), _PAIRING, anatomy, "fits no pattern"
    )


def _persons(keys: Sequence[tuple[str, str]], *, said: bool) -> tuple[dict[tuple[str, str], str], list[str]]:
    """The person of each (subject, session), and notes about what was told from names; ``said`` by a pattern."""
    if said:
        return {key: key[0] for key in keys}, []
    names = [name for name, _ in keys]
    told = people_of_sessions(names)
    several: dict[str, list[str]] = defaultdict(list)
    for name, person in told.items():
        several[person].append(name)
    several = {person: own for person, own in several.items() if len(own) > 1}
    notes = []
    if several:
        person, own = next(iter(several.items()))
        notes.append(
            f"{len(several)} people have several scans, by their names: {some(own)} are all of {person}. They share a "
            f"split. If this is wrong, mark the person with {{subject}} and {{session}} instead of {{id}}."
        )
    doubtful = perhaps_one_person(names)
    if doubtful:
        person, own = next(iter(doubtful.items()))
        notes.append(
            f"{some(own)} begin alike, as do {len(doubtful)} groups of names in all: if these are scans of one "
            f'person, they must share a split. Mark the person: "{{subject}}_{{session}}" instead of "{{id}}".'
        )
    return {key: told[key[0]] for key in keys}, notes


def _matches(pattern: str, option: str, ledger: Ledger, others: Collection[Path] = ()) -> dict[tuple[str, str], Path]:
    """Matching files, by (subject, session).

    An image is none of the ``others``. Where a pattern ends in a name, as ``{id}.nii.gz`` does, it fits masks too: a
    file whose name ends in a word for one is no image.
    """
    expression = _compile(pattern, option)
    open_end = option == "--image" and scan_name(pattern).endswith(("}", "*"))
    table: dict[tuple[str, str], Path] = {}
    for path in ledger.scans:
        shown = ledger.shown(path)
        match = expression.fullmatch(shown)
        if match is None or path in others:
            continue
        if open_end and ends_as_mask(scan_name(path)):
            ledger.skip(path, "fits --image, but has the name of a mask or segmentation")
            continue
        groups = match.groupdict()
        key = (groups.get("id") or groups["subject"], groups.get("session") or "")
        other = table.setdefault(key, path)
        if other == path:
            continue
        if other.parent == path.parent and scan_name(other).casefold() == scan_name(path).casefold():
            ledger.skip(path, "is there a second time, packed and unpacked")
            continue
        raise MedvaeError(
            f'{option} "{pattern}": fits {ledger.shown(other)} and {shown}, both named '
            f'"{"_".join(filter(None, key))}". Make the pattern tell them apart, for instance with the folder in it.'
        )
    if not table:
        raise ledger.nothing_found(f"file for {option}", f'"{pattern}"')
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
    if not pattern.lower().endswith((*ENDINGS, "*")):
        raise MedvaeError(f'{option} "{pattern}": must end in the ending of the files: {", ".join(ENDINGS)}.')
    start = scan_name(pattern)
    ending = pattern[len(pattern) - len(Path(pattern).name) + len(start) :] if start != Path(pattern).name else ""
    result, seen = "" if "/" in pattern else "(?:.*/)?", set()
    for name, folders, star, mark, text, odd in _TOKEN.findall(pattern.removesuffix(ending).removeprefix("./")):
        if odd:
            raise MedvaeError(f'{option} "{pattern}": "{odd}" is not understood; {{id}}, {{subject}}, {{session}} are.')
        if name:
            result += f"(?P={name})" if name in seen else f"(?P<{name}>[^/]+?)"
            seen.add(name)
        else:
            result += "(?:.*/)?" if folders else "[^/]*" if star else "[^/]" if mark else re.escape(text)
    return re.compile(result + f"(?i:{re.escape(ending)})")  # some programs write .NII.GZ


def _people(source: Path, participants: Path | None) -> tuple[People, list[str]]:
    path = participants or source / "participants.tsv"
    if participants is None and not path.is_file():
        return People({}), ["Ages and sites are not known, splits ignore them. Give a table with --participants."]
    return read_people(path)


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
    anatomy: Annotated[tuple[str, ...], ANATOMY] = ()


def _find(request: Request, options: Options) -> Found:
    return find_folder(
        request.source, options.image, options.modality, mask=options.mask, label=options.label,
        healthy=options.healthy, participants=options.participants, anatomy=options.anatomy,
    )  # fmt: skip


FOLDER = Importer(
    name="folder",
    help="""
    Any folder, by patterns of file names.

    {id} is what names the case, * any part of a name, **/ any folders; a pattern without / is looked for everywhere.
    Where people have several scans, write {subject} and {session} instead of {id}: they then share a split. Quote the
    patterns. Scans without a label are unlabelled, unless --healthy. Whoever is called healthy and has an unpaired file
    that looks like a lesion map (lesion, mask, seg, label, roi in the name) is skipped, and named.
    """,
    example='medvae manifest folder scans --image "{id}/T1.nii.gz" --mask "{id}/mask.nii.gz" --healthy '
    "--out scans.json",
    options=Options,
    find=_find,
    has_healthy=True,
)
