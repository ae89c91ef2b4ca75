"""Damaged, strange and hostile files given to every reader, from a fixed seed.

    python pipelines/fuzz.py --seconds 60
    python pipelines/fuzz.py --seconds 3600 --jobs 2 --keep runs/fuzz     (a night's)

A case is a kind of file and a number: whole files are made, then changed where their formats are delicate, or
anywhere. Each is read in a process that may use 4 GB. It must be read, or refused by the error for a user's input; a
traceback, a crash, 20 s without an answer or a lack of memory is a defect. With --keep the files of defects are kept.
Writes a Markdown table. Exit code 1 if there is a defect.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import math
import multiprocessing
import resource
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path

import fuzz_files as files
import nibabel as nib
import numpy as np
from fuzz_files import DETECTOR, MEMBER, Random

from medvae.errors import MedvaeError
from medvae.files import write_text

MOST_MEMORY = 4 * 2**30
SLOWEST_S = 20.0
STARTING_S = 120.0
LONGEST_MESSAGE = 5000

OUTCOMES = ("read", "refused", "traceback", "hang", "memory")


# --- readers --------------------------------------------------------------------------------------------------------


def _read_scan(path: Path) -> None:
    from medvae.imaging.volume import read_volume

    read_volume(path)


def _in_folder(path: Path) -> Path:
    """The folder of the case, with a scan, a brain mask and a label in it."""
    folder = path.parent
    if not (folder / "scan.nii").exists():
        rng = np.random.default_rng(0)
        brain = np.zeros((12, 12, 12), np.uint8)
        brain[3:9, 3:9, 3:9] = 1
        scan = (brain * rng.integers(50, 100, brain.shape)).astype(np.uint8)
        for name, array in (("scan", scan), ("mask", brain), ("label", brain * (scan > 90))):
            nib.save(nib.Nifti1Image(array, files.AFFINE), folder / f"{name}.nii")
    return folder


def _check_manifest(path: Path) -> None:
    from medvae.manifest import read_manifest
    from medvae.preparation.cohort_check import check_cohort, write_report

    folder = _in_folder(path)
    write_report(check_cohort(path, jobs=1, quiet=True), folder / "report")
    read_manifest(path)


def _check_label(path: Path) -> None:
    from medvae.manifest import Case, Manifest
    from medvae.preparation.check import check_case

    folder = _in_folder(path)
    case = Case(id="a", image="scan.nii", mask="mask.nii", label=path.name, split="test")
    cohort = Manifest(name="x", modality={"0": "T1"}, cases=[case])
    cohort._path = folder / "x.json"
    found = [finding.message for finding in check_case(cohort, case).findings if finding.kind == "file"]
    if found:
        raise MedvaeError(found[0])


def _read_config(path: Path) -> None:
    from medvae.config import read_config

    read_config(path)


def _read_people(path: Path) -> None:
    from medvae.importing.people import age_of, people_by_name, read_table, sex_of, site_of

    for row in people_by_name(read_table(path), path).values():
        age_of(row), sex_of(row), site_of(row)


def _read_dataset(path: Path) -> None:
    from medvae.importing.decathlon import find_decathlon
    from medvae.importing.nnunet import find_nnunet

    folder = path.parent
    path.replace(folder / "dataset.json")
    for name in ("imagesTr/a_0000.nii.gz", "imagesTr/a.nii.gz", "labelsTr/a.nii.gz", "imagesTs/b.nii.gz"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(files.gzipped(None))
    refused = []
    for find in (find_nnunet, find_decathlon):
        try:
            find(folder)
        except MedvaeError as error:
            refused.append(error)
    if refused:
        raise refused[0]


def _detector_with(path: Path, source: Path, name: str) -> None:
    """Load a detector, one file of which is that of the case; the others are links."""
    from medvae.detection.ensemble import load_detector

    folder = path.parent / "detector"
    for file in source.rglob("*"):
        if file.is_file() and file.relative_to(source) != Path(name):
            place = folder / file.relative_to(source)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(file)
    if not (folder / "atlas.safetensors").exists():  # a member has that of its ensemble
        (folder / "atlas.safetensors").symlink_to(DETECTOR / "atlas.safetensors")
    path.replace(folder / name)
    load_detector(folder, device="cpu")


def _read_calibration(path: Path) -> None:
    _detector_with(path, DETECTOR, "calibration.json")


def _read_scale(path: Path) -> None:
    _detector_with(path, MEMBER.with_name("best_t1_dark"), "intensity_scale.json")


def _read_weights(path: Path) -> None:
    _detector_with(path, DETECTOR, "healthy.safetensors")


def _read_log(path: Path) -> None:
    from medvae.reporting.report_curves import training_curves

    training_curves(path)


def _read_predictions(path: Path) -> None:
    """The sidecar of a predicted scan, as predict, evaluate and the viewers' files read it."""
    from medvae.reporting.viewers import write_viewer_files

    folder = _in_folder(path)
    path.replace(folder / "a_label-lesion_mask.json")
    for name in ("a_label-lesion_mask.nii.gz", "a_desc-anomaly_probseg.nii.gz"):
        nib.save(nib.load(folder / "mask.nii"), folder / name)
    _, problems = write_viewer_files(folder, ids=["a"])
    if problems:
        raise MedvaeError(next(iter(problems.values())))


