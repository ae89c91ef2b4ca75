"""Shared by several commands: options, ``--verbose`` output, and the message after Ctrl-C."""

from __future__ import annotations

import importlib.util
import logging
import os
import platform
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medvae import __version__
from medvae.cores import available_cores
from medvae.errors import MedvaeError
from medvae.terminal import printable
from medvae.workers import import_ahead

if TYPE_CHECKING:
    from medvae.jobs import Workers


def _allow(large: bool) -> bool:
    from medvae.imaging.content import allow_large

    allow_large(large)
    return large


Cache = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Open prepared scans here (see medvae prepare), and keep the missing ones here."),
]
Device = Annotated[
    str, typer.Option(metavar="NAME", help="Where networks work: auto (a GPU if there is one), cpu, cuda, cuda:1, mps.")
]
Force = Annotated[bool, typer.Option("--overwrite", "--force", help="Replace a manifest that exists.")]
Jobs = Annotated[
    int | None,
    typer.Option(
        "--jobs", "-j", min=1, help="Scans at a time, a process and a core each; as many as there are cores by default."
    ),
]
On = Annotated[
    str | None,
    typer.Option(
        "--on",
        metavar="WHERE",
        help="Let a cluster work: slurm, the address of a scheduler of Dask (tcp://host:8786), or local, to try it "
        "(docs/CLUSTER.md).",
    ),
]
OnOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KEY=VALUE",
        help="With --on slurm: an option of sbatch, as partition=short, account=lab, time=02:00:00, mem=8G; may be "
        "repeated.",
    ),
]
ManifestFile = Annotated[Path, typer.Argument(metavar="MANIFEST", help="JSON file that lists the cohort.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Single values of the config, as training.steps=200.")
]
AllowLarge = Annotated[
    bool, typer.Option("--allow-large", callback=_allow, help="Also read volumes of more than 1024³ voxels.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress display.")]
Run = Annotated[
    Path, typer.Argument(metavar="RUN", help="Run or detector folder, or the name of one that comes with medvae.")
]

WORKERS_ON_SLURM = 10
"""Unless --jobs says how many, or there are fewer scans."""
CASES_PER_PROCESS = 4
"""That a process is started for by default: it takes as long to start as some small cases to be measured or shown."""
LOG = logging.getLogger("medvae")
"""The log that ``--verbose`` shows."""


def say(text: str, *, err: bool = False) -> None:
    """Print a line that holds names of files, which may hold anything; see `medvae.terminal`."""
    typer.echo(printable(text), err=err)


def how_many(
    jobs: int | None,
    count: int | None,
    *,
    each: int = 1,
    memory_gb: float = 1.0,
    device: str = "cpu",
    quiet: bool = False,
) -> int:
    """The number of processes for some scans, said in one line if nobody has chosen it or there are too few cores.

    By default there are as many as there are cores, and ``memory_gb`` for each of them, if there are ``each`` scans for
    each (``count`` None: there are); a GPU is given one scan at a time.
    """
    from medvae.jobs import default_jobs, memory_for

    cores, fit, gpu = available_cores(), memory_for(memory_gb), not device.startswith(("cpu", "auto"))
    scans = cores * each if count is None else count
    wanted = jobs if jobs is not None else 1 if gpu else default_jobs(scans, each=each, memory_gb=memory_gb)
    there = f"{cores} core{'s' * (cores != 1)}"
    if quiet:
        return wanted
    if jobs is None and count != 1 and (gpu or wanted > 1 or fit < min(cores, scans)):
        what = "scans" if count is None else f"{count} scans"
        where = device if gpu else there + f", as there is memory for {max(1, fit)}" * (fit < min(cores, scans))
        say(f"{what}, {wanted} at a time on {where}; --jobs changes that.", err=True)
    elif wanted > max(1, fit) and wanted > 1:
        say(f"note: the free memory is enough for about {max(1, fit)} at a time; the system may kill more.", err=True)
    elif wanted > cores and not gpu:
        say(f"note: {wanted} processes take turns on {there}; fewer --jobs are as fast.", err=True)
    return wanted


def import_for_workers(on: str | None, jobs: int | None, count: int | None, *modules: str) -> None:
    """Begin to import what the processes will need that work on ``count`` scans (None: many), if there will be several.

    To be called before the command imports it for itself.
    """
    if on is None and (count is None or count > 1) and (jobs or available_cores()) > 1:
        import_ahead(*modules)


