"""All timings that need nothing but the repository, one after another, into one page.

    python benchmarks/everything.py [--out runs/bench.md] [--quick]

The page begins with the machine, the date and the versions of the libraries. It is written anew after each program, so
that one that is stopped leaves the tables that are finished. The exit status is 1 if a program failed.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import time
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from medvae.cores import available_cores
from medvae.files import write_text

HERE = Path(__file__).parent
SCAN = "data_manifests/included/ixi/IXI012_T1.nii.gz"
PROGRAMS: dict[str, tuple[list[str], list[str]]] = {
    "against_monai.py": (["--markdown"], ["--quick", "--markdown"]),
    "augmentation.py": ([], ["--repeats", "1"]),
    "reading.py": (["--markdown"], ["--quick", "--markdown"]),
    "curves.py": ([], ["--voxels", "100000", "--repeats", "1"]),
    "cache.py": ([], ["--scans", "1"]),
    "scan.py": ([SCAN], [SCAN, "--repeats", "1"]),
    "training.py": ([], ["--rounds", "1", "--steps", "18"]),
}
"""Arguments of each, and those of a smoke run."""
LIBRARIES = (
    "torch", "monai", "numpy", "scipy", "nibabel", "SimpleITK", "batchgenerators", "accelerate", "scikit-learn",
    "torchmetrics", "torchio",
)  # fmt: skip


def machine() -> str:
    """Processor, cores and memory, as far as they are told."""
    cpuinfo, model = Path("/proc/cpuinfo"), platform.processor() or platform.machine()
    if cpuinfo.exists():
        names = [
            line.split(":")[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")
        ]
        model = names[0] if names else model
    text = f"{model}, {available_cores()} cores"
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        text += f", {os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GB"
    return f"{text}, {platform.system()}, Python {platform.python_version()}"


def versions() -> str:
    """Of the libraries that take part."""
    found = []
    for name in ("medvae-anomaly", *LIBRARIES):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"{name} not installed")
    return ", ".join(found)


def load() -> str:
    """How busy the machine is, in processes that want a core."""
    return f"load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "load unknown"


def section(program: str, arguments: list[str]) -> tuple[str, bool]:
    """What a program prints, and whether it succeeded."""
    print(f"{program} …", flush=True)
    before, started = load(), time.perf_counter()
    command = [sys.executable, str(HERE / program), *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, env=environment, cwd=HERE.parent, capture_output=True, text=True)
    printed = done.stdout if done.returncode == 0 else f"Failed:\n\n```\n{done.stderr[-2000:]}\n```\n"
    if "┃" in printed:  # a table of the terminal
        printed = f"```\n{printed.rstrip()}\n```\n"
    took = f"{time.perf_counter() - started:.0f} s, {before} before and {load()} after"
    call = " ".join(["python", f"benchmarks/{program}", *arguments])
    return f"## {program.removesuffix('.py')}\n\n    {call}\n\n{took}\n\n{printed.strip()}\n", done.returncode == 0


def main() -> None:
    """Run all, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=HERE.parent / "runs" / "bench.md")
    parser.add_argument("--quick", action="store_true", help="a smoke run: whether all of them work")
    parser.add_argument("--programs", nargs="*", choices=PROGRAMS, default=list(PROGRAMS))
    options = parser.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    page = f"# Timings\n\n{machine()}; {datetime.now(UTC):%Y-%m-%d}\n\n{versions()}\n"
    good = True
    for program in options.programs:
        text, succeeded = section(program, PROGRAMS[program][options.quick])
        page, good = f"{page}\n{text}", good and succeeded
        write_text(options.out, page)
    print(f"written: {options.out}")
    sys.exit(not good)


if __name__ == "__main__":
    main()