@dataclass(frozen=True)
class Kind:
    """How a file is made, what it is called, and what reads it."""

    make: Callable[[Random], bytes]
    name: str
    read: Callable[[Path], object]


KINDS = {
    "NIfTI-1": Kind(files.nifti1, "a.nii", _read_scan),
    "NIfTI-2": Kind(files.nifti2, "a.nii", _read_scan),
    "NIfTI, gzip": Kind(files.gzipped, "a.nii.gz", _read_scan),
    "MGH": Kind(files.mgh, "a.mgz", _read_scan),
    "NRRD": Kind(files.nrrd, "a.nrrd", _read_scan),
    "MetaImage": Kind(files.mha, "a.mha", _read_scan),
    "label": Kind(files.gzipped, "a.nii.gz", _check_label),
    "manifest": Kind(files.manifest, "cohort.json", _check_manifest),
    "config": Kind(files.config, "run.yaml", _read_config),
    "table": Kind(files.table, "people.tsv", _read_people),
    "dataset.json": Kind(files.dataset, "listing.json", _read_dataset),
    "calibration": Kind(files.calibration, "c.json", _read_calibration),
    "intensity scale": Kind(files.scale, "s.json", _read_scale),
    "weights": Kind(files.weights, "w.bin", _read_weights),
    "log": Kind(files.log, "metrics.jsonl", _read_log),
    "sidecar": Kind(files.sidecar, "s.json", _read_predictions),
}  # fmt: skip


# --- running --------------------------------------------------------------------------------------------------------


@dataclass
class Tally:
    """What became of the cases of a kind."""

    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(OUTCOMES, 0))
    peak_mb: float = 0.0
    slowest_s: float = 0.0
    seconds: float = 0.0
    defects: list[str] = field(default_factory=list)
    """Of each its number and what happened."""


def case_bytes(kind: str, number: int, seed: int = 0) -> bytes:
    """The file of a case; that of number 0 is whole."""
    return KINDS[kind].make(np.random.default_rng([seed, list(KINDS).index(kind), number]) if number else None)


def read_case(kind: str, number: int, folder: Path, seed: int = 0) -> tuple[str, str]:
    """Outcome and detail of a case that is read in this process; ``folder`` is empty."""
    path = folder / KINDS[kind].name
    path.write_bytes(case_bytes(kind, number, seed))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            KINDS[kind].read(path)
    except MedvaeError as error:
        long = len(str(error)) > LONGEST_MESSAGE
        return ("traceback", f"a message of {len(str(error)):,} characters") if long else ("refused", str(error))
    except MemoryError:
        return "memory", traceback.format_exc()
    except Exception:
        return "traceback", traceback.format_exc()
    return "read", ""


def _work(mine: Connection, kinds: Sequence[str], seed: int) -> None:
    """In a process of its own: read the cases that the parent names, and tell it what became of them."""
    with tempfile.TemporaryDirectory() as place:
        for kind in kinds:  # what it imports counts for no case
            _in_new_folder(Path(place) / kind, kind, 0, seed)
        resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        mine.send(None)
        while True:
            kind, number = mine.recv()
            _forget_peak()
            outcome, detail = _in_new_folder(Path(place) / "case", kind, number, seed)
            mine.send((outcome, detail, _peak_mb()))


def _in_new_folder(folder: Path, kind: str, number: int, seed: int) -> tuple[str, str]:
    folder.mkdir()
    try:
        return read_case(kind, number, folder, seed)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _forget_peak() -> None:
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak_mb() -> float:
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return float(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


class _Worker:
    """A process that reads one case at a time."""

    def __init__(self, kinds: Sequence[str], seed: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.line, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, kinds, seed), daemon=True)
        self.process.start()
        theirs.close()
        self.case: tuple[str, int] | None = None
        self.begun = time.monotonic()

    def give(self, case: tuple[str, int]) -> None:
        self.case, self.begun = case, time.monotonic()
        self.line.send(case)

    @property
    def late(self) -> bool:
        return time.monotonic() - self.begun > (SLOWEST_S if self.case else STARTING_S)

    def answer(self) -> tuple[str, str, float] | None:
        """What became of its case; None when it has only started."""
        if not self.line.poll():
            return "hang", f"no answer for {SLOWEST_S:g} s", 0.0
        try:
            return self.line.recv()
        except (EOFError, ConnectionError):
            self.process.join()
            return "crash", f"the process ended with {self.process.exitcode}", 0.0

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.line.close()


