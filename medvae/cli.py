"""The commands: each parses its arguments, calls the library and prints. Heavy imports wait until they are needed."""

from __future__ import annotations

import shlex
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medvae.errors import MedvaeError, MedvaeWarning
from medvae.importing.commands import app as manifest_app

_SHOW_WARNING = warnings.showwarning
if TYPE_CHECKING:
    from medvae.calibration import OperatingPoint

app = typer.Typer(
    help="Find what does not belong in a brain MRI, after having seen healthy scans only.\n\n"
    "A run goes: make a [bold]manifest[/], [bold]check[/] it, [bold]prepare[/] its scans if they are many, "
    "[bold]train[/] on the healthy ones, [bold]predict[/] anomaly maps and lesion masks, [bold]evaluate[/] them where "
    "the truth is known.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.add_typer(manifest_app, name="manifest")

Cache = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Open prepared scans here (see medvae prepare), and keep the missing ones here."),
]
ManifestFile = Annotated[Path, typer.Argument(metavar="MANIFEST", help="JSON file that lists the cohort.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress display.")]


@app.command(epilog="Example: medvae check data_manifests/included_t1.json")
def check(
    manifest: ManifestFile,
    out: Annotated[Path | None, typer.Option(help="Folder for check.json and fingerprint.json.")] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Processes; one per core by default.")] = None,
    quiet: Quiet = False,
) -> None:
    """Read every file of a cohort and say what is wrong.

    Errors (exit code 1): files that are missing, cut off or not finite, on different grids, without a brain or with
    wrong labels; the same scan or subject in two splits. Warnings: headers that viewers read differently, files that
    look mixed up, and cases and sites that are unlike the healthy training scans.
    """
    from rich.console import Console
    from rich.markup import escape

    from medvae.preparation.cohort_check import check_cohort, write_report
    from medvae.reporting.tables import check_rows, print_table

    try:
        found = check_cohort(manifest, jobs=jobs, quiet=quiet)
    except KeyboardInterrupt:
        typer.echo("\nStopped; nothing was written.", err=True)
        raise typer.Exit(130) from None
    print_table(escape(f"{found.cohort}: {found.entries} cases"), *check_rows(found))
    console = Console()
    for severity, colour in (("warning", "yellow"), ("error", "red")):
        for finding in found.findings:
            if finding.severity == severity:
                where = f"{escape(finding.case)}: " if finding.case else ""
                console.print(
                    f"[{colour}]{severity}[/] {where}{escape(finding.message)}", highlight=False, soft_wrap=True
                )
    for path in write_report(found, out) if out else []:
        console.print(f"written: {escape(str(path))}", highlight=False, soft_wrap=True)
    errors, warned = found.count("error"), found.count("warning")
    if errors:
        raise MedvaeError(
            f"{manifest}: {len(found.cases_with('error'))} of {found.entries} cases have an error: {errors} error(s) "
            f"and {warned} warning(s), listed above."
        )
    console.print(f"No errors, {warned} warning(s) listed above." if warned else "Everything is in order.")


