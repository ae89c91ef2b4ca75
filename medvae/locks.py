"""Folders that one process at a time may change; the system opens a lock when its process ends, however it ends."""

from __future__ import annotations

import contextlib
import errno
import os
import platform
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from medvae.errors import MedvaeError
from medvae.files import LOCK, told

_UNKNOWN_HERE = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}
"""What a file system that has no locks answers: one goes on without."""
_held: set[str] = set()
"""Folders that this process has locked: for the system its threads are one."""
_changed = threading.Condition()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_held.clear)  # a forked process does not have its parent's locks


@contextlib.contextmanager
def locked(folder: Path | str, *, busy: str | None = None) -> Iterator[None]:
    """Lock a folder, which is made if need be, against all others that lock it; wait until it is free.

    The lock is the file `medvae.files.LOCK` in the folder. It belongs to the process and not to those it starts.

    Parameters
    ----------
    folder
        The folder.
    busy
        Do not wait: raise this sentence, in which ``{owner}`` is the process that has locked it.

    Raises
    ------
    MedvaeError
        If the folder is locked and ``busy`` is given, or it cannot be written.
    """
    folder = Path(folder)
    key, new = os.path.realpath(folder), not folder.exists()
    with _changed:
        while key in _held:
            if busy is not None:
                raise MedvaeError(busy.format(owner="this process"))
            _changed.wait()
        _held.add(key)
    try:
        with told(folder):
            folder.mkdir(parents=True, exist_ok=True)
            stream = _acquire(folder / LOCK, busy)
        try:
            yield
        finally:
            _release(folder / LOCK, stream)
            if new:
                with contextlib.suppress(OSError):  # not empty
                    folder.rmdir()
    finally:
        with _changed:
            _held.discard(key)
            _changed.notify_all()


def _acquire(path: Path, busy: str | None) -> BinaryIO:
    """The lock's open file; closing it opens the lock."""
    while True:
        stream = open(path, "a+b")  # noqa: SIM115
        try:
            _lock(stream, wait=busy is None)
        except BlockingIOError:
            stream.seek(0)
            owner = stream.read(200).decode("utf-8", "replace").strip()
            stream.close()
            raise MedvaeError((busy or "").format(owner=owner or "another process")) from None
        except BaseException:
            stream.close()
            raise
        try:
            same = os.path.samestat(os.fstat(stream.fileno()), os.stat(path))
        except FileNotFoundError:
            same = False
        if same:
            stream.truncate(0)
            stream.write(f"process {os.getpid()} on {platform.node()}\n".encode())
            stream.flush()
            return stream
        stream.close()  # its owner removed it while this process waited


if sys.platform == "win32":
    import msvcrt
    import time

    _FAR = 1 << 30  # where the file has no bytes: others cannot even read one that is locked, and are to read the owner

    def _lock(stream: BinaryIO, *, wait: bool) -> None:
        while True:
            os.lseek(stream.fileno(), _FAR, os.SEEK_SET)
            try:
                return msvcrt.locking(stream.fileno(), msvcrt.LK_NBLCK, 1)
            except OSError as error:
                if not wait:
                    raise BlockingIOError from error
            time.sleep(0.05)

    def _release(path: Path, stream: BinaryIO) -> None:
        stream.close()  # first: Windows removes no file that is open, so none that somebody else has opened meanwhile
        with contextlib.suppress(OSError):
            path.unlink()

else:
    import fcntl

    def _lock(stream: BinaryIO, *, wait: bool) -> None:
        try:  # of the process: a worker that outlives a killed one would keep a lock of the open file (flock)
            fcntl.lockf(stream, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                raise BlockingIOError from error
            if error.errno not in _UNKNOWN_HERE:
                raise

    def _release(path: Path, stream: BinaryIO) -> None:
        path.unlink(missing_ok=True)  # before it is opened, or somebody else's could be removed
        stream.close()
