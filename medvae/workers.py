"""Processes that are started to share work: they run the work they are given, and nothing else of the user's."""

from __future__ import annotations

import contextlib
import sys
import types
from collections.abc import Iterator

from medvae.interrupts import ctrl_c_later

_MAIN = "__main__"


@contextlib.contextmanager
def starting_workers() -> Iterator[None]:
    """Processes started in this block do not run the main script again, and Ctrl-C waits until it is left."""
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
