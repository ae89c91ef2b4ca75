"""``medvae calibrate``: thresholds of a detector from healthy scans of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medvae.commands.shared import AllowLarge, Cache, Device, Quiet, Run, overwrites, say
from medvae.commands.train import print_points

EXAMPLE = "medvae calibrate t1-2mm healthy1.nii.gz healthy2.nii.gz healthy3.nii.gz --out runs/our_scanner"
FEW = 10
"""Number of subjects below which a note says that they are few."""


def calibrate(
    run: Run,
    scans: Annotated[
        list[Path] | None,
        typer.Argument(metavar="SCAN", help="Healthy scans, one file per person."),
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Manifest whose healthy scans to take instead.")] = None,
    split: Annotated[list[str], typer.Option(help="Which splits of the manifest; may be repeated.")] = ["validation"],  # noqa: B006
    *,
    out: Annotated[Path, typer.Option(help="A new folder; use it like a run folder.")],
    name: Annotated[str | None, typer.Option(help="Name in tables and sidecars; NAME_recalibrated by default.")] = None,
    overwrite: Annotated[bool, overwrites("the detector that calibrate or ensemble wrote into the folder")] = False,
    device: Device = "auto",
    cache: Cache = None,
    allow_large: AllowLarge = False,
    quiet: Quiet = False,
) -> None:
    """Set the thresholds of a trained detector on healthy scans of your own scanner.

    Thresholds are specific to the scanner of the healthy scans that set them: on another one a detector flags more or
    less than its operating point says. Network and score stay the same, and so do AP and AUROC; operating points, their
    guarantees, the p-value of a scan and the scale of the map are reset. The scans must be of people without lesions,
    and the detector must not have been trained on them.
    """
    if bool(scans) == bool(data):
        raise typer.BadParameter("give healthy scans, or --data, and not both.")
    from medvae.manifest import Split, read_manifest
    from medvae.prediction import scans_of_files
    from medvae.recalibration import HealthyScan, healthy_scans, recalibrate

    if data:
        splits: tuple[Split, ...] = ("train", "validation", "test")
        wanted = [known for name in split for known in splits if known == name]
        healthy, where = healthy_scans(read_manifest(data), wanted), f"{data}, split {', '.join(split)}"
    else:
        healthy, where = [HealthyScan(scan, scan.id) for scan in scans_of_files(scans or [])], "the scans"
    made = recalibrate(
        run, healthy, out, where=where, name=name, cache=cache, overwrite=overwrite, device=device, quiet=quiet
    )
    for rate, threshold in made.before.items():
        share = f"{100 * made.realised[rate]:.2g} %"
        typer.echo(f"before, at {rate:g}: {threshold:.4g}, which {share} of these voxels exceed")
    print_points(made.detector.points)
    for scan, notes in made.notes.items():
        for note in notes:
            say(f"note: {scan}: {note}", err=True)
    people = len({item.subject for item in healthy})
    if people < FEW:
        typer.echo(f"note: {FEW} people or more should set a small rate (docs/CALIBRATION.md); here it is {people}")
    typer.echo(f"{made.detector.config.name}, thresholds from {len(healthy)} healthy scans: {out / 'detector'}")
    typer.echo(f"next: medvae predict {out} SCAN.nii.gz --out DIR")
