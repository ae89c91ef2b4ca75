"""Arrays of safetensors files, checked: what is missing, damaged or of another shape is told, not stumbled over."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file

from medvae.errors import MedvaeError
from medvae.signatures import recognised

Shape = Sequence[int | None]
"""Lengths of the axes; None for any length."""

_UNREADABLE = (SafetensorError, OSError, ValueError, TypeError, LookupError, AttributeError, MemoryError, struct.error)


def stored_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Name and shape of each array of a file, from its header alone.

    Raises
    ------
    MedvaeError
        If it is missing, or not a whole safetensors file.
    """
    try:
        with safe_open(path, "numpy") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except _UNREADABLE as error:
        raise _unusable(path, error) from None


def read_arrays(
    path: Path, shapes: Mapping[str, Shape], optional: Mapping[str, Shape] | None = None
) -> dict[str, np.ndarray]:
    """The arrays of a file.

    Parameters
    ----------
    path
        The file.
    shapes
        Arrays that must be there, and their shapes.
    optional
        Arrays that may be there.

    Raises
    ------
    MedvaeError
        As `stored_shapes`; and if an array is missing, unknown, of another shape, or not finite.
    """
    found, known = stored_shapes(path), {**shapes, **(optional or {})}
    for name in shapes:
        if name not in found:
            raise MedvaeError(f'{path}: holds no "{name}", so it is not what medvae wrote. Copy the folder again.')
    for name, shape in found.items():
        if name not in known:
            raise MedvaeError(f'{path}: holds "{name}", which medvae does not know. Use the version that wrote it.')
        _require_shape(path, name, shape, known[name])
    try:
        arrays = load_file(path)
    except _UNREADABLE as error:
        raise _unusable(path, error) from None
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise MedvaeError(f'{path}: "{name}" holds numbers that are NaN or infinite. Copy the folder again.')
    return arrays


def require_shapes(path: Path, expected: Mapping[str, Shape]) -> None:
    """Refuse a file whose arrays have other names or shapes than those expected; nothing but its header is read.

    Raises
    ------
    MedvaeError
        Naming the first difference.
    """
    found = stored_shapes(path)
    for name in [*expected, *found]:
        if name not in found or name not in expected:
            raise MedvaeError(
                f'{path}: {"lacks" if name in expected else "holds"} "{name}", so it does not fit the network of the '
                f"config beside it. Copy the whole folder again."
            )
        _require_shape(path, name, found[name], expected[name])


def _require_shape(path: Path, name: str, found: Sequence[int], expected: Shape) -> None:
    if len(found) != len(expected) or any(n not in (None, m) for n, m in zip(expected, found, strict=True)):
        there, wanted = (" × ".join("any" if n is None else str(n) for n in s) or "()" for s in (found, expected))
        raise MedvaeError(
            f'{path}: "{name}" has shape {there}, the config beside it needs {wanted}. Copy the whole folder again.'
        )


def _unusable(path: Path, error: BaseException) -> MedvaeError:
    if not path.exists() and not path.is_symlink():
        return MedvaeError(f"{path}: is missing; the detector's folder is incomplete. Copy all of its files.")
    why = recognised(path) or f"it is damaged ({' '.join(str(error).split())}). Copy or download it again."
    return MedvaeError(f"{path}: cannot be read as weights (safetensors): {why}")
