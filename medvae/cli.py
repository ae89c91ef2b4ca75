"""The commands: each parses its arguments, calls the library and prints. Heavy imports wait until they are needed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from medvae.errors import MedvaeError

app = typer.Typer(
    help="Find what does not belong in a brain MRI, after having seen healthy scans only.\n\n"
    "A run goes: [bold]check[/] a manifest, [bold]train[/] on its healthy scans, [bold]predict[/] anomaly maps and "
    "lesion masks, [bold]evaluate[/] them where the truth is known.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    add_completion=False,
)

ManifestFile = Annotated[Path, typer.Argument(metavar="MANIFEST", help="JSON file that lists the cohort.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress display.")]


@app.command(epilog="Example: medvae check data_manifests/included_t1.json")
def check(manifest: ManifestFile) -> None:
    """Read every file of a cohort and say what is wrong.

    Verifies that images, masks and labels are complete NIfTI files on one grid per case, hold finite values and a
    brain, agree with their checksums, and that no subject is in two splits. Exit code 1 if something is wrong.
    """
    from rich.console import Console

    from medvae.manifest import read_manifest
    from medvae.preparation.check import check_case
    from medvae.progress import Progress
    from medvae.reporting.tables import print_table

    cohort = read_manifest(manifest, files_must_exist=False)
    results = []
    with Progress("Checking", len(cohort.cases)) as progress:
        for done, case in enumerate(cohort.cases, start=1):
            results.append(check_case(cohort, case))
            progress.update(done, case=case.id)
    header = ["case", "split", "kind", "shape", "spacing mm", "axes", "brain ml", "lesion ml", "state"]
    rows = [
        [r.id, r.split, r.kind, r.shape, r.spacing_mm, r.orientation, _ml(r.brain_ml, 0), _ml(r.lesion_ml, 2),
         "[red]wrong[/]" if r.problems else "ok"]
        for r in results
    ]  # fmt: skip
    console = Console()
    print_table(f"{cohort.name}: {len(cohort.cases)} cases", header, rows)
    wrong = [r for r in results if r.problems]
    for result in wrong:
        for problem in result.problems:
            console.print(f"[red]{result.id}[/]: {problem}", highlight=False, soft_wrap=True)
    if wrong:
        raise MedvaeError(f"{manifest}: {len(wrong)} of {len(results)} cases have a problem (listed above).")
    console.print("Everything is in order.")


@app.command(
    epilog="Example: medvae train configs/cevae_slice.yaml --data data_manifests/included_t1.json --out runs/a"
)
def train(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML file of the method, see configs/.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Single values, as training.steps=200.")
    ] = None,
    data: Annotated[Path, typer.Option(help="Manifest of the cohort (JSON).")] = ...,
    out: Annotated[Path, typer.Option(help="Run folder; it must be new, unless --resume.")] = ...,
    resume: Annotated[bool, typer.Option("--resume", help="Continue a run that was stopped.")] = False,
    quiet: Quiet = False,
) -> None:
    """Train on the healthy scans of a cohort and set the thresholds on its healthy validation scans.

    Writes the run folder: resolved config, metrics.jsonl, loss.png, reconstructions.png, checkpoints, the network and
    the finished detector. Ctrl-C leaves a checkpoint; the same command with --resume goes on from it.
    """
    from medvae.config import read_config
    from medvae.manifest import read_manifest

    settings, cohort = read_config(config, overrides), read_manifest(data)
    from medvae.fitting import fit

    try:
        detector = fit(settings, cohort, out, resume=resume, quiet=quiet)
    except KeyboardInterrupt:
        typer.echo(f"\nStopped. What was learned is in {out}. Go on with the same command and --resume.", err=True)
        raise typer.Exit(130) from None
    for point in detector.points:
        typer.echo(f"threshold at healthy FPR {point.false_positive_rate:g}: {point.threshold:.4g}")
    typer.echo(f"detector: {out / 'detector'}")
    typer.echo(f"next: medvae predict {out} SCAN.nii.gz --out DIR")


@app.command(epilog="Example: medvae predict runs/a scan1.nii.gz scan2.nii.gz --out overlays")
def predict(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder, or a detector's folder.")],
    scans: Annotated[
        list[Path] | None, typer.Argument(metavar="[SCAN]...", help="NIfTI files, skull-stripped or whole heads.")
    ] = None,
    manifest: Annotated[Path | None, typer.Option(help="Predict the cases of a manifest instead.")] = None,
    split: Annotated[list[str], typer.Option(help="Which splits of the manifest; may be repeated.")] = ["test"],  # noqa: B006
    out: Annotated[Path, typer.Option(help="Folder for the overlays.")] = ...,
    fpr: Annotated[
        float | None, typer.Option(help="Operating point of the lesion mask; the config's by default.")
    ] = None,
    pictures: Annotated[bool, typer.Option(help="Also draw a PNG per scan.")] = True,
    quiet: Quiet = False,
) -> None:
    """Write an anomaly map and a lesion mask for every scan, on the scan's own grid.

    ID_desc-anomaly_probseg.nii.gz holds values from 0 to 1 (0.5 is the threshold of the first operating point),
    ID_label-lesion_mask.nii.gz is 1 above the threshold. Both open with the scan in ITK-SNAP and other viewers. Scans
    that are already predicted are not computed again; a scan that fails does not stop the others.
    """
    if bool(scans) == bool(manifest):
        raise typer.BadParameter("give scans, or --manifest, and not both.")
    from medvae.detector import Detector
    from medvae.manifest import read_manifest
    from medvae.prediction import predict as predict_scans
    from medvae.prediction import scans_of_files, scans_of_manifest

    detector = Detector.load(run)
    chosen = scans_of_manifest(read_manifest(manifest), split) if manifest else scans_of_files(scans or [])
    if not chosen:
        raise MedvaeError(f"{manifest}: has no case in split {', '.join(split)}. Choose another with --split.")
    predictions, failures = predict_scans(detector, chosen, out, rate=fpr, quiet=quiet)
    if pictures:
        from medvae.reporting.case_picture import draw_predictions

        draw_predictions(predictions, read_manifest(manifest) if manifest else None, detector, out)
    for item in predictions:
        typer.echo(f"{item.id}: {item.lesion_volume_ml:.2f} ml above the threshold, {item.map}")
    if failures:
        raise MedvaeError("\n".join([*failures.values(), f"{len(failures)} of {len(chosen)} scans failed."]))


@app.command(epilog="Example: medvae evaluate overlays --manifest data_manifests/included_t1.json --out results")
def evaluate(
    predictions: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of anomaly maps.")],
    manifest: Annotated[Path, typer.Option(help="Manifest with the truth.")] = ...,
    out: Annotated[Path, typer.Option(help="Folder for results.json, per_case.csv and table.md.")] = ...,
    split: Annotated[list[str], typer.Option(help="Which splits; may be repeated.")] = ["test"],  # noqa: B006
) -> None:
    """Measure anomaly maps against known lesions: AP, AUROC, Dice at the operating points, realised FPR.

    AP, AUROC and Dice are pooled over the brain voxels of cases with a label; the realised FPR is that of healthy
    cases. The Dice marked "oracle" uses the truth to choose its threshold and is an upper bound, not a result.
    """

    from medvae.evaluation.study import evaluate as evaluate_folder
    from medvae.evaluation.study import write_study
    from medvae.files import write_text
    from medvae.manifest import read_manifest
    from medvae.reporting.tables import markdown_table, print_table, study_rows

    study = evaluate_folder(predictions, read_manifest(manifest), splits=split)
    write_study(study, out)
    header, rows = study_rows([study])
    write_text(out / "table.md", markdown_table(header, rows))
    print_table(f"{study.cohort}: {study.pooled['n_cases']} lesion cases", header, rows)
    if study.missing:
        raise MedvaeError(f"{predictions}: no map for {len(study.missing)} cases: {', '.join(study.missing)}.")
    typer.echo(f"written: {out / 'results.json'}")


def _ml(volume: float | None, digits: int) -> str:
    return "–" if volume is None else f"{volume:.{digits}f}"


def main() -> None:
    """Run the command line: exit code 0 done, 1 the user's input, 2 usage, 130 stopped by Ctrl-C."""
    try:
        app()
    except MedvaeError as error:
        print(f"medvae: {error}", file=sys.stderr)
        sys.exit(1)
