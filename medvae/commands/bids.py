"""``medvae bids``: a BIDS App, which predicts the participants of a BIDS data set."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from medvae.commands.predict import MEMORY_GB
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

EXAMPLE = "medvae bids ds001 ds001/derivatives/medvae participant --participant-label 01 02 --roi"


class Level(enum.StrEnum):
    """What a BIDS App is asked for."""

    participant = enum.auto()
    group = enum.auto()


_PARTICIPANTS, _SESSIONS, _SKIP = "--participant-label", "--session-label", "--skip-bids-validation"
_ALSO = {
    "--participant_label": _PARTICIPANTS,
    "--session_label": _SESSIONS,
    "--skip_bids_validation": _SKIP,
    "--skip-bids-validator": _SKIP,
    "--skip_bids_validator": _SKIP,
}
"""How other BIDS Apps spell the options."""


class BIDSApp(TyperCommand):
    """A command whose labels may follow one flag, as BIDS Apps take them: ``--participant-label 01 02``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse, after every label has been given a flag of its own."""
        return super().parse_args(ctx, _a_flag_each(args))


def _a_flag_each(args: list[str]) -> list[str]:
    """The arguments with a flag before each label; a run of labels ends at an option, or before ``BIDS OUT LEVEL``."""
    spread: list[str] = []
    rest = [_ALSO.get(word, word) for word in args]
    while rest:
        word = rest.pop(0)
        if word not in (_PARTICIPANTS, _SESSIONS):
            spread.append(word)
            continue
        count = next((number for number, other in enumerate(rest) if other.startswith("-")), len(rest))
        levels = set(Level)
        if levels.isdisjoint(spread) and count > 3 and rest[count - 1] in levels:
            count -= 3
        spread += [part for label in rest[:count] for part in (word, label)] or [word]
        del rest[:count]
    return spread


def bids(
    bids_dir: Annotated[
        Path, typer.Argument(metavar="BIDS_DIR", help="Root of a BIDS data set, which stays as it is.")
    ],
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="Folder of the derivatives, as BIDS_DIR/derivatives/medvae.")
    ],
    level: Annotated[
        Level,
        typer.Argument(
            metavar="LEVEL", help="participant predicts scans; group writes one table of what was predicted."
        ),
    ],
    *,
    participant_label: Annotated[
        list[str] | None,
        typer.Option(_PARTICIPANTS, metavar="LABEL ...", help="Only these, with or without sub-; all by default."),
    ] = None,
    session_label: Annotated[
        list[str] | None,
        typer.Option(_SESSIONS, metavar="LABEL ...", help="Only these sessions, with or without ses-."),
    ] = None,
    detector: Annotated[
        str,
        typer.Option(
            metavar="RUN",
            help="Run or detector folder, or the name of a detector that comes with medvae: t1-2mm takes T1w images, "
            "flair-2mm FLAIR, t2-2mm T2w; auto takes the first of these sequences that the data set has.",
        ),
    ] = "t1-2mm",
    entity: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="As acq=mprage or echo=1: where images of a session have NAME, only these; may be repeated.",
        ),
    ] = None,
    roi: Annotated[
        bool, typer.Option("--roi", help="Also write masks as …_label-lesion_roi.nii.gz, for fMRIPrep (docs/BIDS.md).")
    ] = False,
    skip_bids_validation: Annotated[
        bool, typer.Option(_SKIP, help="Take a folder without dataset_description.json, too.")
    ] = False,
    fpr: Annotated[
        float | None, typer.Option(help="Operating point of the lesion mask; the config's by default.")
    ] = None,
    at: Annotated[
        str | None, typer.Option(metavar="NAME", help="Operating point by name, as in medvae predict.")
    ] = None,
    overwrite: Annotated[bool, overwrites("what another detector or operating point left in the folder")] = False,
    device: Device = "auto",
    jobs: Jobs = None,
    cache: Cache = None,
    pictures: Annotated[bool, typer.Option(help="Also draw a PNG per scan, in OUT/overlays.")] = True,
    workspaces: Annotated[
        bool, typer.Option(help="Also write ITK-SNAP workspaces and 3D Slicer segmentations, in OUT/overlays.")
    ] = True,
    allow_large: AllowLarge = False,
    quiet: Quiet = False,
) -> None:
    """Run as a BIDS App: find lesions in the participants of a BIDS data set.

    participant: every T1w image, of all sessions and runs, is predicted as medvae predict does, into a BIDS derivative:
    OUT/sub-LABEL/anat/sub-LABEL_label-lesion_mask.nii.gz and sub-LABEL_desc-anomaly_probseg.nii.gz. OUT/overlays holds
    pictures and failures. The same command continues after Ctrl-C, and several may work on participants of one data
    set.

    group: OUT/lesions.tsv, a row for each scan with its volume and number of findings.
    """
    if fpr is not None and at is not None:
        raise typer.BadParameter("give --fpr, or --at, and not both.")
    from medvae.bids_app.data_set import choose, open_data_set
    from medvae.bids_app.output import OVERLAYS, check_output

    data_set = open_data_set(bids_dir, described=not skip_bids_validation)
    chosen = choose(data_set, participant_label or (), session_label or ())
    check_output(bids_dir, out)
    if level is Level.group:
        from medvae.bids_app.group import write_group

        table, without = write_group(data_set, out, participants=chosen.participants)
        if without:
            say(f"note: no prediction of {', '.join(f'sub-{label}' for label in without)}", err=True)
        say(f"written: {table}")
        return
    from medvae.bids_app.participant import predict_participants, sequence_of
    from medvae.bids_app.scans import RawData
    from medvae.detection.by_sequence import is_auto
    from medvae.detection.ensemble import load_detector
    from medvae.reporting.seen import Seen

    images = RawData(data_set)
    if is_auto(detector):
        detector = images.detector()
        say(f"detector: {detector}")
    model = load_detector(detector, device=device)
    sequence = sequence_of(model)
    if roi and sequence != "T1":
        raise MedvaeError(f"--roi: fMRIPrep reads masks on the grid of the T1w image, and {detector} takes {sequence}.")
    found = images.scans(sequence, chosen, entity=entity or ())
    for note in found.notes:
        say(f"note: {note}", err=True)
    number = how_many(jobs, len(found.scans), memory_gb=MEMORY_GB, device=model.device, quiet=quiet)
    with stopped_says(f"Stopped. What was predicted is in {out / OVERLAYS}. Go on with the same command."):
        outcome = predict_participants(
            model,
            found,
            bids_dir,
            out,
            at=at if fpr is None else fpr,
            roi=roi,
            cache=cache,
            overwrite=overwrite,
            jobs=number,
            then=Seen(model, None, out / OVERLAYS, pictures=pictures, workspaces=workspaces),
            quiet=quiet,
        )
    for item in outcome.predictions:
        unusual = "" if item.case_p_value is None else f", p = {item.case_p_value:.3g}"
        say(f"{item.id}: {item.lesion_volume_ml:.2f} ml flagged{unusual}")
        for note in item.notes:
            say(f"note: {item.id}: {note}", err=True)
    for command in outcome.predictions[0].look if outcome.predictions else ():
        say(f"look: {command}")
    total = len(found.scans) + len(found.broken)
    failed = [*outcome.failures.values()]
    if failed:
        failed.append(f"{len(outcome.failures)} of {total} scans failed; the others are in {out}.")
    if failed or outcome.not_copied:
        raise MedvaeError("\n".join(filter(None, [outcome.not_copied, *failed])))
    say(f"next: medvae bids {bids_dir} {out} group")
