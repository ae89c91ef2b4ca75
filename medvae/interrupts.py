"""Ctrl-C while processes are started: it is for the parent, which ends them."""

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
