"""DICOM made for tests, of a volume in memory: single-frame and enhanced MR, with what real exports have beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    CTImageStorage,
    EnhancedMRImageStorage,
    ExplicitVRLittleEndian,
    MRImageStorage,
    SecondaryCaptureImageStorage,
    generate_uid,
)

PATIENT = "DOE^JANE"
PATIENT_ID = "HOSPITAL-4711"
BORN = "19630417"
STUDY, FRAME = generate_uid(entropy_srcs=["study"]), generate_uid(entropy_srcs=["frame of reference"])
_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def uid(*words: object) -> str:
    """The same for the same words."""
    return generate_uid(entropy_srcs=["medvae tests", *map(str, words)])


def _header(sop_class: str, modality: str, number: int, description: str, instance: int) -> Dataset:
    data = Dataset()
    data.SOPClassUID, data.SOPInstanceUID = sop_class, uid(number, description, instance)
    data.StudyInstanceUID, data.SeriesInstanceUID = STUDY, uid(number, description)
    data.FrameOfReferenceUID = FRAME
    data.PatientName, data.PatientID, data.PatientBirthDate, data.PatientSex = PATIENT, PATIENT_ID, BORN, "F"
    data.StudyDate, data.StudyTime, data.StudyID, data.AccessionNumber = "20260102", "101500", "1", "A17"
    data.ReferringPhysicianName = "ROE^JOHN"
    data.Manufacturer, data.Modality = "medvae tests", modality
    data.SeriesNumber, data.SeriesDescription, data.InstanceNumber = number, description, instance
    data.PositionReferenceIndicator = ""
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID, data.file_meta.MediaStorageSOPInstanceUID = sop_class, data.SOPInstanceUID
    return data


def _pixels(data: Dataset, values: np.ndarray) -> None:
    """``(..., rows, columns)`` uint16."""
    data.Rows, data.Columns = values.shape[-2:]
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated = data.BitsStored = 16
    data.HighBit, data.PixelRepresentation = 15, 0
    data.PixelData = np.ascontiguousarray(values, dtype="<u2").tobytes()


def _place(affine: np.ndarray) -> tuple[list[float], list[float], list[float]]:
    """Orientation, pixel spacing and the step between slices of a RAS affine."""
    lps = _RAS_TO_LPS @ affine
    lengths = np.linalg.norm(lps[:3, :3], axis=0)
    axes = lps[:3, :3] / lengths
    return [*axes[:, 0], *axes[:, 1]], [lengths[1], lengths[0]], list(lengths)


def _position(affine: np.ndarray, index: int) -> list[float]:
    return list((_RAS_TO_LPS @ affine @ [0, 0, index, 1])[:3])


def _text(numbers: list[float]) -> list[str]:
    return [f"{number:.12g}"[:16] for number in numbers]


def mr_slices(
    array: np.ndarray,
    affine: np.ndarray,
    *,
    number: int = 3,
    description: str = "t1_mprage_sag",
    modality: str = "MR",
    slope: float = 1.0,
    first: int = 1,
    **fields: Any,
) -> list[Dataset]:
    """Single-frame files of a volume ``(X, Y, Z)`` uint16: x along a row, y down a column, a file per z."""
    orientation, spacing, lengths = _place(affine)
    found = []
    for index in range(array.shape[2]):
        sop_class = CTImageStorage if modality == "CT" else MRImageStorage
        data = _header(sop_class, modality, number, description, first + index)
        data.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND"]
        data.MRAcquisitionType, data.ScanningSequence, data.SequenceVariant, data.ScanOptions = "3D", "GR", "MP", ""
        data.RepetitionTime, data.EchoTime, data.InversionTime, data.EchoTrainLength = 2300, 2.98, 900, 1
        data.ImageOrientationPatient, data.PixelSpacing = _text(orientation), _text(spacing)
        data.ImagePositionPatient = _text(_position(affine, index))
        data.SliceThickness = f"{lengths[2]:.6g}"
        data.RescaleSlope, data.RescaleIntercept = slope, 0
        for name, value in fields.items():
            setattr(data, name, value)
        _pixels(data, array[:, :, index].T)
        found.append(data)
    return found


def enhanced_mr(
    array: np.ndarray, affine: np.ndarray, *, number: int = 4, description: str = "t1_mprage_3d", slope: float = 1.0
) -> Dataset:
    """One enhanced multi-frame file of a volume ``(X, Y, Z)`` uint16, its frames in reverse order."""
    orientation, spacing, lengths = _place(affine)
    data = _header(EnhancedMRImageStorage, "MR", number, description, 1)
    data.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    data.ContentDate, data.ContentTime, data.AcquisitionDateTime = "20260102", "101500", "20260102101500"
    data.NumberOfFrames = array.shape[2]
    shared, frames = Dataset(), []
    shared.PlaneOrientationSequence = Sequence([_of(ImageOrientationPatient=_text(orientation))])
    shared.PixelMeasuresSequence = Sequence([_of(PixelSpacing=_text(spacing), SliceThickness=f"{lengths[2]:.6g}")])
    shared.PixelValueTransformationSequence = Sequence([_of(RescaleSlope=slope, RescaleIntercept=0, RescaleType="US")])
    shared.MREchoSequence = Sequence([_of(EffectiveEchoTime=2.98)])
    for place, index in enumerate(reversed(range(array.shape[2])), start=1):
        frame = Dataset()
        frame.FrameContentSequence = Sequence(
            [_of(StackID="1", InStackPositionNumber=place, DimensionIndexValues=[1, place])]
        )
        frame.PlanePositionSequence = Sequence([_of(ImagePositionPatient=_text(_position(affine, index)))])
        frames.append(frame)
    data.SharedFunctionalGroupsSequence, data.PerFrameFunctionalGroupsSequence = Sequence([shared]), Sequence(frames)
    organization = uid("dimensions")
    data.DimensionOrganizationSequence = Sequence([_of(DimensionOrganizationUID=organization)])
    data.DimensionIndexSequence = Sequence(
        _of(DimensionOrganizationUID=organization, DimensionIndexPointer=pointer, FunctionalGroupPointer=0x00209111)
        for pointer in (0x00209056, 0x00209057)
    )
    _pixels(data, array[:, :, ::-1].transpose(2, 1, 0))
    return data


def screenshot(number: int = 99) -> Dataset:
    """A secondary capture, as a workstation saves it into the study."""
    data = _header(SecondaryCaptureImageStorage, "OT", number, "screen save", 1)
    data.ImageType, data.ConversionType = ["DERIVED", "SECONDARY"], "WSD"
    _pixels(data, np.full((64, 64), 100))
    return data


def localiser(number: int = 1) -> list[Dataset]:
    """Three slices of a scout in each of three planes."""
    found = []
    planes = np.eye(3), np.eye(3)[:, [1, 2, 0]], np.eye(3)[:, [0, 2, 1]]
    for turn, axes in enumerate(planes):
        affine = np.eye(4)
        affine[:3, :3] = axes * 8.0
        found += mr_slices(
            np.full((32, 32, 3), 50),
            affine,
            number=number,
            description="localizer",
            first=3 * turn + 1,
            ImageType=["ORIGINAL", "PRIMARY", "M", "LOCALIZER"] if turn else ["ORIGINAL", "PRIMARY", "M", "ND"],
        )
    return found


def save(datasets: list[Dataset] | Dataset, folder: Path, *, start: str = "IM") -> list[Path]:
    """Write files as a scanner's export does: names without an ending, in no order of the slices."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for index, data in enumerate(datasets if isinstance(datasets, list) else [datasets]):
        path = folder / f"{start}{data.get('SeriesNumber', 0):03d}_{(index * 37) % 1009:04d}_{index:04d}"
        data.save_as(path, enforce_file_format=True)
        files.append(path)
    return files


def _of(**fields: Any) -> Dataset:
    data = Dataset()
    for name, value in fields.items():
        setattr(data, name, value)
    return data
