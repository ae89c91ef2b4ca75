"""``medvae report``: predictions as pages for a web browser."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medvae.commands.shared import (
    CASES_PER_PROCESS,
    AllowLarge,
    Jobs,
    Quiet,
    how_many,
    import_for_workers,
    say,
    stopped_says,
)

EXAMPLE = "medvae report overlays --manifest data_manifests/included_t1.json --out report"


def report(
    predictions: Annotated[Path, typer.Argument(metavar="DIR", help="Folder that medvae predict wrote.")],
    manifest: Annotated[
        Path | None, typer.Option(help="Manifest of the scans, with their truth if there is one.")
    ] = None,
    scans: Annotated[
        list[Path] | None, typer.Option(metavar="DIR", help="Look for scans here instead; may be repeated.")
    ] = None,
    evaluation: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="DIR", help="What medvae evaluate wrote for DIR, and for other methods to compare; may be repeated."
        ),
    ] = None,
    run: Annotated[Path | None, typer.Option(help="Run folder: adds its options, training and calibration.")] = None,
    *,
    out: Annotated[Path, typer.Option(help="Folder for report.html and cases/.")],
    jobs: Jobs = None,
    allow_large: AllowLarge = False,
    quiet: Quiet = False,
) -> None:
    """Write a report of predictions for a web browser, with a page and a viewer for each case.

    report.html holds the numbers, the curves and a table of all cases; cases/ID.html shows scan, map, mask and truth
    with a movable threshold. Everything opens from disk, without internet access. With --manifest the predictions are
    measured, unless --evaluation gives the numbers. A scan that cannot be found or read is reported; the rest is made.
    """
    import_for_workers(None, jobs or 1, None, "medvae.reporting.report")
    from medvae.manifest import read_manifest
    from medvae.reporting.cases import predicted_names
    from medvae.reporting.report import write_report

    cohort = read_manifest(manifest, files_must_exist=False) if manifest else None
    number = how_many(jobs, len(predicted_names(predictions)), each=CASES_PER_PROCESS, quiet=quiet)
    with stopped_says("Stopped; nothing was written."):
        made = write_report(
            predictions,
            out,
            manifest=cohort,
            scans=scans or [],
            evaluations=evaluation or [],
            run=run,
            jobs=number,
            quiet=quiet,
        )
    for note in made.notes:
        say(f"note: {note}", err=True)
    for case, problem in list(made.problems.items())[:10]:
        say(f"{case}: {problem}", err=True)
    if len(made.problems) > 10:
        typer.echo(f"{len(made.problems)} cases have a problem; the report lists all of them.", err=True)
    typer.echo(f"{made.cases} case{'s' * (made.cases != 1)}; open in a browser: {made.path}")
