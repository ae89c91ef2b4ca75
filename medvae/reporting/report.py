"""HTML report of a folder of predictions, and a page with a viewer for each case.

``OUT/report.html``          one self-contained file, readable offline
``OUT/cases/ID.html, ID.js`` a case's page and its volumes; ``OUT/cases/niivue.umd.js`` is the shared viewer

With more than `INLINE_CASES` the report holds the rows of its table as data, and their pictures are files; with more
than `medvae.derivatives.TOGETHER` each case has a folder, ``OUT/cases/ID/ID.html``.

The pages open from disk: they load files next to them with ``script`` elements and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from importlib import resources
from pathlib import Path
from urllib.parse import quote

import numpy as np
from PIL import Image

from medvae import __version__
from medvae.derivatives import FAILURES, TOGETHER
from medvae.detection.ensemble import load_detector
from medvae.errors import MedvaeError
from medvae.evaluation.result import CaseResult, Study
from medvae.files import write_bytes, write_text
from medvae.jobs import shared_out
from medvae.manifest import Manifest
from medvae.progress import Progress
from medvae.reporting import report_summary as summary
from medvae.reporting.cases import PredictedCase, find_predictions, with_scans
from medvae.reporting.page_templates import page_templates
from medvae.reporting.report_cases import VIEWER, CaseRow, case_writer, make_case, page_names
from medvae.reporting.report_curves import VoxelsAbove, accuracy_curves, calibration_curve, training_curves
from medvae.reporting.report_folder import check_report_folder, replaced_cases
from medvae.reporting.report_pictures import data_uri, webp
from medvae.reporting.report_study import Measured, measure, read_evaluations
from medvae.schema import read_document
from medvae.training.run_folder import CONFIG

REPORT = "report.html"
CASES = "cases"
INLINE_CASES = 500
"""With more cases the thumbnails are separate files, and of the table a browser makes only what it shows."""
SHOWN_NOTES = 20
"""More notes are folded away."""


@dataclass(frozen=True)
class Report:
    """What was written."""

    path: Path
    cases: int
    notes: list[str]
    """Caveats for the reader; also in the report."""
    problems: dict[str, str]
    """Cases without a viewer or with unreadable files, and why."""


def write_report(
    predictions: Path | str,
    out: Path | str,
    *,
    manifest: Manifest | None = None,
    scans: Sequence[Path | str] = (),
    evaluations: Sequence[Path | str] = (),
    run: Path | str | None = None,
    jobs: int = 1,
    quiet: bool = False,
) -> Report:
    """Write the report of a folder of predictions; only the report and its folder of pages are overwritten.

    Parameters
    ----------
    predictions
        Folder that `medvae.prediction.predict` wrote.
    out
        Where ``report.html`` and ``cases/`` go.
    manifest
        Locates the scans, their brain masks and their truth. Without ``evaluations`` the predictions are measured
        against it.
    scans
        Folders to search for scans that no manifest names; a scan is identified by name and content.
    evaluations
        Folders from ``medvae evaluate``: of these predictions, and, for the table, of other methods on the same cases.
    run
        Run folder of the detector: its config, training curves and calibration are shown.
    jobs
        Cases at a time; with more than one, each in a process of one thread. The pages are the same.
    quiet
        No progress display.

    Raises
    ------
    MedvaeError
        If there is no prediction, a given folder is not what it should be, or ``out`` holds pages that are not a
        report's. A case that cannot be read is reported as a problem, not an error.
    """
    predictions, out = Path(predictions), Path(out)
    folders = [Path(folder) for folder in scans]
    predicted = with_scans(find_predictions(predictions), manifest, folders)
    check_report_folder(out / REPORT, out / CASES)
    known = [predictions, out, *folders, *([manifest.path.parent] if manifest else [])]
    plain = partial(_plain, folders=_folders([*known, *{item.scan.parent for item in predicted if item.scan}]))
    if evaluations:
        measured = read_evaluations(predicted, evaluations)
    else:
        measured = measure(predicted, manifest, jobs=jobs, quiet=quiet) if manifest else Measured()
    study, notes = measured.studies[0] if measured.studies else None, measured.notes
    if all(item.scan is None for item in predicted):
        notes = ["No scan was found, so there are no viewers: name them with --manifest or --scans.", *notes]
    learned, more = _run(run, predicted)
    seen = sum(item.case is not None and item.case.split != "test" for item in predicted)
    if seen:
        more.append(
            f"Not of the test split: {seen}. The detector learned from such cases, or set its thresholds on them."
        )
    missing = _missing(predictions, predicted, manifest, study)

    with replaced_cases(out / CASES) as folder:
        rows, pooled = _pages(predicted, measured, folder, plain, jobs, quiet)
        lesions, point = pooled["lesion"], predicted[0].operating_point
        unread = sum(row.kind == "lesion" and bool(row.problem) for row in rows)
        if unread and lesions.lesion_total:
            more.append(f"The curves leave out scans with a lesion that could not be read: {unread}.")
        notes = [plain(note) for note in dict.fromkeys([*notes, *more])]
        html = (
            page_templates()
            .get_template("report.html")
            .render(
                title=str(predicted[0].sidecar.get("Model", "anomaly maps")),
                cohort=study.cohort if study else manifest.name if manifest else None,
                version=__version__,
                facts=summary.facts(predicted, manifest, study),
                headline=summary.headline(rows, study, point, len(missing)),
                tables=summary.tables(measured.studies, measured.differences),
                accuracy=accuracy_curves(lesions, study) if lesions.lesion_total else None,
                calibration=calibration_curve(study, pooled["healthy"], learned.asked),
                learned=learned,
                notes=notes[:SHOWN_NOTES],
                more_notes=notes[SHOWN_NOTES:],
                shown=summary.shown(rows, partial(_picture, count=len(rows))),
                rows=[(row, _picture(row, len(rows))) for row in rows] if len(rows) <= INLINE_CASES else [],
                many=summary.table_data(rows) if len(rows) > INLINE_CASES else None,
                columns=summary.case_columns(rows),
                missing={name: plain(reason) for name, reason in missing.items()},
                measured=study is not None,
                single=len(measured.studies) == 1,
            )
        )
    path = write_text(out / REPORT, html)
    return Report(path, len(rows), notes, {row.id: row.problem for row in rows if row.problem})


def _pages(
    predicted: Sequence[PredictedCase],
    measured: Measured,
    folder: Path,
    plain: Callable[[str], str],
    jobs: int,
    quiet: bool,
) -> tuple[list[CaseRow], dict[str, VoxelsAbove]]:
    """Write the folder of pages; return the rows of the table and the pooled voxels of each kind of case."""
    for file in (VIEWER, "LICENCES.txt"):
        write_bytes(folder / file, resources.files("medvae.reporting").joinpath("viewer", file).read_bytes())
    numbers = {case.id: case for study in measured.studies[:1] for case in study.per_case}
    write_page = _WritePage(predicted, numbers, measured.unmeasured, folder, plain)
    rows: dict[int, CaseRow] = {}
    pooled = {"lesion": VoxelsAbove.none(), "healthy": VoxelsAbove.none()}
    with (
        Progress("Writing pages", len(predicted), quiet=quiet) as progress,
        shared_out(range(len(predicted)), write_page, jobs) as results,
    ):
        for index, result in results:
            row, voxels = write_page(index, result) if isinstance(result, MedvaeError) else result
            rows[index] = row
            if voxels is not None:
                pooled[row.kind] += voxels
            progress.update(len(rows), case=row.id)
    return [row for _, row in sorted(rows.items())], pooled


@dataclass(frozen=True)
class _WritePage:
    """Writes the page of a case, by its place among all."""

    predicted: Sequence[PredictedCase]
    numbers: Mapping[str, CaseResult]
    unmeasured: Mapping[str, str]
    folder: Path
    plain: Callable[[str], str]

    @cached_property
    def pages(self) -> dict[str, str]:
        """The names of the pages of all cases."""
        names = page_names([item.id for item in self.predicted])
        return {case: f"{name}/{name}" for case, name in names.items()} if len(names) > TOGETHER else names

    def __call__(self, index: int, unreadable: MedvaeError | None = None) -> tuple[CaseRow, VoxelsAbove | None]:
        """The row of the case, and its voxels; if it is ``unreadable``, its files are left alone."""
        item, last = self.predicted[index], len(self.predicted) - 1
        names = [self.predicted[i].id if 0 <= i <= last else None for i in (index - 1, index + 1)]
        around = [None if name is None else (name, self.pages[name]) for name in names]
        shared = {"around": around, "number": index + 1, "count": last + 1, "version": __version__}
        shared["up"] = "../" * self.pages[item.id].count("/")
        write = case_writer(page_templates().get_template("case.html"), self.folder, item, shared)
        row, voxels = make_case(
            item,
            self.numbers.get(item.id),
            self.pages[item.id],
            write,
            self.plain,
            self.unmeasured.get(item.id, ""),
            unreadable="" if unreadable is None else str(unreadable),
        )
        if row.picture and last >= INLINE_CASES:
            write_bytes(self.folder / f"{row.page}.webp", row.picture)
            row = replace(row, picture=None, pictured=True)
        return row, voxels


@dataclass(frozen=True)
class _Learned:
    """What a run folder adds to a report."""

    asked: tuple[np.ndarray, np.ndarray] | None = None
    """See `calibration_curve`."""
    config: str | None = None
    training: str | None = None
    reconstructions: str | None = None


def _run(run: Path | str | None, predicted: Sequence[PredictedCase]) -> tuple[_Learned, list[str]]:
    """Content of the run folder, and notes on what is missing."""
    if run is None:
        return _Learned(), []
    run, notes = Path(run), []
    detector = load_detector(run)
    asked = config = training = reconstructions = None
    if predicted[0].sidecar.get("ModelFingerprint") != detector.fingerprint:
        notes.append(f"The detector in {run.name} is not the one that made these maps: its calibration is left out.")
    elif (healthy := detector.healthy) is not None:
        asked = (detector.map_values(healthy.thresholds), healthy.at_or_above / healthy.voxels)
    folder = run if (run / CONFIG).is_file() else run.parent  # of a detector's folder, the run around it
    if (folder / CONFIG).is_file():
        config = (folder / CONFIG).read_text(encoding="utf-8")
    if (folder / "metrics.jsonl").is_file():
        try:
            training = training_curves(folder / "metrics.jsonl")
        except MedvaeError as error:
            notes.append(str(error))
    if (folder / "reconstructions.png").is_file():
        with Image.open(folder / "reconstructions.png") as image:
            reconstructions = data_uri(webp(image.convert("RGB")))
    return _Learned(asked, config, training, reconstructions), notes


def _missing(
    folder: Path, predicted: Sequence[PredictedCase], manifest: Manifest | None, study: Study | None
) -> dict[str, str]:
    """Cases without a finished prediction, and why, if known."""
    failures = read_document(folder / FAILURES) if (folder / FAILURES).is_file() else {}
    there = {item.id for item in predicted}
    splits = {case.split for case in manifest.cases if case.id in there} if manifest else set()
    expected = [case.id for case in manifest.cases if case.split in splits] if manifest else []
    names = dict.fromkeys([*failures, *expected, *(study.missing if study else [])])
    unknown = "It was not predicted, or predict did not finish it. Run medvae predict again to see why."
    return {name: failures.get(name, unknown) for name in names if name not in there}


def _picture(row: CaseRow, count: int) -> str | None:
    if count > INLINE_CASES:
        return f"{CASES}/{quote(row.page)}.webp" if row.pictured else None
    return None if row.picture is None else data_uri(row.picture)


def _folders(folders: Sequence[Path]) -> list[str]:
    """The names by which messages may call folders, the longest first."""
    names = {str(name) for path in folders for name in (path, path.resolve())} - {".", "/"}
    return sorted(names, key=lambda name: (-len(name), name))


def _plain(text: str, folders: Sequence[str]) -> str:
    """A message without this machine's folders, which readers of the report should not see."""
    if "/" not in text:
        return text
    for folder in folders:
        text = text.replace(f"{folder}/", "")
    return re.sub(r"(?<![\w./:])/(?:[^\s/:\"',;()]+/)+", "", text)
