"""The slices of an enhanced DICOM file, which holds many frames and says in nested sequences where each lies."""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path
from typing import Any

from medvae.dicom.slices import Slice, slice_of
from medvae.errors import MedvaeError

NEEDS_PYDICOM = 'of many frames, whose places pydicom reads: pip install "medvae-anomaly[dicom]"'


def read_frames(file: Path) -> list[Slice] | str:
    """A slice for each frame, or why there is none."""
    if importlib.util.find_spec("pydicom") is None:
        return NEEDS_PYDICOM
    try:
        data = _read(file)
        shared = _first(data, "SharedFunctionalGroupsSequence")
        frames = data.get("PerFrameFunctionalGroupsSequence") or ()
        if len(frames) != int(data.get("NumberOfFrames") or 0) or not frames:
            return "of many frames that do not say where each of them lies"
        common = {
            name: _written(data.get(keyword))
            for name, keyword in {
                "series": "SeriesInstanceUID",
                "instance": "SOPInstanceUID",
                "number": "SeriesNumber",
                "description": "SeriesDescription",
                "protocol": "ProtocolName",
                "modality": "Modality",
                "sop_class": "SOPClassUID",
                "photometric": "PhotometricInterpretation",
                "rows": "Rows",
                "columns": "Columns",
                "acquisition": "AcquisitionNumber",
            }.items()
        }
        common["contrast_agent"] = "agent" if data.get("ContrastBolusAgentSequence") else ""
        found = []
        for index, frame in enumerate(frames):

            def of(sequence: str, keyword: str, frame: Any = frame) -> str:
                return _written((_first(frame, sequence) or _first(shared, sequence) or {}).get(keyword))

            kind = of("MRImageFrameTypeSequence", "FrameType") or _written(data.get("ImageType"))
            own = {
                "image_type": kind,
                "position": of("PlanePositionSequence", "ImagePositionPatient"),
                "orientation": of("PlaneOrientationSequence", "ImageOrientationPatient"),
                "spacing": of("PixelMeasuresSequence", "PixelSpacing"),
                "echo_time": of("MREchoSequence", "EffectiveEchoTime"),
                "time_point": of("FrameContentSequence", "TemporalPositionIndex"),
            }
            found.append(slice_of(file, index, common | own))
        return found
    except Exception as error:  # a stranger's file: pydicom raises whatever its nested values lead to
        return f"damaged ({type(error).__name__})"


def require_one_scale(file: Path) -> None:
    """Refuse a file whose frames are scaled to intensities each in its own way: GDCM scales all by the first.

    Raises
    ------
    MedvaeError
        If it is such a file.
    """
    data = _read(file)
    scales = {
        (str(group[0].get("RescaleSlope")), str(group[0].get("RescaleIntercept")))
        for frame in data.PerFrameFunctionalGroupsSequence
        if (group := frame.get("PixelValueTransformationSequence"))
    }
    if len(scales) > 1:
        raise MedvaeError(
            f"{file}: its frames are scaled to intensities in {len(scales)} ways, which is not read. Convert it to "
            f"NIfTI (dcm2niix -z y FOLDER) and give the .nii.gz file."
        )


def _read(file: Path) -> Any:
    """The header of a file; pydicom's remarks on values that break the standard are noise."""
    import pydicom

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = pydicom.dcmread(file, stop_before_pixels=True)
        data.walk(lambda _, element: element.value)  # values are made, and remarked on, when they are asked for
    return data


def _first(data: Any, keyword: str) -> Any:
    sequence = data.get(keyword) if data else None
    return sequence[0] if sequence else None


def _written(value: Any) -> str:
    """A value as SimpleITK gives it: text, several joined by backslashes."""
    if value is None:
        return ""
    if isinstance(value, str | bytes) or not hasattr(value, "__iter__"):
        return str(value).strip()
    return "\\".join(str(part).strip() for part in value)
