"""``medvae evaluate``: measure maps against the truth."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from medvae.commands.shared import (
    CASES_PER_PROCESS,
    AllowLarge,
    Jobs,
    On,
    OnOption,
    Quiet,
    import_for_workers,
    say,
    stopped_says,
    workers,
)
from medvae.errors import MedvaeError
from medvae.evaluation.protocols import PROTOCOLS

SAID = 20
"""Notes, and cases without a map, that are told on the terminal; the files name all."""
EXAMPLE = "medvae evaluate overlays --manifest data_manifests/included_t1.json --out results"


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"


def evaluate(
    predictions: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of anomaly maps, of any tool.")],
    manifest: Annotated[Path, typer.Option(help="Manifest with the truth.")],
    out: Annotated[Path, typer.Option(help="Folder for results.json, table.md and two CSV files.")],
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
        str, typer.Option(help=f"Whose conventions: {_listed(list(PROTOCOLS))}; see docs/EVALUATION.md.")
    ] = "medvae",
    free_response: Annotated[
        bool, typer.Option("--free-response", help="Also: lesions found at 0.25 to 8 false findings per scan.")
    ] = False,
    jobs: Jobs = None,
    on: On = None,
    on_option: OnOption = None,
    allow_large: AllowLarge = False,
    quiet: Quiet = False,
) -> None:
    """Measure anomaly maps against known lesions: voxels, lesions, scans, with 95 % intervals over subjects.

    DIR may come from any tool: one map per case, on the scan's grid, any real score that is higher where it is more
    abnormal. AP, AUROC and Dice are pooled over the brain voxels of cases with a label; the realised FPR is that of
    healthy cases. Thresholds come from healthy scans: from medvae's sidecars, or from the maps of healthy validation
    cases in DIR. Masks that medvae post-processed are measured as written, too. The Dice marked "oracle" uses the truth
    to choose its threshold and is an upper bound, not a result. Exit code 1 if a map is missing or unusable.
    """
    from medvae.manifest import read_manifest

    cohort = read_manifest(manifest)
    measured = [case for case in cohort.cases if case.split in split and not case.unlabelled]
    import_for_workers(on, jobs, len(measured) // CASES_PER_PROCESS, "medvae.evaluation.study")
    from medvae.evaluation.options import EvaluationOptions
    from medvae.evaluation.study import difference
    from medvae.evaluation.study import evaluate as evaluate_folder
    from medvae.evaluation.writing import write_study
    from medvae.files import write_text
    from medvae.reporting import tables

    options = EvaluationOptions(
        splits=split,
        pattern=pattern,
        thresholds=threshold or (),
        resampled=resample,
        overlap=overlap,
        smallest_ml=min_lesion_ml,
        protocol=protocol,
        free_response=free_response,
    )
    needs = [predictions, *(against or []), *(path for case in measured for path in cohort.images(case))]
    with (
        stopped_says("Stopped; nothing was written."),
        workers(on, on_option, jobs, len(measured), needs=needs, each=CASES_PER_PROCESS, quiet=quiet) as number,
    ):
        study = evaluate_folder(predictions, cohort, options, jobs=number, quiet=quiet)
        others = {
            str(folder): evaluate_folder(folder, cohort, options, jobs=number, quiet=quiet) for folder in against or []
        }
    differences = {name: difference(study, other) for name, other in others.items()}
    write_study(study, out, differences=differences)

    title = f"{study.cohort}: {study.pooled['n_cases']} lesion cases, {study.pooled['n_healthy']} healthy"
    title += f", measured as {protocol}" * (protocol != "medvae")
    parts = {title: tables.study_rows([study, *others.values()])}
    parts |= {"At fixed thresholds": tables.point_rows([study, *others.values()])}
    parts |= {"Lesion-wise, as in BraTS 2023": tables.brats_rows([study, *others.values()])}
    parts |= {"Lesions found at false findings per scan": tables.free_response_rows([study, *others.values()])}
    parts |= {"Lesions found, by size": tables.lesion_rows(study), "Is there a lesion?": tables.case_rows(study)}
    parts |= {f"{study.method}, paired differences": tables.difference_rows(differences)}
    parts = {name: table for name, table in parts.items() if table[1]}
    write_text(out / "table.md", "\n".join(f"{n}\n\n{tables.markdown_table(*table)}" for n, table in parts.items()))
    for name, table in parts.items():
        tables.print_table(name, *table)
    notes = list(dict.fromkeys([*study.notes, *(note for other in others.values() for note in other.notes)]))
    for note in notes[:SAID]:
        say(f"note: {note}", err=True)
    if len(notes) > SAID:
        say(f"note: {len(notes) - SAID} more notes are in {out / 'results.json'}", err=True)
    typer.echo(f"written: {out / 'results.json'}")
    failed = {str(predictions): study.missing} | {name: other.missing for name, other in others.items()}
    problems = [
        f"{folder}: no map for {len(cases)} cases: {', '.join(cases[:SAID])}{', …' * (len(cases) > SAID)}. They count "
        f"as failures: nothing found in scans with a lesion. Run the method on them, or name another --split."
        for folder, cases in failed.items()
        if cases
    ]
    if problems:
        raise MedvaeError("\n".join(problems))
