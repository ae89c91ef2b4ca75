"""Memory that a training frees and asks for again, thousands of times."""

from __future__ import annotations

import ctypes
import platform

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""Of glibc's ``mallopt``."""

KEPT_BYTES = 2**30
"""Freed memory up to this is kept, and larger pieces come from the system each time."""


def keep_freed_memory() -> bool:
    """Let the C library keep what is freed, for the rest of the process; whether it could be told.

    By default glibc gives every large piece back to the system as soon as it is freed, and gets it anew, page by page,
    filled with zeros: a tenth of a training step on a CPU (docs/PERFORMANCE.md). Other systems are left as they are.

    References
    ----------
    https://man7.org/linux/man-pages/man3/mallopt.3.html
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return all([mallopt(MMAP_THRESHOLD, KEPT_BYTES), mallopt(TRIM_THRESHOLD, KEPT_BYTES)])
