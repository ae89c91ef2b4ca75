"""``medvae train``: train a detector on healthy scans."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medvae.commands.shared import AllowLarge, Cache, Device, Overrides, Quiet, overwrites, stopped_says

if TYPE_CHECKING:
    from medvae.detection.operating_points import OperatingPoint

EXAMPLE = "medvae train configs/cevae_slice.yaml --data data_manifests/included_t1.json --out runs/a"


def train(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML file of the method, see configs/.")],
    overrides: Overrides = None,
    *,
    data: Annotated[Path, typer.Option(help="Manifest of the cohort (JSON).")],
    out: Annotated[Path, typer.Option(help="Run folder; it must be new, unless --resume or --overwrite.")],
    cache: Cache = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue a run that was stopped.")] = False,
    overwrite: Annotated[bool, overwrites("the run that the folder holds")] = False,
    device: Device = "auto",
    allow_large: AllowLarge = False,
    quiet: Quiet = False,
) -> None:
    """Train on the healthy scans of a cohort and set the thresholds on its healthy validation scans.

    Writes the run folder: resolved config, metrics.jsonl, loss.png, reconstructions.png, checkpoints, the network and
    the finished detector. Ctrl-C leaves a checkpoint; the same command with --resume continues from it.
    """
    if resume and overwrite:
        raise typer.BadParameter("give --resume, or --overwrite, and not both.")
    from medvae.config import read_config
    from medvae.manifest import read_manifest

    settings, cohort = read_config(config, overrides), read_manifest(data)
    from medvae.fitting import fit

    with stopped_says(f"Stopped. What was learned is in {out}. Go on with the same command and --resume."):
        detector = fit(
            settings, cohort, out, cache=cache, resume=resume, overwrite=overwrite, device=device, quiet=quiet
        )
    print_points(detector.points)
    typer.echo(f"detector: {out / 'detector'}")
    typer.echo(f"next: medvae predict {out} SCAN.nii.gz --out DIR")


def print_points(points: Sequence[OperatingPoint]) -> None:
    """Print the thresholds of a detector."""
    for point in points:
        name = f"healthy FPR {point.false_positive_rate:g}" if point.kind == "voxel_rate" else point.name
        size = f", findings above {point.minimum_lesion_ml:.3g} ml" if point.minimum_lesion_ml else ""
        typer.echo(f"threshold at {name}: {point.threshold:.4g}{size}")
