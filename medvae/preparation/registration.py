"""Affine registration of a brain to the MNI152 template, with SimpleITK.

The result is a matrix from *standard* world coordinates to the *scan's*: what
:func:`medvae.imaging.volume.resample` takes to bring the scan onto a :class:`medvae.imaging.grid.Grid`, and what its
inverse undoes to bring a map back.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from math import ceil
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from medvae.imaging.boxes import box_of
from medvae.imaging.grid import DEFAULT_GRID, Grid
from medvae.imaging.volume import Geometry, resample
from medvae.preparation.alignment import RegistrationQuality, measure_quality, refuse_failure
from medvae.preparation.itk import RAS_TO_LPS, one_thread, to_image
from medvae.preparation.standard_brain import read_template

if TYPE_CHECKING:
    import SimpleITK

_BINS = 32
_UNIT_MM = 60.0
"""ITK is given lengths in this unit, about the radius of a brain: a change of 0.01 in any parameter of the transform
(shift, rotation, scale, shear) then moves the surface of the brain about equally far, and one step length suits all."""
_FINEST_MM = 2.0
"""Smaller voxels of the scan are averaged to about this size."""
_EDGE_MM = 8.0
"""How far beyond the template's brain voxels are compared: the edge of the brain guides its scale."""
_START_ANGLES_DEG = {"pitch": (-30, -15, 0, 15, 30), "roll": (-15, 0, 15), "yaw": (-15, 0, 15)}


@dataclass(frozen=True)
class Registration:
    """Where a scan lies relative to the standard space, and how well that is known.

    ``transform`` is ``(4, 4)`` float64, from standard (MNI152) world coordinates to the scan's, RAS, mm.
    """

    transform: np.ndarray
    quality: RegistrationQuality

    def __post_init__(self) -> None:
        transform = np.array(self.transform, dtype=np.float64)
        transform.setflags(write=False)
        object.__setattr__(self, "transform", transform)


def register(
    array: np.ndarray,
    mask: np.ndarray,
    geometry: Geometry,
    *,
    source: str = "The scan",
    grid: Grid = DEFAULT_GRID,
) -> Registration:
    """Find the affine map between the standard space and a T1 scan.

    Mattes mutual information (Mattes et al. 2003, doi:10.1109/TMI.2003.809072), started at the centres of mass and at
    the best of 45 rotations, then a similarity (7 parameters) on 8 and 4 mm, then an affine map (12) on 4 mm, each with
    one thread: the same input gives the same bits again. Voxels of a scan that are smaller are averaged to about 2 mm
    first. An affine map is no better known from more voxels: on 2 mm it took four times as long and moved the brain by
    0.2 to 0.3 mm, in no better overlap.

    Parameters
    ----------
    array
        ``(X, Y, Z)``, a T1-weighted scan.
    mask
        ``(X, Y, Z)`` bool, its brain; voxels outside are ignored.
    geometry
        The grid of both.
    source
        The file that an error names.
    grid
        Whose template it is registered to; the default grid if not given.

    Raises
    ------
    Misplaced
        As `medvae.preparation.alignment.refuse_failure`: if the brain found cannot lie where the template's does.
    """
    matrix = _optimise(array, mask, geometry, grid)
    moved, moved_mask = move_brain(array, mask, geometry, grid.geometry, matrix)
    result = Registration(matrix, measure_quality(moved, moved_mask, matrix, grid))
    refuse_failure(result.quality, matrix, source)
    return result


