"""Where programs read a scan: nibabel by one rule, ITK by another, and what to say where the two differ.

nibabel, FSLeyes, NiiVue and medvae go by the sform if its code is set, else by the qform, else by pixdim, about the
centre, and take every length for mm. That is `Geometry` as `medvae.imaging.volume` reads it.

ITK, and with it ITK-SNAP, 3D Slicer and ANTs, chooses between qform and sform by codes, right angles and similarity,
takes the voxel size from pixdim, counts by the unit of the header, and reads no NIfTI-2. The choice differs between
its versions: the installed one (SimpleITK) is asked.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.spatialimages import HeaderDataError

from medvae.errors import MedvaeError
from medvae.imaging.endings import ITK_ENDINGS
from medvae.imaging.formats import mended_header, open_scan, placing_header
from medvae.imaging.volume import Geometry, Placement, Volume

SAME_GRID_MM = 0.1
"""Two grids are the same if no corner voxel lies further away: more than the rounding of headers."""
_ALIKE_MM = 1e-3
_CONTRADICTION = 0.01
_MILLIMETRES = (0, 2)
"""Codes of lengths without a unit and in mm."""
_METRE_AND_MICRON = {1: "meter", 3: "micron"}
_ITK = "ITK (ITK-SNAP, 3D Slicer, ANTs)"


def itk_geometry(scan: Placement) -> Geometry | None:
    """Where ITK reads a scan, RAS+ in mm; None if it refuses the header.

    For a format that ITK does not read, MGH, it is the place of the NIfTI copy that medvae writes for viewers.
    """
    if scan.header is not None:
        affine = _asked(placing_header(scan.header))
        return None if affine is None else Geometry(affine, scan.geometry.shape)
    if scan.path is not None and scan.path.name.lower().endswith(ITK_ENDINGS) and scan.path.is_file():
        return Geometry(open_scan(scan.path).affine, scan.geometry.shape)  # as it is in the file, before mending
    return scan.geometry


def itk_opens(path: Path) -> bool:
    """Whether ITK reads the header of a file, as programs built on it do before they show it."""
    import SimpleITK as sitk

    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        return False
    return True


def placement_notes(scan: Placement) -> tuple[str, ...]:
    """One sentence each, about a scan ("its ..."), on places and on voxel sizes that programs read differently."""
    header, geometry = scan.header, scan.geometry
    if header is None or _unambiguous(header, geometry):
        return ()
    return tuple(filter(None, (_place_note(scan, header), _size_note(header, geometry))))


def on_grid_of(found: Placement, scan: Placement) -> bool:
    """Whether two files hold the same voxels, by nibabel's rule or by ITK's.

    ITK's counts because a label or brain mask that a program built on it saved (ITK-SNAP, HD-BET) lies where ITK
    reads the scan, in qform and sform.
    """
    if found.geometry.same_grid(scan.geometry, SAME_GRID_MM):
        return True
    if found.geometry.shape != scan.geometry.shape:
        return False
    ours, theirs = itk_geometry(found), itk_geometry(scan)
    return ours is not None and theirs is not None and ours.same_grid(theirs, SAME_GRID_MM)


def require_same_grid(volume: Volume, expected: Placement, what: str) -> None:
    """Refuse a volume that lies on another grid than ``what``, saying how it differs."""
    found, wanted = volume.geometry, expected.geometry
    if on_grid_of(volume.placement, expected):
        return
    if _reordered(found, wanted):
        raise MedvaeError(
            f"{volume.path}: has the voxels of {what} in another order ({found.orientation} against "
            f"{wanted.orientation}). If a viewer shows it on the side where it belongs, resample it onto that grid "
            f"with nearest neighbours, which copies every voxel; if not, repair its header."
        )
    if found.shape != wanted.shape:
        raise MedvaeError(f"{volume.path}: has shape {found.shape}, {what} has {wanted.shape}. Resample one of them.")
    advice = "Resample it onto that grid, or repair its header."
    if np.allclose(found.affine, np.eye(4)):
        advice = "Its affine is the identity, as if it was saved without one: save it again with that of the image."
    raise MedvaeError(
        f"{volume.path}: lies up to {_shown_mm(_apart_mm(found, wanted))} mm away from {what} (orientation "
        f"{found.orientation} against {wanted.orientation}). {advice}"
    )


def _reordered(one: Geometry, other: Geometry) -> bool:
    """Whether two grids of the same corners count their voxels along other axes, or from another end."""
    gaps = np.linalg.norm(one.corners_mm()[:, None] - other.corners_mm()[None], axis=2)
    return one.orientation != other.orientation and bool(gaps.min(axis=1).max() <= SAME_GRID_MM)


def _asked(header: nib.Nifti1Header) -> np.ndarray | None:
    """The affine ``(4, 4)`` of a volume with this header in ITK, RAS+ in mm; None if ITK refuses it."""
    import SimpleITK as sitk

    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    header.set_data_dtype(np.uint8)
    header["dim"] = [3, 1, 1, 1, 1, 1, 1, 1]  # where the first voxel lies and the axes lead depends on no length
    header["vox_offset"], header["magic"] = 352, b"n+1"
    with tempfile.TemporaryDirectory(prefix="medvae-header-") as folder:
        path = Path(folder, "voxel.nii")
        path.write_bytes(header.binaryblock + bytes(5))  # no extension, one voxel
        try:
            image = sitk.ReadImage(str(path))
        except RuntimeError:
            return None
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


def _unambiguous(header: nib.Nifti1Header, geometry: Geometry) -> bool:
    """Whether qform, sform, pixdim and unit leave nothing to choose, so that no reader's rule matters."""
    forms = _forms(header, geometry)
    return (
        len(forms) == 2
        and int(header["xyzt_units"]) % 8 in _MILLIMETRES
        and all(form.same_grid(geometry, _ALIKE_MM) for form in forms)
        and _voxel_size_fits(header, geometry)
    )


