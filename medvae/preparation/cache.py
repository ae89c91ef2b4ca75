"""Prepared scans stored in a folder, to be opened instead of prepared again.

``CACHE/KEY/image.npy, mask.npy, source_mask.npy``  the arrays of a `PreparedVolume`
``CACHE/KEY/volume.json``   where the scan lies, and everything the key is made of
``CACHE/inputs/``           the checksums of files that were read before, each named by the SHA-256 of the file's path
``CACHE/CACHEDIR.TAG``      tells backup programs that all this can be made again

The key is the SHA-256 of all that decides the result: the content of the images and of the mask, the preparation
config, the version of each step (`STEP_VERSIONS`), the template and the standard grid. File locations and names are not
part of it, so a cohort can be moved. Any change of these changes the key: an entry that is found is the right one, and
nothing is ever updated. Entries that are no longer used stay until the folder is deleted. Library versions are stored
with the arrays but are not part of the key, so that a cache made where SimpleITK is installed serves where it is not:
after changing one of them, delete the cache to have its last bits too.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import hashlib
import importlib.metadata
import io
import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from medvae import __version__
from medvae.config import PreparationConfig
from medvae.errors import MedvaeError
from medvae.files import (
    SETTLED_NS,
    file_stamp,
    is_empty,
    remove_folder,
    remove_leftovers,
    sha256,
    whole_folder,
    write_bytes,
    write_json,
    write_text,
)
from medvae.imaging.formats import placing_header
from medvae.imaging.grid import GRIDS, Grid
from medvae.imaging.volume import Geometry, Placement
from medvae.parsing import parse_json, read_text
from medvae.preparation.alignment import RegistrationQuality
from medvae.preparation.intensity import before_scale
from medvae.preparation.prepared import PreparedVolume
from medvae.preparation.standard_brain import read_template
from medvae.preparation.steps import STEP_VERSIONS, run_steps

TAG = "CACHEDIR.TAG"
SIDECAR = "volume.json"
INPUTS = "inputs"
LAYOUT = 2
"""Version of the files of an entry; part of its key."""

_TAG_TEXT = """Signature: 8a477f597d28d172789f06886806bc55
# Scans prepared by medvae. All of it can be made again: the folder may be deleted when no medvae command uses it.
# About this file: https://bford.info/cachedir/
"""


@dataclass(frozen=True)
class CachedArrays:
    """`medvae.preparation.prepared.Arrays` in a cache: read-only, and mapped into memory when they are used.

    They are mapped anew at each use, because a mapping keeps its file open and a cohort has more scans than a process
    may have open files.
    """

    folder: Path
    shapes: dict[str, tuple[int, ...]]

    @property
    def image(self) -> np.ndarray:
        """``(C, X, Y, Z)`` float32."""
        return self._mapped("image")

    @property
    def mask(self) -> np.ndarray:
        """``(X, Y, Z)`` bool; small, and therefore read instead of mapped: one may keep the masks of a cohort."""
        return np.array(self._mapped("mask"))

    @property
    def source_mask(self) -> np.ndarray:
        """``(X, Y, Z)`` bool on the scan's own grid."""
        return self._mapped("source_mask")

    @property
    def whole(self) -> bool:
        """Whether the files of the arrays begin and end as they should."""
        for name, shape in self.shapes.items():
            head, path = _head(name, shape), self.folder / f"{name}.npy"
            with open(path, "rb") as stream:
                if stream.read(len(head)) != head:
                    return False
                if os.fstat(stream.fileno()).st_size != len(head) + np.prod(shape) * _dtype(name).itemsize:
                    return False
        return True

    def _mapped(self, name: str) -> np.ndarray:
        shape = self.shapes[name]
        path = self.folder / f"{name}.npy"
        try:
            return np.asarray(np.memmap(path, _dtype(name), "r", len(_head(name, shape)), shape))
        except (OSError, ValueError):
            raise MedvaeError(
                f"{path}: was there a moment ago and is gone or cut off. Do not delete a cache that is in use; run the "
                f"command again, it prepares what is missing."
            ) from None


@dataclass(frozen=True)
class Entry:
    """A prepared scan that a cache holds."""

    folder: Path
    volume: PreparedVolume
    brain_ml: float
    """Volume of the brain mask, on the scan's own grid."""


@dataclass(frozen=True)
class Request:
    """A scan to be found in a cache or made: its files, and all that decides the result."""

    images: tuple[Path, ...]
    mask: Path | None
    config: PreparationConfig
    ingredients: dict[str, Any]
    stamps: tuple[tuple[int, ...], ...]
    """Sizes and times of the files when their content was looked at."""
    folder: Path
    """Where the entry is, or will be."""


def prepare_cached(
    images: Sequence[Path | str], config: PreparationConfig, *, mask: Path | str | None, cache: Path
) -> PreparedVolume:
    """Open a scan in a cache; if it is not there, or damaged, prepare it and keep it there.

    Raises
    ------
    MedvaeError
        As `medvae.preparation.prepare.prepare_scan`, and if the cache cannot be written.
    """
    wanted = request(images, config, mask=mask, cache=cache)
    return (find(wanted) or keep(wanted, prepare(wanted))).volume


