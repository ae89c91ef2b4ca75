"""BIDS: raw data sets with their derivatives, or a derivative alone.

Scans are ``sub-*/[ses-*/]anat/*_T1w.nii.gz``. A lesion map has the word "lesion" in its name, or ``label-L``, and ends
as a mask, a region or a segmentation: ``label-lesion_mask``, ``desc-T1lesion_mask``, ``lesion_roi``, ``lesion-msk``,
``desc-lesion_dseg``; and ``label-lesion_probseg``, if it holds nothing but 0 and 1. A brain mask ends in ``_mask`` and
has ``desc-brain`` or ``label-brain``. They may lie next to the scan or anywhere below ``derivatives``.

Of a scan that comes in parts the magnitude is taken, never the phase, nor one inversion of an MP2RAGE. Where several
versions are left (echoes), the user chooses with ``--entity``; else the scan is skipped.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from medvae.errors import MedvaeError
from medvae.imaging.endings import scan_name
from medvae.importing.bids_names import BIDSFile, take_apart
from medvae.importing.found import Found
from medvae.importing.importer import HEALTHY, Importer, Request
from medvae.importing.ledger import ANATOMY, Ledger
from medvae.importing.listing import some
from medvae.importing.people import People, Row, age_of, read_people, sex_of, site_of
from medvae.importing.scan import FoundScan

_PAIRING = (
    "Name it as BIDS does (…_label-lesion_mask.nii.gz, of the session of its scan), or say --lesion-word WORD, a word "
    "of its name; if it is anatomy or another mask, say --anatomy WORD."
)
_NO_SCANS = ("derivatives", "sourcedata", "code")
_NOT_MAGNITUDE = frozenset(("phase", "real", "imag"))


def find_bids(
    source: Path,
    modality: str = "T1w",
    *,
    space: str | None = None,
    desc: str | None = None,
    entity: Sequence[str] = (),
    lesion_word: str = "lesion",
    healthy: bool = False,
    controls: Sequence[str] = (),
    anatomy: Sequence[str] = (),
) -> Found:
    """Scans of a BIDS data set.

    Parameters
    ----------
    source
        Root of the data set, or of one derivative.
    modality
        The suffix: ``T1w``, ``T2w``, ``FLAIR``.
    space, desc
        Which version of a scan to take if a derivative holds several.
    entity
        ``NAME=VALUE``, as ``echo=1`` or ``acq=mprage``: where scans of a session have this entity, those with this
        value. ``NAME=`` for those without.
    lesion_word
        What the names of lesion masks have in them.
    healthy
        Subjects without a lesion mask are healthy. Otherwise they are unlabelled.
    controls
        ``COLUMN=VALUE`` of participants.tsv: these subjects are healthy.
    anatomy
        Files with one of these words in the name are no lesion maps.

    Returns
    -------
    Found
        A subject with a lesion map that fits none of the scans is unlabelled. Whoever is called healthy and has another
        file that looks like a lesion map (`medvae.importing.lesion_names`) is skipped.

    Raises
    ------
    MedvaeError
        If there is no scan, if it is not clear which version is meant, or for a column or value that does not exist.
    """
    ledger = Ledger(source)
    known = [taken for path in ledger.scans if (taken := take_apart(path))]
    images = images_of(known, modality, ledger)
    if not images:
        kinds = sorted({f.suffix for f in known if f.path.parent.name == "anat"})
        advice = f"Choose with --modality among: {', '.join(kinds)}." if kinds else ""
        looked = f"sub-*/[ses-*/]anat/*_{modality}.nii.gz"
        raise ledger.nothing_found(f"BIDS scans with the suffix {modality}", looked, advice)
    images, notes = choose_images(images, ledger, space=space, desc=desc, entity=entity)

    truths = [f for f in known if not ledger.is_prediction(f.path)]
    lesions = [f for f in truths if f.is_lesion_map(lesion_word)]
    brains = [f for f in truths if f.is_brain_mask and f not in lesions]
    ledger.lesion_maps(f.path for f in lesions)
    ledger.no_lesion_maps(f.path for f in known if f.is_brain_mask)
    label_of = _assign([f for f in lesions if _is_a_label(f, ledger)], images, modality, ledger, "lesion mask")
    mask_of = _assign(brains, images, modality, ledger, "brain mask")
    with_lesion = {f.entities["sub"] for f in lesions}

    people, told = _people(source)
    chosen = _controls(people, controls, source)
    scans = []
    for image in images:
        subject = image.entities["sub"]
        row = people.row(subject)
        free = (healthy or any(row is one for one in chosen)) and subject not in with_lesion
        scans.append(
            FoundScan(
                id=image.id,
                images=(image.path,),
                healthy=free,
                label=label_of.get(image.path),
                mask=mask_of.get(image.path),
                subject=f"sub-{subject}",
                site=site_of(row),
                age=age_of(row),
                sex=sex_of(row),
            )
        )
    unknown = sum(scan.kind == "unlabelled" for scan in scans)
    notes += [*told, *people.missing(scan.subject_id for scan in scans)]
    if unknown:
        notes.append(
            f"{unknown} scans have no lesion mask and are not known to be healthy: they are unlabelled, and neither "
            f"trained on nor measured. Say who is healthy with --controls COLUMN=VALUE, or --healthy for all of them."
        )
    found = Found(source.resolve().name, (modality.removesuffix("w"),), scans, notes=notes)
    otherwise = f"is no {modality} scan, and no lesion mask or brain mask of one"
    return ledger.close(found, _PAIRING, anatomy, otherwise)


def images_of(known: list[BIDSFile], modality: str, ledger: Ledger) -> list[BIDSFile]:
    """The scans of a modality: not those of derivatives and originals, and no phase."""
    images, seen = [], set()
    for f in known:
        if f.suffix.lower() != modality.lower() or f.path.parent.name.lower() != "anat":
            continue
        place = next((part for part in f.path.relative_to(ledger.source).parts if part.lower() in _NO_SCANS), None)
        copy = (f.path.parent, scan_name(f.path))
        if place:
            ledger.skip(f.path, f"lies in {place}: import that folder if you want its scans")
        elif not _NOT_MAGNITUDE.isdisjoint(f.entities.get(name, "").lower() for name in ("part", "acq", "rec", "desc")):
            ledger.skip(f.path, "is the phase, real or imaginary part of a scan")
        elif copy in seen:
            ledger.skip(f.path, "is there a second time, packed and unpacked")
        else:
            seen.add(copy)
            images.append(f)
    return images


def choose_images(
    images: list[BIDSFile],
    ledger: Ledger,
    *,
    space: str | None = None,
    desc: str | None = None,
    entity: Sequence[str] = (),
) -> tuple[list[BIDSFile], list[str]]:
    """One image for each scan, and notes; the ledger is told why others are left out. Options as in `find_bids`.

    Raises
    ------
    MedvaeError
        If it is not clear which version is meant, or no scan has a value that is asked for.
    """
    images = _with_entities(images, entity, ledger)
    images = _one_version(images, "space", space, ledger)
    images = _one_version(images, "desc", desc, ledger)
    return _one_of_each(images, ledger)


def _with_entities(images: list[BIDSFile], conditions: Sequence[str], ledger: Ledger) -> list[BIDSFile]:
    """The images that meet every ``NAME=VALUE``; without one for ``inv``, none that is one inversion of an MP2RAGE."""
    names = set()
    for condition in conditions:
        match = re.fullmatch(r"([A-Za-z]+)=(.*)", condition.strip())
        if match is None:
            raise MedvaeError(f"--entity {condition}: give a name and a value, as in --entity echo=1.")
        name, value = match[1].lower(), match[2].removeprefix(f"{match[1]}-")
        names.add(name)
        if not any(_same(f.entities.get(name, ""), value) for f in images):
            found = ", ".join(sorted({f.entities.get(name) or f"(no {name})" for f in images}))
            raise MedvaeError(
                f"{ledger.source}: no scan has {name}-{value}; found {found}. Choose with --entity {name}=…"
            )
        having = {f.scan(("sub", "ses")) for f in images if name in f.entities}
        fitting = []
        for f in images:
            if f.scan(("sub", "ses")) not in having or _same(f.entities.get(name, ""), value):
                fitting.append(f)
            else:
                ledger.skip(f.path, f"is not chosen by --entity {condition}")
        images = fitting
    if "inv" not in names and (parts := [f for f in images if "inv" in f.entities]):
        for f in parts:
            ledger.skip(f.path, "is one inversion of an MP2RAGE (--entity inv=… takes it)")
        images = [f for f in images if f not in parts]
        if not images:
            raise MedvaeError(
                f"{ledger.source}: all scans are single inversions of an MP2RAGE, as {ledger.shown(parts[0].path)}. "
                f"Choose the combined image with --modality UNIT1, or one inversion with --entity inv=…"
            )
    return images


def _same(value: str, other: str) -> bool:
    """Indices with and without leading zeros are the same."""
    return value == other or (value.isdecimal() and other.isdecimal() and int(value) == int(other))


def _one_version(images: list[BIDSFile], entity: str, wanted: str | None, ledger: Ledger) -> list[BIDSFile]:
    """Images of one ``space`` (or ``desc``): the one asked for, or the plain one, or the only one."""
    versions = sorted({image.entities.get(entity) or "" for image in images})
    choice = wanted or ("" if "" in versions else versions[0] if len(versions) == 1 else None)
    if choice is None or choice not in versions:
        shown = ", ".join(version or f"(no {entity})" for version in versions)
        raise MedvaeError(f"{ledger.source}: scans come with {entity} {shown}. Choose with --{entity}.")
    for image in images:
        if (image.entities.get(entity) or "") != choice:
            ledger.skip(image.path, f"another {entity} is used")
    return [image for image in images if (image.entities.get(entity) or "") == choice]


def _one_of_each(images: list[BIDSFile], ledger: Ledger) -> tuple[list[BIDSFile], list[str]]:
    """One image for each scan; scans of which several are left are skipped. And a note on repeated scans."""
    groups: dict[str, list[BIDSFile]] = defaultdict(list)
    for image in images:
        groups[image.id].append(image)
    advice = ""
    for name, several in groups.items():
        if len(several) == 1:
            continue
        names = dict.fromkeys(key for f in several for key in f.entities)
        values = {key: list(dict.fromkeys(f.entities.get(key, f"(no {key})") for f in several)) for key in names}
        differ = next((key for key in names if len(values[key]) > 1), None)
        if differ:
            advice = f"comes with {differ} {', '.join(values[differ])}: choose with --entity {differ}=VALUE"
        else:
            advice = (
                f"lies in {len(several)} folders, as {some([ledger.shown(f.path) for f in several], 2)}: import one"
            )
        ledger.skip(name, advice)
        for f in several:
            ledger.skip(f.path, "is one of several versions of a scan, of which none was chosen")
    chosen = [several[0] for several in groups.values() if len(several) == 1]
    if not chosen:
        raise MedvaeError(f"{ledger.source}: every scan comes in several versions. {next(iter(groups))} {advice}.")
    sessions: dict[tuple[str | None, ...], list[BIDSFile]] = defaultdict(list)
    for image in chosen:
        sessions[image.scan(("sub", "ses"))].append(image)
    repeated = [own for own in sessions.values() if len(own) > 1]
    if not repeated:
        return chosen, []
    return chosen, [
        f"{len(repeated)} sessions have several scans, as {some([f.id for f in repeated[0]])}: all are taken, as scans "
        f"of one person. Choose with --entity, as in --entity run=1."
    ]


def _is_a_label(lesion: BIDSFile, ledger: Ledger) -> bool:
    """Whether a lesion map can serve as a label: probabilities cannot."""
    if lesion.suffix.lower() not in ("probseg", "pseg"):
        return True
    import numpy as np

    from medvae.imaging.formats import open_scan

    try:
        values = open_scan(lesion.path).values()
    except MedvaeError as error:
        ledger.skip(lesion.path, f"lesion mask: cannot be read ({error})")
        return False
    if np.all(np.minimum(np.abs(values), np.abs(values - 1)) < 1e-3):
        return True
    ledger.skip(
        lesion.path, "lesion mask: holds probabilities; save where it is lesion as …_label-lesion_mask (0 and 1)"
    )
    return False


def _assign(masks: list[BIDSFile], images: list[BIDSFile], suffix: str, ledger: Ledger, what: str) -> dict[Path, Path]:
    """Mask of each image: of the same scan and space; or of the same session, if it has one image only."""
    by_scan = {(image.scan(), image.space(suffix)): image for image in images}
    by_session: dict[tuple[tuple[str | None, ...], str | None], list[BIDSFile]] = defaultdict(list)
    for image in images:
        by_session[(image.scan(("sub", "ses")), image.space(suffix))].append(image)
    result: dict[Path, BIDSFile] = {}
    for mask in sorted(masks, key=lambda mask: mask.rank):
        place = mask.space(suffix)
        alone = by_session[(mask.scan(("sub", "ses")), place)]
        owner = by_scan.get((mask.scan(), place)) or (alone[0] if len(alone) == 1 else None)
        if owner is None:
            why = (
                "belongs to several scans" if alone else f"there is no scan of that session in space {place or 'orig'}"
            )
            ledger.skip(mask.path, f"{what}: {why}")
            continue
        first = result.setdefault(owner.path, mask)
        if first is mask:
            continue
        if (first.path.parent, scan_name(first.path)) == (mask.path.parent, scan_name(mask.path)):
            ledger.skip(mask.path, "is there a second time, packed and unpacked")
        elif first.rank != mask.rank:
            ledger.skip(mask.path, f"{what}: the scan has a _{first.suffix} already")
        else:
            raise MedvaeError(
                f"{ledger.source}: {owner.path.name} has two {what}s: {ledger.shown(first.path)} and "
                f"{ledger.shown(mask.path)}. Keep one, or name the other differently (see --lesion-word)."
            )
    return {image: mask.path for image, mask in result.items()}


def _people(source: Path) -> tuple[People, list[str]]:
    # A derivative lies below the data set whose participants table it needs: root/derivatives/NAME.
    above = source.resolve().parent
    for folder in (source, *((above.parent,) if above.name == "derivatives" else (source / "rawdata",))):
        path = folder / "participants.tsv"
        if path.is_file():
            return read_people(path)
    return People({}), ["There is no participants.tsv: ages, sexes and sites are not known, splits ignore them."]


def _controls(people: People, controls: Sequence[str], source: Path) -> list[Row]:
    """Rows of the subjects that meet one of the ``COLUMN=VALUE`` conditions."""
    chosen: list[Row] = []
    for condition in controls:
        match = re.fullmatch(r"([^=]+)=(.+)", condition)
        if match is None:
            raise MedvaeError(f"--controls {condition}: give a column and a value, as in --controls group=control.")
        column, value = match[1].strip().lower(), match[2].strip()
        values = sorted({row[column] for row in people.rows.values() if column in row})
        fitting = [row for row in people.rows.values() if row.get(column, "").lower() == value.lower()]
        if not fitting:
            columns = ", ".join(next(iter(people.rows.values()), {}))
            found = (
                f'the column "{column}" holds {", ".join(values)}' if values else f"the columns are {columns or 'none'}"
            )
            raise MedvaeError(f"{source / 'participants.tsv'}: nobody has {condition}; {found}.")
        chosen += fitting
    return chosen


@dataclass(frozen=True)
class Options:
    """Of ``medvae manifest bids``."""

    modality: Annotated[str, "Suffix of the scans: T1w, T2w, FLAIR."] = "T1w"
    space: Annotated[str | None, "space- of the scans, if there are several."] = None
    desc: Annotated[str | None, "desc- of the scans, if there are several."] = None
    entity: Annotated[
        tuple[str, ...],
        "NAME=VALUE, as echo=1 or acq=mprage: where scans of a session have NAME, only these; may be repeated.",
    ] = ()
    lesion_word: Annotated[str, "What the names of lesion masks have in them."] = "lesion"
    healthy: Annotated[bool, HEALTHY] = False
    controls: Annotated[tuple[str, ...], "COLUMN=VALUE of participants.tsv: these are healthy; may be repeated."] = ()
    anatomy: Annotated[tuple[str, ...], ANATOMY] = ()


def _find(request: Request, options: Options) -> Found:
    return find_bids(
        request.source, options.modality, space=options.space, desc=options.desc, entity=options.entity,
        lesion_word=options.lesion_word, healthy=options.healthy, controls=options.controls, anatomy=options.anatomy,
    )  # fmt: skip


BIDS = Importer(
    name="bids",
    help="""
    BIDS data sets: sub-*/anat/*_T1w.nii.gz, also with sessions; masks beside the scans or in derivatives.

    A scan without a lesion mask is unlabelled, unless --controls or --healthy says that the person is healthy. Whoever
    has an unpaired file beside the scan that looks like a lesion map is skipped, and named.
    """,
    example="medvae manifest bids data/ds001 --out data/ds001.json --controls group=control",
    options=Options,
    find=_find,
    has_healthy=True,
)
