"""One NIfTI volume: an array and where it lies in the world; read, write, resample, invert.

Arrays keep the file's own voxel order ``(X, Y, Z)``. World coordinates are millimetres in RAS+ (x to the right,
y to the front, z up), nibabel's convention.
"""

from __future__ import annotations

import gzip
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from scipy import ndimage

from medvae.errors import MedvaeError
from medvae.files import write_bytes

ORTHONORMAL_TOLERANCE = 1e-3
"""Largest cosine between two voxel axes that still counts as a right angle (ITK uses the same order)."""


@dataclass(frozen=True)
class Geometry:
    """Where a grid of voxels lies in the world.

    Parameters
    ----------
    affine
        ``(4, 4)`` float64, voxel index to world coordinates in mm (RAS+).
    shape
        Number of voxels ``(X, Y, Z)``.
    """

    affine: np.ndarray
    shape: tuple[int, int, int]

    def __post_init__(self) -> None:
        affine = np.array(self.affine, dtype=np.float64)
        affine.setflags(write=False)
        object.__setattr__(self, "affine", affine)
        object.__setattr__(self, "shape", tuple(int(n) for n in self.shape))

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Length of a voxel along each array axis, in mm."""
        return tuple(float(n) for n in np.linalg.norm(self.affine[:3, :3], axis=0))

    @property
    def voxel_volume_ml(self) -> float:
        """Volume of one voxel in millilitres."""
        return float(abs(np.linalg.det(self.affine[:3, :3])) / 1000.0)

    @property
    def orientation(self) -> str:
        """The anatomical direction each array axis points to, for instance ``"RAS"``."""
        return "".join(nib.aff2axcodes(self.affine))

    def same_grid(self, other: Geometry, tolerance_mm: float = 1e-3) -> bool:
        """Whether both grids have the same shape and no corner differs by more than ``tolerance_mm``."""
        if self.shape != other.shape:
            return False
        return bool(np.abs(self.corners_mm() - other.corners_mm()).max() <= tolerance_mm)

    def corners_mm(self) -> np.ndarray:
        """World coordinates of the eight corner voxels, ``(8, 3)`` in mm."""
        ends = np.array(np.meshgrid(*[(0, n - 1) for n in self.shape], indexing="ij")).reshape(3, -1)
        return (self.affine[:3, :3] @ ends + self.affine[:3, 3:]).T

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Geometry) and self.shape == other.shape and np.array_equal(self.affine, other.affine)

    def __hash__(self) -> int:
        return hash((self.shape, self.affine.tobytes()))


@dataclass(frozen=True)
class Volume:
    """A scan: values ``(X, Y, Z)`` float32, its geometry, and the header that its overlays must carry on."""

    array: np.ndarray
    geometry: Geometry
    header: nib.Nifti1Header | None = field(default=None, repr=False, compare=False)
    path: Path | None = None

    @property
    def placement(self) -> Placement:
        """What is left of the scan when its values are forgotten."""
        return Placement(self.geometry, self.header, self.path)


@dataclass(frozen=True)
class Placement:
    """Where a scan lies, without its values: what is needed to write an overlay for it."""

    geometry: Geometry
    header: nib.Nifti1Header | None = field(default=None, repr=False, compare=False)
    path: Path | None = None


def read_volume(path: Path | str, *, finite: bool = True) -> Volume:
    """Read a 3D volume; a fourth axis of length one is dropped.

    Parameters
    ----------
    path
        A ``.nii`` or ``.nii.gz`` file.
    finite
        Refuse NaN and infinite values.

    Raises
    ------
    MedvaeError
        If the file is missing, not NIfTI, cut off, not 3D, not finite, or placed by an affine that is singular
        or whose axes are not at right angles (ITK and ITK-SNAP would place such a file elsewhere).
    """
    path = Path(path)
    image = _open(path)
    if len(image.shape) != 3 and not (len(image.shape) > 3 and all(n == 1 for n in image.shape[3:])):
        raise MedvaeError(
            f"{path}: has shape {tuple(image.shape)}, a single 3D volume was expected. Split a 4D file into one "
            f"file per volume (for instance with nibabel.funcs.four_to_three) and give the one you want."
        )
    try:
        array = np.asarray(image.dataobj, dtype=np.float32)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise MedvaeError(
            f"{path}: is cut off or damaged ({error}). Its header promises {_product(image.shape):,} voxels. "
            f"Copy or download the file again."
        ) from None
    array = array.reshape(array.shape[:3])
    if finite and not np.isfinite(array).all():
        count = int(np.count_nonzero(~np.isfinite(array)))
        raise MedvaeError(
            f"{path}: holds {count:,} voxels that are NaN or infinite; finite intensities were expected. Find out "
            f"which step made them; if they are background, replace them by 0 (numpy.nan_to_num) and save again."
        )
    affine = np.asarray(image.affine, dtype=np.float64)
    _check_axes(affine, path)
    return Volume(array, Geometry(affine, array.shape), image.header, path)


def read_geometry(path: Path | str) -> Geometry:
    """Shape and affine of a volume, from its header alone."""
    image = _open(Path(path))
    return Geometry(np.asarray(image.affine, dtype=np.float64), image.shape[:3])


def write_volume(
    path: Path | str,
    array: np.ndarray,
    like: Volume | Placement | Geometry,
    *,
    intent: str = "",
    space: Literal["scanner", "mni152"] = "scanner",
) -> Path:
    """Write ``array`` ``(X, Y, Z)`` as NIfTI in the very geometry of ``like``, all of it or nothing.

    When ``like`` carries a NIfTI header, its pixdim, qform and sform with their codes and its units are kept as
    they are: viewers that trust the qform (ITK) and viewers that trust the sform (nibabel, FSLeyes) then place the
    overlay on the scan alike. Otherwise sform and qform are both set, with the code of ``space``.

    Parameters
    ----------
    path
        Ends in ``.nii`` or ``.nii.gz``; gzip bytes do not depend on the time of writing.
    array
        float32 for maps, uint8 for masks; written as it is, without scaling.
    like
        The volume, its placement, or the geometry whose grid this is.
    intent
        Shown by some viewers as the name of the map, at most 16 characters.
    space
        What the world coordinates are when ``like`` has no header of its own: the scanner's (NIfTI code 1) or those
        of the MNI152 template (code 4).

    Raises
    ------
    MedvaeError
        If the shape differs from the geometry's, or the disk is full.
    """
    path = Path(path)
    geometry, source = (like, None) if isinstance(like, Geometry) else (like.geometry, like.header)
    if tuple(array.shape) != geometry.shape:
        raise MedvaeError(f"{path}: the array has shape {array.shape}, its grid {geometry.shape}.")
    if isinstance(source, nib.Nifti1Header):
        header = source.copy()
        header.extensions.clear()  # comments and DICOM fields of the scan do not describe the map
        if isinstance(header, nib.Nifti2Header):
            image = nib.Nifti2Image(array, None, header)
        else:
            image = nib.Nifti1Image(array, None, header)
        _copy_placement(source, image.header)
    else:
        image = nib.Nifti1Image(array, geometry.affine)
        code = {"scanner": 1, "mni152": 4}[space]
        image.set_qform(geometry.affine, code=code)
        image.set_sform(geometry.affine, code=code)
        image.header.set_xyzt_units("mm")
    image.header.set_data_dtype(array.dtype)
    image.header["cal_min"] = image.header["cal_max"] = 0
    image.header["descrip"] = b"medvae"
    image.header["intent_name"] = intent.encode()[:16]
    content = image.to_bytes()
    if path.name.endswith(".gz"):
        content = gzip.compress(content, compresslevel=6, mtime=0)
    return write_bytes(path, content)


def resample(
    array: np.ndarray,
    source: Geometry,
    target: Geometry,
    *,
    order: int = 1,
    transform: np.ndarray | None = None,
    antialias: bool = True,
    outside: float = 0.0,
) -> np.ndarray:
    """Values of ``array`` at the voxels of another grid.

    Parameters
    ----------
    array
        ``(X, Y, Z)`` on the ``source`` grid.
    source, target
        The two grids.
    order
        1 for linear, 0 for nearest (labels).
    transform
        ``(4, 4)`` affine from the *target's* world coordinates to the *source's*, in mm; the identity if None.
    antialias
        Smooth first along axes that become coarser, with a Gaussian of the width that turns the source voxel into
        the target voxel, ``FWHM = sqrt(target² - source²)`` (Cardoso et al. 2015, doi:10.1007/978-3-319-24571-3_81).
        Linear interpolation only.
    outside
        Value beyond the source grid.

    Returns
    -------
    ndarray
        ``target.shape``, float32. Where the two grids differ only by flips, axis order and whole voxels the values
        are copied, bit by bit.
    """
    world = np.eye(4) if transform is None else np.asarray(transform, dtype=np.float64)
    matrix = np.linalg.inv(source.affine) @ world @ target.affine  # target voxel -> source voxel
    rounded = np.rint(matrix)
    # Half a thousandth of a voxel at the far corner is header rounding, not a different grid.
    reach = np.abs(matrix - rounded)[:3] @ np.array([*target.shape, 1.0])
    whole_voxels = reach.max() < 5e-4 and np.allclose(np.abs(rounded[:3, :3]) @ np.ones(3), 1)
    if whole_voxels:
        matrix, order, antialias = rounded, 0, False
    values = np.asarray(array, dtype=np.float32)
    if antialias and order > 0:
        step = np.linalg.norm(matrix[:3, :3], axis=1)  # source voxels per target voxel along each source axis
        sigma = np.sqrt(np.maximum(step**2 - 1.0, 0.0)) / 2.355
        if (sigma > 0.1).any():
            values = ndimage.gaussian_filter(values, sigma, mode="nearest", truncate=3.0)
    return ndimage.affine_transform(
        values, matrix[:3, :3], matrix[:3, 3], target.shape, np.float32, order=order, mode="constant", cval=outside,
        prefilter=False,
    )  # fmt: skip


def _open(path: Path) -> nib.Nifti1Image:
    if not path.exists():
        raise MedvaeError(f"{path}: there is no such file. Check the path.")
    if path.is_dir():
        raise MedvaeError(f"{path}: is a folder; a NIfTI file (.nii or .nii.gz) was expected.")
    try:
        image = nib.load(path)
    except (ImageFileError, OSError, EOFError, ValueError, zlib.error) as error:
        reason = " ".join(str(error).split())
        raise MedvaeError(
            f"{path}: cannot be read as NIfTI ({reason}). Check that it is a complete .nii or .nii.gz file."
        ) from None
    if not isinstance(image, nib.Nifti1Image):
        raise MedvaeError(f"{path}: is a {type(image).__name__}; a NIfTI file (.nii or .nii.gz) was expected.")
    return image


def _copy_placement(source: nib.Nifti1Header, header: nib.Nifti1Header) -> None:
    """Take over pixdim, qform, sform and their codes field by field: setting them anew would round them."""
    names = [f"quatern_{c}" for c in "bcd"] + [f"qoffset_{c}" for c in "xyz"] + [f"srow_{c}" for c in "xyz"]
    for name in ["pixdim", "qform_code", "sform_code", "xyzt_units", *names]:
        header[name] = source[name]


def _check_axes(affine: np.ndarray, path: Path) -> None:
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.isfinite(affine).all() or lengths.min() <= 0 or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise MedvaeError(
            f"{path}: its affine is singular or not finite, so the scan has no place in the world. Repair the "
            f"header (for instance from the original DICOM files) before using it."
        )
    axes = affine[:3, :3] / lengths
    skew = float(np.abs(axes.T @ axes - np.eye(3)).max())
    if skew > ORTHONORMAL_TOLERANCE:
        raise MedvaeError(
            f"{path}: its voxel axes are not at right angles (largest cosine {skew:.3f}). ITK-based viewers refuse "
            f"or move such a file. Resample it onto an unsheared grid first (for instance with mri_convert or c3d)."
        )


def _product(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape, dtype=np.int64))
