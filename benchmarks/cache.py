"""How long it takes to open a prepared scan in a cache, against preparing it anew.

python benchmarks/cache.py [MANIFEST] [--scans 5] [--bias-field n4]

Prints a Markdown table of medians. *Opened, new file*: the scan's file is read once to know its content; *opened*: the
cache knows the file. Both include reading all values of image and mask.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from medvae.config import PreparationConfig
from medvae.manifest import read_manifest
from medvae.preparation import cache as caching
from medvae.preparation.prepare import prepare_case


def seconds(function: Callable, *arguments: object, **options: object) -> float:
    """Wall-clock time of one call, and of reading the arrays it gives."""
    start = time.perf_counter()
    volume = function(*arguments, **options)
    volume.image.sum(), volume.mask.sum()
    return time.perf_counter() - start


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("manifest", nargs="?", default="data_manifests/included_t1.json")
    parser.add_argument("--scans", type=int, default=5)
    parser.add_argument("--bias-field", choices=("none", "n4"), default="none")
    options = parser.parse_args()
    manifest, config = read_manifest(options.manifest), PreparationConfig(bias_field=options.bias_field)
    cases = manifest.cases[: options.scans]
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder) / "cache"
        anew = [seconds(prepare_case, manifest, case, config) for case in cases]
        for case in cases:
            prepare_case(manifest, case, config, cache=cache)
        found = [seconds(prepare_case, manifest, case, config, cache=cache) for case in cases for _ in range(20)]
        for record in (cache / caching.INPUTS).glob("*/*.json"):
            record.unlink()
        first = [seconds(prepare_case, manifest, case, config, cache=cache) for case in cases]
    prepared, hashed, opened = map(statistics.median, (anew, first, found))
    print("| scans | N4 | prepared (ms) | opened, new file (ms) | opened (ms) | ratio |\n|---|---|---:|---:|---:|---:|")
    numbers = f"{prepared * 1e3:.0f} | {hashed * 1e3:.1f} | {opened * 1e3:.1f} | {prepared / opened:.0f}×"
    print(f"| {manifest.name} | {'yes' if config.bias_field == 'n4' else 'no'} | {numbers} |")


if __name__ == "__main__":
    main()
