"""A lesion mask as a DICOM segmentation (SEG) of the series that it was made from, which a PACS files beside it.

It carries the patient's and the study's ids of that series: without them it belongs to nobody. Written with highdicom,
and read again before it is given out.
"""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from medvae.dicom.series import Series
from medvae.errors import MedvaeError

NEEDS_HIGHDICOM = 'A DICOM segmentation needs highdicom: pip install "medvae-anomaly[dicom]"'
_PATIENT_AND_STUDY = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyID", "StudyDate",
    "StudyTime", "AccessionNumber", "ReferringPhysicianName",
)  # fmt: skip
"""Fields that a segmentation takes over; they may be empty, and lack in files without names."""


@dataclass(frozen=True)
class Algorithm:
    """What made a mask."""

    detector: str
    version: str
    """Of medvae."""
    fingerprint: str
    """Of the detector."""
    point: str
    """The operating point."""


def require_highdicom() -> None:
    """Refuse, before anything is computed, if what writes segmentations is not installed.

    Raises
    ------
    MedvaeError
        If highdicom or pydicom is missing.
    """
    import importlib.util

    if any(importlib.util.find_spec(name) is None for name in ("highdicom", "pydicom")):
        raise MedvaeError(NEEDS_HIGHDICOM)


def segmentation_bytes(mask: np.ndarray, series: Series, algorithm: Algorithm) -> bytes:
    """A DICOM file with one binary segment, "Lesion".

    Its SOPInstanceUID is made of mask, series and algorithm, so that the same mask is the same object in a PACS.

    Parameters
    ----------
    mask
        ``(X, Y, Z)`` bool, on `Series.geometry`.
    series
        The series; its files must still be there.
    algorithm
        What made the mask.

    Raises
    ------
    MedvaeError
        If the headers lack what a segmentation refers to, or what was written does not lie where the mask lies.
    """
    require_highdicom()
    import highdicom
    import pydicom
    from pydicom.sr.codedict import codes
    from pydicom.uid import generate_uid

    if len(series.files) not in (1, len(series.slices)):
        raise MedvaeError(
            f"{series.name}: its frames are spread over {len(series.files)} files; a segmentation refers to files of "
            f"one slice each, or to one file of all."
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of values that break the standard
        sources = [pydicom.dcmread(file, stop_before_pixels=True) for file in series.files]
    for source in sources:
        for name in _PATIENT_AND_STUDY:
            if name not in source:
                setattr(source, name, None)
    multiframe = len(series.files) < len(series.slices)
    planes = np.zeros((int(sources[0].NumberOfFrames) if multiframe else mask.shape[2], *mask.shape[1::-1]), np.uint8)
    for index, one in enumerate(series.slices):
        planes[one.frame if multiframe else index] = mask[:, :, index].T
    lesion = highdicom.seg.SegmentDescription(
        segment_number=1,
        segment_label="Lesion",
        segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
        segmented_property_type=codes.SCT.Lesion,
        algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=highdicom.AlgorithmIdentificationSequence(
            name=f"medvae {algorithm.detector}"[:64],
            family=codes.DCM.ArtificialIntelligence,
            version=algorithm.version,
            parameters={"operating point": algorithm.point, "fingerprint": algorithm.fingerprint[:64]},
        ),
        anatomic_regions=[codes.SCT.Brain],
    )
    words = [series.first.series, series.part, algorithm.fingerprint, algorithm.version, algorithm.point]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an empty mask, and values of the source that are longer than they may be
            made = highdicom.seg.Segmentation(
                source_images=sources,
                pixel_array=planes,
                segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
                segment_descriptions=[lesion],
                series_instance_uid=generate_uid(entropy_srcs=["medvae series", *words]),
                series_number=1000 + series.first.number,
                sop_instance_uid=generate_uid(entropy_srcs=["medvae mask", *words, _digest(mask)]),
                instance_number=1,
                manufacturer="medvae",
                manufacturer_model_name=algorithm.detector[:64],
                software_versions=algorithm.version,
                device_serial_number=algorithm.fingerprint[:64],
                content_label="LESION",
                content_description=f"Lesion mask of medvae at {algorithm.point}; for research"[:64],
                series_description=f"medvae {algorithm.detector} lesions"[:64],
            )
            stream = io.BytesIO()
            made.save_as(stream, enforce_file_format=True)
    except (AttributeError, TypeError, ValueError, KeyError) as error:
        raise MedvaeError(
            f"{series.name}: no DICOM segmentation can refer to it ({' '.join(str(error).split())}). The NIfTI mask is "
            f"there."
        ) from None
    content = stream.getvalue()
    _require_same(content, mask, series)
    return content


def _require_same(content: bytes, mask: np.ndarray, series: Series) -> None:
    """Refuse a segmentation that, read again, marks other points of the patient than the mask."""
    found = segmentation_points(content)
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ series.geometry.affine
    back = np.linalg.inv(lps)
    voxels = np.concatenate([found, np.ones((len(found), 1))], axis=1) @ back[:3].T
    nearest = np.rint(voxels).astype(int)
    inside = bool(((nearest >= 0) & (nearest < mask.shape)).all())
    if (
        len(found) != int(mask.sum())
        or not inside
        or not mask[tuple(nearest.T)].all()
        or (len(found) and np.abs(voxels - nearest).max() > 0.05)
    ):
        raise MedvaeError(
            f"{series.name}: the DICOM segmentation does not lie where the mask lies, and was not written. The NIfTI "
            f"mask is right."
        )


def segmentation_points(content: bytes) -> np.ndarray:
    """Where the voxels of the first segment lie, ``(N, 3)`` mm in DICOM's axes, as highdicom reads them."""
    import highdicom

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        segmentation: Any = highdicom.seg.segread(io.BytesIO(content))
        volume = segmentation.get_volume(segment_numbers=[1], combine_segments=True)
    indices = np.argwhere(volume.array > 0)
    return np.asarray(indices @ volume.affine[:3, :3].T + volume.affine[:3, 3], dtype=np.float64)


def _digest(mask: np.ndarray) -> str:
    import hashlib

    return hashlib.sha256(np.packbits(mask).tobytes()).hexdigest()
