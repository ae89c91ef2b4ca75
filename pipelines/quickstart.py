"""The whole pipeline on the included cohort: from healthy scans to overlays, pictures and tables.

    python pipelines/quickstart.py --out demo_run

1. Lesions of known location and shape are inserted into the healthy test scans.
2. A context-encoding VAE is trained on 20 healthy brains; three baselines without a network are fitted too.
   The detector that comes with medvae, which was trained on other scans of IXI, is used as it is.
3. Each of the others sets its thresholds on 6 more healthy brains.
4. Each predicts the test scans: healthy people, MS patients, and the scans with inserted lesions.
5. The maps are measured against the truth and drawn, and a report is written.

Run it again after Ctrl-C: it continues where it stopped.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from rich.console import Console

from medvae.config import read_config
from medvae.detection.ensemble import load_detector
from medvae.errors import MedvaeError
from medvae.evaluation.result import Study
from medvae.evaluation.study import evaluate
from medvae.evaluation.writing import write_study
from medvae.files import write_text
from medvae.fitting import fit
from medvae.lesions import insert_cohort, read_shapes
from medvae.manifest import Manifest, read_manifest
from medvae.prediction import predict, scans_of_manifest
from medvae.reporting.case_picture import draw_predictions
from medvae.reporting.report import write_report
from medvae.reporting.tables import markdown_table, print_table, study_rows
from medvae.reporting.viewers import write_viewer_files

REPOSITORY = Path(__file__).resolve().parents[1]
COHORT = REPOSITORY / "data_manifests" / "included_t1.json"
SHAPES = REPOSITORY / "data_manifests" / "included" / "lesion_shapes.npz"
READY, NETWORK = "t1-2mm", "cevae_slice"
METHODS = (READY, NETWORK, "z_score_baseline", "normative_baseline", "intensity_baseline")
LESION_SEED = 2026


def main(out: Path, overrides: list[str], repeats: int = 2) -> None:
    """Make ``out``: runs, predictions, pictures, tables and reports."""
    console, started = Console(), time.monotonic()
    healthy_and_ms = read_manifest(COHORT)
    shapes = read_shapes(SHAPES)
    inserted = insert_cohort(healthy_and_ms, out / "inserted", seed=LESION_SEED, repeats=repeats, shapes=shapes)
    cohorts: dict[str, Manifest] = {"ms": healthy_and_ms, "inserted": inserted}

    studies: dict[str, list[Study]] = {name: [] for name in cohorts}
    for method in METHODS:
        console.rule(method)
        if method == READY:
            detector = load_detector(method)
        else:
            config = read_config(REPOSITORY / "configs" / f"{method}.yaml", overrides if method == NETWORK else None)
            detector = fit(config, healthy_and_ms, out / "runs" / method, resume=True)
        for name, cohort in cohorts.items():
            folder = out / "predictions" / method / name
            predictions, failures = predict(detector, scans_of_manifest(cohort), folder)
            if failures:
                raise MedvaeError("\n".join(failures.values()))
            if method in (READY, NETWORK):
                draw_predictions(predictions, cohort, detector, out / "pictures" / method / name)
                write_viewer_files(folder, manifest=cohort)
            study = evaluate(folder, cohort)
            write_study(study, out / "results" / method / name)
            studies[name].append(study)

    titles = {"ms": "MS patients (lesions), healthy test scans (FPR)", "inserted": "Inserted lesions"}
    text = ""
    for name, title in titles.items():
        header, rows = study_rows(studies[name])
        subjects = f"{title}: {studies[name][0].pooled['n_cases']} scans with lesions"
        print_table(subjects, header, rows)
        text += f"### {subjects}\n\n{markdown_table(header, rows)}\n"
    table = write_text(out / "table.md", text)

    reports = {}
    for name, cohort in cohorts.items():
        results = [out / "results" / method / name for method in METHODS]
        known = {"manifest": cohort, "evaluations": results}
        reports[name] = write_report(out / "predictions" / READY / name, out / "report" / name, **known).path

    console.print(f"Done in {(time.monotonic() - started) / 60:.1f} minutes. Now open:", highlight=False)
    for what, path in {
        "the patients, each with a viewer, in a browser": reports["ms"],
        "the inserted lesions likewise": reports["inserted"],
        "the table": table,
        "a picture of every test scan": out / "pictures",
        "loss and reconstructions": out / "runs" / NETWORK,
        "overlays, with a workspace for ITK-SNAP each": out / "predictions" / READY / "ms",
    }.items():
        console.print(f"  {what}: {path}", highlight=False, soft_wrap=True)
    console.print(f"Another scan: medvae predict {READY} SCAN.nii.gz --out DIR", soft_wrap=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("demo_run"), help="folder for everything (default: demo_run)")
    parser.add_argument("--repeats", type=int, default=2, help="scans with inserted lesions per healthy test scan")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="values for the ceVAE, as training.steps=200")
    arguments = parser.parse_args()
    try:
        main(arguments.out, arguments.overrides, arguments.repeats)
    except MedvaeError as error:
        sys.exit(f"quickstart: {error}")
    except KeyboardInterrupt:
        sys.exit("\nStopped; run the same command again to go on.")
