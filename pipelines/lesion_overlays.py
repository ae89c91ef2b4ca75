"""From new scans to overlays, ITK-SNAP workspaces, pictures, a report and a table: a template for clinical use.

    python pipelines/lesion_overlays.py RUN SCANS... --out FOLDER

RUN is a folder from ``medvae train``; SCANS are files, or folders to search recursively. The folder then holds, for
every scan that could be read:

    overlays/ID_desc-anomaly_probseg.nii.gz   anomaly map, 0 to 1          overlays/ID.itksnap    opens all in ITK-SNAP
    overlays/ID_label-lesion_mask.nii.gz      1 above the threshold        overlays/ID.seg.nrrd   for 3D Slicer
    montages/ID.png                           the slices with the largest findings
    report.html, cases/ID.html                all of it in a browser, with a viewer for each scan
    summary.csv                               a line per scan, including failed ones with the reason

A failed scan does not stop the others; the exit code is then 1. The same command continues where it was stopped.
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.markup import escape

from medvae.detection.ensemble import load_detector
from medvae.errors import MedvaeError
from medvae.files import write_text
from medvae.imaging.formats import ENDINGS
from medvae.imaging.morphology import finding_volumes_ml
from medvae.imaging.volume import read_volume
from medvae.prediction import Prediction, predict, scans_of_files
from medvae.reporting.case_picture import draw_figure
from medvae.reporting.report import write_report
from medvae.reporting.tables import print_table
from medvae.reporting.viewers import write_viewer_files

HEADER = ("scan", "findings", "flagged ml", "largest ml", "p value", "remark")


def find_scans(sources: Sequence[Path], pattern: str, out: Path) -> list[Path]:
    """The given volume files, and those in the given folders that match ``pattern``; never those of ``out``."""
    found: list[Path] = []
    for source in sources:
        inside = sorted(source.rglob(pattern)) if source.is_dir() else [source]
        inside = [path for path in inside if out.resolve() not in path.resolve().parents]
        scans = [path for path in inside if not source.is_dir() or path.name.lower().endswith(ENDINGS)]
        if not scans:
            raise MedvaeError(f"{source}: holds no scan called {pattern} ({', '.join(ENDINGS)}).")
        found += scans
    return found


def describe(item: Prediction) -> list[str]:
    """The findings of a scan: 26-connected components and their volumes."""
    volume = read_volume(item.mask)
    sizes = finding_volumes_ml(volume.array > 0, volume.geometry.voxel_volume_ml)
    p_value = "" if item.case_p_value is None else f"{item.case_p_value:.3g}"
    return [str(len(sizes)), f"{item.lesion_volume_ml:.2f}", f"{max(sizes, default=0):.2f}", p_value]


def main(run: Path, sources: Sequence[Path], out: Path, pattern: str, at: str | None) -> bool:
    """Run everything; return whether every scan succeeded."""
    overlays, files = out / "overlays", find_scans(sources, pattern, out)
    detector, scans = load_detector(run), scans_of_files(files)
    predictions, remarks = predict(detector, scans, overlays, at=at)

    if predictions:
        where = {item.id: item.scan for item in predictions}
        _, problems = write_viewer_files(overlays, ids=list(where), scans=where)
        remarks |= problems
        for item in predictions:
            try:
                draw_figure(overlays, out / "montages" / f"{item.id}.png", ids=[item.id], scans=where)
            except MedvaeError as error:
                remarks.setdefault(item.id, str(error))
        write_report(overlays, out, scans=sorted({file.parent for file in files}))

    found = {item.id: describe(item) for item in predictions}
    rows = [[scan.id, *found.get(scan.id, [""] * 4), remarks.get(scan.id, "")] for scan in scans]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([HEADER, *rows])
    table = write_text(out / "summary.csv", text.getvalue())
    title = f"{detector.config.name}: {len(predictions)} of {len(scans)} scans"
    print_table(title, HEADER, [[escape(cell) for cell in row] for row in rows])
    print(f"written: {table}, {overlays}, {out / 'montages'}, {out / 'report.html'}")
    return not remarks


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder, or a detector's folder")
    parser.add_argument("scans", type=Path, nargs="+", metavar="SCANS", help="files, or folders")
    parser.add_argument("--out", type=Path, required=True, help="folder for everything")
    parser.add_argument("--pattern", default="*", help='names of scans in folders, as "*_T1w.nii.gz" (default: all)')
    parser.add_argument("--at", metavar="NAME", help="operating point of the masks, as fpr_0.05 or fpv_5ml")
    arguments = parser.parse_args()
    try:
        whole = main(arguments.run, arguments.scans, arguments.out, arguments.pattern, arguments.at)
    except MedvaeError as error:
        sys.exit(f"lesion_overlays: {error}")
    except KeyboardInterrupt:
        sys.exit("\nStopped; run the same command again to go on.")
    sys.exit(0 if whole else 1)
