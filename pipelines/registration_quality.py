"""Registration quality of whole cohorts: one row per scan, a summary and a picture.

    python pipelines/registration_quality.py --source DATA --out runs/registration_quality

``DATA`` holds ``ixi_t1_2mm`` (whole heads with anatomical labels, which give the brain masks) and ``open_ms``
(skull-stripped scans), as for ``make_cohort.py``. Every T1 is registered as is, without bias correction. Run it
again after Ctrl-C: finished work is kept. About 10 s per scan on one free core.
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from medvae.drawing import save_figure
from medvae.errors import MedvaeError
from medvae.files import write_json, write_text
from medvae.imaging.grid import DEFAULT_GRID
from medvae.imaging.volume import Volume, read_volume
from medvae.preparation.mask import mask_from_anatomy, mask_from_background
from medvae.preparation.registration import move_brain, register
from medvae.preparation.standard_brain import read_template
from medvae.progress import Progress
from medvae.reporting.tables import markdown_table, print_table
from medvae.schema import read_document

COLUMNS = ("dice", "mutual_information", "scale_x", "scale_y", "scale_z", "shear")
WORST = 6


def scans(source: Path) -> Iterator[tuple[str, Path]]:
    """The group and the T1 file of every scan."""
    yield from (("IXI", path) for path in sorted((source / "ixi_t1_2mm" / "t1").glob("*_T1.nii.gz")))
    yield from (("MS", path) for path in sorted((source / "open_ms").glob("patient*/T1.nii.gz")))


def name_of(group: str, path: Path) -> str:
    """The scan's name in the table."""
    return path.name.split("-")[0] if group == "IXI" else path.parent.name


def read_brain(group: str, path: Path) -> tuple[Volume, np.ndarray]:
    """A scan and its brain mask."""
    scan = read_volume(path)
    if group == "MS":
        return scan, mask_from_background(scan.array, scan.geometry, source=str(path))
    labels = path.parents[1] / "anatomy" / path.name.replace("_T1", "_anatomy")
    return scan, mask_from_anatomy(read_volume(labels).array, source=str(labels))


def measure(group: str, path: Path) -> dict:
    """Register one scan; a rejected one has its message as ``problem`` and no numbers."""
    scan, mask = read_brain(group, path)
    row = {"id": name_of(group, path), "group": group}
    try:
        found = register(scan.array, mask, scan.geometry, source=path.name)
    except MedvaeError as error:
        return {**row, "problem": str(error)}
    numbers = {key: value for key, value in asdict(found.quality).items() if key != "scales"}
    numbers.update(zip(("scale_x", "scale_y", "scale_z"), found.quality.scales, strict=True))
    return {**row, **{key: round(value, 4) for key, value in numbers.items()}, "transform": found.transform.tolist()}


def main(source: Path, out: Path) -> None:
    """Register what is not yet registered, then write ``cases.csv``, ``table.md`` and ``registration_quality.png``."""
    found = list(scans(source))
    if not found:
        raise MedvaeError(f"{source}: holds no ixi_t1_2mm/t1/*_T1.nii.gz and no open_ms/patient*/T1.nii.gz.")
    rows = []
    with Progress("Registering", len(found)) as progress:
        for done, (group, path) in enumerate(found, start=1):
            record = out / "cases" / f"{name_of(group, path)}.json"
            if not record.exists():
                write_json(record, measure(group, path))
            rows.append(read_document(record))
            progress.update(done, case=rows[-1]["id"])

    text = io.StringIO()
    writer = csv.DictWriter(
        text, ("id", "group", *COLUMNS, "problem"), extrasaction="ignore", restval="", lineterminator="\n"
    )
    writer.writeheader()
    writer.writerows(rows)
    write_text(out / "cases.csv", text.getvalue())
    good = [row for row in rows if "problem" not in row]
    summarise(rows, good, out)
    files = {name_of(group, path): (group, path) for group, path in found}
    draw(good, {row["id"]: files[row["id"]] for row in good}, out / "registration_quality.png")
    for row in rows:
        if "problem" in row:
            print(f"{row['id']}: {row['problem']}")
    print("written:", out)


def summarise(rows: list[dict], good: list[dict], out: Path) -> None:
    """Median and range of every number for each group, printed and written as Markdown."""
    header = ["", *(f"{group} ({sum(row['group'] == group for row in rows)})" for group in ("IXI", "MS"))]
    lines = []
    for column in COLUMNS:
        line = [column.replace("_", " ")]
        for group in ("IXI", "MS"):
            values = np.array([row[column] for row in good if row["group"] == group])
            line.append(f"{np.median(values):.3f} ({values.min():.3f}–{values.max():.3f})" if values.size else "–")
        lines.append(line)
    refused = [sum(row["group"] == group and "problem" in row for row in rows) for group in ("IXI", "MS")]
    lines.append(["refused", *map(str, refused)])
    print_table("Registration to MNI152: median (range)", header, lines)
    write_text(out / "table.md", markdown_table(header, lines))


def draw(good: list[dict], files: dict[str, tuple[str, Path]], path: Path) -> None:
    """Histograms of the numbers, and the brains with the smallest overlap, with the template's outline."""
    _, standard = read_template()
    worst = sorted(good, key=lambda row: row["dice"])[:WORST]
    figure = Figure(figsize=(2.1 * WORST, 8.2), layout="constrained", facecolor="white")
    top, bottom = figure.subfigures(2, 1, height_ratios=(1, 2))
    for panel, column in zip(top.subplots(1, 3), ("dice", "mutual_information", "shear"), strict=True):
        panel.hist([row[column] for row in good], bins=25, color="#3b6ea8")
        panel.set_xlabel({"mutual_information": "mutual information (nats)", "dice": "Dice"}.get(column, column))
        panel.locator_params(axis="x", nbins=5)
        panel.spines[["top", "right"]].set_visible(False)
    axes = bottom.subplots(2, WORST, squeeze=False)
    for column, row in enumerate(worst):
        scan, mask = read_brain(*files[row["id"]])
        brain, _ = move_brain(scan.array, mask, scan.geometry, DEFAULT_GRID.geometry, np.array(row["transform"]))
        for panel, plane in zip(axes[:, column], (np.s_[38], np.s_[:, :, 40]), strict=True):
            panel.imshow(brain[plane].T, cmap="gray", origin="lower")
            panel.contour(standard[plane].T, [0.5], colors="#ff9d2e", linewidths=0.8)
            panel.set(xticks=[], yticks=[])
        axes[0, column].set_title(
            f"{row['id']}\nDice {row['dice']:.3f}, MI {row['mutual_information']:.3f}", fontsize=9
        )
    bottom.suptitle("smallest overlap, with the template's outline", fontsize=10)
    save_figure(figure, path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, required=True, help="folder with ixi_t1_2mm/ and open_ms/")
    parser.add_argument("--out", type=Path, default=Path("runs/registration_quality"), help="folder for everything")
    arguments = parser.parse_args()
    try:
        main(arguments.source, arguments.out)
    except MedvaeError as error:
        sys.exit(f"registration_quality: {error}")
    except KeyboardInterrupt:
        sys.exit("\nStopped; run the same command again to go on.")
