"""Files and folders that are either whole or absent.

Everything medvae writes goes to a temporary name next to its destination and is renamed when it is complete, so that a
full disk, a Ctrl-C or a killed process leaves no half-written file that looks like a result. A temporary name tells
which process of which machine gave it, ``.NAME.MACHINE-PROCESS-RANDOM.part``, so that the next command can remove what
a process that is no more has left (`remove_leftovers`), and nothing of one that is still writing.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import json
import os
import platform
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from medvae.errors import MedvaeError

_WRITING_ERRORS = {
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR,
    errno.ENAMETOOLONG, errno.EIO,
}  # fmt: skip
LOCK = ".medvae.lock"
"""The file that `medvae.locks` puts into a folder while it is locked."""
ABANDONED_S = 86400.0
"""Age at which a temporary file counts as left over where one cannot see whether its process is alive."""
SETTLED_NS = 2_000_000_000
"""A file's times identify it only when they are this old: timestamps may have a resolution of only 2 s (FAT)."""
_ATTEMPTS = 50
_TAKEN = (errno.ENOTEMPTY, errno.EEXIST)
_TEMPORARY = re.compile(r"\..+\.(?:(?P<machine>[0-9a-f]{8})-(?P<process>[0-9]+)-)?[a-z0-9_]{8}\.(?P<kind>part|old)")
_active: set[str] = set()
"""Temporary names that this process is using; they are random, so a name is enough."""


def write_bytes(path: Path | str, content: bytes) -> Path:
    """Write ``content`` to ``path``, all of it or nothing.

    Raises
    ------
    MedvaeError
        If the folder cannot be written or the disk is full; an existing file is then left as it was.
    """
    path = Path(path)
    with told(path), _written(path, content) as temporary:
        os.replace(temporary, path)
    return path


def write_text(path: Path | str, content: str) -> Path:
    """Write UTF-8 text to ``path``, all of it or nothing.

    Raises
    ------
    MedvaeError
        As `write_bytes`, and if the text holds the name of a file that is not UTF-8.
    """
    return write_bytes(path, _encoded(path, content))


def write_json(path: Path | str, content: Any) -> Path:
    """Write ``content`` as indented JSON to ``path``, all of it or nothing. NaN is not JSON and is refused."""
    return write_bytes(path, json_bytes(path, content))


