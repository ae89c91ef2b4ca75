"""Work on many scans, shared by processes of one thread each: what ``--jobs`` of the commands stands for.

Where they are workers of a cluster instead, `medvae.cluster` takes the place of this machine's.
"""

from __future__ import annotations

import abc
import contextlib
import math
import multiprocessing
import os
import pickle
import signal
import threading
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TextIO, TypeVar

from medvae.cores import available_cores, available_memory, one_thread
from medvae.errors import MedvaeError, MedvaeWarning
from medvae.imaging.content import allow_large, large_allowed
from medvae.workers import start_method, starting_workers

Item = TypeVar("Item")
Result = TypeVar("Result")
Outcome = tuple[Any, list[str]]
"""Of an item: its result, and what was warned of."""

_GRACE_S = 2.0
DIED = "Its process died twice, the second time while it worked on this case alone; perhaps the memory was not enough."
_NO_MEMORY = "The memory was not enough for it. Run the command again with fewer --jobs, or where there is more memory."
_OUT_OF_MEMORY = ("out of memory", "not enough memory", "can't allocate memory")
"""How PyTorch says so, whose error has no type of its own."""


class WorkersLost(MedvaeError):
    """All workers are lost at once: there is nobody to do the rest, whatever it is."""


class Workers(abc.ABC):
    """Processes elsewhere, in the place of a number of processes of this machine."""

    @abc.abstractmethod
    def results(self, work: Iterator[Any], task: Callable[[Any], Any]) -> Generator[tuple[Any, Any]]:
        """As `shared_out`; closed early, it ends what it has begun."""


def default_jobs(count: int, *, each: int = 1, memory_gb: float = 0.0) -> int:
    """As many processes as there are cores, and ``memory_gb`` for each, if there are ``each`` scans for it to pay its
    start.
    """
    return max(1, min(available_cores(), math.ceil(count / each), memory_for(memory_gb)))


def memory_for(memory_gb: float) -> int:
    """How many processes the free memory is enough for."""
    share = available_memory() / (memory_gb * 1e9) if memory_gb else math.inf
    return int(min(share, 10**6))


@contextlib.contextmanager
def shared_out(
    work: Iterable[Item], task: Callable[[Item], Result], jobs: int | Workers, *, isolated: bool = False
) -> Iterator[Iterator[tuple[Item, Result | MedvaeError]]]:
    """Give the items with the results of the task, as they are finished, in whatever order.

    When the block is left by an error or Ctrl-C, the processes have ended before it goes on: each as if Ctrl-C had
    reached it, or by force after two seconds.

    Parameters
    ----------
    work
        What there is to do. No more of it is asked for than the processes can begin.
    task
        What to do with an item. It is sent to each process once, with all that it holds; so it must be picklable, as
        items and results are. An error that it raises is raised here, and ends the work.
    jobs
        Items at a time, each in a process of one thread; with 1 they are done in this process, with its threads. Or
        workers elsewhere.
    isolated
        Also with 1 they are done in another process.

    Yields
    ------
    iterator of (item, result)
        The result is a `MedvaeError`, which is not raised, for an item that had not enough memory or during which its
        process died. Warnings for the user are repeated here.
    """
    if jobs == 1 and not isolated:
        yield ((item, attempt(task, item)) for item in work)
        return
    if isinstance(jobs, Workers):
        started = jobs.results(iter(work), task)
    else:
        started = _in_processes(iter(work), pickle.dumps(task), jobs)
    with contextlib.closing(started) as results:
        yield results