def _place_note(scan: Placement, header: nib.Nifti1Header) -> str:
    geometry, itk = scan.geometry, itk_geometry(scan)
    if itk is None:
        return (
            f"its axes are not at right angles to 1e-4 and it has no qform, so that {_ITK} refuses it; the NIfTI files "
            f"that medvae writes lie on it in nibabel and FSLeyes, and have a qform for ITK."
        )
    apart_mm, some_mm = _apart_mm(itk, geometry), min(geometry.spacing_mm) / 2  # a qform is rounded to tenths of a mm
    forms, unit = _forms(header, geometry), int(header["xyzt_units"]) % 8
    between_mm = _apart_mm(*forms) if len(forms) == 2 else 0.0
    if apart_mm <= some_mm:
        if between_mm <= some_mm:
            return ""
        return (
            f"its qform and sform lie up to {_shown_mm(between_mm)} mm apart: medvae, nibabel, FSLeyes and ITK 5 go by "
            f"the sform, other programs by the qform; NIfTI files that medvae writes carry both."
        )
    if unit in _METRE_AND_MICRON:
        cause = f"its header gives lengths in {_METRE_AND_MICRON[unit]}, which medvae takes for mm"
    elif not forms:
        cause = "its header has neither a qform nor a sform"
    elif not _voxel_size_fits(header, geometry):
        cause = "its header gives another voxel size in pixdim than in its affine"
    elif between_mm > some_mm:
        cause = f"its qform and sform lie up to {_shown_mm(between_mm)} mm apart"
    else:
        cause = "its qform and sform can be read in two ways"
    return (
        f"{cause}, so that {_ITK} reads it up to {_shown_mm(apart_mm)} mm away from where medvae, nibabel and FSLeyes "
        f"do; NIfTI files that medvae writes lie on it in each of them, .seg.nrrd lies where ITK reads it."
    )


def _size_note(header: nib.Nifti1Header, geometry: Geometry) -> str:
    if _voxel_size_fits(header, geometry):
        return ""
    size = np.array(header["pixdim"][1:4], dtype=np.float64)
    shown, affine = (" × ".join(f"{mm:.4g}" for mm in lengths) for lengths in (size, geometry.spacing_mm))
    return (
        f"its header gives voxels of {shown} mm in pixdim and of {affine} mm in its affine; millilitres are counted by "
        f"the affine, {geometry.voxel_volume_ml * 1000:.4g} mm³ a voxel, not by pixdim, {abs(np.prod(size)):.4g} mm³."
    )


def _forms(header: nib.Nifti1Header, geometry: Geometry) -> list[Geometry]:
    """Where qform and sform place the volume: those of the two that are there and are usable."""
    found, header = [], mended_header(header)
    for form in (header.get_qform, header.get_sform):
        try:
            affine = form(coded=True)[0]
        except (ValueError, HeaderDataError):  # a quaternion that is no rotation
            continue
        if affine is not None and np.isfinite(affine).all() and np.linalg.det(affine[:3, :3]):
            found.append(Geometry(affine, geometry.shape))
    return found


def _voxel_size_fits(header: nib.Nifti1Header, geometry: Geometry) -> bool:
    if int(header["qform_code"]) <= 0 and int(header["sform_code"]) <= 0:
        return True  # the affine is made from it
    return bool(np.abs(header["pixdim"][1:4] / geometry.spacing_mm - 1).max() <= _CONTRADICTION)


def _apart_mm(one: Geometry, other: Geometry) -> float:
    return float(np.abs(one.corners_mm() - other.corners_mm()).max())


def _shown_mm(millimetres: float) -> str:
    return f"{millimetres:,.1f}"