@app.command(epilog="Example: medvae prepare cohort.json --config configs/cevae_slice.yaml --out cache --jobs 4")
def prepare(
    manifest: ManifestFile,
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Single values, as preparation.bias_field=n4.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="YAML file of the method; the default preparation without it.")
    ] = None,
    out: Annotated[Path, typer.Option(help="The cache: a new folder, or one that goes on being filled.")] = ...,
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=1, help="Scans prepared at a time, a core each.")] = 1,
    split: Annotated[list[str] | None, typer.Option(help="Only this split; may be repeated.")] = None,
    quiet: Quiet = False,
) -> None:
    """Prepare the scans of a cohort into a cache that train and predict can use with --cache.

    Scans that the cache holds already are kept, so the same command goes on after Ctrl-C; a scan that fails does not
    stop the others. Writes preparation.csv and preparation.json into the cache. Exit code 1 if a scan failed.
    """
    from medvae.config import read_config
    from medvae.manifest import read_manifest

    settings = read_config(config, overrides).preparation
    cohort = read_manifest(manifest, files_must_exist=False)
    cases = [case for case in cohort.cases if not split or case.split in split]
    if not cases:
        raise MedvaeError(f"{manifest}: has no case in split {', '.join(split or [])}. Choose another with --split.")
    from medvae.preparation.cohort import prepare_cohort

    try:
        records = prepare_cohort(cohort, cases, settings, out, jobs=jobs, quiet=quiet)
    except KeyboardInterrupt:
        typer.echo(f"\nStopped. What was prepared is in {out}. Go on with the same command.", err=True)
        raise typer.Exit(130) from None
    failed = [record for record in records if record.state == "failed"]
    if failed:
        from rich.markup import escape

        from medvae.reporting.tables import print_table

        rows = [[escape(record.id), record.split, escape(record.problem)] for record in failed]
        print_table(f"{cohort.name}: {len(failed)} of {len(records)} scans failed", ["case", "split", "why"], rows)
        raise MedvaeError(
            f"{manifest}: {len(failed)} of {len(records)} scans could not be prepared (listed above and in "
            f"{out / 'preparation.csv'}). Mend them and run the same command again: the others are kept."
        )
    made = sum(record.state == "prepared" for record in records)
    typer.echo(f"{made} scans prepared, {len(records) - made} were there: {out}")
    known = " ".join(shlex.quote(str(word)) for word in ("--data", manifest, "--cache", out))
    typer.echo(f"next: medvae train {config or 'CONFIG'} {known} --out RUN")


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
    cache: Cache = None,
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
        detector = fit(settings, cohort, out, cache=cache, resume=resume, quiet=quiet)
    except KeyboardInterrupt:
        typer.echo(f"\nStopped. What was learned is in {out}. Go on with the same command and --resume.", err=True)
        raise typer.Exit(130) from None
    _print_points(detector.points)
    typer.echo(f"detector: {out / 'detector'}")
    typer.echo(f"next: medvae predict {out} SCAN.nii.gz --out DIR")


@app.command(
    epilog="Example: medvae ensemble runs/axial runs/coronal runs/sagittal "
    "--data data_manifests/included_t1.json --out runs/planes"
)
def ensemble(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders to average, two or more.")],
    data: Annotated[Path, typer.Option(help="Manifest whose healthy validation scans set the thresholds.")] = ...,
    out: Annotated[Path, typer.Option(help="A new folder; use it like a run folder.")] = ...,
    name: Annotated[str, typer.Option(help="Name in tables and sidecars.")] = "ensemble",
    cache: Cache = None,
    quiet: Quiet = False,
) -> None:
    """Average the scores of several trained runs: other seeds, other planes, other methods.

    Each score is brought to one scale by its own healthy scans first. Predicting with an ensemble also writes
    ID_desc-spread_probseg.nii.gz, which is high where its members disagree.
    """
    from medvae.manifest import read_manifest

    cohort = read_manifest(data)
    from medvae.fitting import fit_ensemble

    found = fit_ensemble(runs, cohort, out, name=name, cache=cache, quiet=quiet)
    _print_points(found.points)
    typer.echo(f"ensemble of {', '.join(found.members)}: {out / 'detector'}")
    typer.echo(f"next: medvae predict {out} SCAN.nii.gz --out DIR")


