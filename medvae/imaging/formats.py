"""Volume files of every format that is read: which endings, where the grid lies, and the values.

NIfTI-1 and -2 and FreeSurfer's MGH are read with nibabel, told apart by their content; MetaImage and NRRD with
SimpleITK, which is imported for them only. Every file gives the same: shape, affine to RAS+ in mm, float32 values.
"""

from __future__ import annotations

import contextlib
import io
import logging
import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.arrayproxy import ArrayProxy
from nibabel.freesurfer.mghformat import MGHError
from nibabel.spatialimages import HeaderDataError, HeaderTypeError

from medvae.errors import MedvaeError
from medvae.imaging.content import read_content, read_start, require_itk_content, require_itk_header
from medvae.imaging.endings import ENDINGS as ENDINGS
from medvae.imaging.endings import ITK_ENDINGS
from medvae.imaging.endings import scan_name as scan_name
from medvae.signatures import recognised

PLACING_FIELDS = (
    "pixdim", "xyzt_units", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d",
    "qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z",
)  # fmt: skip
"""What of a scan's NIfTI header is carried on. All else stays behind: a description, a file name or an extension may
hold the patient's name."""

_SILENT = logging.Logger("medvae.headers", logging.CRITICAL + 1)
"""For nibabel's remarks on headers, which name no file; what matters of them `medvae.imaging.readers` says."""
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_HEADER_BYTES = 540  # of NIfTI-2, the longest of the three
_UNREADABLE = (
    HeaderDataError, HeaderTypeError, MGHError, OSError, EOFError, ValueError, ArithmeticError, LookupError, zlib.error,
)  # fmt: skip


@dataclass(frozen=True)
class ScanFile:
    """A file whose header has been read.

    ``affine`` ``(4, 4)`` float64 leads to RAS+ mm as the file says, be it usable or not; ``header`` is what
    `placing_header` leaves of a NIfTI file's, None for other formats; ``values`` decodes the file, once, and gives
    ``shape`` float32.
    """

    path: Path
    shape: tuple[int, ...]
    affine: np.ndarray
    header: nib.Nifti1Header | None
    placed: bool
    """False if the file does not say how its axes lie in the patient."""
    values: Callable[[], np.ndarray]


def placing_header(header: nib.Nifti1Header) -> nib.Nifti1Header:
    """A NIfTI-1 header that places a volume as ``header`` does, field by field, and knows nothing else but its type.

    It is always NIfTI-1, which ITK reads and NIfTI-2 not. Affines of NIfTI-2 are rounded to float32; a qform that has
    no sform beside it gets one, because float32 quaternions near half a turn hold an angle to 7e-4 only.
    """
    placing = nib.Nifti1Header()
    placing.set_data_dtype(header.get_data_dtype())
    with np.errstate(over="ignore"):  # float64 to float32
        for name in PLACING_FIELDS:  # setting the affines anew would round them
            placing[name] = header[name]
    if isinstance(header, nib.Nifti2Header) and int(header["qform_code"]) > 0 >= int(header["sform_code"]):
        with contextlib.suppress(ValueError, HeaderDataError):  # no rotation: the scan is refused elsewhere
            placing.set_sform(mended_header(header).get_qform(), code=int(header["qform_code"]))
    return placing


def mended_header(header: nib.Nifti1Header) -> nib.Nifti1Header:
    """A header as nibabel uses it: without sizes of 0 or below and unknown codes, for which ITK has rules of its own.

    Raises
    ------
    HeaderDataError
        If it makes no sense.
    """
    header = header.copy()
    header.check_fix(logger=_SILENT)
    return header


def open_scan(path: Path) -> ScanFile:
    """Read the header of a volume file.

    Raises
    ------
    MedvaeError
        If there is no such file, it may not be read, or is not a volume with one number per voxel.
    """
    try:
        with open(path, "rb") as stream:  # says at once what is wrong with a missing or locked file
            start = stream.read(2)
        if path.name.lower().endswith(ITK_ENDINGS) and start:
            return _open_with_itk(path)
        return _open_with_nibabel(path)
    except FileNotFoundError:
        raise MedvaeError(f"{path}: {recognised(path) or 'there is no such file. Check the path.'}") from None
    except IsADirectoryError:
        wrong = recognised(path) or f"is a folder; a volume file ({', '.join(ENDINGS)}) was expected."
        raise MedvaeError(f"{path}: {wrong}") from None
    except PermissionError:
        raise MedvaeError(f"{path}: may not be read by you. Ask its owner for permission (chmod u+r).") from None
    except NotADirectoryError:
        raise MedvaeError(f"{path}: there is no such file, a part of its path is no folder. Check the path.") from None
    except _UNREADABLE as error:
        if found := recognised(path):
            raise MedvaeError(f"{path}: cannot be read as a volume: {found}") from None
        raise MedvaeError(
            f"{path}: cannot be read as a volume ({_one_line(error)}). A complete file that ends in "
            f"{', '.join(ENDINGS)} was expected."
        ) from None