def move_brain(
    array: np.ndarray, mask: np.ndarray, source: Geometry, target: Geometry, transform: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """A masked brain on another grid, in one linear interpolation, without a dark rim.

    The values are averaged over the part of each target voxel that lies in the brain: zeros outside the mask do not
    mix into its edge.

    Parameters
    ----------
    array
        ``(X, Y, Z)`` on the ``source`` grid.
    mask
        ``(X, Y, Z)`` bool, the brain.
    source, target
        The two grids.
    transform
        As in :func:`medvae.imaging.volume.resample`.

    Returns
    -------
    values, moved_mask
        ``target.shape``, float32 (0 outside the brain) and bool (at least half of the voxel is brain, no holes).
    """
    widest = max(1.0, max(target.spacing_mm) / min(source.spacing_mm))
    box = box_of(mask, margin=2 + ceil(2 * widest))  # beyond, the smoothing of `resample` finds zeros
    part, inside = source.part(box), mask[box]
    weight = resample(inside.astype(np.float32), part, target, transform=transform)
    values = resample(np.where(inside, array[box], 0.0), part, target, transform=transform)
    moved = ndimage.binary_fill_holes(weight >= 0.5)
    return np.where(moved, values / np.maximum(weight, 1e-3), 0.0).astype(np.float32), moved


def _optimise(array: np.ndarray, mask: np.ndarray, geometry: Geometry, grid: Grid) -> np.ndarray:
    import SimpleITK as sitk

    box = box_of(mask, margin=ceil(_EDGE_MM / min(geometry.spacing_mm)))

    def shrink(*resolutions_mm: float) -> tuple[int, ...]:
        return tuple(max(1, round(mm / grid.voxel_mm)) for mm in resolutions_mm)

    template, standard = read_template(grid)
    brain = np.where(mask[box], array[box], 0.0).astype(np.float32)
    averaged = [max(1, round(_FINEST_MM / spacing)) for spacing in geometry.spacing_mm]
    compared = ndimage.binary_dilation(standard, iterations=round(_EDGE_MM / grid.voxel_mm))
    with one_thread():
        fixed = _in_units(to_image(template, grid.geometry))
        moving = _in_units(sitk.BinShrink(to_image(brain, geometry.part(box)), averaged))
        region = _in_units(to_image(compared.astype(np.uint8), grid.geometry))
        start = sitk.CenteredTransformInitializer(
            fixed, moving, sitk.Similarity3DTransform(), sitk.CenteredTransformInitializerFilter.MOMENTS
        )
        start = _best_rotation(fixed, moving, region, sitk.Similarity3DTransform(start))
        similarity = _climb(fixed, moving, region, start, shrink=shrink(8, 4), smoothing_mm=(4.0, 2.0), step_mm=4.0)
        similarity = sitk.Similarity3DTransform(similarity)
        affine = sitk.AffineTransform(3)
        affine.SetCenter(similarity.GetCenter())
        affine.SetMatrix(similarity.GetMatrix())
        affine.SetTranslation(similarity.GetTranslation())
        best = _climb(fixed, moving, region, affine, shrink=shrink(4), smoothing_mm=(0.0,), step_mm=1.0)
    return _matrix(sitk.AffineTransform(best))


def _best_rotation(
    fixed: SimpleITK.Image,
    moving: SimpleITK.Image,
    region: SimpleITK.Image,
    start: SimpleITK.Similarity3DTransform,
) -> SimpleITK.Similarity3DTransform:
    """The start turned by the angles at which the images agree best: heads lie tilted in the scanner."""
    import SimpleITK as sitk

    def on_6_mm(image: SimpleITK.Image) -> SimpleITK.Image:
        return sitk.Shrink(image, [max(1, round(6.0 / _UNIT_MM / n)) for n in image.GetSpacing()])

    small_fixed, small_moving = (
        on_6_mm(sitk.SmoothingRecursiveGaussian(image, 3.0 / _UNIT_MM)) for image in (fixed, moving)
    )
    method = _method(on_6_mm(region))
    turn = sitk.Euler3DTransform()
    best, lowest = start, np.inf
    for angles in product(*_START_ANGLES_DEG.values()):
        turn.SetRotation(*np.deg2rad(angles).tolist())
        candidate = sitk.Similarity3DTransform(start)
        candidate.SetMatrix(turn.GetMatrix())
        method.SetInitialTransform(candidate)
        value = method.MetricEvaluate(small_fixed, small_moving)
        if value < lowest:
            best, lowest = candidate, value
    return best


def _method(region: SimpleITK.Image) -> SimpleITK.ImageRegistrationMethod:
    import SimpleITK as sitk

    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(_BINS)
    method.SetMetricFixedMask(region)
    method.SetMetricUseFixedImageGradientFilter(False)
    method.SetMetricUseMovingImageGradientFilter(False)
    method.SetInterpolator(sitk.sitkLinear)
    return method


def _climb(
    fixed: SimpleITK.Image,
    moving: SimpleITK.Image,
    region: SimpleITK.Image,
    start: SimpleITK.Transform,
    *,
    shrink: tuple[int, ...],
    smoothing_mm: tuple[float, ...],
    step_mm: float,
) -> SimpleITK.Transform:
    """Improve a transform level by level."""
    import SimpleITK as sitk

    method = _method(region)
    method.SetShrinkFactorsPerLevel(shrink)
    method.SetSmoothingSigmasPerLevel([sigma / _UNIT_MM for sigma in smoothing_mm])
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOn()
    method.SetOptimizerAsRegularStepGradientDescent(
        learningRate=step_mm / _UNIT_MM,
        minStep=0.02 / _UNIT_MM,
        numberOfIterations=200,
        relaxationFactor=0.6,
        gradientMagnitudeTolerance=1e-8,
    )
    method.SetInitialTransform(start, inPlace=False)
    return sitk.CompositeTransform(method.Execute(fixed, moving)).GetBackTransform()


def _in_units(image: SimpleITK.Image) -> SimpleITK.Image:
    """The image with its lengths in :data:`_UNIT_MM` instead of mm."""
    image.SetSpacing([n / _UNIT_MM for n in image.GetSpacing()])
    image.SetOrigin([n / _UNIT_MM for n in image.GetOrigin()])
    return image


def _matrix(affine: SimpleITK.AffineTransform) -> np.ndarray:
    """ITK's ``A (x − c) + c + t`` in LPS and :data:`_UNIT_MM` as one matrix in RAS and mm."""
    linear = np.array(affine.GetMatrix()).reshape(3, 3)
    centre, translation = np.array(affine.GetCenter()), np.array(affine.GetTranslation())
    matrix = np.eye(4)
    matrix[:3, :3] = linear
    matrix[:3, 3] = (centre + translation - linear @ centre) * _UNIT_MM
    return RAS_TO_LPS @ matrix @ RAS_TO_LPS
