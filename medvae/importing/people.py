"""Age, sex and site of the subjects, from the table that comes with a data set."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from medvae.errors import MedvaeError
from medvae.importing.scan import Sex
from medvae.parsing import read_rows

Row = Mapping[str, str]
_SEXES: dict[str, Sex] = {
    "f": "F", "female": "F", "woman": "F", "girl": "F", "m": "M", "male": "M", "man": "M", "boy": "M", "o": "O",
    "other": "O",
}  # fmt: skip
_PER_YEAR = {
    **dict.fromkeys(("years", "year", "yrs", "yr", "y", "a"), 1.0),
    **dict.fromkeys(("months", "month", "mos", "mo", "m"), 12.0),
    **dict.fromkeys(("weeks", "week", "wks", "wk", "w"), 365.25 / 7),
    **dict.fromkeys(("days", "day", "d"), 365.25),
}
_AGE = re.compile(r"age(?:[_ ]at[_ ]\w+?)?(?:[_ (\[]*(?:in[_ ])?(years|months|weeks|days)[)\]]?)?")
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
    return [_row(row.items()) for row in read_rows(path)]


def read_people(path: Path) -> tuple[People, list[str]]:
    """The people of a table, and notes for the user.

    Ages are brought to years and codes of the sex to words, as the table's data dictionary says: the JSON file of the
    same name beside it, BIDS' ``participants.json``.

    Raises
    ------
    MedvaeError
        If the table cannot be read, or a person has two rows that differ.
    """
    rows, notes = read_table(path), []
    columns: dict[str, dict[str, Any]] = {}
    try:
        columns = _data_dictionary(path)
    except MedvaeError as error:
        notes.append(f"{error} Ages are taken for years.")
    age_column = next((key for row in rows[:1] for key in row if _AGE.fullmatch(key)), "age")
    told = columns.get(age_column, {})
    unit = str(told.get("units") or (match[1] if (match := _AGE.fullmatch(age_column)) else None) or "years").lower()
    if unit not in _PER_YEAR:
        notes.append(
            f'{path.name}: the unit of the age, "{unit}", is not known: ages are left out, splits ignore them.'
        )
    elif _PER_YEAR[unit] != 1:
        notes.append(f"{path.name}: ages are given in {unit} and written in years.")
    table: list[Row] = []
    for row in rows:
        age = age_of({"age": row.get(age_column, "")}, unit)
        change = {"age": "" if age is None else f"{age:.6g}"}
        for key in ("sex", "gender"):
            levels = columns.get(key, {}).get("levels")
            if key in row and isinstance(levels, dict) and row[key] in levels:
                level = levels[row[key]]
                word = str(level.get("Description", "") if isinstance(level, dict) else level)
                change[key] = row[key] if sex_of(row) else (re.findall(r"\w+", word.lower()) or [""])[0]
        table.append({**row, **change})
    return People(people_by_name(table, path)), notes


class People:
    """Rows of a table by the person's name."""

    def __init__(self, rows: Mapping[str, Row]) -> None:
        self.rows = rows
        self._loose: dict[tuple[object, ...], list[str]] = {}
        for name in rows:
            self._loose.setdefault(_loosely(name), []).append(name)

    def row(self, *names: str) -> Row:
        """The row of the first name that has one, empty if none has.

        A name without its ``sub-``, in other letters or with other leading zeros (spreadsheets drop them) is the same,
        if only one row can be meant.
        """
        bare = [_bare(name) for name in names]
        for name in bare:
            if name in self.rows:
                return self.rows[name]
        for name in bare:
            same = self._loose.get(_loosely(name), [])
            if len(same) == 1:
                return self.rows[same[0]]
        return {}

    def missing(self, names: Iterable[str]) -> list[str]:
        """Notes about people who have no row."""
        wanted = sorted(set(names))
        without = [name for name in wanted if not self.row(name)]
        if not self.rows or not without:
            return []
        return [f"{len(without)} of {len(wanted)} people have no row in the table of people, as {without[0]}."]


def age_of(row: Row, unit: str = "years") -> float | None:
    """Age in years; None where it is not a number (``89+`` hides an age on purpose).

    ``unit`` is that of a bare number. A cell may name its own, also in DICOM's way: ``6 months``, ``036M``.
    """
    match = re.fullmatch(r"(\d+(?:[.,]\d+)?|[.,]\d+)\s*([a-z]*)\.?", row.get("age", "").lower())
    per_year = _PER_YEAR.get(match[2] or unit) if match else None
    if match is None or per_year is None:
        return None
    age = float(match[1].replace(",", ".")) / per_year
    return age if 0 < age < 130 else None


def sex_of(row: Row) -> Sex | None:
    """Sex as the manifest writes it."""
    return _SEXES.get((row.get("sex") or row.get("gender") or "").lower())


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
        name = _bare(row[key])
        if people.setdefault(name, row) != row:
            raise MedvaeError(f'{path}: "{name}" has two rows that differ. Leave one row for each person.')
    return people


def _bare(name: str) -> str:
    """A name without ``sub-``; macOS writes letters with accents as two characters, which tables do not."""
    return re.sub(r"^sub-", "", unicodedata.normalize("NFC", name.strip()), flags=re.IGNORECASE)


def _loosely(name: str) -> tuple[object, ...]:
    return tuple(int(part) if part.isdecimal() else part for part in re.findall(r"[0-9]+|[^0-9]+", name.casefold()))


def _data_dictionary(table: Path) -> dict[str, dict[str, Any]]:
    """Column name to what the JSON file beside a table says of it, keys in small letters."""
    path = table.with_suffix(".json")
    if not path.is_file():
        return {}
    from medvae.schema import read_document  # pydantic comes with it

    content = read_document(path)
    columns = content.items() if isinstance(content, dict) else ()
    return {
        str(name).strip().lower(): {str(key).lower(): value for key, value in told.items()}
        for name, told in columns
        if isinstance(told, dict)
    }


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
