"""Processes that are started to share work: they run the work they are given, and nothing else of the user's."""

from __future__ import annotations

import contextlib
import multiprocessing
import sys
import types
from collections.abc import Iterator
from multiprocessing.context import BaseContext

from medvae.cores import one_thread
from medvae.interrupts import ctrl_c_later

_MAIN = "__main__"
_ahead = False


def import_ahead(*modules: str) -> None:
    """Begin to import what workers will need, in a process beside this one, from which they are forked then.

    PyTorch and MONAI take a process two seconds; so they are imported once, while this process imports them as well.
    It has no thread that a fork could catch holding a lock: this one has, of the progress display. For commands, whose
    process is their own: in a program of somebody else, the server would be that of all its processes. Elsewhere than
    on Linux, or where the folder of temporary files can hold no socket (its path is too long, say), workers are spawned
    and import for themselves.
    """
    global _ahead
    if _ahead or not sys.platform.startswith("linux"):
        return
    from multiprocessing import forkserver  # of Linux and its like

    forkserver.set_forkserver_preload(list(modules))
    with contextlib.suppress(OSError), starting_workers(), one_thread():
        forkserver.ensure_running()
        _ahead = True


def start_method() -> BaseContext:
    """How workers are started."""
    return multiprocessing.get_context("forkserver" if _ahead else "spawn")


@contextlib.contextmanager
def starting_workers() -> Iterator[None]:
    """Processes started in this block do not run the main script again, and Ctrl-C waits until it is left."""
    if sys.platform != "win32":
        from multiprocessing import resource_tracker

        resource_tracker.ensure_running()  # it would be started in the block, and let Ctrl-C through from then on
    with ctrl_c_later(), without_main():
        yield


@contextlib.contextmanager
def without_main() -> Iterator[None]:
    """Processes started in this block do not run the main script again.

    A spawned process imports the script that its parent was started with, to find what is defined there. A script
    without ``if __name__ == "__main__"`` would begin all its work anew in each of them, and fail. The work that medvae
    shares is defined in medvae, so nobody needs that import: for this moment the main module is an empty one.
    """
    main = sys.modules[_MAIN]
    sys.modules[_MAIN] = types.ModuleType(_MAIN)
    try:
        yield
    finally:
        sys.modules[_MAIN] = main