def _open_with_nibabel(path: Path) -> ScanFile:
    raw: nib.Nifti1Header
    start = read_start(path, _HEADER_BYTES)
    if not start:
        raise ValueError("it is empty")
    header: nib.Nifti1Header | nib.freesurfer.mghformat.MGHHeader
    if start[344:348] == b"n+1\0":
        raw = nib.Nifti1Header(start[:348], check=False)
        header = mended_header(raw)
    elif start[4:8] == b"n+2\0" and len(start) >= 540:
        raw = nib.Nifti2Header(start[:540], check=False)
        header = mended_header(raw)
    elif start[:4] == b"\0\0\0\1" and len(start) >= 284:
        header = nib.freesurfer.mghformat.MGHHeader.from_fileobj(io.BytesIO(start[:284]))
    else:
        raise ValueError("neither the mark of NIfTI nor that of MGH is in it")
    if header.get_data_dtype().fields or header.get_data_dtype().kind == "c":
        raise MedvaeError(
            f"{path}: holds colours or complex numbers ({header.get_value_label('datatype')}); one intensity per voxel "
            f"was expected. Give the scan itself, not a picture of it, or the magnitude."
        )
    shape = tuple(int(n) for n in header.get_data_shape())
    if not shape or min(shape) < 1:
        raise ValueError(f"its header gives it the shape {shape}")

    def values() -> np.ndarray:
        try:
            wanted = int(header.get_data_offset()) + math.prod(shape) * header.get_data_dtype().itemsize
            content = read_content(path, wanted, notes_follow=not isinstance(header, nib.Nifti1Header))
            with np.errstate(over="ignore", invalid="ignore"):  # what float32 cannot hold becomes infinite, and is told
                return np.asarray(ArrayProxy(content, header), dtype=np.float32)
        except _UNREADABLE as error:
            raise _damaged(path, shape, error) from None
        except MemoryError:
            raise _too_large(path, shape) from None

    if isinstance(header, nib.Nifti1Header):
        placed = int(header["sform_code"]) > 0 or int(header["qform_code"]) > 0
        return ScanFile(path, shape, _nifti_affine(header), placing_header(raw), placed, values)
    affine = np.asarray(header.get_affine(), dtype=np.float64)
    return ScanFile(path, shape, affine, None, int(header["goodRASFlag"]) > 0, values)


def _nifti_affine(header: nib.Nifti1Header) -> np.ndarray:
    """The sform, else the qform, else what pixdim gives, as nibabel has it; NaN where the qform is not a rotation."""
    try:
        return np.asarray(header.get_best_affine(), dtype=np.float64)
    except (ValueError, HeaderDataError):
        return np.full((4, 4), np.nan)


def _open_with_itk(path: Path) -> ScanFile:
    import SimpleITK as sitk

    sitk.ProcessObject.SetGlobalWarningDisplay(False)  # what matters is raised, the rest is noise on the terminal
    require_itk_header(path)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise ValueError(_itk_reason(error)) from None
    shape = tuple(int(n) for n in reader.GetSize())
    if reader.GetNumberOfComponents() != 1 or "complex" in sitk.GetPixelIDValueAsString(reader.GetPixelID()):
        raise MedvaeError(
            f"{path}: holds {reader.GetNumberOfComponents()} values per voxel (colours, vectors or several volumes); "
            f"one intensity per voxel was expected. Split it into one file per volume."
        )
    count = min(3, len(shape))
    axes, origin = np.eye(4), np.array(reader.GetOrigin())
    direction = np.array(reader.GetDirection()).reshape(len(shape), len(shape))
    axes[:count, :count] = direction[:count, :count] * np.array(reader.GetSpacing())[:count]
    axes[:count, 3] = origin[:count]
    space = reader.GetMetaData("NRRD_space") if reader.HasMetaDataKey("NRRD_space") else ""
    placed = bool(space) or path.suffix.lower() in (".mha", ".mhd")

    def values() -> np.ndarray:
        try:
            require_itk_content(
                path, math.prod(shape) * sitk.Image([1, 1], reader.GetPixelID()).GetSizeOfPixelComponent()
            )
            array = sitk.GetArrayFromImage(reader.Execute()).transpose(range(len(shape))[::-1])
        except RuntimeError as error:
            raise _damaged(path, shape, _itk_reason(error)) from None
        except _UNREADABLE as error:
            raise _damaged(path, shape, error) from None
        except MemoryError:
            raise _too_large(path, shape) from None
        with np.errstate(over="ignore", invalid="ignore"):
            return array.astype(np.float32)

    return ScanFile(path, shape, _LPS_TO_RAS @ axes, None, placed, values)


def _damaged(path: Path, shape: tuple[int, ...], reason: object) -> MedvaeError:
    return MedvaeError(
        f"{path}: is cut off or damaged ({_one_line(reason)}). Its header promises {' × '.join(map(str, shape))} "
        f"voxels. Copy or download the file again."
    )


def _too_large(path: Path, shape: tuple[int, ...]) -> MedvaeError:
    return MedvaeError(
        f"{path}: is too large for this machine's memory: {' × '.join(map(str, shape))} voxels. Crop or resample it."
    )


def _itk_reason(error: RuntimeError) -> str:
    """What ITK says, without the place in its source where it says it."""
    return str(error).strip().splitlines()[-1].split("ITK ERROR:")[-1].strip()


def _one_line(reason: object) -> str:
    return " ".join(str(reason).split())
