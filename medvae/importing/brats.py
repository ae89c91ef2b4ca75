"""BraTS 2017 to 2021 and from 2023 on: patients with brain tumours, with the meaning of their label values.

============================  =========================================================================
names                         label values
============================  =========================================================================
BraTS2021_00000_flair         1 necrosis, 2 oedema, 4 enhancing (2017 to 2021)
BraTS-GLI-00000-000-t2f       1 necrosis, 2 oedema, 3 enhancing (2023; also SSA, MEN, MET)
BraTS-GLI-00005-100-t2f       the same, and 4 resection cavity, which is not tumour (2024, after treatment)
BraTS-PED-00001-000-t2f       2023: as the others; from 2024: 1 enhancing, 2 non-enhancing, 3 cyst, 4 oedema
============================  =========================================================================

Examinations after treatment are numbered from 100. Pediatric cases of 2023 and 2024 have the same names but other label
values: there the user must give the year. Sources: arXiv 2107.02314 (2021), 2405.18368 (2024), 2404.15009 (PED).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from medvae.errors import MedvaeError
from medvae.imaging.endings import scan_name
from medvae.importing.found import Found
from medvae.importing.importer import Importer, Request
from medvae.importing.ledger import Ledger
from medvae.importing.scan import FoundScan

MODALITIES = {
    "FLAIR": ("flair", "t2f"), "T1": ("t1", "t1n"), "T1ce": ("t1ce", "t1c", "t1gd"), "T2": ("t2", "t2w"),
}  # fmt: skip
UP_TO_2021 = {"whole tumour": [1, 2, 4], "tumour core": [1, 4], "enhancing tumour": [4]}
FROM_2023 = {"whole tumour": [1, 2, 3], "tumour core": [1, 3], "enhancing tumour": [3]}
AFTER_TREATMENT = {**FROM_2023, "resection cavity": [4]}
PEDIATRIC_2024 = {"whole tumour": [1, 2, 3, 4], "tumour core": [1, 2, 3], "enhancing tumour": [1]}
LICENCE = "The BraTS terms of the year, as agreed to for the download; cite the papers they name"

_OLD = re.compile(r"(?P<case>brats(?P<year>\d{2}|20\d{2})_.+)_(?P<what>flair|t1|t1ce|t1gd|t2|seg)", re.IGNORECASE)
_NEW = re.compile(
    r"(?P<case>(?P<patient>BraTS-(?P<task>[A-Za-z]+)-\d+)(-(?P<time>\d+))?)-(?P<what>t1n|t1c|t2w|t2f|seg)"
)


@dataclass(frozen=True)
class _Case:
    """Files of a case by the word at the end of their names; ``task`` is None up to 2021."""

    patient: str
    task: str | None
    time: int
    files: dict[str, Path] = field(default_factory=dict)


def find_brats(source: Path, modalities: Sequence[str] = ("FLAIR",), year: int | None = None) -> Found:
    """Cases of BraTS below ``source``, at any depth (HGG and LGG, training and validation).

    Raises
    ------
    MedvaeError
        If there is no case, the label values cannot be told from the names, or ``year`` contradicts the names.
    """
    wanted = _modalities(modalities)
    ledger = Ledger(source)
    cases: dict[str, _Case] = {}
    strays: list[Path] = []
    for path in ledger.scans:
        new = _NEW.fullmatch(scan_name(path))
        match = new or _OLD.fullmatch(scan_name(path))
        if match is None:
            strays.append(path)
            continue
        fresh = (
            _Case(new["patient"], new["task"], int(new["time"] or 0))
            if new
            else _Case(_patient(match["case"]), None, 0)
        )
        case = cases.setdefault(match["case"], fresh)
        if case.files.setdefault(match["what"].lower(), path) != path:
            ledger.skip(path, "is there a second time")
    for path in strays:
        folder = cases.get(path.parent.name)
        # One label of BraTS 2020 kept its first name: BraTS20_Training_355/W39_1998.09.19_Segm.nii
        if folder and folder.task is None and "seg" not in folder.files and scan_name(path).endswith("_Segm"):
            folder.files["seg"] = path
        else:
            ledger.skip(path, "is not named as a BraTS scan")
    scans = []
    for name, case in sorted(cases.items()):
        words = {m: next((word for word in MODALITIES[m] if word in case.files), "") for m in wanted}
        missing = [m for m, word in words.items() if not word]
        images = [case.files[word] for word in words.values() if word]
        if missing:
            ledger.skip(name, f"has no {' and no '.join(missing)}")
            for path in case.files.values():
                ledger.skip(path, "belongs to a case that is skipped")
        else:
            for word in sorted(case.files.keys() - {*words.values(), "seg"}):
                ledger.skip(case.files[word], "is another sequence: choose with --modality")
            scans.append(FoundScan(name, tuple(images), label=case.files.get("seg"), subject=case.patient))
    if not scans:
        looked = "files named like BraTS2021_00000_flair.nii.gz or BraTS-GLI-00000-000-t2f.nii.gz"
        raise ledger.nothing_found(f"BraTS cases with {', '.join(wanted)}", looked)
    values, why = _convention(cases.values(), year, source)
    return ledger.close(Found("BraTS", wanted, scans, values, LICENCE, notes=[why]))


def _modalities(names: Sequence[str]) -> tuple[str, ...]:
    words = {word: name for name, words in MODALITIES.items() for word in (*words, name.lower())}
    unknown = [name for name in names if name.lower() not in words]
    if unknown:
        raise MedvaeError(f"--modality {unknown[0]}: BraTS has {', '.join(MODALITIES)}. Choose among them.")
    return tuple(dict.fromkeys(words[name.lower()] for name in names))


def _patient(case: str) -> str:
    """Up to 2019 a number at the end counts examinations: Brats17_CBICA_AAB_1."""
    return re.sub(r"_\d$", "", case) if re.match(r"brats1[789]_", case, re.IGNORECASE) else case


def _convention(cases: Iterable[_Case], year: int | None, source: Path) -> tuple[dict[str, list[int]], str]:
    """Region name to label values, and the sentence that explains the choice."""
    cases = list(cases)
    tasks = {case.task for case in cases if case.task is not None}
    old = any(case.task is None for case in cases)
    last = max(case.time for case in cases)
    if year == 2022 or (year is not None and not 2017 <= year <= 2030):
        raise MedvaeError(f"--year {year}: BraTS 2017 to 2021 and 2023 onwards are known.")
    if old and tasks:
        raise MedvaeError(
            f"{source}: holds cases of BraTS up to 2021 and from 2023 on, whose label values differ. Import each "
            f"folder into a manifest of its own."
        )
    if old:
        if year is not None and year > 2021:
            raise MedvaeError(f"{source}: --year {year}, but the names (…_flair, …_seg) are those of 2017 to 2021.")
        return UP_TO_2021, "Labels as in BraTS 2017 to 2021: 1 necrosis, 2 oedema, 4 enhancing."
    if year is not None and year <= 2021:
        raise MedvaeError(f"{source}: --year {year}, but the names (BraTS-{min(tasks)}-…) are those from 2023 on.")
    if "PED" in tasks:
        if len(tasks) > 1:
            raise MedvaeError(f"{source}: holds {', '.join(sorted(tasks))}; import PED into a manifest of its own.")
        if year is None:
            raise MedvaeError(
                f"{source}: pediatric cases of 2023 and of 2024 have the same names but other label values (1 is "
                f"necrosis in 2023 and enhancing tumour from 2024 on). Say which with --year 2023 or --year 2024."
            )
        if year >= 2024:
            return PEDIATRIC_2024, f"Labels as in BraTS-PED {year} (--year): 1 enhancing, 2 solid, 3 cyst, 4 oedema."
        return FROM_2023, "Labels as in BraTS-PED 2023 (--year): 1 necrosis, 2 oedema, 3 enhancing."
    if year == 2023 and last >= 100:
        raise MedvaeError(
            f"{source}: --year 2023, but examinations numbered from 100 are those of 2024, after treatment."
        )
    if "GLI" in tasks and (last >= 100 or (year or 0) >= 2024):
        told = f"--year {year}" if year else "examinations numbered from 100"
        return AFTER_TREATMENT, (
            f"Labels as in BraTS 2024, after treatment ({told}): 1 necrosis, 2 oedema, 3 enhancing. 4 is the resection "
            f"cavity: it is named and does not count as tumour."
        )
    told = f"--year {year}" if year else "told from the names; --year 2024 allows for resection cavities in GLI"
    return FROM_2023, f"Labels as in BraTS 2023 ({told}): 1 necrosis, 2 oedema, 3 enhancing."


@dataclass(frozen=True)
class Options:
    """Of ``medvae manifest brats``."""

    modality: Annotated[tuple[str, ...], "flair, t1, t1ce or t2; may be repeated."] = ("flair",)
    year: Annotated[int | None, "Year of the challenge, where names do not tell it."] = None


def _find(request: Request, options: Options) -> Found:
    return find_brats(request.source, options.modality, options.year)


BRATS = Importer(
    name="brats",
    help="""
    BraTS 2017 to 2021 and from 2023 on: patients with brain tumours, all for testing.

    What the label values mean is told from the names (1, 2, 4 until 2021; 1, 2, 3 from 2023, with 4 the resection
    cavity after treatment) and written into the manifest. Pediatric cases need --year. Cases without a label are
    unlabelled. Examinations of one patient share the subject.
    """,
    example="medvae manifest brats data/BraTS2021_Training --out data/brats.json --modality flair",
    options=Options,
    find=_find,
    has_healthy=False,
)
