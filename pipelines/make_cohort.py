"""Make the included cohort: 32 healthy brains and two patients with multiple sclerosis, on the standard grid.

    python pipelines/make_cohort.py --source DATA --out data_manifests

``DATA`` holds ``ixi_t1_2mm`` (whole heads with anatomical labels) and ``open_ms`` (skull-stripped scans with lesion
masks); ``data_manifests/included/LICENCES.md`` says where they come from. Every scan is processed alike: brain mask,
bias field (N4), affine registration of the T1 to MNI152, one linear resampling to the 2 mm standard grid, 8-bit
intensities. Voxels outside the brain are 0 and nothing inside is, so the nonzero region is the brain mask. The same
input gives the same bytes. About 8 s per case on one core.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from medvae.files import sha256, write_text
from medvae.imaging.grid import DEFAULT_GRID
from medvae.imaging.volume import read_volume, resample, write_volume
from medvae.manifest import Case, Manifest, write_manifest
from medvae.preparation.mask import mask_from_anatomy, mask_from_background
from medvae.preparation.n4 import correct_bias
from medvae.preparation.registration import Registration, move_brain, register

SEED = 2020
PER_SEX = {"train": 10, "validation": 3, "test": 3}
PATIENTS = ("patient07", "patient26")
BRIGHTEST = 250  # the 99.9th percentile; five steps remain for brighter voxels

IXI_LICENCE = "CC BY-SA 3.0: IXI data set, brain-development.org; changed as included/LICENCES.md says"
MS_LICENCE = (
    "CC BY: Lesjak et al., Neuroinformatics 2017, doi:10.1007/s12021-017-9348-7; changed as included/LICENCES.md says"
)


@dataclass(frozen=True)
class Person:
    """A scan session to prepare."""

    id: str
    split: str
    age: float | None = None
    sex: str | None = None
    session: str | None = None
    """Name of the files in the source, for a healthy person."""


def choose_healthy(participants: Path, seed: int = SEED) -> list[Person]:
    """Equal numbers of women and men of all ages, split so that train, validation and test have similar ages.

    For each sex, sorted by age, one person is drawn from each of 16 strata; of each third of these, one is assigned to
    validation, one to test, the others to train.
    """
    rng = np.random.default_rng(seed)
    with participants.open(encoding="utf-8", newline="") as stream:
        rows = [row for row in csv.DictReader(stream, delimiter="\t") if "n/a" not in (row["age"], row["sex"])]
    rows.sort(key=lambda row: (float(row["age"]), row["participant_id"]))
    chosen = []
    for sex in ("F", "M"):
        strata = np.array_split(np.array([row for row in rows if row["sex"] == sex]), sum(PER_SEX.values()))
        drawn = [stratum[rng.integers(len(stratum))] for stratum in strata]
        for third in np.array_split(np.array(drawn), PER_SEX["test"]):
            splits = ["validation", "test"] + ["train"] * (len(third) - 2)
            for row, split in zip(third, rng.permutation(splits), strict=True):
                session = row["participant_id"]
                chosen.append(Person(session.split("-")[0], str(split), float(row["age"]), sex, session))
    return sorted(chosen, key=lambda person: person.id)


def prepare_healthy(source: Path, out: Path, person: Person) -> dict:
    """Prepare the T1 of a healthy person; returns a row of the table."""
    scan = read_volume(source / "t1" / f"{person.session}_T1.nii.gz")
    mask = mask_from_anatomy(read_volume(source / "anatomy" / f"{person.session}_anatomy.nii.gz").array)
    corrected = correct_bias(scan.array, mask, scan.geometry)
    found = register(corrected, mask, scan.geometry, source=str(scan.path))
    brain, brain_mask = move_brain(corrected, mask, scan.geometry, DEFAULT_GRID.geometry, found.transform)
    write_volume(out / f"{person.id}_T1.nii.gz", as_bytes(brain, brain_mask), DEFAULT_GRID.geometry, space="mni152")
    return row_of(person, found, np.count_nonzero(mask) * scan.geometry.voxel_volume_ml)


def prepare_patient(source: Path, out: Path, person: Person) -> dict:
    """Prepare T1, FLAIR and lesion mask of a patient with the transform estimated on the T1."""
    scan = read_volume(source / person.id / "T1.nii.gz")
    mask = mask_from_background(scan.array, scan.geometry, source=str(scan.path))
    found = None
    for modality in ("T1", "FLAIR"):
        array = np.maximum(read_volume(source / person.id / f"{modality}.nii.gz").array, 0)
        corrected = correct_bias(array, mask, scan.geometry)
        found = found or register(corrected, mask, scan.geometry, source=str(scan.path))
        brain, brain_mask = move_brain(corrected, mask, scan.geometry, DEFAULT_GRID.geometry, found.transform)
        path = out / f"{person.id}_{modality}.nii.gz"
        write_volume(path, as_bytes(brain, brain_mask), DEFAULT_GRID.geometry, space="mni152")
    lesions = read_volume(source / person.id / "lesions.nii.gz").array > 0
    # No smoothing: smoothed and thresholded at one half, the lesions of patient 07 shrink by a third (1.3 of 2.1 ml).
    share = resample(lesions, scan.geometry, DEFAULT_GRID.geometry, transform=found.transform, antialias=False)
    moved = (share >= 0.5) & brain_mask
    write_volume(out / f"{person.id}_lesions.nii.gz", moved.astype(np.uint8), DEFAULT_GRID.geometry, space="mni152")
    return {
        **row_of(person, found, np.count_nonzero(mask) * scan.geometry.voxel_volume_ml),
        "lesions_ml_scan": round(np.count_nonzero(lesions) * scan.geometry.voxel_volume_ml, 3),
        "lesions_ml_standard": round(np.count_nonzero(moved) * DEFAULT_GRID.voxel_volume_ml, 3),
    }


def as_bytes(brain: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """In-mask values from 1 (the darkest) over 250 (the 99.9th percentile) to at most 255; 0 outside."""
    low, high = brain[mask].min(), np.percentile(brain[mask], 99.9)
    scaled = 1 + (brain - low) * ((BRIGHTEST - 1) / (high - low))
    return np.where(mask, np.clip(np.rint(scaled), 1, 255), 0).astype(np.uint8)


def row_of(person: Person, found: Registration, brain_ml: float) -> dict:
    """Table row of a prepared case."""
    return {
        "id": person.id,
        "split": person.split,
        "age": person.age,
        "sex": person.sex,
        "brain_ml": round(brain_ml),
        "dice": round(found.quality.dice, 4),
        "mutual_information": round(found.quality.mutual_information, 4),
        **{f"scale_{axis}": round(scale, 3) for axis, scale in zip("xyz", found.quality.scales, strict=True)},
        # Standard space is larger than most brains: a lesion's volume changes by this factor.
        "volume_factor": round(1 / float(np.linalg.det(found.transform[:3, :3])), 3),
    }


def case_of(person: Person, out: Path, image: str, **known: str) -> Case:
    """The manifest's entry."""
    return Case(
        id=person.id,
        image=image,
        split=person.split,
        age=person.age,
        sex=person.sex,
        sha256=sha256(out / image),
        **known,
    )


