"""Affine registration of a brain to the MNI152 template, with SimpleITK.

The result is a matrix from *standard* world coordinates to the *scan's*: what
:func:`medvae.imaging.volume.resample` takes to bring the scan onto a :class:`medvae.imaging.grid.Grid`, and what its
inverse undoes to bring a map back.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from medvae.errors import MedvaeError
from medvae.imaging.grid import DEFAULT_GRID, Grid
from medvae.imaging.volume import Geometry, read_volume, resample
from medvae.preparation.itk import RAS_TO_LPS, one_thread, to_image

if TYPE_CHECKING:
    import SimpleITK

SMALLEST_DICE = 0.88
"""Overlap of the moved brain mask with the template's below which a registration counts as failed; the smallest of
120 IXI heads is 0.95."""
SMALLEST_INFORMATION = 0.08
"""Mutual information with the template, in nats, below which a brain counts as misaligned, see
:func:`measure_quality`."""
SCALES = (0.7, 1.4)
"""Sizes of a brain relative to the template along one axis that are possible in adults."""
LARGEST_SHEAR = 0.15
"""Cosine between two axes of the standard space, seen in the scan, that is impossible in a head."""

_BINS = 32
_UNIT_MM = 60.0
"""ITK is given lengths in this unit, about the radius of a brain: a change of 0.01 in any parameter of the transform
(shift, rotation, scale, shear) then moves the surface of the brain about equally far, and one step length suits all."""
_EDGE_MM = 8.0
"""How far beyond the template's brain voxels are compared: the edge of the brain guides its scale."""
_START_ANGLES_DEG = {"pitch": (-30, -15, 0, 15, 30), "roll": (-15, 0, 15), "yaw": (-15, 0, 15)}


@dataclass(frozen=True)
class RegistrationQuality:
    """How well a brain is aligned with the template.

    Parameters
    ----------
    dice
        Overlap of the scan's brain mask, moved to the standard grid, with the template's.
    mutual_information
        Of scan and template in nats, inside both brain masks: 32 × 32 bins between the 1st and 99th percentiles.
    scales
        Length in the scan, in mm, of 1 mm along x, y and z of the standard space.
    shear
        Largest cosine between two of these axes in the scan; 0 if they stay at right angles.
    """

    dice: float
    mutual_information: float
    scales: tuple[float, float, float]
    shear: float


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


