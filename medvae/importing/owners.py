"""Whose file is this: the person to whom a file without a scan belongs, by its name and place."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from medvae.importing.lesion_names import words_of
from medvae.importing.scan import FoundScan

_NO_NUMBER = re.compile(r"t[12]\w?|t[12]ce|\dt|3d|2d|mp2rage")


@dataclass(frozen=True)
class Owner:
    """A person, and whether the file's name says so (else it is probable: ``2_lesion`` for ``02``)."""

    person: str
    certain: bool
    words: tuple[str, ...] = ()
    """The words in the path that are the person's name."""


class Owners:
    """Finds the owner of a file among the people of the scans.

    The first that holds decides:

    1. a part of the path is the name of the person or of one of the scans, as whole words, in small or capital letters;
       of several the leftmost, then the longest;
    2. all scans of the nearest folder above the file that holds any are those of one person;
    3. the numbers in the file's name are those in the name of one person, without leading zeros.
    """

    def __init__(self, source: Path, scans: Iterable[FoundScan]) -> None:
        self._source = source
        self._keys: dict[str, dict[tuple[str, ...], str]] = {}
        self._folders: dict[Path, set[str]] = {}
        self._numbers: dict[tuple[int, ...], set[str]] = {}
        for scan in scans:
            person = scan.subject_id
            for name in dict.fromkeys((scan.id, person)):
                words = tuple(words_of(name))
                if words:
                    self._keys.setdefault(words[0], {})[words] = person
                if numbers := _numbers(name):
                    self._numbers.setdefault(numbers, set()).add(person)
            for image in scan.images:
                for folder in image.parents:
                    self._folders.setdefault(folder, set()).add(person)
                    if folder == source:
                        break

    def holds_scans(self, folder: Path) -> bool:
        """Whether a scan lies in this folder or below it."""
        return folder in self._folders

    def of(self, path: Path) -> Owner | None:
        """The owner of a file below the source, or None."""
        shown = path.relative_to(self._source) if path.is_relative_to(self._source) else Path(path.name)
        words = words_of(shown.as_posix())
        for start, word in enumerate(words):
            fitting = [key for key in self._keys.get(word, ()) if tuple(words[start : start + len(key)]) == key]
            if fitting:
                name = max(fitting, key=len)
                return Owner(self._keys[word][name], True, name)
        above = next((self._folders[folder] for folder in path.parents if folder in self._folders), set())
        if len(above) == 1:
            return Owner(next(iter(above)), True)
        same = self._numbers.get(_numbers(path.name), set())
        return Owner(next(iter(same)), False) if len(same) == 1 else None


def _numbers(name: str) -> tuple[int, ...]:
    words = [word for word in words_of(name) if not _NO_NUMBER.fullmatch(word)]
    return tuple(int(number) for word in words for number in re.findall(r"[0-9]+", word))
