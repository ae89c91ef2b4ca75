"""One volume: an array and where it lies in the world; read, write, resample, invert.

Arrays keep the file's own voxel order ``(X, Y, Z)``. World coordinates are millimetres in RAS+ (x to the right,
y to the front, z up), nibabel's convention.
"""

from __future__ import annotations

import gzip
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import nibabel as nib
import numpy as np
from nibabel.spatialimages import HeaderDataError
from scipy import ndimage

from medvae.errors import MedvaeError, MedvaeWarning
from medvae.files import write_bytes
from medvae.imaging.boxes import Box
from medvae.imaging.content import require_size
from medvae.imaging.finite import finite_values
from medvae.imaging.formats import PLACING_FIELDS, ScanFile, mended_header, open_scan, placing_header

ORTHONORMAL_TOLERANCE = 1e-3
"""Largest cosine between two voxel axes that still counts as a right angle (ITK uses the same order)."""

MENDABLE_COSINE = 0.02
"""Largest cosine between two voxel axes that is mended (1.1 degrees): rounding and registration leave less than that,
and a gantry tilt that was not resampled more."""


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
        x, y, z = (float(n) for n in np.linalg.norm(self.affine[:3, :3], axis=0))
        return x, y, z

    @property
    def voxel_volume_ml(self) -> float:
        """Volume of one voxel in millilitres."""
        return float(abs(np.linalg.det(self.affine[:3, :3])) / 1000.0)

    @property
    def orientation(self) -> str:
        """The anatomical direction each array axis points to, for instance ``"RAS"``."""
        return "".join(nib.aff2axcodes(self.affine))

    def part(self, box: Box) -> Geometry:
        """The grid of the voxels of a box."""
        corner = np.eye(4)
        corner[:3, 3] = [side.start for side in box]
        x, y, z = (side.stop - side.start for side in box)
        return Geometry(self.affine @ corner, (x, y, z))

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
    """A scan: values ``(X, Y, Z)`` float32, its geometry, and what of its NIfTI header its overlays carry on."""

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

    A header that is slightly wrong is mended, with a `MedvaeWarning`: axes that are almost at right angles are turned
    to be so where that moves nothing by more than half a voxel. An unusable sform is replaced by the qform, which ITK
    would use. `Volume.header` stays as it is in the file.

    Parameters
    ----------
    path
        A file of one of `medvae.imaging.endings.ENDINGS`: NIfTI-1 or -2, MGH, MetaImage or NRRD.
    finite
        Refuse NaN and infinite values. NaN around the brain is background, and becomes 0 with a warning.

    Raises
    ------
    MedvaeError
        If the file is missing, of another kind, cut off, not 3D, not finite, or placed by an affine that is singular
        or whose axes are not at right angles (ITK and ITK-SNAP would place such a file elsewhere); or larger than
        `medvae.imaging.content.MOST_VOXELS`.
    """
    path = Path(path)
    file = open_scan(path)
    geometry = _geometry(file)
    require_size(path, geometry.shape)
    array = file.values().reshape(geometry.shape)
    if finite:
        array = finite_values(array, path)
    return Volume(array, geometry, file.header, path)


def read_overlay(path: Path | str) -> Volume:
    """`read_volume` for a file that medvae wrote: what is odd about its header has been said of its scan."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MedvaeWarning)
        return read_volume(path)


def volume_of_array(array: np.ndarray, affine: np.ndarray, name: str = "the array") -> Volume:
    """A volume that is in memory, as if it had been read from a file: checked, mended, float32 in Fortran order.

    Parameters
    ----------
    array
        ``(X, Y, Z)``, any type of number.
    affine
        ``(4, 4)``, voxel index to world coordinates in mm, RAS+.
    name
        What an error calls it.

    Raises
    ------
    MedvaeError
        As `read_volume`.
    """
    affine = np.asarray(affine, dtype=np.float64)
    if affine.shape != (4, 4):
        raise MedvaeError(
            f"{name}: its affine has shape {affine.shape}; (4, 4) was expected, voxel index to mm (RAS+), as "
            f"nibabel.load(path).affine."
        )
    with np.errstate(over="ignore", invalid="ignore"):  # what float32 cannot hold becomes infinite, and is refused
        values = np.asfortranarray(array, dtype=np.float32)  # as files are decoded: sums then have the same last bit
    geometry = _geometry(ScanFile(Path(name), values.shape, affine, None, True, lambda: values))
    values = finite_values(values, Path(name))
    return Volume(values.reshape(geometry.shape), geometry, None, Path(name))


def read_placement(path: Path | str) -> Placement:
    """Where a volume lies, from its header alone, as `read_volume` gives it."""
    file = open_scan(Path(path))
    geometry = _geometry(file)
    require_size(file.path, geometry.shape)
    return Placement(geometry, file.header, file.path)


def write_volume(
    path: Path | str,
    array: np.ndarray,
    like: Volume | Placement | Geometry,
    *,
    intent: str = "",
    space: Literal["scanner", "mni152"] = "scanner",
) -> Path:
    """Write ``array`` ``(X, Y, Z)`` as NIfTI in the very geometry of ``like``, all of it or nothing.

    When ``like`` carries a NIfTI header, its `medvae.imaging.formats.PLACING_FIELDS` are kept as they are, and nothing
    else: programs that trust the qform and those that trust the sform then place the overlay on the scan alike. A
    sheared sform without a qform, which ITK refuses, gets one beside it. Without a header sform and qform are both
    set, with the code of ``space``.

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
        If the shape differs from the geometry's, the disk is full, or the name has another ending.
    """
    return write_bytes(path, volume_bytes(Path(path), array, like, intent=intent, space=space))


