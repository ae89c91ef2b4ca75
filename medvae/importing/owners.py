"""Whose file is this: the person to whom a file without a scan belongs, by its name and place."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from medvae.importing.lesion_names import words_of
from medvae.importing.scan import FoundScan

_NO_NUMBER = re.compile(r"t[12]\w?|t[12]ce|\dt|3d|2d|mp2rage|\d+mm")


@dataclass(frozen=True)
class Owner:
    """A person, and whether the file's name says so (else it is probable: ``2_lesion`` for ``02``)."""

    person: str
    certain: bool
    words: tuple[str, ...] = ()
    """The words in the path that are the person's name."""


class Owners:
    """Finds the people of the scans to whom a file belongs.

    1. The one whose name, or the name of one of whose scans, is in the file's name as whole words, in small or capital
       letters (of several the leftmost, then the longest); and the one whose scans are all that the nearest folder with
       scans holds. If these are two people it may be either's.
    2. Else the one whose name is in that of a folder, the nearest first.
    3. Else, probably, the one whose numbers the name of the file (or of a folder, the nearest first) begins with, but
       for leading zeros.
    """

    def __init__(self, source: Path, scans: Iterable[FoundScan]) -> None:
        self._source = source
        self._keys: dict[tuple[str, ...], str] = {}
        self._folders: dict[Path, set[str]] = {}
        self._numbers: dict[tuple[int, ...], set[str]] = {}
        for scan in scans:
            person = scan.subject_id
            for name in dict.fromkeys((scan.id, person)):
                self._keys[tuple(words_of(name))] = person
                if numbers := _numbers(name):
                    self._numbers.setdefault(numbers, set()).add(person)
            for image in scan.images:
                for folder in image.parents:
                    self._folders.setdefault(folder, set()).add(person)
                    if folder == source:
                        break

        self._longest = max(map(len, self._keys), default=0)

    def holds_scans(self, folder: Path) -> bool:
        """Whether a scan lies in this folder or below it."""
        return folder in self._folders

    def of(self, path: Path) -> list[Owner]:
        """The owners of a file below the source, at most two."""
        shown = path.relative_to(self._source) if path.is_relative_to(self._source) else Path(path.name)
        *above, name = shown.parts
        nearest = next((self._folders[folder] for folder in path.parents if folder in self._folders), set())
        found = [owner] if (owner := self._named(name)) else []
        if len(nearest) == 1 and not nearest & {owner.person for owner in found}:
            found += [Owner(person, True) for person in nearest]
        if not found:
            found = [owner for folder in reversed(above) if (owner := self._named(folder))][:1]
        if not found:
            found = [owner for part in (name, *reversed(above)) if (owner := self._numbered(part))][:1]
        return found

    def _named(self, text: str) -> Owner | None:
        words = tuple(words_of(text))
        for start in range(len(words)):
            for length in range(min(self._longest, len(words) - start), 0, -1):
                name = words[start : start + length]
                if name in self._keys:
                    return Owner(self._keys[name], True, name)
        return None

    def _numbered(self, text: str) -> Owner | None:
        numbers = _numbers(text)
        for length in range(len(numbers), 0, -1):
            if len(same := self._numbers.get(numbers[:length], set())) == 1:
                return Owner(next(iter(same)), False)
        return None


def _numbers(name: str) -> tuple[int, ...]:
    words = [word for word in words_of(name) if not _NO_NUMBER.fullmatch(word)]
    return tuple(int(number) for word in words for number in re.findall(r"[0-9]+", word))
