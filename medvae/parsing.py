"""Text of a user's files read within limits: JSON, YAML, JSON lines and tables, wherever they come from.

A file from a stranger may be nested a million deep, a number may have a million digits, a few lines of YAML may stand
for gigabytes. Such text is refused in one sentence that names the file, before memory or the stack runs out.
"""

from __future__ import annotations

import codecs
import csv
import difflib
import io
import itertools
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import yaml

from medvae.errors import MedvaeError
from medvae.signatures import START, recognised, recognised_bytes

LARGEST_TEXT = 64 * 2**20
"""Bytes. The manifest of 100,000 cases has some 30 million."""
LARGEST_YAML = 2**18
"""Characters, and values with those that aliases repeat. The reader of YAML is slow (3 s for these), and a config has
some thousand."""
DEEPEST = 64
"""Levels of lists and objects within each other; medvae's own documents have at most ten."""
LARGEST_INTEGER = 2**63
LONGEST_STRING = 2**16
"""Characters; a licence in full has half of that."""

_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
"""Characters that no name and no note has, and that a terminal or a file system may take for an instruction."""
_READERS_ERRORS = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError)
"""What PyYAML raises for a tag that does not fit its text, such as a date of 30 February, besides its own error."""


def read_text(path: Path | str, *, expected: str = "a JSON or YAML file") -> str:
    """The text of a file: UTF-8 with or without a byte order mark, or UTF-16 with one.

    Raises
    ------
    MedvaeError
        If the file is missing, unreadable, too large, or not text; the nearest name, the line or what it is instead is
        told.
    """
    path = Path(path)
    try:
        with open(path, "rb") as stream:
            content = stream.read(LARGEST_TEXT + 1)
    except FileNotFoundError:
        raise MedvaeError(f"{path}: {recognised(path) or _nearest(path)}") from None
    except IsADirectoryError:
        raise MedvaeError(f"{path}: is a folder; {expected} was expected.") from None
    except (OSError, ValueError) as error:  # a name with a zero byte
        raise MedvaeError(f"{path}: cannot be read as text ({error}). Check the path: {expected} was due.") from None
    if len(content) > LARGEST_TEXT:
        raise MedvaeError(
            f"{path}: has more than {LARGEST_TEXT // 2**20} MB of text, which {expected} never has. Check the path."
        )
    if content and (strange := recognised_bytes(content[:START], text=True)):
        raise MedvaeError(f"{path}: cannot be read as text: {strange}")
    wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return content.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise MedvaeError(
            f"{path}: cannot be read as text: line {line} is not UTF-8 (byte {content[error.start]:#04x}). Save "
            f"{expected} as UTF-8."
        ) from None


def parse_json(text: str, source: Path | str, *, finite: bool = True) -> Any:
    """A JSON document; with ``finite=False`` its numbers may be NaN and infinite, as Python writes them.

    Raises
    ------
    MedvaeError
        If it is not valid, too deep, names a key twice, or holds a number that is too large or no number; ``source`` is
        named.
    """
    try:
        document = json.loads(text, object_pairs_hook=lambda pairs: _object(pairs, source), parse_int=_integer)
    except json.JSONDecodeError as error:
        at = f"in line {error.lineno}, column {error.colno}"
        raise MedvaeError(f"{source}: is not valid JSON: {error.msg} {at}.") from None
    except RecursionError:
        _too_deep(source)
    _check(document, source, finite=finite)
    return document