def volume_bytes(
    path: Path,
    array: np.ndarray,
    like: Volume | Placement | Geometry,
    *,
    intent: str = "",
    space: Literal["scanner", "mni152"] = "scanner",
) -> bytes:
    """What `write_volume` writes to ``path``."""
    if not path.name.endswith((".nii", ".nii.gz")):
        raise MedvaeError(f"{path}: volumes are written as NIfTI. Give a name that ends in .nii or .nii.gz.")
    geometry, source = (like, None) if isinstance(like, Geometry) else (like.geometry, like.header)
    if tuple(array.shape) != geometry.shape:
        raise MedvaeError(f"{path}: the array has shape {array.shape}, its grid {geometry.shape}.")
    if source is None:
        image = nib.Nifti1Image(array, geometry.affine)
        code = {"scanner": 1, "mni152": 4}[space]
        image.set_qform(geometry.affine, code=code)
        image.set_sform(geometry.affine, code=code)
        image.header.set_xyzt_units("mm")
    else:
        header = placing_header(source)
        image = nib.Nifti1Image(array, None, header)
        for name in PLACING_FIELDS:  # nibabel has set some of them anew
            image.header[name] = header[name]
        if _only_sheared(header):
            image.header.set_qform(geometry.affine, code=int(header["sform_code"]))
    image.header.set_data_dtype(array.dtype)
    image.header["descrip"] = b"medvae"
    image.header["intent_name"] = intent.encode()[:16]
    content = image.to_bytes()
    return gzip.compress(content, compresslevel=6, mtime=0) if path.name.endswith(".gz") else content


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


def _only_sheared(header: nib.Nifti1Header) -> bool:
    """Whether ITK refuses a header: its sform is not at right angles to 1e-4, and there is no qform to take instead."""
    if int(header["qform_code"]) > 0 or int(header["sform_code"]) <= 0:
        return False
    axes = np.array([header[f"srow_{c}"][:3] for c in "xyz"], dtype=np.float64)
    axes /= np.linalg.norm(axes, axis=0)
    return bool(np.abs(axes @ axes.T - np.eye(3)).max() > 0.5e-4)


def _geometry(file: ScanFile) -> Geometry:
    """Where a file's voxels lie, after checking, and where it is safe mending, what its header says."""
    if len(file.shape) < 3 or any(n != 1 for n in file.shape[3:]):
        advice = (
            "It is a slice: give the volume that it was taken from."
            if len(file.shape) < 3
            else "Split it into one file per volume (for instance with nibabel.funcs.four_to_three) and give the one "
            "you want."
        )
        raise MedvaeError(f"{file.path}: has shape {file.shape}, a single 3D volume was expected. {advice}")
    x, y, z = file.shape[:3]
    shape, affine = (x, y, z), file.affine
    if not file.placed:
        warnings.warn(
            f"{file.path}: its header does not say how its axes lie in the patient, so that left and right are a "
            f"guess. Convert it again from the original, or set its sform in a viewer.",
            MedvaeWarning,
            stacklevel=3,
        )
    if not _regular(affine) and file.header is not None and int(file.header["sform_code"]) > 0:
        other = _qform_affine(mended_header(file.header))
        if other is not None and _regular(other):
            affine = other
            warnings.warn(
                f"{file.path}: its sform is singular or not finite; its qform is used, as ITK does.",
                MedvaeWarning,
                stacklevel=3,
            )
    if not _regular(affine):
        raise MedvaeError(
            f"{file.path}: its affine is singular or not finite, so the scan has no place in the world. Repair the "
            f"header (for instance from the original DICOM files) before using it."
        )
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    axes = affine[:3, :3] / lengths
    skew = float(np.abs(axes.T @ axes - np.eye(3)).max())
    if skew <= ORTHONORMAL_TOLERANCE:
        return Geometry(affine, shape)
    mended = _at_right_angles(affine, shape)
    moved_mm = float(np.abs(Geometry(affine, shape).corners_mm() - mended.corners_mm()).max())
    if skew > MENDABLE_COSINE or moved_mm > lengths.min() / 2:
        raise MedvaeError(
            f"{file.path}: its voxel axes are not at right angles (largest cosine {skew:.3f}). ITK-based viewers "
            f"refuse or move such a file. Resample it onto an unsheared grid (for instance with mri_convert or c3d)."
        )
    warnings.warn(
        f"{file.path}: its voxel axes are not quite at right angles (largest cosine {skew:.4f}); they are turned to "
        f"be, which moves no voxel by more than {moved_mm:.2g} mm.",
        MedvaeWarning,
        stacklevel=3,
    )
    return mended


def _regular(affine: np.ndarray) -> bool:
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    # Axes in one plane up to the rounding of a float32 header span no volume.
    return bool(
        np.isfinite(affine).all()
        and lengths.min() > 0
        and abs(np.linalg.det(affine[:3, :3] / lengths)) > 1e-5
        and abs(np.linalg.det(affine[:3, :3])) >= 1e-9
    )


def _qform_affine(header: nib.Nifti1Header) -> np.ndarray | None:
    """The affine of the qform; None without one, or where its quaternion is no rotation."""
    try:
        return header.get_qform(coded=True)[0]
    except (ValueError, HeaderDataError):
        return None


def _at_right_angles(affine: np.ndarray, shape: tuple[int, int, int]) -> Geometry:
    """The nearest grid with orthogonal axes (polar decomposition), of the same spacing, about the same centre."""
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    left, _, right = np.linalg.svd(affine[:3, :3] / lengths)
    centre = (np.array(shape) - 1) / 2
    mended = affine.copy()
    mended[:3, :3] = left @ right * lengths
    mended[:3, 3] += affine[:3, :3] @ centre - mended[:3, :3] @ centre
    return Geometry(mended, shape)