def request(
    images: Sequence[Path | str], config: PreparationConfig, *, mask: Path | str | None, cache: Path | str
) -> Request:
    """Read the content of a scan's files, which determines its place in the cache.

    For intensities by landmarks the scan is kept as it is before the learned scale is applied: any scale can follow.

    Raises
    ------
    MedvaeError
        If a file cannot be read, or ``cache`` is a folder of something else.
    """
    cache, config = open_cache(cache), before_scale(config)
    scans, brain = tuple(map(Path, images)), Path(mask) if mask else None
    files, grid = [*scans, *([brain] if brain else [])], GRIDS[config.grid]
    stamps = tuple(map(_stamp, files))
    ingredients = {
        "layout": LAYOUT,
        "steps": STEP_VERSIONS,
        "template": _template_checksums(grid),
        "grid": {"affine": grid.geometry.affine.tolist(), "shape": grid.shape},
        "config": config.model_dump(mode="json", exclude={"grid"}),  # it is there already, whatever its name
        "images": [known_sha256(scan, cache) for scan in scans],
        "mask": known_sha256(brain, cache) if brain else None,
    }
    ingredients = json.loads(json.dumps(ingredients))  # as it is read back: lists, no tuples
    return Request(scans, brain, config, ingredients, stamps, cache / _digest(ingredients))


def find(wanted: Request) -> Entry | None:
    """The entry, if the cache holds it whole."""
    try:
        content = _read(wanted.folder / SIDECAR)
        checksum = content.pop("checksum")
        if checksum != _digest(content) or content["ingredients"] != wanted.ingredients:
            return None
        arrays = CachedArrays(wanted.folder, {name: tuple(shape) for name, shape in content["shapes"].items()})
        volume = _volume(arrays, content, wanted.images[0], GRIDS[wanted.config.grid])
        return Entry(wanted.folder, volume, content["brain_ml"]) if arrays.whole else None
    except (OSError, ValueError, LookupError, TypeError, AttributeError, MedvaeError):  # absent or damaged
        return None


def prepare(wanted: Request) -> PreparedVolume:
    """Prepare the scan, in memory.

    Raises
    ------
    MedvaeError
        As `medvae.preparation.prepare.prepare_scan`, and if a file has changed meanwhile: the result would belong to
        another key.
    """
    volume = run_steps(wanted.images, wanted.config, mask=wanted.mask)
    for file, before in zip([*wanted.images, *([wanted.mask] if wanted.mask else [])], wanted.stamps, strict=True):
        if _stamp(file) != before:
            raise MedvaeError(f"{file}: has changed while it was being prepared. Run the command again.")
    return volume


def keep(wanted: Request, volume: PreparedVolume) -> Entry:
    """Put a prepared scan into the cache, whole or not at all; an entry that another process stored meanwhile is
    equivalent.

    Raises
    ------
    MedvaeError
        If the cache cannot be written.
    """
    arrays = {name: getattr(volume, name) for name in ("image", "mask", "source_mask")}
    content = {
        "ingredients": wanted.ingredients,
        "images": [image.name for image in wanted.images],  # for a person who looks; folders may name a patient
        "mask": wanted.mask.name if wanted.mask else None,
        "software": {"medvae": __version__, **{n: _version(n) for n in ("numpy", "scipy", "nibabel", "SimpleITK")}},
        "shapes": {name: list(array.shape) for name, array in arrays.items()},
        "source": {
            "shape": list(volume.source.geometry.shape),
            "affine": volume.source.geometry.affine.tolist(),
            "header": _written_header(volume.source.header),
        },
        "transform": np.asarray(volume.transform).tolist(),
        "registered": bool(volume.registered),
        "brain_from": volume.brain_from,
        "quality": None if volume.quality is None else asdict(volume.quality),
        "notes": list(volume.notes),
        "brain_ml": round(float(np.count_nonzero(volume.source_mask) * volume.source.geometry.voxel_volume_ml), 2),
    }
    _remove_damaged(wanted)
    with whole_folder(wanted.folder, replace=False) as temporary:
        for name, array in arrays.items():
            values = np.ascontiguousarray(array, dtype=_dtype(name))
            write_bytes(temporary / f"{name}.npy", _head(name, values.shape) + values.tobytes())
        write_json(temporary / SIDECAR, {**content, "checksum": _digest(content)})
    found = find(wanted)
    if found is None:
        raise MedvaeError(f"{wanted.folder}: was written and cannot be read back. Check the disk of the cache.")
    return found


