"""How far medvae goes: thousands of cases through prepare, predict, evaluate and report.

python benchmarks/long_way.py [--cases 10000] [--folder DIR] [--stages prepare predict evaluate report]

Scans are small (8 mm, some 3,500 brain voxels) and all different; half of them have a lesion. Everything else is what a
person runs: the four commands, one process each, on a grid and with a detector of 8 mm that are made here. Prints a
Markdown table with a row for each stage: processor seconds of a case in the first and the last tenth (the same, if the
time is linear), seconds outside of the cases, memory (RSS, workers included) when a tenth, half and all of the cases
are done and at most in the whole command (the same, if the memory is flat), files that are still open at the end, and
how many entries the largest folder that it wrote has. Memory and open files are read from ``/proc``: Linux only.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage

from medvae.errors import MedvaeError
from medvae.imaging import grid as grids
from medvae.imaging.volume import Geometry, resample
from medvae.progress import Progress

GRID = "long-way-8mm"
STAGES = {"prepare": "Preparing", "predict": "Predicting", "evaluate": "Measuring", "report": "Writing pages"}
"""What the progress display of each calls its cases."""
HEALTHY = (16, 8)
"""Scans for training and validation."""
HERE = Path(__file__).resolve().parent
CLOCK = os.sysconf("SC_CLK_TCK")


# --- the stages, each in a process of its own -------------------------------------------------------------------------


def family() -> list[int]:
    """This process and those it has started."""
    found = [os.getpid()]
    for process in found:
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{process}/task").iterdir():
                found += map(int, (task / "children").read_text().split())
    return found


def seconds_and_megabytes() -> tuple[float, float]:
    """Processor seconds and memory of this process, of its children, and of those that have ended."""
    seconds = pages = 0.0
    for process in family():
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
            seconds += sum(map(int, fields[11:15])) / CLOCK
            pages += int(fields[21])
    return seconds, pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def open_files() -> Counter[str]:
    """The files that this process has open."""
    found: Counter[str] = Counter()
    for handle in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            if (path := os.readlink(handle)).startswith("/"):  # and not a pipe to a process
                found[path] += 1
    return found


def run_stage(stage: str, arguments: list[str], out: Path) -> None:
    """Run a command in this process, and write what was seen to ``out``."""
    from typer.main import get_command

    from medvae.cli import app

    seen: list[tuple[int, float, float]] = []
    most, ended = [0.0], threading.Event()

    def watch() -> None:
        while not ended.wait(1):
            most[0] = max(most[0], seconds_and_megabytes()[1])

    shown = Progress.update

    def update(self: Progress, done: int, **values: float | str) -> None:
        if self._what == STAGES[stage] and done >= (seen[-1][0] if seen else 0) + max(1, self._total // 100):
            seen.append((done, *seconds_and_megabytes()))
        shown(self, done, **values)

    Progress.update = update  # type: ignore[method-assign]
    before = open_files()
    threading.Thread(target=watch, daemon=True).start()
    began, state = time.perf_counter(), 0
    try:
        get_command(app).main([stage, *arguments], standalone_mode=False)
    except MedvaeError as error:
        print(error, file=sys.stderr)
        state = 1
    ended.set()
    content = {
        "seen": seen, "most": max(most[0], seconds_and_megabytes()[1]), "seconds": seconds_and_megabytes()[0],
        "wall": time.perf_counter() - began, "open": sorted((open_files() - before).elements()), "state": state,
    }  # fmt: skip
    out.write_text(json.dumps(content))


# --- the cohort -------------------------------------------------------------------------------------------------------


ADD_GRID = """from pathlib import Path
from medvae.imaging import grid
grid.GRIDS[{name!r}] = grid.mni152_grid({name!r}, 8.0, "template", folder=Path({folder!r}))
"""


def add_grid(folder: Path) -> None:
    """Make the grid known here, and to every process that is started from here on: Python reads this file first."""
    (folder / "site").mkdir(exist_ok=True)
    (folder / "site" / "sitecustomize.py").write_text(ADD_GRID.format(name=GRID, folder=str(folder)))
    known = os.environ.get("PYTHONPATH", "")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(folder / "site"), str(HERE.parent), known)))
    grids.GRIDS[GRID] = grids.mni152_grid(GRID, 8.0, "template", folder=folder)


def make_template(folder: Path) -> Geometry:
    """The template on a grid of 8 mm; returns the grid's geometry."""
    fine, coarse = grids.DEFAULT_GRID, grids.mni152_grid(GRID, 8.0, "template", folder=folder)
    for source, target in ((fine.template, coarse.template), (fine.template_mask, coarse.template_mask)):
        array = np.asarray(nib.load(str(source)).dataobj, dtype=np.float32)
        small = resample(array, fine.geometry, coarse.geometry)
        small = (small > 0.5).astype(np.uint8) if target is coarse.template_mask else small
        nib.save(nib.Nifti1Image(small, coarse.geometry.affine), str(target))
    return coarse.geometry