def json_bytes(path: Path | str, content: Any) -> bytes:
    """What `write_json` writes to ``path``."""
    return _encoded(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def _encoded(path: Path | str, text: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        name = ascii(text[max(0, error.start - 20) : error.end + 20])
        raise MedvaeError(
            f"{path}: could not be written: the name of a file in it is not UTF-8 ({name}). Rename that file."
        ) from None


def write_json_once(path: Path | str, content: Any) -> bool:
    """Write JSON to ``path`` if nothing is there, and say whether it was written: of several processes, one does."""
    path = Path(path)
    if path.exists():
        return False
    with told(path), _written(path, json_bytes(path, content)) as temporary:
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        except OSError:  # no hard links here: the little time between looking and renaming is what is left
            if path.exists():
                return False
            os.replace(temporary, path)
        return True


@contextlib.contextmanager
def written_together(files: Mapping[Path, bytes]) -> Iterator[Callable[[], None]]:
    """Write files under temporary names, and give the function that names them all, in their order.

    So what takes time is done before a lock is asked for, and the names are given under it. Files that got no name are
    removed when the block ends.

    Raises
    ------
    MedvaeError
        As `write_bytes`.
    """
    with contextlib.ExitStack() as stack:
        temporary = {}
        for path, content in files.items():
            with told(path):
                temporary[path] = stack.enter_context(_written(path, content))

        def give_names() -> None:
            for path, written in temporary.items():
                with told(path):
                    os.replace(written, path)

        yield give_names


@contextlib.contextmanager
def whole_folder(destination: Path | str, *, replace: bool = True) -> Iterator[Path]:
    """Give a temporary folder that takes the name ``destination`` when the block ends without an error.

    A folder already standing at ``destination`` is replaced at that moment, never before; with ``replace=False`` it
    stays and the new one is dropped, even if another process finished first.
    """
    destination = Path(destination)
    with told(destination):
        destination.parent.mkdir(parents=True, exist_ok=True)
        with _temporary(destination, "part") as temporary:
            temporary.mkdir()
            yield temporary
            for left in reversed(range(_ATTEMPTS)):  # again, if another process named its own between two steps
                with _temporary(destination, "old") as aside:
                    try:
                        if replace and destination.exists():
                            aside.mkdir()
                            with contextlib.suppress(FileNotFoundError):
                                os.replace(destination, aside / destination.name)
                        os.replace(temporary, destination)  # refused where a folder with content stands
                        break
                    except BaseException as error:
                        if not destination.exists():
                            with contextlib.suppress(OSError):
                                os.replace(aside / destination.name, destination)
                        taken = isinstance(error, OSError) and (error.errno in _TAKEN or destination.is_dir())
                        if not left or not taken:  # whose name it was may have been put aside meanwhile
                            raise
                        if not replace:
                            break
                        time.sleep(secrets.randbelow(10) / 1000)  # or those who collided would do so again


@contextlib.contextmanager
def scratch_folder(beside: Path | str) -> Iterator[Path]:
    """Give an empty folder for what is needed for a while only; it is removed when the block ends.

    It lies next to ``beside`` under a temporary name, so that `remove_leftovers` removes what a killed process left.
    """
    beside = Path(beside)
    with told(beside), _temporary(beside, "part") as temporary:
        temporary.mkdir(parents=True)
        yield temporary


def remove_folder(folder: Path) -> None:
    """Remove a folder, at once for whoever looks at its name; it may have vanished already."""
    with told(folder), _temporary(folder, "part") as aside, contextlib.suppress(FileNotFoundError):
        os.replace(folder, aside)


def remove_leftovers(folder: Path | str, *, of: str | None = None, deep: bool = False) -> None:
    """Remove the temporary files that killed processes have left in a folder; those of living ones stay.

    If one was killed between putting an old folder aside and naming the new one, the old one gets its name back. On
    another machine nobody can see whether a process lives: what it left goes when it is older than `ABANDONED_S`.

    Parameters
    ----------
    folder
        Where to look.
    of
        Only what was to become the file or folder of this name.
    deep
        Also look in subfolders; not through links.
    """
    for place, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            found = _TEMPORARY.fullmatch(name)
            if found is None or not (of is None or name.startswith(f".{of}.")):
                continue
            with contextlib.suppress(OSError):  # another command may be removing it too
                if _abandoned(Path(place, name), found):
                    _remove(Path(place, name), found["kind"])
        folders[:] = [name for name in folders if deep and not _TEMPORARY.fullmatch(name)]


def is_empty(folder: Path | str) -> bool:
    """Whether a folder holds nothing but a lock and temporary files, or does not exist."""
    try:
        names = os.listdir(folder)
    except FileNotFoundError:  # looked at once: another process may be making it
        return True
    except NotADirectoryError:
        return False
    return all(name == LOCK or _TEMPORARY.fullmatch(name) for name in names)


def _remove(leftover: Path, kind: str) -> None:
    if not leftover.is_dir():
        leftover.unlink()
        return
    if kind == "old":
        for kept in leftover.iterdir():
            if not (leftover.parent / kept.name).exists():
                os.replace(kept, leftover.parent / kept.name)
    shutil.rmtree(leftover, ignore_errors=True)


def _abandoned(path: Path, found: re.Match[str]) -> bool:
    process = int(found["process"] or 0)
    if found["machine"] != _machine() or os.name != "posix":
        return time.time() - path.stat().st_mtime > ABANDONED_S
    if (
        process == os.getpid()
    ):  # or of an earlier process that had this one's number, as the only one of a container has
        return path.name not in _active
    return not _alive(process)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        return True
    with contextlib.suppress(OSError, IndexError):  # one that has ended, and whose parent has not heard of it
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    return True


@contextlib.contextmanager
def _temporary(path: Path, kind: str) -> Iterator[Path]:
    """A name next to ``path`` that nothing has; what gets it is removed when the block ends, if it is still there."""
    shown = path.name if len(os.fsencode(path.name)) < 200 else path.name[:50]  # a name has 255 bytes at most
    name = f".{shown}.{_machine()}-{os.getpid()}-{secrets.token_hex(4)}.{kind}"
    temporary = path.with_name(name)
    _active.add(name)  # before anything has the name, or another thread could take it for a leftover
    try:
        yield temporary
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)
        _active.discard(name)


@contextlib.contextmanager
def _written(path: Path, content: bytes) -> Iterator[Path]:
    """A temporary file that holds ``content``, on the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with _temporary(path, "part") as temporary:
        with open(temporary, "xb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        yield temporary


@functools.cache
def _machine() -> str:
    """What processes that can see each other share: the machine's name, and in a container its processes' space."""
    try:
        space = os.readlink("/proc/self/ns/pid")
    except OSError:
        space = ""
    return hashlib.sha256(f"{platform.node()} {space}".encode()).hexdigest()[:8]


@contextlib.contextmanager
def told(path: Path | str) -> Iterator[None]:
    """Turn a full disk, or a folder that cannot be written, into a `MedvaeError` that names ``path``."""
    try:
        yield
    except OSError as error:
        if error.errno not in _WRITING_ERRORS:
            raise
        raise MedvaeError(
            f"{path}: could not be written ({error.strerror or error}). Nothing was left half-written. "
            f"Free some space or choose another --out folder, and run the command again."
        ) from error


def sha256(path: Path | str) -> str:
    """The SHA-256 of a file's bytes, as 64 hexadecimal digits.

    A file is not read again while its size and its times stay as they were; but a file that has just been written is,
    as what is written to it within the same tick of the clock would go unseen.
    """
    stamp = file_stamp(path)
    if time.time_ns() - max(stamp[1:]) <= SETTLED_NS:
        return _sha256(path)
    return _known_sha256(os.path.abspath(path), stamp)


def file_stamp(path: Path | str) -> tuple[int, ...]:
    """Size, time of modification and time of change of a file: writing to it changes the last of them at least."""
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _sha256(path: Path | str) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@functools.lru_cache(maxsize=4096)
def _known_sha256(path: str, stamp: tuple[int, ...]) -> str:
    return _sha256(path)
