"""``medvae predict``: scans to overlays."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medvae.commands.shared import (
    AllowLarge,
    Cache,
    Device,
    Jobs,
    Quiet,
    how_many,
    overwrites,
    say,
    stopped_says,
)
from medvae.errors import MedvaeError

MEMORY_GB = 2.0
"""Of a process: PyTorch, the detector, and a 1 mm scan with its intermediate results."""
EXAMPLE = "medvae predict runs/a scan1.nii.gz scan2.nii.gz --out overlays"


def predict(
    run: Annotated[
        Path,
        typer.Argument(
            metavar="RUN",
            help="Run or detector folder, the name of a detector that comes with medvae, or auto: the one of these for "
            "the scans' sequence.",
        ),
    ],
    scans: Annotated[
        list[Path] | None,
        typer.Argument(metavar="SCAN", help="NIfTI, MGH, MHA or NRRD files, skull-stripped or whole heads."),
    ] = None,
    manifest: Annotated[Path | None, typer.Option(help="Predict the cases of a manifest instead.")] = None,
    split: Annotated[list[str], typer.Option(help="Which splits of the manifest; may be repeated.")] = ["test"],  # noqa: B006
    *,
    out: Annotated[Path, typer.Option(help="Folder for the overlays.")],
    fpr: Annotated[
        float | None, typer.Option(help="Operating point of the lesion mask; the config's by default.")
    ] = None,
    at: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Operating point by name: fwer_0.2, fpv_5ml, fdr_0.1 (see docs/CALIBRATION.md)."
        ),
    ] = None,
    name_by: Annotated[
        str | None,
        typer.Option(
            metavar="WHAT",
            help="Name scans by their file or by the parent folder and it (A_T1); by default, only those called alike.",
        ),
    ] = None,
    overwrite: Annotated[
        bool,
        overwrites("what another detector or operating point, or another scan of the same name, left in the folder"),
    ] = False,
    device: Device = "auto",
    jobs: Jobs = None,
    cache: Cache = None,
    pictures: Annotated[bool, typer.Option(help="Also draw a PNG per scan.")] = True,
    workspaces: Annotated[
        bool, typer.Option(help="Also write ITK-SNAP workspaces and 3D Slicer segmentations (docs/VIEWING.md).")
    ] = True,
    bids: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Also copy all into a BIDS derivative data set here.")
    ] = None,
    allow_large: AllowLarge = False,
    quiet: Quiet = False,
) -> None:
    """Write an anomaly map and a lesion mask for every scan, on the scan's own grid.

    ID_desc-anomaly_probseg.nii.gz holds values from 0 to 1 (0.5 is the threshold of the first operating point),
    ID_label-lesion_mask.nii.gz is 1 above the threshold, after post-processing (t1-2mm drops findings that
    nowhere reach a high value; see the sidecar). ID.itksnap opens both over the scan in ITK-SNAP. lesions.tsv lists all
    scans of the folder, findings.tsv all findings with their volume, place and brain region.

    Scans that are already predicted are not computed again, so the same command continues after Ctrl-C; a scan that
    fails does not stop the others. Each of --jobs holds the detector and a scan in memory; with a GPU there is one by
    default. The prediction of another scan of the same name is never replaced without --overwrite.
    """
    if name_by not in (None, "file", "parent"):
        raise typer.BadParameter(f'--name-by "{name_by}" is neither file nor parent.')
    if manifest and name_by:
        raise typer.BadParameter("--name-by is for scans that are given as files; those of a manifest have ids.")
    if bool(scans) == bool(manifest):
        raise typer.BadParameter("give scans, or --manifest, and not both.")
    if fpr is not None and at is not None:
        raise typer.BadParameter("give --fpr, or --at, and not both.")
    from medvae.derivatives import FINDINGS_TABLE, LESIONS_TABLE
    from medvae.detection.by_sequence import choose_detector, is_auto
    from medvae.detection.ensemble import load_detector
    from medvae.detection.scan_names import NameBy, file_name
    from medvae.manifest import read_manifest
    from medvae.prediction import predict as predict_scans
    from medvae.prediction import scans_of_files, scans_of_manifest

    detector = None if is_auto(run) else load_detector(run, device=device)
    cohort = read_manifest(manifest) if manifest else None
    by: NameBy | None = next((known for known in ("file", "parent") if known == name_by), None)
    chosen = scans_of_manifest(cohort, split) if cohort else scans_of_files(scans or [], name_by=by)
    if not chosen:
        raise MedvaeError(f"{manifest}: has no case in split {', '.join(split)}. Choose another with --split.")
    renamed = [scan for scan in chosen if cohort is None and name_by is None and scan.id != file_name(scan.images[0])]
    if renamed:
        names = ", ".join(scan.id for scan in renamed[:4]) + ", …" * (len(renamed) > 4)
        say(f"note: {len(renamed)} files are called alike; they are named by their folders: {names}", err=True)
    from medvae.reporting.seen import Seen

    if detector is None:
        choice = choose_detector(chosen)
        say(f"detector: {choice.name}, {choice.reason}")
        detector = load_detector(choice.name, device=device)

    number = how_many(jobs, len(chosen), memory_gb=MEMORY_GB, device=detector.device, quiet=quiet)
    then = Seen(detector, cohort, out, pictures=pictures, workspaces=workspaces)
    with stopped_says(f"Stopped. What was predicted is in {out}. Go on with the same command."):
        predictions, failures = predict_scans(
            detector,
            chosen,
            out,
            rate=fpr,
            at=at,
            cache=cache,
            overwrite=overwrite,
            jobs=number,
            then=then,
            quiet=quiet,
        )
    not_copied = []
    if bids and predictions:
        from medvae.reporting.bids_export import write_bids

        try:
            write_bids(out, bids, without=list(failures), overwrite=overwrite)
        except MedvaeError as error:  # the maps are there all the same
            not_copied.append(str(error))
    for item in predictions:
        unusual = "" if item.case_p_value is None else f", p = {item.case_p_value:.3g}"
        say(f"{item.id}: {item.lesion_volume_ml:.2f} ml flagged{unusual}, {item.map}")
        for note in item.notes:
            say(f"note: {item.id}: {note}", err=True)
    if predictions:
        say(f"tables: {out / LESIONS_TABLE}, {out / FINDINGS_TABLE}")
    for command in predictions[0].look if predictions else ():
        say(f"look: {command}")
    failed = [*failures.values(), f"{len(failures)} of {len(chosen)} scans failed."] if failures else []
    if failed or not_copied:
        raise MedvaeError("\n".join([*not_copied, *failed]))
