"""Who is told of Ctrl-C: the parent of processes that are started, and nobody whom a library appoints."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def ctrl_c_later() -> Iterator[None]:
    """Ctrl-C waits until the block is left, and never reaches a process that is started in it.

    The signal is blocked, which new processes inherit. That alone is not enough: the system may deliver it to another
    thread of this process, and Python would then interrupt the main one half-way through starting a child, which is
    left without its work. So the handler waits too. Outside the main thread, which cannot change it, only the block is
    left.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    asked: list[int] = []
    main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGINT)
    deferred = main and callable(handler)
    if deferred:
        signal.signal(signal.SIGINT, lambda number, _: asked.append(number))
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if deferred:
            signal.signal(signal.SIGINT, handler)
            if asked:
                signal.raise_signal(signal.SIGINT)


@contextlib.contextmanager
def ctrl_c_as_it_was() -> Iterator[None]:
    """What happens at Ctrl-C and SIGTERM is after the block what it was before.

    For the import of a library that sets its own handlers: `dask_jobqueue` ends the process with exit status 0.
    """
    if threading.current_thread() is not threading.main_thread():  # the library could not set any there either
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:  # None: not set from Python, and not to be had again
                signal.signal(number, handler)