def _in_processes(work: Iterator[Any], task: bytes, jobs: int) -> Generator[tuple[Any, Any]]:
    """As `shared_out`.

    When a process dies (out of memory, say), the whole pool is lost and the item at fault is unknown: the items in
    progress are repeated one by one to find it. If there is none, there were too many at a time.
    """
    more = True
    while more:
        running: dict[Future[Outcome], Any] = {}
        suspects: list[Any] = []
        with _pool(jobs, task) as pool:
            while not suspects:
                while len(running) < jobs and (item := next(work, _NOTHING)) is not _NOTHING:
                    running[_submit(pool, item)] = item
                if not running:
                    more = False
                    break
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    item = running.pop(future)
                    if isinstance(future.exception(), BrokenProcessPool):
                        suspects.append(item)
                    else:
                        yield item, repeat_warnings(future.result())
        suspects += running.values()
        guilty = not suspects
        for item in suspects:
            with _pool(1, task) as pool:
                future = _submit(pool, item)
                wait([future])
            died = isinstance(future.exception(), BrokenProcessPool)
            guilty |= died
            yield item, MedvaeError(DIED) if died else repeat_warnings(future.result())
        if not guilty and jobs > 1:
            jobs -= 1
            warnings.warn(
                f"a process was killed, probably because memory ran out; what it was at was done again, and the rest "
                f"is done {jobs} at a time. Give fewer --jobs the next time.",
                MedvaeWarning,
                stacklevel=2,
            )


_NOTHING = object()


def repeat_warnings(outcome: Outcome) -> Any:
    """The result of an item; what its process warned of is warned of here."""
    result, warned = outcome
    for message in warned:
        warnings.warn(message, MedvaeWarning, stacklevel=2)
    return result


def attempt(task: Callable[[Item], Result], item: Item) -> Result | MedvaeError:
    """The result of a task, or a `MedvaeError`, which is not raised, if the memory was not enough for it."""
    try:
        return task(item)
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, MemoryError) or any(words in str(error) for words in _OUT_OF_MEMORY):
            return MedvaeError(_NO_MEMORY)
        raise


def _submit(pool: ProcessPoolExecutor, item: Any) -> Future[Outcome]:
    """Hand an item to a pool, which starts a process for it if all are busy."""
    with starting_workers(), one_thread():  # Ctrl-C is for this process, which then ends them
        try:
            return pool.submit(_run, item)
        except BrokenProcessPool as error:  # an idle worker was killed
            future: Future[Outcome] = Future()
            future.set_exception(error)
            return future


@contextlib.contextmanager
def _pool(jobs: int, task: bytes) -> Iterator[ProcessPoolExecutor]:
    """Processes that end at once when the block is left by an error or Ctrl-C."""
    before = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(jobs, start_method(), initializer=_begin, initargs=(task, large_allowed()))
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


class _Ended(BaseException):
    """In a worker: its parent has ended it. As after Ctrl-C, nothing half-written is left."""


_task: Any
"""Of a worker process: what it does, packed until it is first needed."""
_busy = False
_warned: list[str] = []


def _begin(task: bytes, large: bool) -> None:
    """In a worker, first of all."""
    global _task
    _task = task
    become_worker(large)
    signal.signal(signal.SIGTERM, _end)
    keep_warnings()


def keep_warnings() -> None:
    """In a worker: keep warnings for the user, for whom `attempt_of_worker` hands them over."""
    shown = warnings.showwarning

    def keep(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if issubclass(category, MedvaeWarning):
            _warned.append(str(message))
        else:
            shown(message, category, filename, lineno, file, line)

    warnings.showwarning = keep


def become_worker(large: bool) -> None:
    """In a process that was started to work, first of all: Ctrl-C is for its parent, and it ends when that ends.

    ``large`` is what `medvae.imaging.content.large_allowed` says in the parent.
    """
    allow_large(large)
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def end_with_parent() -> None:
        if (parent := multiprocessing.parent_process()) is not None:  # a worker has one
            parent.join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()


def attempt_of_worker(task: Callable[[Any], Any], item: Any) -> Outcome:
    """In a worker: the result of an item, and what was warned of."""
    _warned.clear()
    return attempt(task, item), list(_warned)


def _end(*_: Any) -> None:
    if _busy:
        raise _Ended
    os._exit(1)


def _run(item: Any) -> Outcome:
    """As `attempt_of_worker`, of the task of this worker."""
    global _task, _busy
    try:
        _busy = True
        if isinstance(_task, bytes):
            _task = pickle.loads(_task)
        return attempt_of_worker(_task, item)
    except _Ended:
        os._exit(1)
    finally:
        _busy = False