@contextmanager
def workers(
    on: str | None,
    options: Sequence[str] | None,
    jobs: int | None,
    count: int | None,
    *,
    needs: Iterable[Path] = (),
    shares: Path | None = None,
    each: int = 1,
    memory_gb: float = 1.0,
    device: str = "cpu",
    quiet: bool = False,
) -> Iterator[int | Workers]:
    """The number of processes, as `how_many`; or, with ``--on``, workers of a cluster, until the block is left.

    ``needs`` are files that workers must see, ``shares`` the folder that they write into.
    """
    if on is None:
        if options:
            raise typer.BadParameter("--on-option is for --on slurm.")
        yield how_many(jobs, count, each=each, memory_gb=memory_gb, device=device, quiet=quiet)
        return
    from medvae.devices import AUTO

    if options and on != "slurm":
        raise typer.BadParameter(f"--on-option is for --on slurm, not for --on {on}.")
    if device not in ("cpu", AUTO):
        raise typer.BadParameter(f"--device {device}: the workers of --on compute on processors. Leave it out.")
    if "://" in on and jobs is not None:
        raise typer.BadParameter(f"--jobs: is for workers that medvae starts; those of {on} are as many as there are.")
    _require_dask()
    from medvae.cluster import LOCAL, SLURM, workers_on

    started = on in (LOCAL, SLURM)
    number = jobs or (how_many(None, count, each=each, memory_gb=memory_gb, quiet=True) if on == LOCAL else 0)
    number = number or min(WORKERS_ON_SLURM, count or WORKERS_ON_SLURM)
    if started and not quiet:
        what = "scans" if count is None else f"{count} scan{'s' * (count != 1)}"
        say(f"{what}, {number} worker{'s' * (number != 1)} on {on}; --jobs changes that.", err=True)
    given = dict(option.lstrip("-").partition("=")[::2] for option in options or ())
    with workers_on(on, number if started else 0, options=given, needs=list(needs), shares=shares) as found:
        yield found


def device_on(on: str | None, device: str) -> str:
    """The device, of which there is no choice with ``--on``: workers may have no GPU where this machine has one."""
    from medvae.devices import AUTO

    return "cpu" if on and device == AUTO else device


def _require_dask() -> None:
    missing = [name for name in ("distributed", "dask_jobqueue") if importlib.util.find_spec(name) is None]
    if missing:
        raise MedvaeError(
            f"--on needs {' and '.join(missing)}, not installed here. Run: pip install "
            f'"medvae-anomaly[cluster]", or in a checkout of medvae pip install -e ".[cluster]".'
        )


def overwrites(what: str) -> object:
    """The option ``--overwrite``, which replaces ``what``."""
    return typer.Option("--overwrite", help=f"Replace {what}; files that medvae did not write always stay.")


def show_version(asked: bool) -> None:
    """Print the version, and nothing else."""
    if asked:
        typer.echo(f"medvae {__version__}")
        raise typer.Exit


def tell_more(verbose: bool) -> None:
    """Show the messages of `LOG` on the error stream, or stop showing them."""
    LOG.handlers.clear()
    LOG.setLevel(logging.DEBUG if verbose else logging.NOTSET)
    if verbose:
        shown = logging.StreamHandler()
        shown.setFormatter(logging.Formatter("medvae: %(message)s"))
        LOG.addHandler(shown)
        LOG.debug("version %s, Python %s, %s", __version__, platform.python_version(), platform.platform())
        LOG.debug("cores: %d of %s, a thread each", available_cores(), os.cpu_count())
        LOG.debug("arguments: %s", " ".join(sys.argv[1:]))


def tell_cause(error: BaseException) -> None:
    """Log the traceback of an error to `LOG`, including its cause if the message hides that."""
    link: BaseException | None = error
    while link is not None:
        link.__suppress_context__ = False
        link = link.__cause__ or link.__context__
    LOG.debug("what led to the error:", exc_info=error)


@contextmanager
def stopped_says(message: str) -> Iterator[None]:
    """End with exit code 130 and a message if Ctrl-C interrupts the block."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo(f"\n{message}", err=True)
        raise typer.Exit(130) from None
