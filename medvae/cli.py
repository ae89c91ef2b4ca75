"""The command line: its commands in the order of work, and how errors are reported."""

from __future__ import annotations

import io
import os
import sys
import warnings
from typing import Annotated, Any, TextIO

import typer
from typer.core import TyperGroup

from medvae.commands import app as page
from medvae.commands import (
    benchmark,
    bids,
    calibrate,
    check,
    ensemble,
    evaluate,
    export,
    figure,
    manifest,
    predict,
    prepare,
    report,
    train,
)
from medvae.commands.shared import show_version, tell_cause, tell_more
from medvae.cores import limit_threads
from medvae.errors import MedvaeError, MedvaeWarning
from medvae.terminal import printable


class _InOrder(TyperGroup):
    """Typer lists a group of commands last; `medvae manifest` is where the work begins."""

    def list_commands(self, context: Any) -> list[str]:  # of click, which later versions of typer bring themselves
        return sorted(super().list_commands(context), key=lambda name: name != "manifest")


app = typer.Typer(
    cls=_InOrder,
    help="Find lesions in brain MRI after training on healthy scans only.\n\n"
    "A run goes: make a [bold]manifest[/], [bold]check[/] it, [bold]prepare[/] its scans if they are many, "
    "[bold]train[/] on the healthy ones, [bold]predict[/] anomaly maps and lesion masks, [bold]evaluate[/] them where "
    "the truth is known.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)


@app.callback()
def about(
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Also say versions, the device, and the traceback of an error.")
    ] = False,
) -> None:
    """What goes before a command; the help is the app's own."""
    tell_more(verbose)


app.add_typer(manifest.app, name="manifest")
app.command(epilog=f"Example: {check.EXAMPLE}")(check.check)
app.command(epilog=f"Example: {prepare.EXAMPLE}")(prepare.prepare)
app.command(epilog=f"Example: {train.EXAMPLE}")(train.train)
app.command(epilog=f"Example: {ensemble.EXAMPLE}")(ensemble.ensemble)
app.command(epilog=f"Example: {calibrate.EXAMPLE}")(calibrate.calibrate)
app.command(epilog=f"Example: {predict.EXAMPLE}")(predict.predict)
app.command(epilog=f"Example: {page.EXAMPLE}")(page.app)
app.command(cls=bids.BIDSApp, epilog=f"Example: {bids.EXAMPLE}")(bids.bids)
app.command(epilog=f"Example: {evaluate.EXAMPLE}")(evaluate.evaluate)
app.command(epilog=f"Example: {report.EXAMPLE}")(report.report)
app.command(epilog=f"Example: {figure.EXAMPLE}")(figure.figure)
app.command(epilog=f"Example: {export.EXAMPLE}")(export.export)
app.command(epilog=f"Example: {benchmark.EXAMPLE}")(benchmark.benchmark)

_SHOW_WARNING = warnings.showwarning
_TOLD: set[str] = set()
"""Warnings of this run: a scan is read several times, by several stages."""


def main() -> None:
    """Run the command line: exit code 0 done, 1 the user's input, 2 usage, 130 stopped by Ctrl-C."""
    # Waiting threads sleep instead of spinning: on two busy cores a training step took 0.33 s instead of 0.64 s.
    # OpenMP reads this once, when torch is first imported; a value that the user has set is kept.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    limit_threads()
    warnings.showwarning = _show_warning
    _TOLD.clear()
    for stream in (sys.stdout, sys.stderr):  # a terminal may know no "×", and a file's name need not be UTF-8
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except MedvaeError as error:
        tell_cause(error)
        print(printable(f"medvae: {error}"), file=sys.stderr)
        sys.exit(1)


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Report a warning about the user's input like an error, once; those of other packages as Python does."""
    if issubclass(category, MedvaeWarning):
        if str(message) not in _TOLD:
            print(printable(f"medvae: warning: {message}"), file=sys.stderr)
        _TOLD.add(str(message))
    else:
        _SHOW_WARNING(message, category, filename, lineno, file, line)
