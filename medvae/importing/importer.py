"""What an importer is: a layout of downloaded folders, with its name, its options and its reader.

An importer is a value that is defined in the file of its layout and listed in `medvae.importing.layouts`; the command
``medvae manifest NAME`` follows from it. These files are imported for every ``--help``, so what takes long to import
(numpy, nibabel, pydantic) is imported by the functions that need it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from medvae.importing.found import Found
from medvae.importing.ledger import account

Options = TypeVar("Options")
HEALTHY = "Scans without a lesion label are healthy, but for people beside whom an unpaired lesion map lies."
"""Help of the option --healthy, of every importer that has it."""


@dataclass(frozen=True)
class Request:
    """What to read, and where its manifest will lie."""

    source: Path
    """Folder of the data set."""
    out: Path
    """The manifest, for an importer that writes files next to it."""
    force: bool = False
    """Files that exist may be replaced."""
    quiet: bool = False
    """No progress display."""


@dataclass(frozen=True)
class Importer(Generic[Options]):
    """A layout that ``medvae manifest`` reads."""

    name: str
    """Of the sub-command."""
    help: str
    """As a docstring: the first line is shown in the list of commands, the paragraphs after it by its own --help."""
    example: str
    """A whole command line."""
    options: type[Options]
    """A frozen dataclass. Its fields are the command's options: of the types bool (a flag), str, int, float, Path,
    these or None, or ``tuple[str, ...]`` (may be repeated), each ``Annotated`` with its help text. A field without a
    default is a required option."""
    find: Callable[[Request, Options], Found]
    """Reads the folder."""
    has_healthy: bool
    """Whether it can contain healthy subjects, which are split: the command then has --train, --validation and
    --seed."""
    when_stopped: str | None = None
    """For a slow importer: the message after Ctrl-C. Its command has --quiet."""

    def read(self, request: Request, options: Options) -> Found:
        """What ``find`` finds, with every image of the folder accounted for (`medvae.importing.ledger`)."""
        return account(self.find(request, options), request.source)