def make_cohort(folder: Path, count: int) -> Path:
    """Scans, lesion labels and the manifest."""
    geometry = make_template(folder)
    brain = nib.load(folder / "template_t1.nii.gz").get_fdata(dtype=np.float32)
    mask = nib.load(folder / "template_brain_mask.nii.gz").get_fdata() > 0
    centres = np.argwhere(ndimage.binary_erosion(mask, iterations=3))
    affine, cases = geometry.affine, []
    for number in range(sum(HEALTHY) + count):
        rng = np.random.default_rng(number)
        scan = np.where(mask, np.maximum(1, brain * (1 + 0.1 * rng.standard_normal(brain.shape))), 0)
        own = folder / "scans" / f"{number // 100:04d}"
        own.mkdir(parents=True, exist_ok=True)
        name = f"case{number:06d}"
        case = {"id": name, "image": f"scans/{own.name}/{name}_T1.nii.gz", "split": "test"}
        if number < sum(HEALTHY):
            case["split"] = "train" if number < HEALTHY[0] else "validation"
        elif number % 2:
            x, y, z = centres[rng.integers(len(centres))]
            truth = np.zeros(brain.shape, np.uint8)
            truth[x - 1 : x + 2, y - 1 : y + 2, z - 1 : z + 2] = 1
            scan = np.where(truth > 0, scan * 2, scan)
            case["label"] = f"scans/{own.name}/{name}_lesion.nii.gz"
            nib.save(nib.Nifti1Image(truth, affine), folder / case["label"])
        nib.save(nib.Nifti1Image(scan.astype(np.float32), affine), folder / case["image"])
        cases.append(case)
    manifest = folder / "cohort.json"
    manifest.write_text(json.dumps({"name": "a long way", "modality": {"0": "T1"}, "cases": cases}))
    return manifest


def make_detector(folder: Path, manifest: Path) -> Path:
    """A detector that compares intensities with those of healthy scans at the same place."""
    from medvae.config import Config
    from medvae.fitting import fit
    from medvae.manifest import read_manifest

    config = Config.model_validate(
        {
            "name": "long_way",
            "preparation": {"grid": GRID, "registration": "none", "brain": "background"},
            "network": None,
            "score": {"kind": "intensity", "polarity": "bright", "smoothing_mm": 8, "normative": True},
        }
    )
    cohort = read_manifest(manifest, files_must_exist=False)
    few = cohort.model_copy(update={"cases": cohort.cases[: sum(HEALTHY)]})
    few._path = manifest
    fit(config, few, folder / "run", quiet=True)
    return folder / "run"


# --- the table --------------------------------------------------------------------------------------------------------


def largest_folder(folder: Path) -> tuple[int, str]:
    """Entries of the largest folder, and which it is."""
    found = ((len(folders) + len(files), place) for place, folders, files in os.walk(folder))
    number, place = max(found, default=(0, ""))
    return number, Path(place).relative_to(folder.parent).as_posix()


def measured(folder: Path, stages: dict[str, tuple[list[str], Path]]) -> Iterator[str]:
    """The rows of the table, as they are finished."""
    yield (
        "| stage | cases | s per case, first and last tenth | other s | memory (MB) at 10 %, 50 %, 100 % | at most | "
        "open files | largest folder |\n|---|---:|---:|---:|---:|---:|---:|---:|"
    )
    for stage, (arguments, wrote) in stages.items():
        out = folder / f"{stage}.json"
        command = [sys.executable, __file__, "--stage", stage, "--out", str(out), "--", *arguments]
        log = folder / f"{stage}.log"
        with open(log, "w") as stream:
            subprocess.run(command, stdout=stream, stderr=stream, check=False)
        if not out.is_file():
            raise SystemExit(f"{stage}: did not end; see {log}")
        found = json.loads(out.read_text())
        seen, total = found["seen"], found["seen"][-1][0]
        first, last = seen[0], seen[-1]
        tenth, half, ninth = (next(one for one in seen if one[0] >= share * total) for share in (0.1, 0.5, 0.9))
        each = [(b[1] - a[1]) / max(1, b[0] - a[0]) for a, b in ((first, tenth), (ninth, last))]
        other = found["seconds"] - (last[1] - first[1])
        number, place = largest_folder(wrote)
        memory = ", ".join(f"{one[2]:,.0f}" for one in (tenth, half, last))
        yield (
            f"| `medvae {stage}` | {total:,} | {each[0]:.4f}, {each[1]:.4f} | {other:.0f} | {memory} | "
            f"{found['most']:,.0f} | {len(found['open'])} | {number:,} (`{place}`) |"
            + (f" exit status {found['state']}: {log}" if found["state"] else "")
        )


def main() -> None:
    """Make the cohort, run the stages and print the table; or, with ``--stage``, run one of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--folder", type=Path, help="Keep everything here; by default a folder that is removed.")
    parser.add_argument("--stages", nargs="+", choices=tuple(STAGES), default=list(STAGES), help="Of a kept folder.")
    parser.add_argument("--stage", choices=tuple(STAGES), help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("arguments", nargs="*", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.stage:
        run_stage(options.stage, options.arguments, options.out)
        return
    with contextlib.ExitStack() as stack:
        folder = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder = folder.resolve()
        folder.mkdir(parents=True, exist_ok=True)
        began = time.perf_counter()
        manifest = folder / "cohort.json"
        if not manifest.is_file():
            make_cohort(folder, options.cases)
        add_grid(folder)
        run = folder / "run" if (folder / "run").is_dir() else make_detector(folder, manifest)
        print(f"{options.cases:,} cases were made in {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
        cache, maps, results, report = (folder / name for name in ("cache", "maps", "results", "report"))
        data = ["--manifest", str(manifest)]
        stages = {
            "prepare": (
                [str(manifest), "--config", str(run / "config.yaml"), "--out", str(cache), "--split", "test"], cache
            ),
            "predict": (
                [str(run), *data, "--out", str(maps), "--cache", str(cache), "--jobs", "1", "--no-pictures"], maps
            ),
            "evaluate": ([str(maps), *data, "--out", str(results), "--jobs", "1"], results),
            "report": (
                [str(maps), *data, "--evaluation", str(results), "--out", str(report), "--jobs", "1"], report
            ),
        }  # fmt: skip
        for row in measured(folder, {name: stages[name] for name in options.stages}):
            print(row, flush=True)


if __name__ == "__main__":
    main()