def fuzz(
    kinds: Sequence[str],
    *,
    seconds: float | None = None,
    cases: int | None = None,
    seed: int = 0,
    jobs: int = 1,
    keep: Path | None = None,
) -> dict[str, Tally]:
    """Read cases of each kind in turn, for some seconds or a number of each, and count what became of them."""
    tallies = {kind: Tally() for kind in kinds}
    until = math.inf if seconds is None else time.monotonic() + seconds
    coming = _in_turn(tallies) if cases is None else ((kind, number) for number in range(cases) for kind in kinds)
    workers = [_Worker(kinds, seed) for _ in range(jobs)]
    try:
        while workers:
            answered = wait([worker.line for worker in workers], timeout=1.0)
            for worker in [worker for worker in workers if worker.line in answered or worker.late]:
                answer = worker.answer()
                if worker.case is not None and answer is not None:
                    _count(tallies, worker, answer, keep, seed)
                lost = answer is not None and answer[0] in ("hang", "crash")
                if lost and worker.case is None:
                    raise RuntimeError(f"a process did not start: {answer}")
                case = next(coming, None) if time.monotonic() < until and not lost else None
                if case is not None:
                    worker.give(case)
                    continue
                worker.end()
                workers.remove(worker)
                if lost and time.monotonic() < until:
                    workers.append(_Worker(kinds, seed))
    finally:
        for worker in workers:
            worker.end()
    return tallies


def _in_turn(tallies: dict[str, Tally]) -> Iterator[tuple[str, int]]:
    """The cases of a run that ends by the clock: next comes the kind that has had the least time."""
    numbers = {kind: itertools.count() for kind in tallies}
    while True:
        kind = min(tallies, key=lambda kind: tallies[kind].seconds)
        tallies[kind].seconds += 1e-6  # if none is answered yet
        yield kind, next(numbers[kind])


def _count(
    tallies: dict[str, Tally], worker: _Worker, answer: tuple[str, str, float], keep: Path | None, seed: int
) -> None:
    (kind, number), (outcome, detail, peak) = worker.case or ("", 0), answer
    tally, outcome = tallies[kind], "traceback" if outcome == "crash" else outcome
    tally.counts[outcome] += 1
    tally.peak_mb = max(tally.peak_mb, peak)
    took = time.monotonic() - worker.begun
    tally.seconds, tally.slowest_s = tally.seconds + took, max(tally.slowest_s, took)
    if outcome in ("read", "refused"):
        return
    tally.defects.append(f"{kind} {number}: {outcome}: {detail}")
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        stem, ending = f"{kind}_{number}".replace(" ", "_"), KINDS[kind].name.partition(".")[2]
        (keep / f"{stem}.{ending}").write_bytes(case_bytes(kind, number, seed))
        write_text(keep / f"{stem}.txt", detail)


def as_table(tallies: dict[str, Tally]) -> str:
    """The counts as Markdown."""
    rows = ["| kind | n | read | refused | tracebacks | hangs | out of memory | peak MB | slowest s |",
            "|---|---:|---:|---:|---:|---:|---:|---:|---:|"]  # fmt: skip
    for kind, tally in tallies.items():
        counts = tally.counts
        shown = [sum(counts.values()), *(counts[outcome] for outcome in OUTCOMES)]
        rows.append(f"| {kind} | {' | '.join(map(str, shown))} | {tally.peak_mb:.0f} | {tally.slowest_s:.1f} |")
    return "\n".join(rows) + "\n"


def main() -> None:
    """Fuzz, print the table, and end with 1 if there is a defect."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60, help="how long")
    parser.add_argument("--cases", type=int, help="a number of cases of each kind instead")
    parser.add_argument("--seed", type=int, default=0, help="of all cases")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--kind", action="append", choices=list(KINDS), help="only this kind; may be repeated")
    parser.add_argument("--keep", type=Path, help="folder for the files of defects")
    parser.add_argument("--table", type=Path, help="also write the table to this file")
    given = parser.parse_args()
    seconds = None if given.cases else given.seconds
    tallies = fuzz(
        given.kind or list(KINDS), seconds=seconds, cases=given.cases, seed=given.seed, jobs=given.jobs, keep=given.keep
    )
    defects = [defect for tally in tallies.values() for defect in tally.defects]
    for defect in defects:
        print(defect, file=sys.stderr)
    print(as_table(tallies), end="")
    if given.table:
        write_text(given.table, as_table(tallies))
    sys.exit(1 if defects else 0)


if __name__ == "__main__":
    main()
