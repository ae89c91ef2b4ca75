"""``medvae manifest LAYOUT SOURCE --out M.json``: one command per layout."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medvae.commands.shared import Quiet, stopped_says
from medvae.errors import MedvaeError

if TYPE_CHECKING:
    from medvae.importing.found import Found
    from medvae.manifest import Manifest

app = typer.Typer(
    help="Make the manifest of a data set that you have downloaded.\n\n"
    "The folder is read, never changed. Healthy people are divided into train, validation and test, by person, alike "
    "in site and age; whoever has a lesion, or may have one, is for testing only. See docs/DATA.md for where to get "
    "the data sets.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)

Source = Annotated[Path, typer.Argument(metavar="SOURCE", help="Folder of the data set, unpacked.")]
Out = Annotated[Path, typer.Option(help="Manifest to write (.json); its paths are relative to it.")]
Force = Annotated[bool, typer.Option("--overwrite", "--force", help="Replace a manifest that exists.")]
Checksums = Annotated[bool, typer.Option("--checksums", help="Also write the SHA-256 of every image; reads them all.")]
Seed = Annotated[int, typer.Option(help="Same seed, same splits.")]
Train = Annotated[float, typer.Option(help="Share of healthy people to train on.")]
Validation = Annotated[float, typer.Option(help="Share of healthy people to validate on; the rest is for testing.")]
Healthy = Annotated[bool, typer.Option("--healthy", help="Scans without a lesion label are healthy.")]
Lesion = Annotated[
    list[str] | None, typer.Option(help="Label that counts as lesion, by name; may be repeated. All by default.")
]


@app.command(epilog="Example: medvae manifest ixi data/IXI --out data/ixi.json --modality T1")
def ixi(
    source: Source,
    out: Out = ...,
    modality: Annotated[list[str], typer.Option(help="T1, T2 or PD; may be repeated.")] = ["T1"],  # noqa: B006
    train: Train = 0.7,
    validation: Validation = 0.15,
    seed: Seed = 0,
    checksums: Checksums = False,
    force: Force = False,
) -> None:
    """IXI: healthy adults from three hospitals.

    Takes IXI-T1/IXI012-HH-1211-T1.nii.gz and the like, and t1/IXI012-HH-1211_T1.nii.gz with anatomy/. Brain masks are
    files that end in mask or anatomy. Age and sex come from participants.tsv, IXI.csv or IXI.xls.
    """
    _may_write(out, force)
    from medvae.importing.ixi import find_ixi

    _finish(find_ixi(source, modality), out, train, validation, seed, checksums)


@app.command(epilog="Example: medvae manifest brats data/BraTS2021_Training --out data/brats.json --modality flair")
def brats(
    source: Source,
    out: Out = ...,
    modality: Annotated[list[str], typer.Option(help="flair, t1, t1ce or t2; may be repeated.")] = ["flair"],  # noqa: B006
    year: Annotated[int | None, typer.Option(help="Year of the challenge, where names do not tell it.")] = None,
    checksums: Checksums = False,
    force: Force = False,
) -> None:
    """BraTS 2017 to 2021 and from 2023 on: patients with brain tumours, all for testing.

    What the label values mean is told from the names (1, 2, 4 until 2021; 1, 2, 3 from 2023, with 4 the resection
    cavity after treatment) and written into the manifest. Pediatric cases need --year. Cases without a label are
    unlabelled. Examinations of one patient share the subject.
    """
    _may_write(out, force)
    from medvae.importing.brats import find_brats

    _finish(find_brats(source, modality, year), out, checksums=checksums)


@app.command(epilog="Example: medvae manifest bids data/ds001 --out data/ds001.json --controls group=control")
def bids(
    source: Source,
    out: Out = ...,
    modality: Annotated[str, typer.Option(help="Suffix of the scans: T1w, T2w, FLAIR.")] = "T1w",
    space: Annotated[str | None, typer.Option(help="space- of the scans, if there are several.")] = None,
    desc: Annotated[str | None, typer.Option(help="desc- of the scans, if there are several.")] = None,
    lesion_word: Annotated[str, typer.Option(help="What the names of lesion masks have in them.")] = "lesion",
    healthy: Healthy = False,
    controls: Annotated[
        list[str] | None, typer.Option(help="COLUMN=VALUE of participants.tsv: these are healthy; may be repeated.")
    ] = None,
    train: Train = 0.7,
    validation: Validation = 0.15,
    seed: Seed = 0,
    checksums: Checksums = False,
    force: Force = False,
) -> None:
    """BIDS data sets: sub-*/anat/*_T1w.nii.gz, also with sessions; masks beside the scans or in derivatives.

    A scan without a lesion mask is unlabelled, unless --controls or --healthy says that the person is healthy.
    """
    _may_write(out, force)
    from medvae.importing.bids import find_bids

    found = find_bids(
        source, modality, space=space, desc=desc, lesion_word=lesion_word, healthy=healthy, controls=controls or ()
    )
    _finish(found, out, train, validation, seed, checksums)


@app.command(epilog="Example: medvae manifest nnunet nnUNet_raw/Dataset042_Brain --out brain.json --modality FLAIR")
def nnunet(
    source: Source,
    out: Out = ...,
    modality: Annotated[
        list[str] | None, typer.Option(help="Channel, by name; may be repeated. All by default.")
    ] = None,
    lesion: Lesion = None,
    checksums: Checksums = False,
    force: Force = False,
) -> None:
    """nnU-Net raw data sets (versions 1 and 2): imagesTr, labelsTr and imagesTs with a dataset.json; all for testing.

    Cases with a label are lesion cases, the others unlabelled.
    """
    _may_write(out, force)
    from medvae.importing.nnunet import find_nnunet

    _finish(find_nnunet(source, modality or (), lesion or ()), out, checksums=checksums)


@app.command(epilog="Example: medvae manifest decathlon Task01_BrainTumour --out tumour.json --modality FLAIR --unpack")
def decathlon(
    source: Source,
    out: Out = ...,
    modality: Annotated[
        list[str] | None, typer.Option(help="Modality, by name; may be repeated. All by default.")
    ] = None,
    lesion: Lesion = None,
    unpack: Annotated[
        bool, typer.Option("--unpack", help="Write the volumes of 4D files as 3D files beside the manifest.")
    ] = False,
    checksums: Checksums = False,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Medical Segmentation Decathlon: a dataset.json that lists images and labels; all for testing.

    Its images hold all modalities in one 4D file, medvae reads one volume per file: --unpack writes those chosen into
    a folder named after the manifest (tumour_images/). What is there already is kept; --overwrite writes it again.
    """
    _may_write(out, force)
    from medvae.importing.decathlon import find_decathlon

    target = out.with_name(f"{out.stem}_images") if unpack else None
    with stopped_says("Stopped, no manifest was written. The same command goes on with what is not unpacked."):
        found = find_decathlon(source, modality or (), lesion or (), unpack=target, again=force, quiet=quiet)
    _finish(found, out, checksums=checksums)


@app.command(
    epilog='Example: medvae manifest folder scans --image "{id}/T1.nii.gz" --mask "{id}/mask.nii.gz" --healthy '
    "--out scans.json"
)
def folder(
    source: Source,
    out: Out = ...,
    image: Annotated[
        list[str], typer.Option(help='Pattern of the images, as "{id}_T1.nii.gz"; one per modality.')
    ] = ...,
    modality: Annotated[list[str], typer.Option(help="Name of each --image.")] = ["T1"],  # noqa: B006
    mask: Annotated[str | None, typer.Option(help='Pattern of the brain masks, as "{id}_mask.nii.gz".')] = None,
    label: Annotated[str | None, typer.Option(help='Pattern of the lesion maps, as "{id}_lesion.nii.gz".')] = None,
    healthy: Healthy = False,
    participants: Annotated[
        Path | None, typer.Option(help="Table (.tsv, .csv) with age, sex, site; SOURCE/participants.tsv by default.")
    ] = None,
    train: Train = 0.7,
    validation: Validation = 0.15,
    seed: Seed = 0,
    checksums: Checksums = False,
    force: Force = False,
) -> None:
    """Any folder, by patterns of file names.

    {id} is what names the case, * any part of a name, **/ any folders; a pattern without / is looked for everywhere.
    Where people have several scans, write {subject} and {session} instead of {id}: they then share a split. Quote the
    patterns. Scans without a label are unlabelled, unless --healthy.
    """
    _may_write(out, force)
    from medvae.importing.folder import find_folder

    found = find_folder(source, image, modality, mask=mask, label=label, healthy=healthy, participants=participants)
    _finish(found, out, train, validation, seed, checksums)


@app.command(epilog="Example: medvae manifest inserted cohort.json --out data/inserted --family tumour --family stroke")
def inserted(
    source: Annotated[Path, typer.Argument(metavar="MANIFEST", help="Skull-stripped T1 scans of healthy people.")],
    out: Annotated[Path, typer.Option(help="Folder to write to: one folder for each family.")] = ...,
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
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress display.")] = False,
) -> None:
    """Insert lesions of several kinds into healthy scans: a benchmark with exact truth that anyone can make.

    OUT/FAMILY/cohort.json holds the scans with a lesion and all healthy scans of MANIFEST: train on it, set thresholds
    on its healthy validation scans, and measure with medvae evaluate. See docs/BENCHMARK.md.
    """
    from medvae.importing.inserted import write_families

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


def _may_write(out: Path, force: bool) -> None:
    """Refuse an output that cannot be a manifest, before anything is read."""
    if out.suffix != ".json":
        raise MedvaeError(f"--out {out}: a manifest is a .json file. Give a name such as {out.with_suffix('.json')}.")
    if out.is_dir():
        raise MedvaeError(f"--out {out}: is a folder. Give the name of a file in it.")
    if out.exists() and not force:
        raise MedvaeError(
            f"{out}: exists already and is left as it is. Choose another --out, or replace it with --overwrite."
        )


def _finish(
    found: Found, out: Path, train: float = 0.7, validation: float = 0.15, seed: int = 0, checksums: bool = False
) -> None:
    """Split, write and say what was found."""
    from medvae.importing.found import make_manifest
    from medvae.importing.split import Fractions
    from medvae.manifest import write_manifest

    manifest = make_manifest(found, out, fractions=Fractions(train, validation), seed=seed, checksums=checksums)
    write_manifest(manifest, out)
    _show(found, manifest)
    typer.echo(f"written: {out}")
    typer.echo(f"next: medvae check {out}")


def _show(found: Found, manifest: Manifest) -> None:
    from rich.console import Console
    from rich.markup import escape

    from medvae.reporting.tables import print_table

    splits = ("train", "validation", "test")
    counts: Counter[tuple[str, str, str]] = Counter()
    subjects: dict[tuple[str, str], set[str]] = defaultdict(set)
    for case in manifest.cases:
        counts[escape(case.site or "–"), case.kind, case.split] += 1
        subjects[escape(case.site or "–"), case.kind].add(case.subject_id)
    rows = [
        [*key, *(str(counts[(*key, split)]) for split in splits), str(len(subjects[key]))] for key in sorted(subjects)
    ]
    if len(rows) > 1:
        totals = [str(sum(case.split == split for case in manifest.cases)) for split in splits]
        rows.append(["all", "", *totals, str(len({case.subject_id for case in manifest.cases}))])
    modalities = ", ".join(manifest.modality.values())
    print_table(
        escape(f"{manifest.name}: {len(manifest.cases)} cases, {modalities}"), ["site", "kind", *splits, "people"], rows
    )
    if found.skipped:
        reasons: dict[str, list[str]] = defaultdict(list)
        for entry in found.skipped:
            reasons[entry.why].append(entry.what)
        rows = [[escape(why), str(len(names)), escape(names[0])] for why, names in sorted(reasons.items())]
        print_table("Skipped", ["why", "number", "for instance"], rows)
    console = Console()
    for note in found.notes:
        console.print(f"note: {note}", highlight=False, soft_wrap=True, markup=False)
