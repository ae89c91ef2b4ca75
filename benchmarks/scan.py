"""How long a scan takes from its file to the overlay, and what a second process is worth.

    python benchmarks/scan.py SCAN [--mask MASK] [--detector t1-2mm] [--repeats 3] [--jobs 2] [--scans 12]

The first table has processor seconds of one thread: start-up of a process of its own (imports, detector loaded), and of
one scan after the other the medians of each stage. The second, with ``--jobs``, has wall-clock seconds of
``medvae predict`` on copies of the scan, one process and several in turn.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from medvae.reporting.tables import print_table

STAGES = ("preparing", "scoring", "writing")


def stages(detector: str, scan: Path, mask: Path | None, repeats: int) -> dict[str, float]:
    """In a process of its own: processor seconds to start, of the first scan, and of the stages of later ones."""
    started = time.process_time()
    from medvae.detection.ensemble import load_detector
    from medvae.prediction import Scan, open_predictions, predict_scan

    loaded = load_detector(detector)
    found: dict[str, list[float]] = {stage: [] for stage in STAGES}
    result = {"start-up": time.process_time() - started}
    with tempfile.TemporaryDirectory() as folder:
        open_predictions(loaded, Path(folder))
        for _ in range(1 + repeats):
            times = [time.process_time()]
            predict_scan(
                loaded, Scan("scan", (scan,), mask), Path(folder), loaded.config.calibration.mask_at, overwrite=True,
                stage=lambda _, times=times: times.append(time.process_time()),
            )  # fmt: skip
            times = [*times[1:], time.process_time()]
            result.setdefault("first scan", times[-1] - times[0])
            for stage, start, end in zip(STAGES, times, times[1:], strict=False):
                found[stage].append(end - start)
    for stage, seconds in found.items():
        result[stage] = statistics.median(seconds[1:])
    return result | {"next scan": sum(result[stage] for stage in STAGES)}


def in_a_process(*arguments: object) -> dict[str, float]:
    """`stages` in a new process of one thread."""
    command = [sys.executable, __file__, *map(str, arguments), "--measured-here"]
    threads = {"OMP_NUM_THREADS": "1", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(command, env={**os.environ, **threads}, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def side_by_side(detector: str, scan: Path, mask: Path | None, jobs: int, scans: int, rounds: int) -> list[list[str]]:
    """Wall-clock seconds of ``medvae predict`` with one process and with several, in turn."""
    seconds: dict[int, list[float]] = {1: [], jobs: []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        copies, masks = [], []
        for index in range(scans):
            copies.append(shutil.copyfile(scan, folder / f"sub-{index:02d}_T1w{''.join(scan.suffixes[-2:])}"))
            if mask is not None:
                masks += [
                    "--mask",
                    shutil.copyfile(mask, folder / f"sub-{index:02d}_mask{''.join(mask.suffixes[-2:])}"),
                ]
        for index in range(rounds):
            for number in seconds:
                out = folder / f"out_{index}_{number}"
                command = [sys.executable, "-m", "medvae", "predict", detector, *copies, *masks, "--out", out]
                started = time.perf_counter()
                subprocess.run([*map(str, command), "--jobs", str(number)], check=True, capture_output=True)
                seconds[number].append(time.perf_counter() - started)
    medians = {number: statistics.median(values) for number, values in seconds.items()}
    return [[str(number), f"{value:.1f}", f"{medians[1] / value:.2f}×"] for number, value in medians.items()]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scan", type=Path)
    parser.add_argument("--mask", type=Path)
    parser.add_argument("--detector", default="t1-2mm")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=0, help="compare one process with so many")
    parser.add_argument("--scans", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--measured-here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measured_here:
        print(json.dumps(stages(options.detector, options.scan, options.mask, options.repeats)))
        return
    given = ["--mask", options.mask] if options.mask else []
    found = in_a_process(options.scan, *given, "--detector", options.detector, "--repeats", options.repeats)
    print_table("Processor seconds", list(found), [[f"{value:.1f}" for value in found.values()]])
    if options.jobs > 1:
        rows = side_by_side(options.detector, options.scan, options.mask, options.jobs, options.scans, options.rounds)
        print_table(f"{options.scans} scans", ["jobs", "seconds", "speed"], rows)


if __name__ == "__main__":
    main()
