"""Make the lists of data sets that are not included: subjects, files and splits; no scans.

    python pipelines/make_lists.py --ixi DATA/ixi_t1_2mm --novosibirsk DATA/novosibirsk_t1 --out data_manifests/lists

``ixi_t1_2mm.json`` is made from the scans themselves, with their checksums. The subjects of the included cohort keep
its splits, so that a detector trained on the larger list can be tested on the included one; the others are split as
``medvae manifest ixi`` does. ``healthy_t1.json`` holds these and 48 adults of another scanner, stripped by another tool
(OpenNeuro ds002748), with paths relative to the folder of both data sets. ``mslub_flair.json`` lists the 30 patients of
Lesjak et al. 2017 by the names in the data set's description; it has no checksums, as the scans were not at hand.
"""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from medvae.files import sha256
from medvae.importing.ixi import find_ixi
from medvae.importing.split import Fractions
from medvae.importing.to_manifest import make_manifest
from medvae.manifest import Case, Manifest, Split, read_manifest, write_manifest

REPOSITORY = Path(__file__).resolve().parents[1]
INCLUDED = REPOSITORY / "data_manifests" / "included_t1.json"
MS_LICENCE = "CC BY: Lesjak et al., Neuroinformatics 2017, doi:10.1007/s12021-017-9348-7"
MS_PATIENTS = 30
NOVOSIBIRSK_LICENCE = "Novosibirsk cases: CC0, Bezmaternykh et al. 2021, doi:10.18112/openneuro.ds002748.v1.0.5"
SPLITS: tuple[Split, ...] = ("train", "train", "validation", "test")
"""Of four Novosibirsk people in a row."""


def ixi_list(source: Path) -> Manifest:
    """The IXI scans at 2 mm, with paths relative to ``source``."""
    fixed = {case.id: case.split for case in read_manifest(INCLUDED).cases if case.healthy}
    found = find_ixi(source)
    free = replace(found, scans=[scan for scan in found.scans if scan.id not in fixed])
    beside = source / "manifest.json"
    everybody = make_manifest(found, beside, fractions=Fractions(), checksums=True)
    drawn = {case.id: case.split for case in make_manifest(free, beside, fractions=Fractions()).cases}
    cases = [case.model_copy(update={"split": (fixed | drawn)[case.id]}) for case in everybody.cases]
    return everybody.model_copy(update={"name": "IXI T1, 3 T, 2 mm", "cases": cases})


def healthy_list(ixi: Manifest, ixi_folder: str, novosibirsk: Path) -> Manifest:
    """The IXI list and the people of Novosibirsk, with paths relative to the folder that holds both."""
    cases = []
    for case in ixi.cases:
        moved = {"image": f"{ixi_folder}/{case.image}", "mask": f"{ixi_folder}/{case.mask}"}
        cases.append(case.model_copy(update=moved))
    with open(novosibirsk / "participants.tsv", encoding="utf-8") as stream:
        people = {row["participant_id"]: row for row in csv.DictReader(stream, delimiter="\t")}
    for number, path in enumerate(sorted(novosibirsk.glob("*_T1.nii.gz"))):
        name = path.name.removesuffix("_T1.nii.gz")
        person = people[name]
        cases.append(
            Case(
                id=name.replace("sub-", "NSK"), image=f"{novosibirsk.name}/{path.name}",
                split=SPLITS[number % len(SPLITS)], site="Novosibirsk", age=float(person["age"]),
                sex=person["gender"].upper(), sha256=sha256(path),
            )
        )  # fmt: skip
    licence = f"IXI cases: {ixi.licence}. {NOVOSIBIRSK_LICENCE}"
    return ixi.model_copy(update={"name": "Healthy T1 of two sites", "licence": licence, "cases": cases})


def mslub_list() -> Manifest:
    """The patients with multiple sclerosis, FLAIR."""
    names = [f"patient{number:02d}" for number in range(1, MS_PATIENTS + 1)]
    cases = [
        Case(
            id=name,
            image=f"{name}/{name}_FLAIR.nii.gz",
            mask=f"{name}/{name}_brainmask.nii.gz",
            label=f"{name}/{name}_consensus_gt.nii.gz",
            split="test",
            site="Ljubljana",
        )
        for name in names
    ]
    return Manifest(
        name="MSLUB FLAIR", licence=MS_LICENCE, modality={"0": "FLAIR"}, label_values={"lesion": [1]}, cases=cases
    )


def main(
    ixi: Annotated[Path, typer.Option(help="Folder with t1/, anatomy/ and participants.tsv.")],
    novosibirsk: Annotated[Path, typer.Option(help="Folder of the skull-stripped T1 and participants.tsv.")],
    out: Annotated[Path, typer.Option(help="Folder of the lists.")] = REPOSITORY / "data_manifests" / "lists",
) -> None:
    """Write the lists."""
    one_site = ixi_list(ixi)
    both = healthy_list(one_site, ixi.name, novosibirsk)
    for name, manifest in (("ixi_t1_2mm", one_site), ("healthy_t1", both), ("mslub_flair", mslub_list())):
        write_manifest(manifest, out / f"{name}.json")
        counts = {split: len(manifest.of_split(split)) for split in ("train", "validation", "test")}
        typer.echo(f"{out / name}.json: {counts}")


if __name__ == "__main__":
    typer.run(main)
