"""Files and folders that are either whole or absent.

Everything medvae writes goes to a temporary name next to its destination and is renamed when it is complete, so that a
full disk, a Ctrl-C or a killed process leaves no half-written file that looks like a result.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from medvae.errors import MedvaeError

_WRITING_ERRORS = {
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR,
    errno.ENAMETOOLONG, errno.EIO,
}  # fmt: skip


def write_bytes(path: Path | str, content: bytes) -> Path:
    """Write ``content`` to ``path``, all of it or nothing.

    Raises
    ------
    MedvaeError
        If the folder cannot be written or the disk is full; an existing file is then left as it was.
    """
    path = Path(path)
    with told(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        temporary = Path(name)
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            os.chmod(temporary, 0o666 & ~_umask())  # mkstemp makes files that only their owner can read
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    return path


def write_text(path: Path | str, content: str) -> Path:
    """Write UTF-8 text to ``path``, all of it or nothing."""
    return write_bytes(path, content.encode("utf-8"))


def write_json(path: Path | str, content: Any) -> Path:
    """Write ``content`` as indented JSON to ``path``, all of it or nothing. NaN is not JSON and is refused."""
    return write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


@contextlib.contextmanager
def whole_folder(destination: Path | str, *, replace: bool = True) -> Iterator[Path]:
    """Give a temporary folder that takes the name ``destination`` when the block ends without an error.

    A folder already standing at ``destination`` is replaced at that moment, never before; with ``replace=False`` it
    stays and the new one is dropped, even if another process finished first.
    """
    destination = Path(destination)
    with told(destination):
        destination.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{destination.name}.", suffix=".part", dir=destination.parent))
        try:
            os.chmod(temporary, 0o777 & ~_umask())
            yield temporary
            if replace and destination.exists():
                old = Path(tempfile.mkdtemp(prefix=f".{destination.name}.", suffix=".old", dir=destination.parent))
                os.replace(destination, old / destination.name)
                os.replace(temporary, destination)
                shutil.rmtree(old, ignore_errors=True)
            else:
                try:
                    os.replace(temporary, destination)
                except OSError:  # refused in one step where a folder with content stands
                    if replace or not destination.is_dir():
                        raise
                    shutil.rmtree(temporary, ignore_errors=True)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


def remove_leftovers(destination: Path | str) -> None:
    """Remove what a killed process left of `whole_folder` at ``destination``; nobody may be writing to it.

    If it was killed between putting the old folder aside and naming the new one, the old one gets its name back.
    """
    destination = Path(destination)
    for aside in destination.parent.glob(f".{destination.name}.*.old"):
        if not destination.exists() and (aside / destination.name).exists():
            os.replace(aside / destination.name, destination)
        shutil.rmtree(aside, ignore_errors=True)
    for leftover in destination.parent.glob(f".{destination.name}.*.part"):
        shutil.rmtree(leftover, ignore_errors=True)


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
    """The SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
