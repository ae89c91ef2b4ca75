"""Tables over all scans of a folder of predictions, made of the sidecars of their lesion masks and of nothing else.

``OUT/lesions.tsv``    a row for each scan
``OUT/findings.tsv``   a row for each finding, the largest of a scan first
each with a data dictionary, ``OUT/lesions.json`` and ``OUT/findings.json``, as BIDS has them.

Rows are sorted by the names of the scans, so the tables are the same in whatever order the scans were predicted.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medvae.derivatives import FINDINGS_TABLE, LESIONS_TABLE, MASK_SUFFIX, finished, read_mask_sidecar
from medvae.errors import MedvaeError
from medvae.files import SETTLED_NS, file_stamp, json_bytes, told, written_together
from medvae.locks import locked
from medvae.regions.findings import HEMISPHERES, LOCATIONS
from medvae.regions.names import REGIONS, TISSUES

ABSENT = "n/a"
"""How BIDS writes that there is no value."""

_UNPLACED = f"{ABSENT} if the scan was not registered to the template but only centred on it"


@dataclass(frozen=True)
class Column:
    """A column of a table: what it means, and where its values come from."""

    name: str
    meaning: str
    of: Callable[[Mapping[str, Any]], Any]
    """The value, from a sidecar or from one of its findings."""
    units: str = ""
    levels: Mapping[str, str] | None = None

    @property
    def described(self) -> dict[str, Any]:
        """Its entry in the data dictionary."""
        more: dict[str, Any] = {"Units": self.units} if self.units else {}
        return {"Description": self.meaning} | more | ({"Levels": dict(self.levels)} if self.levels else {})


def _field(key: str, at: int | None = None) -> Callable[[Mapping[str, Any]], Any]:
    """A field of a sidecar, or one of the numbers in it."""

    def of(content: Mapping[str, Any]) -> Any:
        value = content.get(key)
        return value if at is None or value is None else value[at]

    return of


def _largest(sidecar: Mapping[str, Any]) -> float | None:
    found = sidecar.get("Findings")
    return None if found is None else max((finding["VolumeMl"] for finding in found), default=0.0)


def _count(sidecar: Mapping[str, Any]) -> int | None:
    found = sidecar.get("Findings")
    return None if found is None else len(found)


LESIONS = (
    Column("case_id", "Name of the scan, by which its files are called.", _field("case_id")),
    Column("volume_ml", "Volume of the lesion mask.", _field("LesionVolumeMl"), "mL"),
    Column("findings", "Number of findings: connected components of the lesion mask (26 neighbours).", _count),
    Column("largest_ml", "Volume of the largest finding.", _largest, "mL"),
    Column(
        "p_value",
        "Probability of at most this for a healthy scan to be as unusual, among the healthy validation subjects of the "
        f"detector; {ABSENT} if the detector does not store them. It assumes a subject exchangeable with them.",
        _field("CasePValue"),
    ),
    Column("operating_point", "Operating point of the lesion mask.", _field("OperatingPoint")),
    Column("brain_ml", "Volume of the brain that was searched.", _field("BrainVolumeMl"), "mL"),
    Column(
        "unlike",
        "Whether the scan was announced as unlike those that the detector is for, or its place or file as doubtful.",
        lambda sidecar: bool(sidecar.get("Notes")),
        levels={"true": "Announced; notes say why.", "false": "Not announced."},
    ),
    Column("notes", "What was announced.", lambda sidecar: " ".join(sidecar.get("Notes") or ())),
    Column("detector", "Name of the detector.", _field("Model")),
    Column("mask", "File of the lesion mask, relative to this table; the other files lie beside it.", _field("mask")),
)
FINDINGS = (
    Column("case_id", "Name of the scan, by which its files are called.", _field("case_id")),
    Column("finding", "Number of the finding in its scan, the largest first.", _field("finding")),
    Column("volume_ml", "Volume of the finding.", _field("VolumeMl"), "mL"),
    *(
        Column(
            axis,
            f"Centre of mass in the scan's own world coordinates (RAS+), positive to the {side}.",
            _field("CentreMm", number),
            "mm",
        )
        for number, (axis, side) in enumerate((("x", "right"), ("y", "front"), ("z", "top")))
    ),
    *(
        Column(
            f"{axis}_mni152",
            f"Centre of mass in MNI152 space, by the affine registration of the scan; {_UNPLACED}.",
            _field("CentreMNI152Mm", number),
            "mm",
        )
        for number, axis in enumerate("xyz")
    ),
    Column("peak", "Highest value of the anomaly map in the finding, from 0 to 1.", _field("Peak")),
    Column("mean", "Mean of the anomaly map in the finding, from 0 to 1.", _field("Mean")),
    Column(
        "hemisphere", f"Side of the patient, in MNI152 space; {_UNPLACED}.", _field("Hemisphere"), levels=HEMISPHERES
    ),
    Column(
        "region",
        f"Region of the atlas that holds most of the finding; {_UNPLACED}.",
        _field("Region"),
        levels={name: f"The {name}." for name in REGIONS.values()},
    ),
    Column("region_share", f"Share of the finding in that region, from 0 to 1; {_UNPLACED}.", _field("RegionShare")),
    Column(
        "tissue",
        f"Tissue of more than half of the finding, by the atlas and not by the scan; {_UNPLACED}.",
        _field("Tissue"),
        levels={name: f"More than half is {name}." for name in list(TISSUES.values())[:-1]}
        | {"border": "No tissue has more than half of it."},
    ),
    Column(
        "location",
        "Location after the criteria of multiple sclerosis (McDonald 2017), by the atlas: the first that holds; "
        f"{ABSENT} in the third ventricle, or {_UNPLACED.removeprefix(ABSENT).strip()}.",
        _field("Location"),
        levels=LOCATIONS,
    ),
)

TABLES = {LESIONS_TABLE: LESIONS, FINDINGS_TABLE: FINDINGS}
"""Columns of each table, by its file."""


def table_files(out: Path) -> list[Path]:
    """The tables of a folder and their data dictionaries, there or not."""
    return [path for name in TABLES for path in (out / name, _dictionary(out / name))]


def write_tables(out: Path) -> None:
    """Write the tables of what the folder ``out`` holds now, in place of the former ones; none if it holds no scan.

    Sidecars are the only source, and are read under the lock of the folder: several processes that predict into it
    write the same tables, one after the other. A sidecar that cannot be read has no row.

    Raises
    ------
    MedvaeError
        If the folder cannot be written.
    """
    with locked(out):
        rows = [found for name, path in finished(out).items() if (found := _rows(path, name, out)) is not None]
        if not rows:
            with told(out):
                for path in table_files(out):
                    path.unlink(missing_ok=True)
            return
        texts = {LESIONS_TABLE: [row.lesions for row in rows], FINDINGS_TABLE: [row.findings for row in rows]}
        files: dict[Path, bytes] = {}
        for name, columns in TABLES.items():
            head = "\t".join(column.name for column in columns) + "\n"
            files[out / name] = (head + "".join(texts[name])).encode()
            path = _dictionary(out / name)
            files[path] = json_bytes(path, {column.name: column.described for column in columns})
        with written_together(files) as give_names:
            give_names()


@dataclass(frozen=True)
class _Rows:
    """The lines of a scan in both tables."""

    lesions: str
    findings: str


def _rows(path: Path, name: str, out: Path) -> _Rows | None:
    """The lines of a scan's sidecar, which is read again only if it has changed."""
    way = path.relative_to(out).with_name(f"{name}{MASK_SUFFIX}").as_posix()
    try:
        stamp = file_stamp(path)
        settled = time.time_ns() - max(stamp[1:]) > SETTLED_NS
        return (_known_rows if settled else _read_rows)(os.path.abspath(path), name, way, stamp)
    except (MedvaeError, OSError):
        return None


def _read_rows(path: str, name: str, way: str, stamp: tuple[int, ...]) -> _Rows:
    sidecar = read_mask_sidecar(Path(path))
    case = {"case_id": name, "mask": way}
    findings = [
        case | finding | {"finding": number} for number, finding in enumerate(sidecar.get("Findings") or (), start=1)
    ]
    return _Rows(_lines(LESIONS, [sidecar | case]), _lines(FINDINGS, findings))


_known_rows = functools.lru_cache(maxsize=2**16)(_read_rows)


def _lines(columns: Sequence[Column], contents: Iterable[Mapping[str, Any]]) -> str:
    return "".join("\t".join(cell(column.of(content)) for column in columns) + "\n" for content in contents)


def cell(value: Any) -> str:
    """A value as a cell of a table: `ABSENT` for none, and on one line."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return f"{value:.10g}"
    text = "" if value is None else " ".join(str(value).split())
    if text.startswith('"'):  # which would begin a quoted cell
        text = text.replace('"', "'")
    return text or ABSENT


def _dictionary(table: Path) -> Path:
    return table.with_suffix(".json")
