"""A whole cohort prepared into a cache, several scans at a time, each in a process of its own.

``CACHE/preparation.csv``   one line per case: what was done, how long it took, why it failed
``CACHE/preparation.json``  the same, with the manifest and the preparation config
"""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal

from medvae.config import PreparationConfig
from medvae.errors import MedvaeError
from medvae.files import write_json, write_text
from medvae.jobs import Workers, shared_out
from medvae.manifest import Case, Manifest
from medvae.preparation import cache
from medvae.progress import Progress

State = Literal["prepared", "kept", "failed"]
"""Outcome of a case; ``kept``: the cache had it already."""

_Item = tuple[Case, cache.Request]


@dataclass(frozen=True)
class CaseRecord:
    """What became of a case."""

    id: str
    split: str
    state: State
    seconds: float | None = None
    registered: bool | None = None
    brain_ml: float | None = None
    entry: str = ""
    """Name of its folder in the cache."""
    problem: str = ""


def prepare_cohort(
    manifest: Manifest,
    cases: Sequence[Case],
    config: PreparationConfig,
    folder: Path | str,
    *,
    jobs: int | Workers = 1,
    quiet: bool = False,
) -> list[CaseRecord]:
    """Prepare cases of a manifest into a cache and write the report; a case that fails does not stop the others.

    Parameters
    ----------
    manifest, cases
        The cohort, and those of its cases that are wanted.
    config
        How to prepare; the cache serves runs with this very config.
    folder
        The cache. Entries it holds already are kept.
    jobs
        Scans at a time; each takes one core, and the memory of one scan and its intermediate results. Or
        workers elsewhere.
    quiet
        No progress display.

    Returns
    -------
    list of CaseRecord
        One for each case, in their order.

    Raises
    ------
    MedvaeError
        If the cache cannot be written, for instance because the disk is full: all work stops.
    KeyboardInterrupt
        After Ctrl-C, when all processes have ended; what was finished is in the cache.
    """
    folder = cache.open_cache(folder)
    cache.remove_abandoned(folder)
    records: dict[str, CaseRecord] = {}
    failed: list[str] = []
    with Progress("Preparing", len(cases), quiet=quiet) as progress:

        def add(record: CaseRecord) -> None:
            records[record.id] = record
            failed.extend([record.id] * (record.state == "failed"))
            progress.update(len(records), case=record.id, failed=str(len(failed)))

        def work() -> Iterator[_Item]:
            """The cases that the cache does not hold; looked for while the workers are busy with the ones before."""
            for case in cases:
                mask = manifest.resolve(case.mask) if case.mask else None
                try:
                    wanted = cache.request(manifest.images(case), config, mask=mask, cache=folder)
                except MedvaeError as error:
                    add(CaseRecord(case.id, case.split, "failed", problem=str(error)))
                    continue
                found = cache.find(wanted)
                if found is None:
                    yield case, wanted
                else:
                    add(_done(case, "kept", found))

        with shared_out(work(), _prepare_one, jobs, isolated=True) as results:
            for (case, wanted), result in results:
                problem, seconds = (str(result), None) if isinstance(result, MedvaeError) else result
                found = None if problem else cache.find(wanted)
                if found is None:
                    problem = problem or "Its entry in the cache is damaged. Run the command again."
                    add(CaseRecord(case.id, case.split, "failed", seconds, problem=problem))
                else:
                    add(_done(case, "prepared", found, seconds))
    ordered = [records[case.id] for case in cases]
    _write_report(folder, manifest, config, ordered)
    return ordered


def _done(case: Case, state: State, found: cache.Entry, seconds: float | None = None) -> CaseRecord:
    return CaseRecord(case.id, case.split, state, seconds, found.volume.registered, found.brain_ml, found.folder.name)


def _write_report(folder: Path, manifest: Manifest, config: PreparationConfig, records: list[CaseRecord]) -> None:
    rows = [asdict(record) for record in records]
    content = {"manifest": str(manifest.path), "preparation": config.model_dump(mode="json"), "cases": rows}
    write_json(folder / "preparation.json", content)
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(CaseRecord)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(folder / "preparation.csv", text.getvalue())


def _prepare_one(item: _Item) -> tuple[str, float]:
    """In a worker: prepare a scan and keep it; gives what went wrong with it, if anything, and the seconds.

    What goes wrong in writing is raised: it would go wrong with the next scan too.
    """
    _, wanted = item
    started = time.perf_counter()
    try:
        volume = cache.prepare(wanted)
    except MedvaeError as error:
        return str(error), round(time.perf_counter() - started, 2)
    except MemoryError:  # which is told with what to do about it
        raise
    except Exception as error:  # of a library: one odd scan must not cost the night's work on a thousand others
        return f"{type(error).__name__}: {error}", round(time.perf_counter() - started, 2)
    cache.keep(wanted, volume)
    return "", round(time.perf_counter() - started, 2)
