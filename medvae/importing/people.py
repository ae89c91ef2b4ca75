"""Age, sex and site of the subjects, from the table that comes with a data set."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from pathlib import Path

from medvae.errors import MedvaeError
from medvae.importing.scan import Sex

Row = Mapping[str, str]
_UNKNOWN = {"", "n/a", "na", "nan", "none", "null", "unknown", "-"}


def read_table(path: Path) -> list[Row]:
    """Rows of a ``.tsv``, ``.csv`` (comma or semicolon) or ``.xls`` file; the column names are in lower case.

    Raises
    ------
    MedvaeError
        If the file cannot be read, or is ``.xls`` and the package xlrd is not installed.
    """
    if path.suffix.lower() == ".xls":
        return _read_xls(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise MedvaeError(f"{path}: cannot be read as a table ({error}). A UTF-8 .tsv or .csv was expected.") from None
    head = text.split("\n", 1)[0]
    delimiter = max("\t;,", key=head.count)
    return [_row(row.items()) for row in csv.DictReader(io.StringIO(text), delimiter=delimiter)]


def age_of(row: Row) -> float | None:
    """Age in years; None where it is not a number (``89+`` hides an age on purpose)."""
    try:
        age = float(row.get("age", "").replace(",", "."))
    except ValueError:
        return None
    return age if 0 < age < 130 else None


def sex_of(row: Row) -> Sex | None:
    """Sex as the manifest writes it."""
    words: dict[str, Sex] = {"f": "F", "female": "F", "m": "M", "male": "M", "o": "O", "other": "O"}
    return words.get((row.get("sex") or row.get("gender") or "").lower())


def site_of(row: Row) -> str | None:
    """Site, centre or scanner."""
    return next((row[key] for key in ("site", "center", "centre", "institution", "scanner") if row.get(key)), None)


def people_by_name(rows: Iterable[Row], path: Path) -> dict[str, Row]:
    """Rows by the person's name, which is in the column ``participant_id``, ``subject``, ``id`` or the first one.

    A BIDS ``sub-`` in front of the name is dropped.
    """
    people: dict[str, Row] = {}
    for row in rows:
        key = next((k for k in ("participant_id", "subject_id", "subject", "id") if k in row), next(iter(row), None))
        if key is None or not row[key]:
            continue
        name = row[key].removeprefix("sub-")
        if people.setdefault(name, row) != row:
            raise MedvaeError(f'{path}: "{name}" has two rows that differ. Leave one row for each person.')
    return people


def _row(items: Iterable[tuple[object, object]]) -> Row:
    cells = {str(key).strip().lower(): str(value or "").strip() for key, value in items if key is not None}
    return {key: "" if value.lower() in _UNKNOWN else value for key, value in cells.items()}


def _read_xls(path: Path) -> list[Row]:
    try:
        import xlrd
        from xlrd.biffh import XLRDError
    except ImportError:
        raise MedvaeError(
            f"{path}: reading an .xls file needs the package xlrd. Install it (pip install xlrd), or open the "
            f"file in a spreadsheet program and save its first sheet as {path.stem}.csv in the same folder."
        ) from None
    try:
        sheet = xlrd.open_workbook(str(path)).sheet_by_index(0)
    except (OSError, XLRDError) as error:
        raise MedvaeError(f"{path}: cannot be read as an .xls file ({error}). Download it again.") from None
    rows = [sheet.row_values(index) for index in range(sheet.nrows)]
    return [_row(zip(rows[0], row, strict=True)) for row in rows[1:]]
