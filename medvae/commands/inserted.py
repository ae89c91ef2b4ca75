"""``medvae manifest inserted``: cohorts of inserted lesions, and their manifests."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medvae.commands.shared import Force, Quiet

EXAMPLE = "medvae manifest inserted cohort.json --out data/inserted --family tumour --family stroke"


def inserted(
    source: Annotated[Path, typer.Argument(metavar="MANIFEST", help="Skull-stripped T1 scans of healthy people.")],
    out: Annotated[Path, typer.Option(help="Folder to write to: one folder for each family.")],
    family: Annotated[
        list[str], typer.Option(help="ms, tumour, bright, texture, mass_effect or stroke; may be repeated.")
    ] = ["tumour", "bright", "texture", "mass_effect", "stroke"],  # noqa: B006
    size: Annotated[
        list[str],
        typer.Option(help="small (1-4 ml), medium (4-15 ml) or large (15-60 ml); may be repeated. Not of ms."),
    ] = ["small", "medium", "large"],  # noqa: B006
    shapes: Annotated[Path | None, typer.Option(help="Library of lesion shapes (.npz), for ms.")] = None,
    split: Annotated[str, typer.Option(help="Whose healthy scans: test or validation.")] = "test",
    repeats: Annotated[int, typer.Option(min=1, help="Scans made from each healthy scan, of each size.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same lesions.")] = 0,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Insert lesions of several kinds into healthy scans: a reproducible benchmark with exact truth.

    OUT/FAMILY/cohort.json holds the scans with a lesion and all healthy scans of MANIFEST: train on it, set thresholds
    on its healthy validation scans, and measure with medvae evaluate. See docs/BENCHMARK.md.
    """
    from medvae.benchmark.inserted import write_families

    try:
        written = write_families(
            source, out, family, sizes=size, shapes=shapes, split=split, repeats=repeats, seed=seed, again=force,
            quiet=quiet,
        )  # fmt: skip
    except KeyboardInterrupt:
        typer.echo("\nStopped. A family without cohort.json is not finished; the same command makes it anew.", err=True)
        raise typer.Exit(130) from None
    for manifest in written:
        lesions = sum(not case.healthy for case in manifest.cases)
        typer.echo(f"written: {manifest.path} ({lesions} scans with lesions, {len(manifest.cases) - lesions} healthy)")
