"""``medvae predict``: scans to overlays."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from medvae.commands.shared import (
    AllowLarge,
    Cache,
    Device,
    Jobs,
    On,
    OnOption,
    Quiet,
    device_on,
    import_for_workers,
    overwrites,
    say,
    stopped_says,
    workers,
)
from medvae.derivatives import TOGETHER
from medvae.errors import MedvaeError

MEMORY_GB = 2.0
"""Of a process: PyTorch, the detector, and a 1 mm scan with its intermediate results."""
EXAMPLE = "medvae predict runs/a scan1.nii.gz scan2.nii.gz --out overlays"


def predict(
    context: typer.Context,
    run: Annotated[
        Path,
        typer.Argument(
            metavar="RUN",
            help="Run or detector folder, the name of a detector that comes with medvae, auto: the one of these for "
            "the scans' sequence, or joint: those of all sequences of each person, averaged (p1_T1.nii.gz and "
            "p1_FLAIR.nii.gz, or a manifest; docs/FLAIR_T2.md).",
        ),
    ],
    scans: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="SCAN",
            help="NIfTI, MGH, MHA or NRRD files, skull-stripped or whole heads; or a folder or zip of DICOM each.",
        ),
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
    scan_folders: Annotated[
        bool | None,
        typer.Option(
            help="Whether OUT has a folder for each scan, or all files together; by default folders if it is begun "
            f"with more than {TOGETHER} scans. OUT goes on as it was begun."
        ),
    ] = None,
    series: Annotated[
        str | None,
        typer.Option(
            metavar="NUMBER", help="Of a DICOM study: the series with this number or UID; by default the one that fits."
        ),
    ] = None,
    dicom_seg: Annotated[
        bool,
        typer.Option(
            "--dicom-seg",
            help="Also write masks of DICOM scans as DICOM segmentations, which name the patient (docs/DICOM.md).",
        ),
    ] = False,
    device: Device = "auto",
    jobs: Jobs = None,
    on: On = None,
    on_option: OnOption = None,
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
    scans of the folder, findings.tsv all findings with their volume, place and brain region. With more than 1000 scans
    each has a folder of its own in OUT, called by its name; lesions.tsv says where.

    Of a DICOM folder or zip, the one 3D MR series that fits the detector is taken and lies as NIfTI in OUT/converted,
    under the folder's name; where several fit, they are listed, and --series names one.

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
    from medvae.manifest import read_manifest

    cohort = read_manifest(manifest) if manifest else None
    count = sum(case.split in split for case in cohort.cases) if cohort else len(scans or ())
    import_for_workers(on, jobs, count, "medvae.commands.worker_imports")
    from medvae.derivatives import FINDINGS_TABLE, LESIONS_TABLE
    from medvae.detection.base import Calibrated
    from medvae.detection.by_sequence import by_sequence, choose_detector, is_auto, is_joint, joint_detector
    from medvae.detection.ensemble import load_detector
    from medvae.detection.scan import scans_of_people
    from medvae.detection.scan_names import NameBy, file_name
    from medvae.dicom.study import is_study, named_after
    from medvae.prediction import open_predictions, scans_of_files, scans_of_manifest
    from medvae.prediction import predict as predict_scans

    device = device_on(on, device)
    studies = list(filter(is_study, scans or ()))
    if series is not None and len(studies) != 1:
        raise typer.BadParameter(f"--series names a series of one DICOM folder or zip; {len(studies)} were given.")
    if dicom_seg:
        _require_dicom(manifest, scans or (), studies)
    detector: Calibrated | None = None
    if not (is_auto(run) or is_joint(run)):
        detector = load_detector(run, device=device)
    by: NameBy | None = next((known for known in ("file", "parent") if known == name_by), None)
    named = [named_after(path) for path in scans or ()]
    together = is_joint(run) and not studies
    if together and name_by:
        raise typer.BadParameter("--name-by: joint names people by what the names of their files have in common.")
    if cohort:
        chosen = scans_of_manifest(cohort, split)
    else:
        chosen = scans_of_people(named) if together else scans_of_files(named, name_by=by)
    if not chosen:
        raise MedvaeError(f"{manifest}: has no case in split {', '.join(split)}. Choose another with --split.")
    named_here = cohort is not None or together or name_by is not None
    renamed = [scan for scan in chosen if not named_here and scan.id != file_name(scan.images[0])]
    if renamed:
        names = ", ".join(scan.id for scan in renamed[:4]) + ", …" * (len(renamed) > 4)
        say(f"note: {len(renamed)} files are called alike; they are named by their folders: {names}", err=True)
    from medvae.reporting.seen import Seen

    total, lost = len(chosen), dict[str, str]()
    if studies:
        from medvae.prediction_dicom import convert_scans, sequences_of, series_of_scans, write_segmentations

        wanted = sequences_of(detector, otherwise=by_sequence())
        chosen, made_of, lost = context.with_resource(
            series_of_scans(chosen, scans or (), wanted, out, asked=series, must_tell=detector is None, quiet=quiet)
        )
        for one in made_of.values():
            say(f"note: {one.told}", err=True)
        if not chosen:
            raise MedvaeError("\n".join(lost.values()))
    if is_joint(run):
        if studies:
            raise MedvaeError("joint: takes files, or a manifest; DICOM is predicted by one sequence.")
        joined = joint_detector(chosen, device=device)
        names = ", ".join(f"{one.config.name} for {name}" for name, one in joined.members.items())
        say(f"detectors: {names}, by {chosen[0].declared_in}")
        detector = joined
    if detector is None:
        choice = choose_detector(chosen)
        say(f"detector: {choice.name}, {choice.reason}")
        detector = load_detector(choice.name, device=device)
    if studies:
        open_predictions(
            detector, out, rate=fpr, at=at, overwrite=overwrite, scans=len(chosen), scan_folders=scan_folders
        )
        chosen, not_converted = convert_scans(chosen, made_of, out, failed=lost, overwrite=overwrite)
        lost |= not_converted

    then = Seen(detector, cohort, out, pictures=pictures, workspaces=workspaces)
    needs = [path for scan in chosen for path in (*scan.images, scan.mask) if path]
    with (
        stopped_says(f"Stopped. What was predicted is in {out}. Go on with the same command."),
        workers(
            on, on_option, jobs, len(chosen), needs=needs, shares=out, memory_gb=MEMORY_GB, device=detector.device,
            quiet=quiet,
        ) as number,
    ):  # fmt: skip
        predictions, failures = predict_scans(
            detector,
            chosen,
            out,
            rate=fpr,
            at=at,
            cache=cache,
            overwrite=overwrite,
            scan_folders=scan_folders,
            jobs=number,
            then=then,
            quiet=quiet,
        )
    failures |= lost
    not_copied = []
    if dicom_seg:
        segmentations, problems = write_segmentations(predictions, made_of, detector)
        not_copied += problems
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
    for path in segmentations if dicom_seg else ():
        say(f"DICOM segmentation: {path}")
    if predictions:
        say(f"tables: {out / LESIONS_TABLE}, {out / FINDINGS_TABLE}")
    for command in predictions[0].look if predictions else ():
        say(f"look: {command}")
    failed = [*failures.values(), f"{len(failures)} of {total} scans failed."] if failures else []
    if failed or not_copied:
        raise MedvaeError("\n".join([*not_copied, *failed]))


def _require_dicom(manifest: Path | None, scans: Sequence[Path], studies: Sequence[Path]) -> None:
    """Refuse ``--dicom-seg`` for scans that are no DICOM, or without what writes it, before anything is computed."""
    from medvae.dicom.segmentation import require_highdicom

    other = [str(manifest)] if manifest else [str(path) for path in scans if path not in studies]
    if other:
        raise MedvaeError(
            f"--dicom-seg: {other[0]} is not DICOM, and a DICOM segmentation refers to the series it was made from. "
            f"Give the folder or zip of the series, or leave out --dicom-seg."
        )
    require_highdicom()
