"""A whole cohort prepared into a cache, several scans at a time, each in a process of its own.

``CACHE/preparation.csv``   one line per case: what was done, how long it took, why it failed
``CACHE/preparation.json``  the same, with the manifest and the preparation config
"""

from __future__ import annotations

import contextlib
import csv
import io
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal

from medvae.config import PreparationConfig
from medvae.cores import THREADS
from medvae.errors import MedvaeError
from medvae.files import write_json, write_text
from medvae.imaging.content import allow_large, large_allowed
from medvae.manifest import Case, Manifest
from medvae.preparation import cache
from medvae.progress import Progress
from medvae.workers import starting_workers

ONE_THREAD = dict.fromkeys(THREADS, "1")
"""Environment of the workers: one thread each, as many workers as asked for."""

State = Literal["prepared", "kept", "failed"]
"""Outcome of a case; ``kept``: the cache had it already."""

_Item = tuple[Case, cache.Request]
_Outcome = Future[tuple[str, float]]
"""What `_prepare_one` will give."""
_GRACE_S = 2.0
_DIED = "Its process died twice, the second time while it worked on this case alone; perhaps the memory was not enough."


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
    jobs: int = 1,
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
        Scans at a time; each takes one core, and the memory of one scan and its intermediate results.
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
    with Progress("Preparing", len(cases), quiet=quiet) as progress:

        def add(record: CaseRecord) -> None:
            records[record.id] = record
            failed = sum(r.state == "failed" for r in records.values())
            progress.update(len(records), case=record.id, failed=str(failed))

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

        with contextlib.closing(_in_processes(work(), jobs)) as results:
            for (case, wanted), future in results:
                died = isinstance(future.exception(), BrokenProcessPool)
                problem, seconds = (_DIED, None) if died else future.result()
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


def _prepare_one(wanted: cache.Request) -> tuple[str, float]:
    """In a worker: prepare a scan and keep it; gives what went wrong with it, if anything, and the seconds.

    What goes wrong in writing is raised: it would go wrong with the next scan too.
    """
    started = time.perf_counter()
    try:
        volume = cache.prepare(wanted)
    except MedvaeError as error:
        return str(error), round(time.perf_counter() - started, 2)
    except Exception as error:  # of a library: one odd scan must not cost the night's work on a thousand others
        return f"{type(error).__name__}: {error}", round(time.perf_counter() - started, 2)
    with _ending_later():
        cache.keep(wanted, volume)
    return "", round(time.perf_counter() - started, 2)


def _in_processes(work: Iterator[_Item], jobs: int) -> Generator[tuple[_Item, _Outcome]]:
    """Do the work in ``jobs`` processes; no more of it is asked for than they can begin.

    When a process dies (out of memory, say), the whole pool is lost and the item at fault is unknown: the items in
    progress are repeated one by one to find it, and the others continue.
    """
    more = True
    while more:
        running: dict[_Outcome, _Item] = {}
        suspects: list[_Item] = []
        with _pool(jobs) as pool:
            while not suspects:
                while len(running) < jobs and (item := next(work, None)) is not None:
                    running[_submit(pool, item)] = item
                if not running:
                    more = False
                    break
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    item = running.pop(future)
                    if isinstance(future.exception(), BrokenProcessPool):
                        suspects.append(item)
                    else:
                        yield item, future
        suspects += running.values()
        for item in suspects:
            with _pool(1) as pool:
                future = _submit(pool, item)
                wait([future])
            yield item, future


def _submit(pool: ProcessPoolExecutor, item: _Item) -> _Outcome:
    with starting_workers():  # Ctrl-C is for this process, which then ends them
        try:
            return pool.submit(_prepare_one, item[1])
        except BrokenProcessPool as error:  # an idle worker was killed
            future: _Outcome = Future()
            future.set_exception(error)
            return future


@contextlib.contextmanager
def _pool(jobs: int) -> Iterator[ProcessPoolExecutor]:
    """Worker processes of one thread each, which end at once when the block is left by an error or Ctrl-C."""
    before = set(multiprocessing.active_children())
    environment = {name: os.environ.get(name) for name in ONE_THREAD}
    os.environ.update(ONE_THREAD)
    pool = ProcessPoolExecutor(
        jobs, multiprocessing.get_context("spawn"), initializer=_begin_worker, initargs=(large_allowed(),)
    )
    try:
        yield pool
    except BaseException:
        workers = set(multiprocessing.active_children()) - before
        for worker in workers:
            worker.terminate()
        for worker in workers:
            worker.join(_GRACE_S)
            worker.kill()
        raise
    finally:
        pool.shutdown(cancel_futures=True)
        for name, value in environment.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _begin_worker(large: bool) -> None:
    allow_large(large)
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def end_with_parent() -> None:
        if (parent := multiprocessing.parent_process()) is not None:  # a worker has one
            parent.join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()


@contextlib.contextmanager
def _ending_later() -> Iterator[None]:
    """In a worker: SIGTERM ends the process at once, but not while an entry is being written."""
    asked = []
    before = signal.signal(signal.SIGTERM, lambda *_: asked.append(True))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        if asked:
            os._exit(1)
