"""What several commands share: options, and what is said after Ctrl-C."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

Cache = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Open prepared scans here (see medvae prepare), and keep the missing ones here."),
]
ManifestFile = Annotated[Path, typer.Argument(metavar="MANIFEST", help="JSON file that lists the cohort.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress display.")]


@contextmanager
def stopped_says(message: str) -> Iterator[None]:
    """End with exit code 130 and a message when Ctrl-C stops what is inside."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo(f"\n{message}", err=True)
        raise typer.Exit(130) from None
