"""Affine registration of a brain to the MNI152 template, with SimpleITK.

The result is a matrix from *standard* world coordinates to the *scan's*: what
:func:`medvae.volume.resample` takes to bring the scan onto :data:`medvae.preparation.grid.STANDARD_GRID`, and what
its inverse undoes to bring a map back.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import resources
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from medvae.errors import MedvaeError
from medvae.preparation.grid import STANDARD_GRID
from medvae.preparation.itk import RAS_TO_LPS, one_thread, to_image
from medvae.volume import Geometry, read_volume, resample

if TYPE_CHECKING:
    import SimpleITK

SMALLEST_DICE = 0.8
"""Overlap of the moved brain mask with the template's below which a registration counts as failed."""
SCALES = (0.7, 1.4)
"""Sizes of a brain relative to the template along one axis that are possible in adults."""

_BINS = 32
_UNIT_MM = 60.0
"""ITK is given lengths in this unit, about the radius of a brain: a change of 0.01 in any parameter of the transform
(shift, rotation, scale, shear) then moves the surface of the brain about equally far, and one step length suits all."""
_START_ANGLES_DEG = {"pitch": (-30, -15, 0, 15, 30), "roll": (-15, 0, 15), "yaw": (-15, 0, 15)}


@dataclass(frozen=True)
class Registration:
    """Where a scan lies relative to the standard space, and how well that is known.

    Parameters
    ----------
    transform
        ``(4, 4)`` float64 from standard (MNI152) world coordinates to the scan's world coordinates, RAS, mm.
    dice
        Overlap of the scan's brain mask, moved to the standard grid, with the template's.
    mutual_information
        Mattes mutual information of scan and template in nats, inside the template's (dilated) brain mask.
    scales
        Length in the scan, in mm, of 1 mm along x, y and z of the standard space.
    """

    transform: np.ndarray
    dice: float
    mutual_information: float
    scales: tuple[float, float, float]

    def __post_init__(self) -> None:
        transform = np.array(self.transform, dtype=np.float64)
        transform.setflags(write=False)
        object.__setattr__(self, "transform", transform)


@cache
def read_template() -> tuple[np.ndarray, np.ndarray]:
    """The T1 MNI152 brain (float32) and its mask (bool) on the standard grid, ``(80, 96, 80)``."""
    folder = resources.files("medvae.preparation") / "template"
    with resources.as_file(folder / "mni152_t1.nii.gz") as path:
        brain = read_volume(path).array
    with resources.as_file(folder / "mni152_brain_mask.nii.gz") as path:
        mask = read_volume(path).array > 0
    for array in (brain, mask):
        array.setflags(write=False)
    return brain, mask