@cache
def read_template(grid: Grid = DEFAULT_GRID) -> tuple[np.ndarray, np.ndarray]:
    """The T1 MNI152 brain (float32) and its mask (bool) on a standard grid; without one, on the default grid.

    Raises
    ------
    MedvaeError
        If a file of the template is missing or lies on another grid.
    """
    brain, mask = (_read_on(grid, file) for file in (grid.template, grid.template_mask))
    mask = mask > 0
    for array in (brain, mask):
        array.setflags(write=False)
    return brain, mask


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
    the best of 45 rotations, then a similarity (7 parameters) on 8 and 4 mm, then an affine map (12) on 4 and 2 mm,
    or on the voxels of the grid where those are larger. All voxels around the brain are compared, with one thread: the
    same input gives the same bits again.

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
    MedvaeError
        If the brain found does not overlap the template's (Dice below 0.88), does not look like it (mutual information
        below 0.08 nats), is scaled outside 0.7–1.4, sheared, or mirrored; with the numbers.
    """
    matrix = _optimise(array, mask, geometry, grid)
    moved, moved_mask = move_brain(array, mask, geometry, grid.geometry, matrix)
    result = Registration(matrix, measure_quality(moved, moved_mask, matrix, grid))
    _refuse_failure(result, source)
    return result


def measure_quality(
    array: np.ndarray, mask: np.ndarray, transform: np.ndarray, grid: Grid = DEFAULT_GRID
) -> RegistrationQuality:
    """How well a brain on a standard grid is aligned with the grid's template.

    Dice measures the outline only, mutual information the interior. Aligned T1 brains have 0.20–0.25 nats, raw ones
    with their bias field 0.10–0.21 (120 IXI heads), T2 and FLAIR 0.11–0.13; brains that lie upside down or back to
    front reach a Dice of up to 0.94, but less than 0.07 nats.

    Parameters
    ----------
    array, mask
        ``(X, Y, Z)`` on the standard grid, float and bool; of any contrast and scale.
    transform
        ``(4, 4)``, as in :class:`Registration`.
    grid
        The standard grid of both; the default grid if not given.
    """
    template, standard = read_template(grid)
    both = int(np.count_nonzero(mask)) + int(np.count_nonzero(standard))
    dice = 2 * int(np.count_nonzero(mask & standard)) / max(1, both)
    axes = transform[:3, :3]
    lengths = np.linalg.norm(axes, axis=0)
    x, y, z = (float(n) for n in lengths)
    cosines = np.abs(axes.T @ axes / np.outer(lengths, lengths) - np.eye(3))
    return RegistrationQuality(
        dice=dice,
        mutual_information=_mutual_information(array[mask & standard], template[mask & standard]),
        scales=(x, y, z),
        shear=float(cosines.max()),
    )


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
    weight = resample(mask.astype(np.float32), source, target, transform=transform)
    values = resample(np.where(mask, array, 0.0), source, target, transform=transform)
    moved = ndimage.binary_fill_holes(weight >= 0.5)
    return np.where(moved, values / np.maximum(weight, 1e-3), 0.0).astype(np.float32), moved


def _read_on(grid: Grid, file: Traversable) -> np.ndarray:
    with resources.as_file(file) as path:
        volume = read_volume(path)
    if not volume.geometry.same_grid(grid.geometry):
        raise MedvaeError(
            f'{file}: lies on another grid than "{grid.name}", whose template it is meant to be: {volume.array.shape} '
            f"voxels of {volume.geometry.spacing_mm[0]:g} mm were found, {grid.shape} of {grid.voxel_mm:g} mm "
            f"expected. Make it with pipelines/make_template.py --grid {grid.name}."
        )
    return volume.array


def _optimise(array: np.ndarray, mask: np.ndarray, geometry: Geometry, grid: Grid) -> np.ndarray:
    import SimpleITK as sitk

    def shrink(*resolutions_mm: float) -> tuple[int, ...]:
        return tuple(max(1, round(mm / grid.voxel_mm)) for mm in resolutions_mm)

    template, standard = read_template(grid)
    brain = np.where(mask, array, 0.0).astype(np.float32)
    compared = ndimage.binary_dilation(standard, iterations=round(_EDGE_MM / grid.voxel_mm))
    with one_thread():
        fixed = _in_units(to_image(template, grid.geometry))
        moving = _in_units(to_image(brain, geometry))
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
        best = _climb(fixed, moving, region, affine, shrink=shrink(4, 2), smoothing_mm=(2.0, 0.0), step_mm=1.0)
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
        minStep=0.005 / _UNIT_MM,
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


def _mutual_information(first: np.ndarray, second: np.ndarray) -> float:
    """Mutual information in nats of two equally long samples, from their joint histogram."""
    if not first.size:
        return 0.0
    bins = []
    for values in (first, second):
        low, high = np.percentile(values, [1, 99])
        share = np.clip((values - low) / max(float(high - low), 1e-12), 0, 1)
        bins.append(np.minimum((share * _BINS).astype(np.int64), _BINS - 1))
    joint = np.bincount(bins[0] * _BINS + bins[1], minlength=_BINS**2).reshape(_BINS, _BINS) / first.size
    apart = np.outer(joint.sum(axis=1), joint.sum(axis=0))
    seen = joint > 0
    return float((joint[seen] * np.log(joint[seen] / apart[seen])).sum())


def _refuse_failure(found: Registration, source: str) -> None:
    problems, quality = [], found.quality
    if quality.dice < SMALLEST_DICE:
        problems.append(
            f"the moved brain mask overlaps the template's with Dice {quality.dice:.2f} (at least {SMALLEST_DICE})"
        )
    if quality.mutual_information < SMALLEST_INFORMATION:
        problems.append(
            f"the mutual information with the template is {quality.mutual_information:.3f} nats (at least "
            f"{SMALLEST_INFORMATION})"
        )
    if not all(SCALES[0] <= scale <= SCALES[1] for scale in quality.scales):
        numbers = ", ".join(f"{scale:.2f}" for scale in quality.scales)
        problems.append(f"the scales along x, y, z are {numbers} ({SCALES[0]} to {SCALES[1]})")
    if quality.shear > LARGEST_SHEAR:
        problems.append(f"the axes are sheared by {quality.shear:.2f} (at most {LARGEST_SHEAR})")
    if np.linalg.det(found.transform[:3, :3]) <= 0:
        problems.append("left and right are mirrored")
    if problems:
        raise MedvaeError(
            f"{source}: the registration to the MNI152 template failed: {'; '.join(problems)}. Check in a viewer "
            "that the brain mask covers the brain and nothing else, that the scan is T1-weighted and shows a whole "
            "adult brain, and that its orientation labels (left, right, front, back) are right. Correct a strong bias "
            "field with preparation.bias_field=n4."
        )
