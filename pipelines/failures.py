"""Where a detector fails: every lesion scan of a study with its numbers, and a picture of the worst of each kind.

    medvae benchmark configs/studies/inserted_t1.yaml --out runs/inserted_t1
    python pipelines/failures.py runs/inserted_t1 --row t1-2mm --out runs/failures

reads the maps that the study kept (``keep_maps: true``). The worst scan of a kind is the one whose written mask has the
smallest Dice; of several with the same, the one with most lesion. So the picture is chosen by a rule, and not by eye.

Written: table.md, a row per scan, the worst first in each kind; failures.png, a slice of the worst of each kind, where
most of its lesion lies.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from medvae.benchmark import read_study
from medvae.errors import MedvaeError
from medvae.evaluation.result import MASK, CaseResult
from medvae.evaluation.study import evaluate
from medvae.files import write_text
from medvae.imaging.volume import read_overlay, read_volume
from medvae.manifest import Manifest, read_manifest
from medvae.reporting.cases import read_cases
from medvae.reporting.montage import AXIS, Column, Shown, draw_montage, largest_slices
from medvae.reporting.tables import markdown_table, print_table

STUDY = Path(__file__).resolve().parents[1] / "configs" / "studies" / "inserted_t1.yaml"
PATIENTS = "patients"


def targets(study: Path, config: Path) -> dict[str, Manifest]:
    """The scans with lesions of each kind in a finished study: `PATIENTS`, and its families of inserted lesions."""
    options = read_study(config)
    found = {PATIENTS: read_manifest(options.resolve(options.manifest))}
    for file in sorted(study.glob("inserted*/inserted.json")):
        found[file.parent.name.removeprefix("inserted").removeprefix("_") or "ms"] = read_manifest(file)
    return found


def maps_of(study: Path, row: str) -> Path:
    """Folder of the maps of a row."""
    found = sorted((study / "maps").glob(f"{row}-*"))
    if len(found) != 1:
        there = ", ".join(path.name for path in sorted((study / "maps").glob("*"))) or "nothing"
        raise MedvaeError(
            f"{study / 'maps'}: holds {len(found)} folders called {row}-…, and one is needed. There is: {there}. Let "
            f"medvae benchmark finish a study with keep_maps: true, or name another --row."
        )
    return found[0]


def worst_first(maps: Path, manifest: Manifest) -> tuple[list[CaseResult], str]:
    """The scans with a lesion, by Dice of the mask; of several with the same, that with most lesion first.

    Beside them the name of the point that masks are made at: as they are written, where that is more than a threshold.
    """
    found = evaluate(maps, manifest)
    point = MASK if found.point(MASK) else found.operating_points[0].name
    cases = [case for case in found.per_case if case.ill]
    return sorted(cases, key=lambda case: (case.number("dice", point), -case.number("lesion_ml"))), point


def column(maps: Path, manifest: Manifest, name: str, title: str) -> Column:
    """The axial slice of a scan that holds most of its lesion."""
    (case,), problems = read_cases(maps, ids=[name], manifest=manifest)
    if problems:
        raise MedvaeError("\n".join(problems.values()))
    scan = read_volume(case.found_scan)
    shown = Shown.of(
        title, scan.geometry, scan.array, read_overlay(case.map).array, read_overlay(case.mask).array,
        threshold=case.threshold, truth=case.truth(),
    )  # fmt: skip
    return Column(shown, AXIS["axial"], largest_slices(shown, AXIS["axial"], 1)[0])


def main(study: Path, config: Path, row: str, out: Path) -> None:
    """Write ``table.md`` and ``failures.png``."""
    maps, kinds = maps_of(study, row), targets(study, config)
    header = ["kind", "scan", "ml of lesion", "AP", "Dice of mask", "ml of mask", "ml of it in the lesion"]
    rows, columns = [], []
    for kind, manifest in kinds.items():
        ranked, point = worst_first(maps, manifest)
        for case in ranked:
            ml = case.number("lesion_ml") / case.number("lesion_voxels")
            rows.append(
                [kind, case.id, f"{case.number('lesion_ml'):.1f}", f"{case.number('ap'):.3f}",
                 f"{case.number('dice', point):.3f}",
                 *(f"{ml * case.number(name, point):.1f}" for name in ("flagged", "true"))]
            )  # fmt: skip
        for case in ranked[:1]:
            name = case.id if kind == PATIENTS else kind
            columns.append(column(maps, manifest, case.id, f"{name}, {case.number('lesion_ml'):.1f} ml"))
    print_table(f"{row}: scans with lesions, the worst of each kind first", header, rows)
    table = write_text(out / "table.md", markdown_table(header, rows))
    print(f"written: {table}, {draw_montage(columns, out / 'failures.png')}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, metavar="STUDY_OUT", help="--out folder of medvae benchmark")
    parser.add_argument("--config", type=Path, default=STUDY, help="its study file (default: inserted_t1.yaml)")
    parser.add_argument("--row", default="t1-2mm", help="row of the study (default: t1-2mm)")
    parser.add_argument("--out", type=Path, default=Path("runs/failures"), help="folder for both files")
    chosen = parser.parse_args()
    try:
        main(chosen.study, chosen.config, chosen.row, chosen.out)
    except MedvaeError as error:
        sys.exit(f"failures: {error}")
