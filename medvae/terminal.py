"""What is printed: text of users' files is never markup, and never an instruction to the terminal."""

from __future__ import annotations

import re

from rich.console import Console

_INSTRUCTIONS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""Control characters except tabs and ends of lines, and what turns the direction of writing round."""


def printable(text: object) -> str:
    r"""The text with control characters written out (``\x1b``), so that a terminal shows them and obeys none."""
    return _INSTRUCTIONS.sub(lambda found: ascii(found[0])[1:-1], str(text))


def plain_console(*, stderr: bool = False, quiet: bool = False, width: int | None = None) -> Console:
    """A console that prints brackets and colons as they are: a file may well be called ``[bold]`` or ``:smile:``."""
    return Console(stderr=stderr, quiet=quiet, width=width, markup=False, emoji=False, highlight=False)
