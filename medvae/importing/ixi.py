"""IXI, as downloaded or in the 2 mm version with anatomy labels; all subjects are healthy.

Names are IXI012-HH-1211-T1.nii.gz: person, hospital, examination, modality (also _T1). Source:
https://brain-development.org/ixi-dataset/
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Annotated

from medvae.errors import MedvaeError
from medvae.imaging.endings import scan_name
from medvae.importing.found import Found
from medvae.importing.importer import Importer, Request
from medvae.importing.ledger import ANATOMY, Ledger
from medvae.importing.lesion_names import is_lesion_map
from medvae.importing.people import Row, age_of, read_table, sex_of
from medvae.importing.scan import FoundScan, Sex

SITES = {"HH": "Hammersmith Hospital", "Guys": "Guy's Hospital", "IOP": "Institute of Psychiatry"}
MODALITIES = ("T1", "T2", "PD")
LICENCE = "CC BY-SA 3.0: IXI data set, brain-development.org"

_NAME = re.compile(r"(?P<session>IXI(?P<number>\d+)-(?P<site>[A-Za-z]+)-\w+?)[-_](?P<what>.+)")
_TABLES = ("participants.tsv", "IXI.csv", "IXI.tsv", "IXI.xls")


def find_ixi(source: Path, modalities: Sequence[str] = ("T1",), *, anatomy: Sequence[str] = ()) -> Found:
    """Scans of IXI below ``source``.

    A brain mask is any file of the session whose name ends in ``anatomy`` (a label map; every label is brain) or
    ``mask``. Age and sex come from ``participants.tsv``, ``IXI.csv``, ``IXI.tsv`` or ``IXI.xls``, the first that
    exists. Files that have one of the words ``anatomy`` in the name are no lesion maps (`medvae.importing.ledger`).

    Raises
    ------
    MedvaeError
        If there is no scan, or a modality is asked for that IXI does not have as a 3D scan.
    """
    wanted = _modalities(modalities)
    ledger = Ledger(source)
    sessions: dict[str, dict[str, Path]] = {}
    named: dict[str, re.Match[str]] = {}
    for path in ledger.scans:
        match = _NAME.fullmatch(scan_name(path))
        if match is None:
            ledger.skip(path, "is not named as an IXI scan")
            continue
        what = match["what"]
        role = what if what in MODALITIES else _mask_role(what, wanted[0])
        if role is None:
            ledger.skip(path, "is no T1, T2 or PD scan and no brain mask of the first modality")
            if _is_mask(what):
                ledger.no_lesion_maps([path])
            continue
        named[match["session"]] = match
        if sessions.setdefault(match["session"], {}).setdefault(role, path) != path:
            ledger.skip(path, "is there a second time")
    people, notes = _people(ledger.files)
    count = Counter(match["number"] for match in named.values())
    scans = []
    for session, roles in sorted(sessions.items()):
        missing = [name for name in wanted if name not in roles]
        if missing:
            ledger.skip(session, f"has no {' and no '.join(missing)}")
            for path in roles.values():
                ledger.skip(path, "belongs to a scan that is skipped")
            ledger.no_lesion_maps([roles["mask"]] if "mask" in roles else [])
            continue
        for name in sorted(roles.keys() - {*wanted, "mask"}):
            ledger.skip(roles[name], "is another sequence: choose with --modality")
        match = named[session]
        person = f"IXI{match['number']}"
        row = people.get(int(match["number"]), {})
        scans.append(
            FoundScan(
                id=person if count[match["number"]] == 1 else session,
                images=tuple(roles[name] for name in wanted),
                healthy=True,
                mask=roles.get("mask"),
                subject=person,
                site=SITES.get(match["site"], match["site"]),
                age=age_of(row),
                sex=_sex(row),
            )
        )
    if not scans:
        names = " and ".join(f"IXI012-HH-1211-{name}.nii.gz" for name in wanted)
        raise ledger.nothing_found("IXI scans", f"files named like {names}")
    bare = sum(scan.mask is None for scan in scans)
    if bare:
        notes.append(
            f"{bare} of {len(scans)} scans have no brain mask. IXI scans are whole heads: strip the skulls (HD-BET, "
            f"SynthStrip), save the masks as {Path(scans[0].images[0]).name.split('.')[0]}_mask.nii.gz and so on below "
            f"{source}, and run this again with --overwrite."
        )
    if "T1" in wanted and len(wanted) > 1:
        notes.append("IXI's T1 does not lie on the grid of T2 and PD: resample them onto it before training.")
    found = Found("IXI", wanted, scans, licence=LICENCE, notes=notes)
    pairing = "Everybody in IXI counts as healthy: use manifest folder, or say --anatomy WORD if it is no lesion map."
    return ledger.close(found, pairing, anatomy)


def _modalities(names: Sequence[str]) -> tuple[str, ...]:
    wanted = tuple(dict.fromkeys(name.upper() for name in names))
    unknown = [name for name in wanted if name not in MODALITIES]
    if unknown:
        raise MedvaeError(f"--modality {unknown[0]}: IXI has the 3D scans {', '.join(MODALITIES)}. Choose among them.")
    return wanted


def _mask_role(what: str, first: str) -> str | None:
    """ "mask" for the mask of the first modality; a mask named after another one lies on another grid."""
    named = [name for name in MODALITIES if re.match(rf"{name}(?![A-Za-z0-9])", what)]
    return "mask" if _is_mask(what) and (not named or named == [first]) else None


def _is_mask(what: str) -> bool:
    """Whether the end of a name is that of a brain mask or of anatomy labels, and no lesion's."""
    return what.lower().endswith(("mask", "anatomy")) and not is_lesion_map(PurePath(re.sub("(?i)mask$", "", what)))


