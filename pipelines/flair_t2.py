"""The detectors for FLAIR and T2 on real scans: gliomas, multiple sclerosis, white matter lesions of the elderly.

    python pipelines/flair_t2.py DATA --out runs/flair_t2
    python pipelines/flair_t2.py DATA --out runs/flair_t2 --also FLAIR=runs/flair/patients_flair

DATA holds a folder per data set, as for real_scans.py: brats18, open_ms, elderly_t1_flair_2mm. What is missing is
skipped. The elderly are whole heads: their brain mask is that of the labels of their T1, brought onto the FLAIR's grid,
and the truth of their lesions was made by a program on the FLAIR. Nothing learns from these scans and no threshold is
set on them. Beside flair-2mm and t2-2mm are measured their members without a network, and as baselines the smoothed
rank of brightness, and the same without smoothing, which is the usual threshold after histogram equalisation.

*Written.* table.md; manifests/, predictions/; prepared scans in --cache. A prediction that is there is not repeated.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from medvae.detection.base import Calibrated
from medvae.detection.ensemble import load_detector
from medvae.errors import MedvaeError
from medvae.evaluation.options import EvaluationOptions
from medvae.evaluation.result import MASK, Quantity
from medvae.evaluation.study import evaluate
from medvae.files import write_text
from medvae.imaging.volume import read_volume, resample, write_volume
from medvae.manifest import Case, Manifest, read_manifest, write_manifest
from medvae.prediction import predict, scans_of_manifest
from medvae.preparation.mask import mask_from_anatomy
from medvae.reporting.tables import markdown_table
from medvae.schema import read_document

HEADER = [
    "scans", "detector", "cases", "prevalence", "AP", "mean AP", "mean ⌈Dice⌉", "mean Dice of masks",
    "mean flagged without a lesion", "not registered",
]  # fmt: skip


@dataclass(frozen=True)
class Group:
    """Scans of one kind and sequence."""

    name: str
    sequence: str
    detector: str
    image: str
    """What the path of a scan in DATA matches; ``id`` is the person."""
    label: str
    anatomy: str = ""
    """Labels of structures on the grid of another scan of the same session, for the brain mask of a whole head."""


GROUPS = (
    Group(
        "glioma", "FLAIR", "flair-2mm", r"brats18/(?P<id>[^/]+)/(?P=id)_flair\.nii\.gz", "brats18/{id}/{id}_seg.nii.gz"
    ),
    Group("ms", "FLAIR", "flair-2mm", r"open_ms/(?P<id>patient[^/]+)/FLAIR\.nii\.gz", "open_ms/{id}/lesions.nii.gz"),
    Group(
        "elderly", "FLAIR", "flair-2mm", r"elderly_t1_flair_2mm/flair/(?P<id>[^/]+)_FL\.nii\.gz",
        "elderly_t1_flair_2mm/white_matter_lesions_automatic/{id}_FL_DLWMLS.nii.gz",
        "elderly_t1_flair_2mm/anatomy/{id}_T1_DLMUSE.nii.gz",
    ),
    Group("glioma", "T2", "t2-2mm", r"brats18/(?P<id>[^/]+)/(?P=id)_t2\.nii\.gz", "brats18/{id}/{id}_seg.nii.gz"),
    Group("ms", "T2", "t2-2mm", r"open_ms/(?P<id>patient[^/]+)/T2\.nii\.gz", "open_ms/{id}/lesions.nii.gz"),
)  # fmt: skip

MEMBERS = {"FLAIR": "flair-2mm/members/flair_bright", "T2": "t2-2mm/members/t2_bright"}
"""The part of the detector that has no network."""
BASELINES = {"FLAIR": "flair-rank-2mm", "T2": "t2-rank-2mm"}
"""Without a network, and learned from no scan."""


def cohort_of(data: Path, group: Group, out: Path) -> Manifest:
    """The manifest of a group, in ``out/manifests``; brain masks of whole heads are made beside it."""
    folder, cases = out / "manifests", []
    for path in sorted((data / group.image.split("/")[0]).rglob("*.nii.gz")):
        found = re.fullmatch(group.image, path.relative_to(data).as_posix())
        label = found and data / group.label.format(id=found["id"])
        if not found or not label or not label.is_file():
            continue
        mask = None
        if group.anatomy:
            mask = folder / f"{found['id']}_brain.nii.gz"
            if not mask.is_file():
                _bring_mask(data / group.anatomy.format(id=found["id"]), path, mask)
        cases.append(
            Case(
                id=found["id"], image=str(path.absolute()), label=str(label.absolute()), split="test",
                mask=None if mask is None else str(mask.absolute()),
            )
        )  # fmt: skip
    name = f"{group.name}, {group.sequence}"
    made = Manifest(name=name, modality={"0": group.sequence}, cases=cases)
    return read_manifest(write_manifest(made, folder / f"{group.name}_{group.sequence}.json"))


def _bring_mask(anatomy: Path, scan: Path, mask: Path) -> None:
    labels, volume = read_volume(anatomy), read_volume(scan)
    brain = mask_from_anatomy(labels.array, source=str(anatomy)).astype(np.float32)
    moved = resample(brain, labels.geometry, volume.geometry) >= 0.5
    mask.parent.mkdir(parents=True, exist_ok=True)
    write_volume(mask, moved.astype(np.uint8), volume)


def measured(detector: Calibrated, cohort: Manifest, folder: Path, cache: Path) -> list[str]:
    """Predict a cohort and measure it: the cells of a row after the group's name."""
    predictions, failures = predict(detector, scans_of_manifest(cohort), folder, cache=cache)
    for problem in failures.values():
        print(problem)
    study = evaluate(folder, cohort, EvaluationOptions(resamples=0))
    at = MASK if Quantity("dice", MASK) in study.per_case_summary else detector.points[0].name
    mean = {
        metric: study.per_case_summary[Quantity(metric, point)].mean
        for metric, point in (("ap", None), ("oracle_dice", None), ("dice", at))
    }
    false = [
        (case.number("flagged", at) - case.number("true", at)) / (case.number("voxels") - case.number("lesion_voxels"))
        for case in study.per_case
    ]
    sidecars = [
        read_document(item.map.with_name(item.map.name.removesuffix(".nii.gz") + ".json")) for item in predictions
    ]
    apart = sum(sidecar["RegistrationQuality"] is None for sidecar in sidecars)
    return [
        detector.config.name, str(len(cohort.cases)), f"{study.pooled['prevalence']:.4f}", f"{study.pooled['ap']:.3f}",
        f"{mean['ap']:.3f}", f"{mean['oracle_dice']:.3f}", f"{mean['dice']:.3f} ({at})",
        f"{100 * np.mean(false):.1f} %", str(apart),
    ]  # fmt: skip