def parse_yaml(text: str, source: Path | str) -> Any:
    """A YAML document of plain values.

    Raises
    ------
    MedvaeError
        As `parse_json`, and if aliases make it endless or enormous.
    """
    if len(text) > LARGEST_YAML:
        raise MedvaeError(
            f"{source}: has {len(text):,} characters, more than {LARGEST_YAML:,}, which no config has. Check the path; "
            f"large documents are read as JSON (.json)."
        )
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _count(node, source)
            document = loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        raise MedvaeError(f"{source}: is not valid YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        _too_deep(source)
    except _READERS_ERRORS as error:
        raise MedvaeError(f"{source}: is not valid YAML: a value cannot be read ({error}).") from None
    _check(document, source)
    return document


def read_json_lines(path: Path | str) -> list[dict[str, Any]]:
    """The objects of a log that has one in each line; empty lines are skipped, and numbers need not be finite.

    Raises
    ------
    MedvaeError
        As `read_text` and `parse_json`, naming the line.
    """
    found = []
    lines = read_text(path, expected="a log with one JSON object per line").splitlines()
    for number, line in enumerate(lines, start=1):
        if line.strip():
            document = parse_json(line, f"{path}, line {number}", finite=False)
            if not isinstance(document, dict):
                raise MedvaeError(f"{path}, line {number}: holds {type(document).__name__}, an object was expected.")
            found.append(document)
    return found


def read_rows(path: Path | str) -> list[dict[str, str]]:
    """The rows of a table with a header: tabs, semicolons or commas, whichever the header has most of.

    Control characters are dropped. Cells that lie beyond the header are dropped, those that are missing are empty.

    Raises
    ------
    MedvaeError
        As `read_text`, and if a quotation mark is never closed or a cell is as long as a book.
    """
    text = _CONTROL.sub("", read_text(path, expected="a .tsv or .csv table"))
    head = text.split("\n", 1)[0]
    delimiter = max("\t;,", key=head.count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        rows = [{key: cell or "" for key, cell in row.items() if key is not None} for row in reader]
    except csv.Error as error:
        raise MedvaeError(
            f"{path}: cannot be read as a table: {error}, after line {reader.line_num}. Look for a quotation mark."
        ) from None
    if text.count('"') % 2 and any("\n" in cell for row in rows[-1:] for cell in row.values()):
        raise MedvaeError(f"{path}: a quotation mark in it is never closed, and takes in lines that follow. Remove it.")
    return rows


class _Loader(yaml.SafeLoader):
    """Plain values; a key that stands twice is an error, as is one that cannot be a name."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        if isinstance(node, yaml.MappingNode):
            plain = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"]
            for twice in _repeated(plain):
                at = f"line {node.start_mark.line + 1}"
                raise yaml.YAMLError(f'the key "{twice}" stands twice in the block that begins in {at}: remove one.')
        return super().construct_mapping(node, deep)


def _object(pairs: list[tuple[str, Any]], source: Path | str) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(iter(_repeated([key for key, _ in pairs])))
        raise MedvaeError(f'{source}: the key "{twice}" stands twice in one object: remove one of the two.')
    return found


def _repeated(keys: Iterable[str]) -> Iterator[str]:
    seen: set[str] = set()
    for key in keys:
        if key in seen:
            yield key
        seen.add(key)


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) <= 20 else math.inf  # told by `_check`, which knows its place


def _count(node: Any, source: Path | str) -> int:
    """Values below a YAML node, an alias' anew wherever it is used, before any of them is made."""
    counts: dict[int, int] = {}

    def below(node: Any, depth: int, above: frozenset[int]) -> int:
        if id(node) in above:
            raise MedvaeError(f"{source}: an alias in it contains itself, so that it has no end. Remove the alias.")
        if depth > DEEPEST:
            _too_deep(source)
        if id(node) not in counts:
            inner = node.value if isinstance(node, yaml.CollectionNode) else ()
            parts = itertools.chain.from_iterable(inner) if isinstance(node, yaml.MappingNode) else inner
            counts[id(node)] = 1 + sum(below(part, depth + 1, above | {id(node)}) for part in parts)
        return counts[id(node)]

    total = below(node, 0, frozenset())
    if total > LARGEST_YAML:
        raise MedvaeError(f"{source}: its aliases make {total:,} values of {len(counts):,}. Write it without aliases.")
    return total


def _check(document: Any, source: Path | str, *, finite: bool = True) -> None:
    """Refuse what a document may hold by the letter and nobody can work with."""
    waiting: list[tuple[Any, tuple[Any, ...]]] = [(document, ())]
    while waiting:
        value, place = waiting.pop()
        if len(place) > DEEPEST:
            _too_deep(source)
        if isinstance(value, Mapping):
            for key, inner in value.items():
                _check_scalar(key, source, place, finite=finite)
                waiting.append((inner, (*place, key)))
        elif isinstance(value, list | tuple | set):
            waiting += ((inner, (*place, index)) for index, inner in enumerate(value))
        else:
            _check_scalar(value, source, place, finite=finite)


def _check_scalar(value: Any, source: Path | str, place: tuple[Any, ...], *, finite: bool) -> None:
    where = f'"{".".join(map(str, place))}": ' if place else ""
    if isinstance(value, str):
        if len(value) > LONGEST_STRING:
            raise MedvaeError(f"{source}: {where[:80]}holds a text of {len(value):,} characters. Shorten it.")
        if found := _CONTROL.search(value):
            raise MedvaeError(f"{source}: {where}holds the control character {found[0]!a}. Remove it.")
        if not value.isascii() and not _encodes(value):
            raise MedvaeError(f"{source}: {where}holds half a character (a lone surrogate, \\ud800 to \\udfff).")
    elif isinstance(value, float) and finite and not math.isfinite(value):
        raise MedvaeError(
            f"{source}: {where}holds a number that is infinite, too large or not a number (NaN). Write null, or leave "
            f"the key out, where there is no number."
        )
    elif isinstance(value, int) and abs(value) >= LARGEST_INTEGER:
        raise MedvaeError(f"{source}: {where}holds a whole number of more than 64 bits. Correct it.")


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _too_deep(source: Path | str) -> NoReturn:
    raise MedvaeError(f"{source}: its lists and objects are nested more than {DEEPEST} deep. Check the file.") from None


def _nearest(path: Path) -> str:
    try:
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*")], n=1)
    except OSError:
        near = []
    hint = f' Did you mean "{path.parent / near[0]}"?' if near else " Check the path."
    return f"there is no such file.{hint}"
