"""The folder of a report: replaced as a whole, and only if it is a report's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from medvae.errors import MedvaeError
from medvae.files import remove_leftovers, whole_folder, write_text

MARKER = "MADE_BY_MEDVAE_REPORT.txt"
GENERATOR = '<meta name="generator" content="medvae report">'


def check_report_folder(report: Path, cases: Path) -> None:
    """Check that both may be written, new or in place of an earlier report.

    Raises
    ------
    MedvaeError
        If either exists and was not made by `medvae report`.
    """
    if report.exists():
        with open(report, encoding="utf-8", errors="replace") as stream:
            if GENERATOR not in stream.read(4096):
                raise MedvaeError(f"{report}: was not written by medvae report. Choose another --out folder.")
    if cases.exists() and not (cases / MARKER).is_file() and not (cases.is_dir() and not any(cases.iterdir())):
        raise MedvaeError(
            f"{cases}: holds files that medvae report did not write, and its pages would go there. Choose another "
            f"--out folder; nothing was overwritten."
        )


@contextmanager
def replaced_cases(cases: Path) -> Iterator[Path]:
    """A temporary folder that replaces the pages once all are written; until then the old ones stay."""
    remove_leftovers(cases.parent)
    with whole_folder(cases) as folder:
        write_text(
            folder / MARKER,
            "Written by medvae report, and replaced as a whole when it runs again: keep nothing of yours here.\n",
        )
        yield folder
