"""``medvae benchmark``: methods, scores and seeds compared on one cohort."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medvae.commands.shared import (
    Device,
    Jobs,
    On,
    OnOption,
    Quiet,
    device_on,
    import_for_workers,
    stopped_says,
    workers,
)
from medvae.errors import MedvaeError

EXAMPLE = "medvae benchmark configs/studies/included_t1.yaml --out runs/included_t1"


def benchmark(
    study: Annotated[Path, typer.Argument(metavar="STUDY", help="YAML file, see docs/BENCHMARK.md.")],
    out: Annotated[Path, typer.Option(help="Folder of the study, new or one that goes on being filled.")],
    cache: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of prepared scans; OUT/prepared by default.")
    ] = None,
    device: Device = "auto",
    jobs: Jobs = None,
    on: On = None,
    on_option: OnOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what is to be done and what is done; do nothing.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Compare methods × scores × seeds on one cohort: train, calibrate, predict, measure, rank.

    Finished work is kept: the same command continues after Ctrl-C, and after a change of the study it redoes only what
    has changed. A method that fails becomes a row that says why; the rest continues.
    Writes leaderboard.md, .csv and .tex, results.json and pictures. Exit code 1 if a row failed.
    """
    if not dry_run:
        import_for_workers(on, jobs, None, "medvae.commands.worker_imports")
    from medvae.benchmark.study import read_study

    settings = read_study(study)
    from rich.markup import escape
    from rich.text import Text

    from medvae.benchmark.runner import open_bench, run_study, state_rows
    from medvae.benchmark.writing import about, board_rows, write_board
    from medvae.reporting.tables import print_table

    if dry_run:
        bench = open_bench(settings, out, cache=cache, writing=False)
        print_table(f"{settings.name}: {bench.todo()}", *state_rows(bench))
        for row in bench.plan.rows:
            if row.problem:
                typer.echo(f"{row.name} cannot be done: {row.problem}")
        for reason in bench.plan.left_out.values():
            typer.echo(f"left out: {reason}")
        return
    from medvae.devices import find_device

    device = device_on(on, device)
    with (
        stopped_says(f"Stopped. What was done is in {out}. Go on with the same command."),
        workers(
            on, on_option, jobs, None, shares=out, memory_gb=2.0, device=str(find_device(device)), quiet=quiet
        ) as number,
    ):
        board = run_study(settings, out, cache=cache, device=device, jobs=number, quiet=quiet)
    written = write_board(board, out)
    for one in board.leaderboards:
        header, rows = board_rows(one, lambda text: f"[bold]{text}[/]", escape)
        print_table(f"{one.title}: {about(one)}", header, [[Text.from_markup(c, emoji=False) for c in r] for r in rows])
    for path in written:
        typer.echo(f"written: {path}")
    if board.failed:
        raise MedvaeError("\n".join([*board.failed, f"{study}: {len(board.failed)} failed; the others were measured."]))