def show(rows: Iterable[dict], columns: list[str]) -> None:
    """Print the table."""
    table = Table(*columns)
    for row in rows:
        table.add_row(*(str(row.get(name, "")) for name in columns))
    Console(width=170).print(table)


def main(
    source: Annotated[Path, typer.Option(help="Folder with ixi_t1_2mm/ and open_ms/.")],
    out: Annotated[Path, typer.Option(help="Folder of the manifests.")] = Path("data_manifests"),
    workers: Annotated[int, typer.Option(help="Cases prepared at a time.")] = 1,
) -> None:
    """Write the included cohort, its two manifests and the table of registrations."""
    healthy = choose_healthy(source / "ixi_t1_2mm" / "participants.tsv")
    patients = [Person(name, "test") for name in PATIENTS]
    included = out / "included"
    with ProcessPoolExecutor(workers) as pool:
        jobs = [pool.submit(prepare_healthy, source / "ixi_t1_2mm", included / "ixi", person) for person in healthy] + [
            pool.submit(prepare_patient, source / "open_ms", included / "open_ms", person) for person in patients
        ]
        rows = [job.result() for job in jobs]

    t1 = [
        case_of(person, out, f"included/ixi/{person.id}_T1.nii.gz", site="Hammersmith Hospital") for person in healthy
    ]
    for_patient = {
        modality: [
            case_of(
                person,
                out,
                f"included/open_ms/{person.id}_{modality}.nii.gz",
                label=f"included/open_ms/{person.id}_lesions.nii.gz",
                site="Ljubljana",
            )
            for person in patients
        ]
        for modality in ("T1", "FLAIR")
    }
    lesions = {"lesion": [1]}
    write_manifest(
        Manifest(
            name="Included T1: IXI healthy, open MS",
            licence=f"IXI cases: {IXI_LICENCE}. Patients: {MS_LICENCE}",
            modality={"0": "T1"},
            label_values=lesions,
            cases=[*t1, *for_patient["T1"]],
        ),
        out / "included_t1.json",
    )
    write_manifest(
        Manifest(
            name="Included FLAIR: open MS",
            licence=MS_LICENCE,
            modality={"0": "FLAIR"},
            label_values=lesions,
            cases=for_patient["FLAIR"],
        ),
        out / "included_flair_ms.json",
    )
    columns = list(rows[-1])
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(included / "preparation.csv", text.getvalue())
    show(rows, columns)


if __name__ == "__main__":
    typer.run(main)