def unsmoothed(detector: Calibrated) -> Calibrated:
    """The same detector without smoothing, as a method of its own."""
    config = detector.config
    score = config.score.model_copy(update={"smoothing_mm": 0.0})
    name = f"{config.name}_unsmoothed"
    return replace(
        detector,
        config=config.model_copy(update={"score": score, "name": name}),
        fingerprint=f"{detector.fingerprint}-0",
    )


def main(data: Path, out: Path, cache: Path, only: list[str], also: Mapping[str, Path]) -> None:
    """Make ``out``; ``also`` is another detector for a sequence."""
    rows = []
    for group in GROUPS:
        if only and group.name not in only:
            continue
        cohort = cohort_of(data, group, out)
        if not cohort.cases:
            print(f"{group.name}, {group.sequence}: is not in {data}.")
            continue
        ranks = load_detector(BASELINES[group.sequence])
        more = [load_detector(also[group.sequence])] if group.sequence in also else []
        shipped = (load_detector(name) for name in (group.detector, MEMBERS[group.sequence]))
        for detector in (*shipped, ranks, unsmoothed(ranks), *more):
            folder = out / "predictions" / detector.config.name / group.name
            rows.append([cohort.name, *measured(detector, cohort, folder, cache)])
            print(rows[-1], flush=True)
    if not rows:
        raise MedvaeError(
            f"{data}: holds none of {', '.join(sorted({group.image.split('/')[0] for group in GROUPS}))}."
        )
    print(write_text(out / "table.md", markdown_table(HEADER, rows)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, metavar="DATA", help="folder of the data sets")
    parser.add_argument("--out", type=Path, default=Path("runs/flair_t2"), help="folder for everything")
    parser.add_argument("--cache", type=Path, help="folder of prepared scans (default: OUT/prepared)")
    parser.add_argument("--only", action="append", default=[], choices=sorted({g.name for g in GROUPS}), help="a group")
    parser.add_argument("--also", action="append", default=[], metavar="SEQUENCE=DETECTOR", help="measure this one too")
    chosen = parser.parse_args()
    try:
        pairs = [pair.partition("=") for pair in chosen.also]
        if wrong := [sequence for sequence, _, _ in pairs if sequence not in {group.sequence for group in GROUPS}]:
            raise MedvaeError(f"--also: {wrong[0]} is no sequence of this study; write FLAIR=DETECTOR or T2=DETECTOR.")
        others = {sequence: Path(detector) for sequence, _, detector in pairs}
        main(chosen.data, chosen.out, chosen.cache or chosen.out / "prepared", chosen.only, others)
    except MedvaeError as error:
        sys.exit(f"flair_t2: {error}")
    except KeyboardInterrupt:
        sys.exit("\nStopped; run the same command again to go on.")
