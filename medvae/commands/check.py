"""``medvae check``: read every file of a cohort and report errors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medvae.commands.shared import AllowLarge, ManifestFile, Quiet, stopped_says
from medvae.errors import MedvaeError

EXAMPLE = "medvae check data_manifests/included_t1.json"


def check(
    manifest: ManifestFile,
    out: Annotated[Path | None, typer.Option(help="Folder for check.json and fingerprint.json.")] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Processes; one per core by default.")] = None,
    allow_large: AllowLarge = False,
    quiet: Quiet = False,
) -> None:
    """Read every file of a cohort and report errors and warnings.

    Errors (exit code 1): files that are missing, truncated or not finite, on different grids, without a brain or with
    wrong labels; the same scan or subject in two splits. Warnings: headers that viewers read differently, files that
    look mixed up, and cases and sites that differ from the healthy training scans.
    """
    from rich.text import Text

    from medvae.preparation.cohort_check import check_cohort, write_report
    from medvae.reporting.tables import check_rows, print_table
    from medvae.terminal import plain_console, printable

    with stopped_says("Stopped; nothing was written."):
        found = check_cohort(manifest, jobs=jobs, quiet=quiet)
    print_table(f"{found.cohort}: {found.entries} cases", *check_rows(found))
    console = plain_console()
    for severity, colour in (("warning", "yellow"), ("error", "red")):
        for finding in found.findings:
            if finding.severity == severity:
                where = f"{finding.case}: " if finding.case else ""
                told = printable(f" {where}{finding.message}")
                console.print(Text.assemble((severity, colour), told), soft_wrap=True)
    for path in write_report(found, out) if out else []:
        console.print(f"written: {path}", soft_wrap=True)
    errors, warned = found.count("error"), found.count("warning")
    if errors:
        raise MedvaeError(
            f"{manifest}: {len(found.cases_with('error'))} of {found.entries} cases have an error: {errors} error(s) "
            f"and {warned} warning(s), listed above."
        )
    console.print(f"No errors, {warned} warning(s) listed above." if warned else "Everything is in order.")
