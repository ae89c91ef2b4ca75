"""A series as one volume, in the geometry that its headers say."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from medvae.dicom.frames import require_one_scale
from medvae.dicom.series import Series
from medvae.errors import MedvaeError
from medvae.files import json_bytes, sha256, write_bytes
from medvae.imaging.content import require_size
from medvae.imaging.volume import volume_bytes
from medvae.schema import read_object


def read_series(series: Series) -> np.ndarray:
    """Intensities ``(X, Y, Z)`` on `Series.geometry`, as scaled by the headers; integers where these are whole.

    Raises
    ------
    MedvaeError
        If a file is damaged or too large.
    """
    require_size(series.first.file, series.geometry.shape)
    frames: dict[Path, np.ndarray] = {}
    planes = []
    for one in series.slices:
        if one.file not in frames:
            frames = {one.file: _read(one.file)}
            if len(frames[one.file]) > 1:
                require_one_scale(one.file)
        values = frames[one.file]
        if one.frame >= len(values) or values[one.frame].shape != (one.rows, one.columns):
            raise MedvaeError(f"{one.file}: has another size than its header says. Copy or export the file again.")
        planes.append(values[one.frame].T)
    kind = np.result_type(*planes)
    return np.stack(planes, axis=2).astype(np.float32 if kind.kind == "f" or kind.itemsize > 4 else kind)


def _read(file: Path) -> np.ndarray:
    """Frames ``(frames, rows, columns)`` of a file."""
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(file))
    try:
        values = sitk.GetArrayFromImage(reader.Execute())
    except (RuntimeError, MemoryError) as error:
        reason = " ".join(str(error).strip().splitlines()[-1:]).split("ITK ERROR:")[-1].strip()
        raise MedvaeError(f"{file}: its image cannot be read ({reason}). Copy or export the file again.") from None
    return values.reshape(-1, *values.shape[-2:]) if values.ndim < 4 else values


def convert(series: Series, path: Path, *, overwrite: bool = False) -> Path:
    """Write a series as NIfTI, with a sidecar that says of which files; again only if these have changed.

    Nothing of the headers is written but geometry and intensities.

    Parameters
    ----------
    series
        A series without `Series.defect`.
    path
        Ends in ``.nii.gz``.
    overwrite
        Replace the volume of another series.

    Raises
    ------
    MedvaeError
        As `read_series`, and if ``path`` holds another series, or a file that medvae did not make.
    """
    sidecar, content = path.with_name(path.name.removesuffix(".nii.gz") + ".json"), series.sha256()
    if path.exists() or sidecar.exists():
        known = read_object(sidecar) if sidecar.is_file() else {}
        if known.get("DicomSha256") == content and path.is_file() and known.get("Sha256") == sha256(path):
            return path
        if not _may_go(known, path, content, overwrite=overwrite):
            raise MedvaeError(
                f"{path}: was made from another series, or from files that have changed since. Choose another --out "
                f"folder, name scans by their folders (--name-by parent), or replace it with --overwrite; nothing was "
                f"overwritten."
            )
    volume = write_bytes(path, volume_bytes(path, read_series(series), series.geometry))
    what = {
        "Description": "A DICOM series as medvae converted it: geometry and intensities, nothing else of its headers.",
        "DicomFiles": len(series.files),
        "DicomSha256": content,
        "Sha256": sha256(volume),
    }
    write_bytes(sidecar, json_bytes(sidecar, what))
    return volume


def _may_go(known: Mapping[str, object], path: Path, content: str, *, overwrite: bool) -> bool:
    """Whether what is there may be replaced: half of this very series, or medvae's own if that was asked for."""
    return known.get("DicomSha256") == content or (overwrite and "DicomSha256" in known) or not path.exists()