def register(array: np.ndarray, mask: np.ndarray, geometry: Geometry, *, source: str = "The scan") -> Registration:
    """Find the affine map between the standard space and a T1 scan.

    Mattes mutual information (Mattes et al. 2003, doi:10.1109/TMI.2003.809072), started at the centres of mass and at
    the best of 45 rotations, then a similarity (7 parameters) on 8 and 4 mm, then an affine map (12) on 4 and 2 mm.
    All voxels around the brain are compared, with one thread: the same input gives the same bits again.

    Parameters
    ----------
    array
        ``(X, Y, Z)``, a T1-weighted scan.
    mask
        ``(X, Y, Z)`` bool, its brain; what lies outside takes no part.
    geometry
        The grid of both.
    source
        The file that an error names.

    Raises
    ------
    MedvaeError
        If the brain found does not overlap the template's (Dice below 0.8), is scaled outside 0.7–1.4, or is mirrored.
    """
    matrix, information = _optimise(array, mask, geometry)
    _, standard = read_template()
    moved = resample(mask.astype(np.float32), geometry, STANDARD_GRID, transform=matrix) > 0.5
    dice = 2 * np.count_nonzero(moved & standard) / (np.count_nonzero(moved) + np.count_nonzero(standard))
    scales = tuple(float(n) for n in np.linalg.norm(matrix[:3, :3], axis=0))
    result = Registration(matrix, float(dice), information, scales)
    _refuse_failure(result, source)
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
        As in :func:`medvae.volume.resample`.

    Returns
    -------
    values, moved_mask
        ``target.shape``, float32 (0 outside the brain) and bool (at least half of the voxel is brain, no holes).
    """
    weight = resample(mask.astype(np.float32), source, target, transform=transform)
    values = resample(np.where(mask, array, 0.0), source, target, transform=transform)
    moved = ndimage.binary_fill_holes(weight >= 0.5)
    return np.where(moved, values / np.maximum(weight, 1e-3), 0.0).astype(np.float32), moved


def _optimise(array: np.ndarray, mask: np.ndarray, geometry: Geometry) -> tuple[np.ndarray, float]:
    import SimpleITK as sitk

    template, standard = read_template()
    brain = np.where(mask, array, 0.0).astype(np.float32)
    compared = ndimage.binary_dilation(standard, iterations=4)  # the edge of the brain guides its scale
    with one_thread():
        fixed = _in_units(to_image(template, STANDARD_GRID))
        moving = _in_units(to_image(brain, geometry))
        region = _in_units(to_image(compared.astype(np.uint8), STANDARD_GRID))
        start = sitk.CenteredTransformInitializer(
            fixed, moving, sitk.Similarity3DTransform(), sitk.CenteredTransformInitializerFilter.MOMENTS
        )
        start = _best_rotation(fixed, moving, region, sitk.Similarity3DTransform(start))
        similarity, _ = _climb(fixed, moving, region, start, shrink=(4, 2), smoothing_mm=(4.0, 2.0), step_mm=4.0)
        similarity = sitk.Similarity3DTransform(similarity)
        affine = sitk.AffineTransform(3)
        affine.SetCenter(similarity.GetCenter())
        affine.SetMatrix(similarity.GetMatrix())
        affine.SetTranslation(similarity.GetTranslation())
        affine, information = _climb(fixed, moving, region, affine, shrink=(2, 1), smoothing_mm=(2.0, 0.0), step_mm=1.0)
    return _matrix(sitk.AffineTransform(affine)), information


def _best_rotation(
    fixed: SimpleITK.Image,
    moving: SimpleITK.Image,
    region: SimpleITK.Image,
    start: SimpleITK.Similarity3DTransform,
) -> SimpleITK.Similarity3DTransform:
    """The start turned by the angles at which the images agree best: heads lie tilted in the scanner."""
    import SimpleITK as sitk

    small_fixed, small_moving = (
        sitk.Shrink(
            sitk.SmoothingRecursiveGaussian(image, 3.0 / _UNIT_MM),
            [max(1, round(6.0 / _UNIT_MM / n)) for n in image.GetSpacing()],
        )
        for image in (fixed, moving)
    )
    method = _method(sitk.Shrink(region, [3] * 3))
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
) -> tuple[SimpleITK.Transform, float]:
    """Improve a transform level by level; also gives the mutual information reached."""
    import SimpleITK as sitk

    method = _method(region)
    method.SetShrinkFactorsPerLevel(shrink)
    method.SetSmoothingSigmasPerLevel([sigma / _UNIT_MM for sigma in smoothing_mm])
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOn()
    method.SetOptimizerAsRegularStepGradientDescent(
        learningRate=step_mm / _UNIT_MM,
        minStep=0.005 / _UNIT_MM,
        numberOfIterations=200,
        relaxationFactor=0.6,
        gradientMagnitudeTolerance=1e-8,
    )
    method.SetInitialTransform(start, inPlace=False)
    found = sitk.CompositeTransform(method.Execute(fixed, moving)).GetBackTransform()
    return found, float(-method.GetMetricValue())


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


def _refuse_failure(found: Registration, source: str) -> None:
    problems = []
    if found.dice < SMALLEST_DICE:
        problems.append(f"the moved brain mask overlaps the template's with Dice {found.dice:.2f} (≥ {SMALLEST_DICE})")
    if not all(SCALES[0] <= scale <= SCALES[1] for scale in found.scales):
        numbers = ", ".join(f"{scale:.2f}" for scale in found.scales)
        problems.append(f"the scales along x, y, z are {numbers} ({SCALES[0]} to {SCALES[1]})")
    if np.linalg.det(found.transform[:3, :3]) <= 0:
        problems.append("left and right are mirrored")
    if problems:
        raise MedvaeError(
            f"{source}: the registration to the MNI152 template failed: {'; '.join(problems)}. Check in a viewer "
            "that the brain mask covers the brain and nothing else, that the scan is T1-weighted and shows a whole "
            "adult brain, and that its orientation labels (left, right, front, back) are right."
        )