def _people(files: Sequence[Path]) -> tuple[dict[int, Row], list[str]]:
    """Rows by IXI number, and notes for the user."""
    tables = [path for name in _TABLES for path in files if path.name.lower() == name.lower()]
    if not tables:
        return {}, ["Ages are not known: no participants.tsv, IXI.csv or IXI.xls was found. Splits ignore age."]
    try:
        rows = read_table(tables[0])
    except MedvaeError as error:
        return {}, [f"Ages are not known, splits ignore them. {error}"]
    people: dict[int, Row] = {}
    doubtful: set[int] = set()
    for row in rows:
        number = re.search(r"\d+", row.get("participant_id") or row.get("ixi_id") or "")
        if number is None:
            continue
        key = int(number.group())
        known = people.setdefault(key, row)
        if (age_of(known), _sex(known)) != (age_of(row), _sex(row)):
            doubtful.add(key)
    notes = [] if people else [f"{tables[0]}: has no column participant_id or IXI_ID; ages are not known."]
    if doubtful:
        shown = ", ".join(f"IXI{key:03d}" for key in sorted(doubtful))
        notes.append(f"{tables[0].name} has two rows that differ for {shown}: their age and sex are left out.")
    return {key: row for key, row in people.items() if key not in doubtful}, notes


def _sex(row: Row) -> Sex | None:
    coded = row.get("sex_id (1=m, 2=f)", "").removesuffix(".0")
    codes: dict[str, Sex] = {"1": "M", "2": "F"}
    return codes.get(coded) or sex_of(row)


@dataclass(frozen=True)
class Options:
    """Of ``medvae manifest ixi``."""

    modality: Annotated[tuple[str, ...], "T1, T2 or PD; may be repeated."] = ("T1",)
    anatomy: Annotated[tuple[str, ...], ANATOMY] = ()


def _find(request: Request, options: Options) -> Found:
    return find_ixi(request.source, options.modality, anatomy=options.anatomy)


IXI = Importer(
    name="ixi",
    help="""
    IXI: healthy adults from three hospitals.

    Takes IXI-T1/IXI012-HH-1211-T1.nii.gz and the like, and t1/IXI012-HH-1211_T1.nii.gz with anatomy/. Brain masks are
    files that end in mask or anatomy. Age and sex come from participants.tsv, IXI.csv or IXI.xls.
    """,
    example="medvae manifest ixi data/IXI --out data/ixi.json --modality T1",
    options=Options,
    find=_find,
    has_healthy=True,
)