@app.command(epilog="Example: medvae predict runs/a scan1.nii.gz scan2.nii.gz --out overlays")
def predict(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder, or a detector's folder.")],
    scans: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[SCAN]...", help="NIfTI, MGH, MHA or NRRD files, skull-stripped or whole heads."),
    ] = None,
    manifest: Annotated[Path | None, typer.Option(help="Predict the cases of a manifest instead.")] = None,
    split: Annotated[list[str], typer.Option(help="Which splits of the manifest; may be repeated.")] = ["test"],  # noqa: B006
    out: Annotated[Path, typer.Option(help="Folder for the overlays.")] = ...,
    fpr: Annotated[
        float | None, typer.Option(help="Operating point of the lesion mask; the config's by default.")
    ] = None,
    at: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Operating point by name: fwer_0.2, fpv_5ml, fdr_0.1 (see docs/CALIBRATION.md)."
        ),
    ] = None,
    cache: Cache = None,
    pictures: Annotated[bool, typer.Option(help="Also draw a PNG per scan.")] = True,
    workspaces: Annotated[
        bool, typer.Option(help="Also write ITK-SNAP workspaces and 3D Slicer segmentations (docs/VIEWING.md).")
    ] = True,
    bids: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Also copy all into a BIDS derivative data set here.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Write an anomaly map and a lesion mask for every scan, on the scan's own grid.

    ID_desc-anomaly_probseg.nii.gz holds values from 0 to 1 (0.5 is the threshold of the first operating point),
    ID_label-lesion_mask.nii.gz is 1 above the threshold. ID.itksnap opens both over the scan in ITK-SNAP. Scans
    that are already predicted are not computed again; a scan that fails does not stop the others.
    """
    if bool(scans) == bool(manifest):
        raise typer.BadParameter("give scans, or --manifest, and not both.")
    if fpr is not None and at is not None:
        raise typer.BadParameter("give --fpr, or --at, and not both.")
    from medvae.ensemble import load_detector
    from medvae.manifest import read_manifest
    from medvae.prediction import predict as predict_scans
    from medvae.prediction import scans_of_files, scans_of_manifest

    detector = load_detector(run)
    cohort = read_manifest(manifest) if manifest else None
    chosen = scans_of_manifest(cohort, split) if cohort else scans_of_files(scans or [])
    if not chosen:
        raise MedvaeError(f"{manifest}: has no case in split {', '.join(split)}. Choose another with --split.")
    predictions, failures = predict_scans(detector, chosen, out, rate=fpr, at=at, cache=cache, quiet=quiet)
    if pictures:
        from medvae.reporting.case_picture import draw_predictions

        draw_predictions(predictions, cohort, detector, out)
    if bids and predictions:
        from medvae.reporting.bids import write_bids

        write_bids(out, bids)
    for item in predictions:
        unusual = "" if item.case_p_value is None else f", p = {item.case_p_value:.3g}"
        typer.echo(f"{item.id}: {item.lesion_volume_ml:.2f} ml above the threshold{unusual}, {item.map}")
    if workspaces and predictions:
        from medvae.reporting.viewers import write_viewer_files

        where = {item.id: item.scan for item in predictions}
        handed, problems = write_viewer_files(out, ids=list(where), manifest=cohort, scans=where)
        for problem in problems.values():
            typer.echo(f"note: {problem}", err=True)
        for command in list(handed[0].commands.values())[:3] if handed else ():
            typer.echo(f"look: {command}")
    if failures:
        raise MedvaeError("\n".join([*failures.values(), f"{len(failures)} of {len(chosen)} scans failed."]))


@app.command(epilog="Example: medvae evaluate overlays --manifest data_manifests/included_t1.json --out results")
def evaluate(
    predictions: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of anomaly maps, of any tool.")],
    manifest: Annotated[Path, typer.Option(help="Manifest with the truth.")] = ...,
    out: Annotated[Path, typer.Option(help="Folder for results.json, table.md and two CSV files.")] = ...,
    split: Annotated[list[str], typer.Option(help="Which splits; may be repeated.")] = ["test"],  # noqa: B006
    pattern: Annotated[
        str, typer.Option(help='Name of a map in DIR, as "{id}_map.nii.gz"; {id} is the case.')
    ] = "{id}_desc-anomaly_probseg.nii.gz",
    threshold: Annotated[
        list[float] | None, typer.Option(help="Also measure the voxels above this score; may be repeated.")
    ] = None,
    against: Annotated[
        list[Path] | None, typer.Option(help="Also give paired differences to this folder; may be repeated.")
    ] = None,
    resample: Annotated[bool, typer.Option("--resample", help="Bring maps onto their scan's grid.")] = False,
    min_lesion_ml: Annotated[float, typer.Option(min=0, help="Smaller lesions and findings do not count.")] = 0.003,
    overlap: Annotated[
        float, typer.Option(min=0, max=1, help="Share of a lesion that must be flagged; 0 is one voxel.")
    ] = 0.1,
    protocol: Annotated[
        str, typer.Option(help="Whose conventions: medvae, mood, meissen, dae or brats2023; see docs/EVALUATION.md.")
    ] = "medvae",
    quiet: Quiet = False,
) -> None:
    """Measure anomaly maps against known lesions: voxels, lesions, scans, with 95 % intervals over subjects.

    DIR may come from any tool: one map per case, on the scan's grid, any real score that is higher where it is more
    abnormal. AP, AUROC and Dice are pooled over the brain voxels of cases with a label; the realised FPR is that of
    healthy cases. Thresholds come from healthy scans: from medvae's sidecars, or from the maps of healthy validation
    cases in DIR. The Dice marked "oracle" uses the truth to choose its threshold and is an upper bound, not a result.
    Exit code 1 if a map is missing or unusable.
    """

    from medvae.evaluation.study import difference, write_study
    from medvae.evaluation.study import evaluate as evaluate_folder
    from medvae.files import write_text
    from medvae.manifest import read_manifest
    from medvae.reporting import tables

    cohort = read_manifest(manifest)
    options = {"splits": split, "pattern": pattern, "thresholds": threshold or [], "resampled": resample}
    options |= {"smallest_ml": min_lesion_ml, "overlap": overlap, "protocol": protocol, "quiet": quiet}
    study = evaluate_folder(predictions, cohort, **options)
    others = {str(folder): evaluate_folder(folder, cohort, **options) for folder in against or []}
    differences = {name: difference(study, other) for name, other in others.items()}
    write_study(study, out, differences=differences)

    title = f"{study.cohort}: {study.pooled['n_cases']} lesion cases, {study.pooled['n_healthy']} healthy"
    title += f", measured as {protocol}" * (protocol != "medvae")
    parts = {title: tables.study_rows([study, *others.values()])}
    parts |= {"At fixed thresholds": tables.point_rows([study, *others.values()])}
    parts |= {"Lesion-wise, as in BraTS 2023": tables.brats_rows([study, *others.values()])}
    parts |= {"Lesions found, by size": tables.lesion_rows(study), "Is there a lesion?": tables.case_rows(study)}
    parts |= {f"{study.method}, paired differences": tables.difference_rows(differences)}
    parts = {name: table for name, table in parts.items() if table[1]}
    write_text(out / "table.md", "\n".join(f"{n}\n\n{tables.markdown_table(*table)}" for n, table in parts.items()))
    for name, table in parts.items():
        tables.print_table(name, *table)
    for note in dict.fromkeys([*study.notes, *(note for other in others.values() for note in other.notes)]):
        typer.echo(f"note: {note}", err=True)
    typer.echo(f"written: {out / 'results.json'}")
    failed = {str(predictions): study.missing} | {name: other.missing for name, other in others.items()}
    problems = [
        f"{folder}: no map for {len(cases)} cases: {', '.join(cases)}. They count as failures: nothing found in scans "
        f"with a lesion. Run the method on them, or name another --split."
        for folder, cases in failed.items()
        if cases
    ]
    if problems:
        raise MedvaeError("\n".join(problems))


@app.command(epilog="Example: medvae report overlays --manifest data_manifests/included_t1.json --out report")
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
    out: Annotated[Path, typer.Option(help="Folder for report.html and cases/.")] = ...,
    quiet: Quiet = False,
) -> None:
    """Write a report of predictions for a web browser, with a page and a viewer for each case.

    report.html holds the numbers, the curves and a table of all cases; cases/ID.html shows scan, map, mask and truth
    with a threshold to move. Everything opens from the disk, without a network. With --manifest the predictions are
    measured, unless --evaluation gives the numbers. A scan that cannot be found or read is told, and the rest is made.
    """
    from medvae.manifest import read_manifest
    from medvae.reporting.report import write_report

    cohort = read_manifest(manifest, files_must_exist=False) if manifest else None
    options = {"manifest": cohort, "scans": scans or [], "evaluations": evaluation or [], "run": run}
    try:
        made = write_report(predictions, out, **options, quiet=quiet)
    except KeyboardInterrupt:
        typer.echo("\nStopped; nothing was written.", err=True)
        raise typer.Exit(130) from None
    for note in made.notes:
        typer.echo(f"note: {note}", err=True)
    for case, problem in list(made.problems.items())[:10]:
        typer.echo(f"{case}: {problem}", err=True)
    if len(made.problems) > 10:
        typer.echo(f"{len(made.problems)} cases have a problem; the report lists all of them.", err=True)
    typer.echo(f"{made.cases} case{'s' * (made.cases != 1)}; open in a browser: {made.path}")


@app.command(epilog="Example: medvae figure overlays patient07 --manifest cohort.json --out figure.pdf")
def figure(
    predictions: Annotated[Path, typer.Argument(metavar="DIR", help="The --out folder of medvae predict.")],
    cases: Annotated[list[str] | None, typer.Argument(metavar="[CASE]...", help="Which, in order; all of DIR.")] = None,
    out: Annotated[Path, typer.Option(help="The picture; its ending (.png, .pdf, .svg) says the format.")] = ...,
    manifest: Annotated[Path | None, typer.Option(help="Manifest that knows the truth.")] = None,
    detector: Annotated[
        Path | None, typer.Option(metavar="RUN", help="The run that predicted them: draw its reconstruction too.")
    ] = None,
    plane: Annotated[str, typer.Option(help="axial, coronal or sagittal.")] = "axial",
    slices: Annotated[
        int | None, typer.Option(min=1, help="Slices per case, those with most truth or findings; 6 in all by default.")
    ] = None,
    mm: Annotated[
        list[float] | None, typer.Option(help="Show the slice at this coordinate instead; may be repeated.")
    ] = None,
    neurological: Annotated[bool, typer.Option("--neurological", help="The patient's left on the left.")] = False,
    title: Annotated[str, typer.Option(help="Above the picture instead of the cases' names.")] = "",
) -> None:
    """Draw slices of one or several predicted cases for a paper.

    Rows: scan, reconstruction, anomaly map, lesion mask, truth, as far as they are known; all in one scale, with bars
    for length and colour. Slices are chosen by area of truth, else of the lesion mask, at least 6 mm apart. Coordinates
    are the scan's, in mm to the right, front and top. The same command writes the same bytes.
    """
    if plane not in ("axial", "coronal", "sagittal"):
        raise typer.BadParameter(f'"{plane}" is no plane: axial, coronal or sagittal.')
    if slices is not None and mm:
        raise typer.BadParameter("give --slices, or --mm, and not both.")
    from medvae.manifest import read_manifest
    from medvae.reporting.case_picture import draw_figure

    cohort, made_by = read_manifest(manifest) if manifest else None, None
    if detector:
        from medvae.ensemble import load_detector

        made_by = load_detector(detector)
    written = draw_figure(
        predictions, out, ids=cases or None, manifest=cohort, detector=made_by, plane=plane, slices=slices,
        positions_mm=mm or (), radiological=not neurological, title=title,
    )  # fmt: skip
    typer.echo(f"written: {written}")


@app.command(epilog="Example: medvae benchmark configs/studies/included_t1.yaml --out runs/included_t1")
def benchmark(
    study: Annotated[Path, typer.Argument(metavar="STUDY", help="YAML file, see docs/BENCHMARK.md.")],
    out: Annotated[Path, typer.Option(help="Folder of the study, new or one that goes on being filled.")] = ...,
    cache: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of prepared scans; OUT/prepared by default.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what is to be done and what is done; do nothing.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Compare methods × scores × seeds on one cohort: train, calibrate, predict, measure, and one leaderboard.

    What is done is kept, under a key of all that decides it: the same command goes on after Ctrl-C, and after the study
    was changed it does only what has changed. A method that fails becomes a row that says why; the rest goes on. Writes
    leaderboard.md, .csv and .tex, results.json and pictures. Exit code 1 if a row failed.
    """
    from medvae.benchmark.study import read_study

    settings = read_study(study)
    from rich.markup import escape

    from medvae.benchmark.runner import open_bench, run_study, state_rows
    from medvae.benchmark.writing import about, board_rows, write_board
    from medvae.reporting.tables import print_table

    if dry_run:
        bench = open_bench(settings, out, cache=cache, writing=False)
        print_table(escape(f"{settings.name}: {bench.todo()}"), *state_rows(bench))
        for row in bench.plan.rows:
            if row.problem:
                typer.echo(f"{row.name} cannot be done: {row.problem}")
        for reason in bench.plan.left_out.values():
            typer.echo(f"left out: {reason}")
        return
    try:
        board = run_study(settings, out, cache=cache, quiet=quiet)
    except KeyboardInterrupt:
        typer.echo(f"\nStopped. What was done is in {out}. Go on with the same command.", err=True)
        raise typer.Exit(130) from None
    written = write_board(board, out)
    for one in board.leaderboards:
        print_table(escape(f"{one.title}: {about(one)}"), *board_rows(one, lambda text: f"[bold]{text}[/]", escape))
    for path in written:
        typer.echo(f"written: {path}")
    if board.failed:
        raise MedvaeError("\n".join([*board.failed, f"{study}: {len(board.failed)} failed; the others were measured."]))


def _show_warning(message: Warning | str, category: type[Warning], *where: object) -> None:
    """Tell a warning about the user's input as an error is told; those of other packages as Python does."""
    if issubclass(category, MedvaeWarning):
        print(f"medvae: warning: {message}", file=sys.stderr)
    else:
        _SHOW_WARNING(message, category, *where)


def _print_points(points: Sequence[OperatingPoint]) -> None:
    for point in points:
        name = f"healthy FPR {point.false_positive_rate:g}" if point.kind == "voxel_rate" else point.name
        size = f", findings above {point.minimum_lesion_ml:.3g} ml" if point.minimum_lesion_ml else ""
        typer.echo(f"threshold at {name}: {point.threshold:.4g}{size}")


def main() -> None:
    """Run the command line: exit code 0 done, 1 the user's input, 2 usage, 130 stopped by Ctrl-C."""
    warnings.showwarning = _show_warning
    try:
        app()
    except MedvaeError as error:
        print(f"medvae: {error}", file=sys.stderr)
        sys.exit(1)
