"""What a DICOM file says of its slice: which series, which kind of image, where it lies. Nobody's name is read.

Files of one frame are read with SimpleITK (GDCM), which is there anyway; enhanced files of many frames keep their
places in nested sequences, for which it takes pydicom (`medvae.dicom.frames`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ENHANCED_MR = "1.2.840.10008.5.1.4.1.1.4.1"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
"""Class of a screenshot; those of many frames begin so."""

_TAGS = {
    "image_type": "0008|0008",
    "sop_class": "0008|0016",
    "instance": "0008|0018",
    "modality": "0008|0060",
    "description": "0008|103e",
    "contrast_agent": "0018|0010",
    "echo_time": "0018|0081",
    "protocol": "0018|1030",
    "series": "0020|000e",
    "number": "0020|0011",
    "acquisition": "0020|0012",
    "position": "0020|0032",
    "orientation": "0020|0037",
    "time_point": "0020|0100",
    "photometric": "0028|0004",
    "frames": "0028|0008",
    "rows": "0028|0010",
    "columns": "0028|0011",
    "spacing": "0028|0030",
}


@dataclass(frozen=True)
class Slice:
    """One frame of a file. Positions and axes are DICOM's: mm, x to the patient's left, y to the back, z up."""

    file: Path
    frame: int
    """0 in a file of one frame."""
    series: str
    """SeriesInstanceUID."""
    instance: str
    """SOPInstanceUID of the file."""
    number: int
    """SeriesNumber; 0 if there is none."""
    description: str
    protocol: str
    modality: str
    sop_class: str
    image_type: tuple[str, ...]
    photometric: str
    contrast_agent: str
    columns: int
    rows: int
    position: tuple[float, ...] | None
    """Of the centre of the first voxel; None if the file does not say where it lies."""
    orientation: tuple[float, ...] | None
    """Unit vectors along a row and down a column."""
    spacing: tuple[float, ...] | None
    """Between rows, between columns; in mm."""
    echo_time: str
    time_point: str
    acquisition: str

    @property
    def kind(self) -> str:
        """ImageType in one word: a series may hold magnitude and phase."""
        return "\\".join(self.image_type)

    @property
    def placed(self) -> bool:
        """Whether the file says where its slice lies, and how large its pixels are."""
        return None not in (self.position, self.orientation, self.spacing)

    @property
    def normal(self) -> np.ndarray:
        """The direction of slices, ``(3,)``, of a slice that is `placed`."""
        axes = np.array(self.orientation).reshape(2, 3)
        return np.cross(axes[0], axes[1])


def read_slice(file: Path) -> Slice | str:
    """The slice of a file of one frame, or why the file holds none; ``"frames"`` for one of many frames."""
    import SimpleITK as sitk

    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(file))
    try:
        reader.ReadImageInformation()
        known = set(reader.GetMetaDataKeys())
        found = {name: _text(reader.GetMetaData(tag)) if tag in known else "" for name, tag in _TAGS.items()}
    except RuntimeError:
        return "without an image, or cut off"
    if not found["series"]:
        return "of no series"
    if found["sop_class"] == ENHANCED_MR:
        return "frames"
    if _whole(found["frames"]) > 1 and not found["sop_class"].startswith(SECONDARY_CAPTURE):
        return "frames"
    return slice_of(file, 0, found)


def slice_of(file: Path, frame: int, found: dict[str, Any]) -> Slice:
    """A slice from the texts of its fields."""
    return Slice(
        file=file,
        frame=frame,
        number=_whole(found["number"]),
        image_type=tuple(word.strip().upper() for word in found["image_type"].split("\\")),
        columns=_whole(found["columns"]),
        rows=_whole(found["rows"]),
        position=_numbers(found["position"], 3),
        orientation=_axes(found["orientation"]),
        spacing=_lengths(found["spacing"]),
        **{name: found[name] for name in _AS_THEY_ARE},
    )


_AS_THEY_ARE = (
    "series", "instance", "description", "protocol", "modality", "sop_class", "photometric", "contrast_agent",
    "echo_time", "time_point", "acquisition",
)  # fmt: skip


def _text(written: str) -> str:
    """A value without its padding; what is not UTF-8 is taken for Latin-1, whatever the file's character set."""
    raw = written.encode("utf-8", "surrogateescape")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    return " ".join(text.replace("\0", " ").split())


def _whole(written: str) -> int:
    try:
        return int(float(written or 0))
    except (ValueError, OverflowError):
        return 0


def _numbers(written: str, count: int) -> tuple[float, ...] | None:
    try:
        found = tuple(map(float, written.split("\\")))
    except ValueError:
        return None
    return found if len(found) == count and np.isfinite(found).all() else None


def _lengths(written: str) -> tuple[float, ...] | None:
    found = _numbers(written, 2)
    return found if found is not None and min(found) > 0 else None


def _axes(written: str) -> tuple[float, ...] | None:
    """Two unit vectors at right angles, up to the digits that are written; else nobody knows how the slice lies."""
    found = _numbers(written, 6)
    if found is None:
        return None
    axes = np.array(found).reshape(2, 3)
    return found if np.abs(axes @ axes.T - np.eye(2)).max() < 1e-2 else None
