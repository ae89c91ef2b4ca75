"""Make the lists of data sets that are not included: subjects, files and splits; no scans.

    python pipelines/make_lists.py --ixi ixi_t1_2mm --out data_manifests/lists

``ixi_t1_2mm.json`` is made from the scans themselves, with their checksums. The subjects of the included cohort keep
its splits, so that a detector trained on the larger list can be tested on the included one; the others are split as
``medvae manifest ixi`` does. ``mslub_flair.json`` lists the 30 patients of Lesjak et al. 2017 by the names in
the data set's description; it has no checksums, as the scans were not at hand.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from medvae.importing.ixi import find_ixi
from medvae.importing.split import Fractions
from medvae.importing.to_manifest import make_manifest
from medvae.manifest import Case, Manifest, read_manifest, write_manifest

REPOSITORY = Path(__file__).resolve().parents[1]
INCLUDED = REPOSITORY / "data_manifests" / "included_t1.json"
MS_LICENCE = "CC BY: Lesjak et al., Neuroinformatics 2017, doi:10.1007/s12021-017-9348-7"
MS_PATIENTS = 30


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
    out: Annotated[Path, typer.Option(help="Folder of the lists.")] = REPOSITORY / "data_manifests" / "lists",
) -> None:
    """Write both lists."""
    for name, manifest in (("ixi_t1_2mm", ixi_list(ixi)), ("mslub_flair", mslub_list())):
        write_manifest(manifest, out / f"{name}.json")
        counts = {split: len(manifest.of_split(split)) for split in ("train", "validation", "test")}
        typer.echo(f"{out / name}.json: {counts}")


if __name__ == "__main__":
    typer.run(main)
