"""BIDS: raw data sets with their derivatives, or a derivative alone.

Scans are ``sub-*/[ses-*/]anat/*_T1w.nii.gz``. A lesion mask is a file that ends in ``_mask`` or ``_roi`` and has the
word "lesion" in its name (``label-lesion_mask``, ``desc-T1lesion_mask``, ``lesion_roi``), a brain mask one that ends
in ``_mask`` with ``desc-brain`` or ``label-brain``. They may lie next to the scan or anywhere below ``derivatives``.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from medvae.errors import MedvaeError
from medvae.importing.found import Found, Skipped
from medvae.importing.importer import HEALTHY, Importer, Request
from medvae.importing.listing import is_nifti, list_files, nothing_found, stem
from medvae.importing.people import Row, age_of, people_by_name, read_table, sex_of, site_of
from medvae.importing.scan import FoundScan

_SAME_SCAN = ("sub", "ses", "acq", "ce", "rec", "run")
_NATIVE = ("orig", "individual", "scanner")


@dataclass(frozen=True)
class _File:
    """A file name taken apart: ``sub-01_ses-1_T1w`` has the entities sub and ses and the suffix T1w."""

    path: Path
    entities: dict[str, str]
    suffix: str

    def space(self, image_suffix: str) -> str | None:
        """Standard space, or None for the space of the image itself."""
        space = self.entities.get("space")
        return None if space in (*_NATIVE, image_suffix) else space

    def scan(self, names: Sequence[str] = _SAME_SCAN) -> tuple[str | None, ...]:
        """What tells one scan from another."""
        return tuple(self.entities.get(name) for name in names)


def find_bids(
    source: Path,
    modality: str = "T1w",
    *,
    space: str | None = None,
    desc: str | None = None,
    lesion_word: str = "lesion",
    healthy: bool = False,
    controls: Sequence[str] = (),
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
    lesion_word
        What the names of lesion masks have in them.
    healthy
        Subjects without a lesion mask are healthy. Otherwise they are unlabelled.
    controls
        ``COLUMN=VALUE`` of participants.tsv: these subjects are healthy.

    Raises
    ------
    MedvaeError
        If there is no scan, if it is not clear which version is meant, or for a column or value that does not exist.
    """
    files, skipped = list_files(source)
    known = [taken for path in filter(is_nifti, files) if (taken := _take_apart(path))]
    inside = source / "derivatives"
    images = [
        f for f in known if f.suffix == modality and f.path.parent.name == "anat" and inside not in f.path.parents
    ]
    if not images:
        kinds = sorted({f.suffix for f in known if f.path.parent.name == "anat"})
        advice = f"Choose with --modality among: {', '.join(kinds)}." if kinds else ""
        looked = f"sub-*/[ses-*/]anat/*_{modality}.nii.gz"
        raise nothing_found(source, files, f"BIDS scans with the suffix {modality}", looked, advice)
    images = _one_version(images, "space", space, source, skipped)
    images = _one_version(images, "desc", desc, source, skipped)

    lesions = [f for f in known if f.suffix in ("mask", "roi") and lesion_word.lower() in stem(f.path).lower()]
    brains = [
        f
        for f in known
        if f.suffix == "mask" and "brain" in (f.entities.get("desc", "").lower(), f.entities.get("label", "").lower())
    ]
    label_of = _assign(lesions, images, modality, source, skipped, "lesion mask")
    mask_of = _assign(brains, images, modality, source, skipped, "brain mask")
    with_lesion = {f.entities["sub"] for f in lesions}

    people, notes = _people(source)
    chosen = _controls(people, controls, source)
    scans = []
    for image in images:
        subject = image.entities["sub"]
        row = people.get(subject, {})
        free = (healthy or subject in chosen) and subject not in with_lesion
        scans.append(
            FoundScan(
                id="_".join(f"{name}-{value}" for name, value in image.entities.items() if name in _SAME_SCAN),
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
    if unknown:
        notes.append(
            f"{unknown} scans have no lesion mask and are not known to be healthy: they are unlabelled, and neither "
            f"trained on nor measured. Say who is healthy with --controls COLUMN=VALUE, or --healthy for all of them."
        )
    return Found(source.resolve().name, (modality.removesuffix("w"),), scans, None, None, skipped, notes)


def _take_apart(path: Path) -> _File | None:
    *parts, suffix = stem(path).split("_")
    pairs = [part.split("-", 1) for part in parts if "-" in part]
    entities = {name: value for name, value in pairs}
    return _File(path, entities, suffix) if entities.get("sub") else None


def _one_version(
    images: list[_File], entity: str, wanted: str | None, source: Path, skipped: list[Skipped]
) -> list[_File]:
    """Images of one ``space`` (or ``desc``): the one asked for, or the plain one, or the only one."""
    versions = sorted({image.entities.get(entity) or "" for image in images})
    choice = wanted or ("" if "" in versions else versions[0] if len(versions) == 1 else None)
    if choice is None or choice not in versions:
        shown = ", ".join(version or f"(no {entity})" for version in versions)
        raise MedvaeError(f"{source}: scans come with {entity} {shown}. Choose with --{entity}.")
    for image in images:
        if (image.entities.get(entity) or "") != choice:
            skipped.append(Skipped(str(image.path.relative_to(source)), f"another {entity} is used"))
    return [image for image in images if (image.entities.get(entity) or "") == choice]


def _assign(
    masks: list[_File], images: list[_File], suffix: str, source: Path, skipped: list[Skipped], what: str
) -> dict[Path, Path]:
    """Mask of each image: of the same scan and space; or of the same session, if it has one image only."""
    by_scan = {(image.scan(), image.space(suffix)): image for image in images}
    by_session: dict[tuple[tuple[str | None, ...], str | None], list[_File]] = defaultdict(list)
    for image in images:
        by_session[(image.scan(("sub", "ses")), image.space(suffix))].append(image)
    result: dict[Path, Path] = {}
    for mask in masks:
        place = mask.space(suffix)
        alone = by_session[(mask.scan(("sub", "ses")), place)]
        owner = by_scan.get((mask.scan(), place)) or (alone[0] if len(alone) == 1 else None)
        shown = str(mask.path.relative_to(source))
        if owner is None:
            why = (
                "belongs to several scans" if alone else f"there is no scan of that session in space {place or 'orig'}"
            )
            skipped.append(Skipped(shown, f"{what}: {why}"))
        elif result.setdefault(owner.path, mask.path) != mask.path:
            raise MedvaeError(
                f"{source}: {owner.path.name} has two {what}s: {result[owner.path].relative_to(source)} and {shown}. "
                f"Keep one, or name the other differently (see --lesion-word)."
            )
    return result


def _people(source: Path) -> tuple[dict[str, Row], list[str]]:
    # A derivative lies below the data set whose participants table it needs: root/derivatives/NAME.
    above = source.resolve().parent
    for folder in (source, above.parent) if above.name == "derivatives" else (source,):
        path = folder / "participants.tsv"
        if path.is_file():
            return people_by_name(read_table(path), path), []
    return {}, ["There is no participants.tsv: ages, sexes and sites are not known, splits ignore them."]


def _controls(people: dict[str, Row], controls: Sequence[str], source: Path) -> set[str]:
    """Names of the subjects that meet one of the ``COLUMN=VALUE`` conditions."""
    chosen: set[str] = set()
    for condition in controls:
        match = re.fullmatch(r"([^=]+)=(.+)", condition)
        if match is None:
            raise MedvaeError(f"--controls {condition}: give a column and a value, as in --controls group=control.")
        column, value = match[1].strip().lower(), match[2].strip()
        values = sorted({row[column] for row in people.values() if column in row})
        fitting = {name for name, row in people.items() if row.get(column, "").lower() == value.lower()}
        if not fitting:
            columns = ", ".join(next(iter(people.values()), {}))
            found = (
                f'the column "{column}" holds {", ".join(values)}' if values else f"the columns are {columns or 'none'}"
            )
            raise MedvaeError(f"{source / 'participants.tsv'}: nobody has {condition}; {found}.")
        chosen |= fitting
    return chosen


@dataclass(frozen=True)
class Options:
    """Of ``medvae manifest bids``."""

    modality: Annotated[str, "Suffix of the scans: T1w, T2w, FLAIR."] = "T1w"
    space: Annotated[str | None, "space- of the scans, if there are several."] = None
    desc: Annotated[str | None, "desc- of the scans, if there are several."] = None
    lesion_word: Annotated[str, "What the names of lesion masks have in them."] = "lesion"
    healthy: Annotated[bool, HEALTHY] = False
    controls: Annotated[tuple[str, ...], "COLUMN=VALUE of participants.tsv: these are healthy; may be repeated."] = ()


def _find(request: Request, options: Options) -> Found:
    return find_bids(
        request.source, options.modality, space=options.space, desc=options.desc, lesion_word=options.lesion_word,
        healthy=options.healthy, controls=options.controls,
    )  # fmt: skip


BIDS = Importer(
    name="bids",
    help="""
    BIDS data sets: sub-*/anat/*_T1w.nii.gz, also with sessions; masks beside the scans or in derivatives.

    A scan without a lesion mask is unlabelled, unless --controls or --healthy says that the person is healthy.
    """,
    example="medvae manifest bids data/ds001 --out data/ds001.json --controls group=control",
    options=Options,
    find=_find,
    has_healthy=True,
)
