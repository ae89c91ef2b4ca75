"""``medvae ensemble``: combine several runs into one detector."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medvae.commands.shared import Cache, Device, Quiet, overwrites
from medvae.commands.train import print_points

EXAMPLE = (
    "medvae ensemble runs/axial runs/coronal runs/sagittal --data data_manifests/included_t1.json --out runs/planes"
)


def ensemble(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN", help="Run folders to average, two or more.")],
    data: Annotated[Path, typer.Option(help="Manifest whose healthy validation scans set the thresholds.")],
    out: Annotated[Path, typer.Option(help="A new folder; use it like a run folder.")],
    name: Annotated[str, typer.Option(help="Name in tables and sidecars.")] = "ensemble",
    weight: Annotated[
        list[float] | None,
        typer.Option(metavar="W", help="Weight of a run's score; once for each run, in their order. Default: equal."),
    ] = None,
    overwrite: Annotated[bool, overwrites("the detector that ensemble or calibrate wrote into the folder")] = False,
    device: Device = "auto",
    cache: Cache = None,
    quiet: Quiet = False,
) -> None:
    """Average the scores of several trained runs: different seeds, planes or methods.

    Each score is first scaled by its own healthy scans. Predicting with an ensemble also writes
    ID_desc-spread_probseg.nii.gz, which is high where its members disagree.
    """
    from medvae.manifest import read_manifest

    cohort = read_manifest(data)
    from medvae.fitting import fit_ensemble

    found = fit_ensemble(
        runs, cohort, out, name=name, weights=weight or None, cache=cache, overwrite=overwrite, device=device,
        quiet=quiet,
    )  # fmt: skip
    print_points(found.points)
    typer.echo(f"ensemble of {', '.join(found.members)}: {out / 'detector'}")
    typer.echo(f"next: medvae predict {out} SCAN.nii.gz --out DIR")
