"""``medvae prepare``: resample the scans of a cohort to the standard grid, once."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from medvae.commands.shared import (
    AllowLarge,
    ManifestFile,
    On,
    OnOption,
    Overrides,
    Quiet,
    import_for_workers,
    stopped_says,
    workers,
)
from medvae.errors import MedvaeError

EXAMPLE = "medvae prepare cohort.json --config configs/cevae_slice.yaml --out cache --jobs 4"


def prepare(
    manifest: ManifestFile,
    overrides: Overrides = None,
    config: Annotated[
        Path | None, typer.Option(help="YAML file of the method; the default preparation without it.")
    ] = None,
    *,
    out: Annotated[Path, typer.Option(help="The cache: a new folder, or one that goes on being filled.")],
    jobs: Annotated[
        int | None,
        typer.Option("--jobs", "-j", min=1, help="Scans prepared at a time, a core each; one by default."),
    ] = None,
    on: On = None,
    on_option: OnOption = None,
    split: Annotated[list[str] | None, typer.Option(help="Only this split; may be repeated.")] = None,
    allow_large: AllowLarge = False,
    quiet: Quiet = False,
) -> None:
    """Prepare the scans of a cohort into a cache that train and predict can use with --cache.

    Scans already in the cache are kept, so the same command continues after Ctrl-C; a scan that fails does not
    stop the others. Writes preparation.csv and preparation.json into the cache. Exit code 1 if a scan failed.
    """
    import_for_workers(on, jobs if on else jobs or 1, None, "medvae.preparation.cohort", "medvae.preparation.n4")
    from medvae.config import read_config
    from medvae.manifest import read_manifest

    settings = read_config(config, overrides).preparation
    cohort = read_manifest(manifest, files_must_exist=False)
    cases = [case for case in cohort.cases if not split or case.split in split]
    if not cases:
        raise MedvaeError(f"{manifest}: has no case in split {', '.join(split or [])}. Choose another with --split.")
    from medvae.preparation.cohort import prepare_cohort

    needs = [path for case in cases for path in cohort.images(case)]
    with (
        stopped_says(f"Stopped. What was prepared is in {out}. Go on with the same command."),
        workers(on, on_option, jobs if on else jobs or 1, len(cases), needs=needs, shares=out, quiet=quiet) as number,
    ):
        records = prepare_cohort(cohort, cases, settings, out, jobs=number, quiet=quiet)
    failed = [record for record in records if record.state == "failed"]
    if failed:
        from medvae.reporting.tables import print_table

        rows = [[record.id, record.split, record.problem] for record in failed]
        print_table(f"{cohort.name}: {len(failed)} of {len(records)} scans failed", ["case", "split", "why"], rows)
        raise MedvaeError(
            f"{manifest}: {len(failed)} of {len(records)} scans could not be prepared (listed above and in "
            f"{out / 'preparation.csv'}). Mend them and run the same command again: the others are kept."
        )
    made = sum(record.state == "prepared" for record in records)
    typer.echo(f"{made} scans prepared, {len(records) - made} were there: {out}")
    known = " ".join(shlex.quote(str(word)) for word in ("--data", manifest, "--cache", out))
    typer.echo(f"next: medvae train {config or 'CONFIG'} {known} --out RUN")