def known_sha256(path: Path | str, cache: Path | str) -> str:
    """The SHA-256 of a file; it is read only if the cache has no record of it with this size and these times.

    Writing to a file, or putting another in its place, changes its time of change (ctime) even where the time of
    modification is put back. A file that changed within the last two seconds is read the next time again.

    Raises
    ------
    MedvaeError
        If the file cannot be read.
    """
    stamp = _stamp(path)
    absolute = os.path.abspath(path)
    name = hashlib.sha256(os.fsencode(absolute)).hexdigest()
    record = Path(cache) / INPUTS / name[:2] / f"{name[2:]}.json"
    with contextlib.suppress(OSError, MedvaeError, TypeError, KeyError):
        found = _read(record)
        if found["stamp"] == list(stamp) and len(found["sha256"]) == 64:
            return found["sha256"]
    try:
        checksum = sha256(path)
    except OSError as error:
        raise MedvaeError(f"{path}: cannot be read ({error.strerror or error}).") from None
    if _stamp(path) != stamp:
        raise MedvaeError(f"{path}: changed while it was being read. Run the command again when it is complete.")
    if time.time_ns() - max(stamp[1:]) > SETTLED_NS:
        with contextlib.suppress(MedvaeError):  # another user's read-only cache is useful too
            write_json(record, {"stamp": list(stamp), "sha256": checksum})
    return checksum


def open_cache(cache: Path | str) -> Path:
    """Make a folder a cache, if it is new or empty.

    Raises
    ------
    MedvaeError
        If the folder holds something else, or cannot be written.
    """
    cache = Path(cache)
    tag = cache / TAG
    if tag.is_file():
        _opened(cache.absolute())
        return cache
    if is_empty(cache):
        write_text(tag, _TAG_TEXT)
    elif not tag.is_file():  # it is, if another process has just opened the same cache
        raise MedvaeError(
            f"{cache}: is no cache of medvae (it holds no {TAG}) and not an empty folder. Choose another folder."
        )
    return cache


def remove_abandoned(cache: Path | str) -> None:
    """Remove what killed processes left half-written."""
    remove_leftovers(cache)
    remove_leftovers(Path(cache) / INPUTS, deep=True)


@functools.cache
def _opened(cache: Path) -> None:
    """Once for each process and cache: remove what others left."""
    remove_abandoned(cache)


def _volume(arrays: CachedArrays, content: dict[str, Any], path: Path, grid: Grid) -> PreparedVolume:
    """The scan of an entry's ``volume.json``; ``path`` is where its first modality lies now."""
    placed = content["source"]
    geometry = Geometry(np.array(placed["affine"]), placed["shape"])
    return PreparedVolume(
        arrays,
        source=Placement(geometry, _header_of(placed["header"]), path),
        transform=np.array(content["transform"]),
        registered=content["registered"],
        brain_from=content["brain_from"],
        quality=_quality_of(content["quality"]),
        notes=tuple(content["notes"]),
        grid=grid,
    )


def _remove_damaged(wanted: Request) -> None:
    """Move aside and delete a folder in the entry's place that is not the entry."""
    if wanted.folder.exists() and find(wanted) is None:
        remove_folder(wanted.folder)


def _read(path: Path) -> Any:
    if not path.is_file():  # the usual case, for which nobody has to look for a file of a similar name
        raise FileNotFoundError(path)
    return parse_json(read_text(path), path)


def _stamp(path: Path | str) -> tuple[int, ...]:
    """Size, time of modification and time of change of a file."""
    try:
        return file_stamp(path)
    except OSError as error:
        raise MedvaeError(f"{path}: cannot be read ({error.strerror or error}). Check the path.") from None


def _written_header(header: nib.Nifti1Header | None) -> str | None:
    """The bytes of a header that places a scan; MGH, MetaImage and NRRD have none."""
    return None if header is None else base64.b64encode(header.binaryblock).decode()


def _header_of(written: str | None) -> nib.Nifti1Header | None:
    if written is None:
        return None
    content = base64.b64decode(written)
    kind = nib.Nifti1Header if len(content) == 348 else nib.Nifti2Header
    return placing_header(kind(content, check=False))  # former versions kept all of it, and NIfTI-2


def _quality_of(written: dict[str, Any] | None) -> RegistrationQuality | None:
    if written is None:
        return None
    x, y, z = written["scales"]
    return RegistrationQuality(
        dice=written["dice"],
        mutual_information=written["mutual_information"],
        scales=(x, y, z),
        shear=written["shear"],
        turned_information=written["turned_information"],
    )


def _dtype(name: str) -> np.dtype:
    return np.dtype("<f4" if name == "image" else "?")


@functools.cache
def _head(name: str, shape: tuple[int, ...]) -> bytes:
    """How the ``.npy`` file of an array begins."""
    stream = io.BytesIO()
    described = {"descr": np.lib.format.dtype_to_descr(_dtype(name)), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, described)
    return stream.getvalue()


@functools.cache
def _template_checksums(grid: Grid) -> list[str]:
    """Of the mask and the brain, in this order: another would change every key."""
    read_template(grid)  # says so in words where a file is missing
    return [hashlib.sha256(file.read_bytes()).hexdigest() for file in (grid.template_mask, grid.template)]


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
