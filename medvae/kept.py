"""One process that does items one by one and keeps what it has loaded for them, until it is ended from outside.

Where `medvae.jobs` shares out work that is known and ends, this is for work that comes in while a program runs.
"""

from __future__ import annotations

import multiprocessing
import pickle
import sys
import threading
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any

from medvae.errors import MedvaeError, MedvaeWarning
from medvae.imaging.content import large_allowed
from medvae.jobs import DIED, attempt, become_worker
from medvae.workers import starting_workers

_UNEXPECTED = (
    "An error that medvae did not expect ({error}): a fault of medvae, not of the scan. The terminal in which it was "
    "started shows where."
)


@dataclass(frozen=True)
class Done:
    """What became of an item."""

    result: Any
    """What the task returned; a `MedvaeError`, which is not raised, if it raised one, or if its process died twice."""
    warned: tuple[str, ...] = ()
    """Each `MedvaeWarning`, once."""


class KeptProcess:
    """A process that runs a task with all its cores; it is started for the first item, and anew after it has ended.

    Parameters
    ----------
    task
        A function of an item and of a function that tells the caller how far it is. It is sent to the process once,
        with all that it holds; so it must be picklable, as items, results and what is told are.
    """

    def __init__(self, task: Callable[[Any, Callable[[Any], None]], Any]) -> None:
        self._task = pickle.dumps(task)
        self._running: tuple[SpawnProcess, Connection] | None = None
        self._change = threading.Lock()
        self._ended = False

    def __call__(
        self,
        item: Any,
        told: Callable[[Any], None] = lambda _: None,
        wanted: Callable[[], bool] = lambda: True,
    ) -> Done | None:
        """What became of an item, or None if `end` was called meanwhile; ``told`` hears how far it is.

        One item at a time. A process that dies by itself is replaced, and the item done again, once. ``wanted`` is
        asked when the process is ready: whoever calls `end` makes it say no before, so that no call comes too early.
        """
        for _ in range(2):
            connection = self._connection()
            if not wanted():
                return None
            try:
                connection.send(item)
                while True:
                    finished, value = connection.recv()
                    if finished:
                        return value
                    told(value)
            except (EOFError, OSError):  # it has died
                with self._change:
                    self._drop()
                    if self._ended:
                        return None
        return Done(MedvaeError(DIED))

    def end(self) -> None:
        """End the process by force, with what it is at; called from another thread. What it has half-written stays."""
        with self._change:
            self._ended = True
            if self._running is not None:
                self._running[0].kill()

    @property
    def pid(self) -> int | None:
        """The number of the process, if there is one."""
        with self._change:
            return self._running[0].pid if self._running else None

    def _connection(self) -> Connection:
        with self._change:
            if self._ended:  # between two items
                self._drop()
            self._ended = False
            if self._running is None:
                context = multiprocessing.get_context("spawn")
                here, there = context.Pipe()
                process = context.Process(target=_work, args=(there, self._task, large_allowed()), daemon=True)
                with starting_workers():
                    process.start()
                there.close()
                self._running = process, here
            return self._running[1]

    def _drop(self) -> None:
        if self._running is not None:
            process, connection = self._running
            self._running = None
            connection.close()
            process.kill()
            process.join()


def _work(connection: Connection, packed: bytes, large: bool) -> None:
    """In the process: items are done until the other end is closed."""
    become_worker(large)
    task = pickle.loads(packed)
    while True:
        try:
            item = connection.recv()
        except (EOFError, OSError):
            return
        connection.send((True, _do(task, item, lambda value: connection.send((False, value)))))


def _do(task: Callable[[Any, Callable[[Any], None]], Any], item: Any, tell: Callable[[Any], None]) -> Done:
    warned: dict[str, None] = {}
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always", MedvaeWarning)
        try:
            result = attempt(lambda one: task(one, tell), item)
        except MedvaeError as error:
            result = MedvaeError(str(error))  # one of its kinds might not arrive, if it is made of more than a sentence
        except Exception as error:
            traceback.print_exc(file=sys.stderr)
            result = MedvaeError(_UNEXPECTED.format(error=f"{type(error).__name__}: {error}"))
    for one in heard:
        if issubclass(one.category, MedvaeWarning):
            warned[str(one.message)] = None
    return Done(result, tuple(warned))
