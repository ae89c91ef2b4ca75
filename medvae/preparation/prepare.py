"""One scan, prepared: each step in the order it is done, and what is needed to go back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

from medvae.config import BrainMethod, PreparationConfig
from medvae.errors import MedvaeError
from medvae.manifest import Case, Manifest, Split
from medvae.preparation.extraction import find_brain
from medvae.preparation.grid import STANDARD_GRID
from medvae.preparation.intensity import before_scale, normalise, standardise
from medvae.preparation.landmarks import LandmarkScale, fit_landmarks
from medvae.preparation.registration import RegistrationQuality, measure_quality, move_brain, read_template, register
from medvae.progress import Progress
from medvae.volume import Geometry, Placement, Volume, read_volume, resample

IN_PLACE_DICE = 0.9
"""Overlap with the standard brain above which ``registration: auto`` takes a scan to lie in MNI152 space already."""

LOST_DICE = 0.7
"""Overlap with the standard brain below which an unregistered scan is refused."""

STEP_VERSIONS = {"reading": 1, "mask": 1, "bias_field": 1, "registration": 1, "resampling": 1, "intensity": 1}
"""Version of each step, part of the name under which a cache keeps a prepared scan.

Raise a step's number in the commit after which any scan may come out of it otherwise, be it in the last bit: another
algorithm, another default inside the step, a repaired error. What the `PreparationConfig` says, the template and the
standard grid need no number, they are part of the name themselves. Forgetting it means that users with a cache go on
with what the old code made.
"""


@dataclass(frozen=True)
class PreparedVolume:
    """A scan on the standard grid, and the way back to its own.

    ``image`` ``(C, X, Y, Z)`` float32 and ``mask`` ``(X, Y, Z)`` bool lie on the standard grid; ``source`` says where
    the first modality lies, ``source_mask`` is the brain on the source's grid, and ``transform`` ``(4, 4)`` leads from
    the standard grid's world to the source's, in mm. ``brain_from`` says where the mask was taken from ("given",
    "background", "deepbet" or "hdbet"), ``quality`` how well the brain lies on the template. The arrays are not to be
    written to.
    """

    image: np.ndarray
    mask: np.ndarray
    source: Placement
    source_mask: np.ndarray
    transform: np.ndarray
    registered: bool
    brain_from: str = "given"
    quality: RegistrationQuality | None = None

    def restore(self, standard_map: np.ndarray) -> np.ndarray:
        """A map ``(X, Y, Z)`` of the standard grid on the scan's own grid, float32, 0 outside the brain.

        Linear interpolation; at the brain's rim the map is continued outwards first, so that the zeros outside do
        not leak in. On a grid that differs only by flips, axis order and whole voxels the values are copied.
        """
        nearest = ndimage.distance_transform_edt(~self.mask, return_distances=False, return_indices=True)
        continued = standard_map[tuple(nearest)]
        back = np.linalg.inv(self.transform)
        native = resample(continued, STANDARD_GRID, self.source.geometry, transform=back, antialias=False)
        return np.where(self.source_mask, native, 0.0).astype(np.float32)


class StandardisedVolume(PreparedVolume):
    """A prepared volume whose intensities were brought to a learned scale.

    Its masks are asked of the volume it was made from, which may have them in a cache.
    """

    plain: PreparedVolume

    def __init__(self, plain: PreparedVolume, scale: LandmarkScale, config: PreparationConfig) -> None:
        same = {name: getattr(plain, name) for name in ("source", "transform", "registered", "brain_from", "quality")}
        self.__dict__.update(same, plain=plain, image=standardise(plain.image, plain.mask, scale, config))

    @property
    def mask(self) -> np.ndarray:
        """``(X, Y, Z)`` bool on the standard grid."""
        return self.plain.mask

    @property
    def source_mask(self) -> np.ndarray:
        """``(X, Y, Z)`` bool on the scan's own grid."""
        return self.plain.source_mask


def prepare_case(
    manifest: Manifest,
    case: Case,
    config: PreparationConfig,
    *,
    scale: LandmarkScale | None = None,
    cache: Path | None = None,
) -> PreparedVolume:
    """Read and prepare a case of a manifest, or open it in a cache; ``scale`` as in `prepare_scan`.

    Raises
    ------
    MedvaeError
        Naming the manifest, the case and the file.
    """
    try:
        mask = manifest.resolve(case.mask) if case.mask else None
        return prepare_scan(manifest.images(case), config, mask=mask, scale=scale, cache=cache)
    except MedvaeError as error:
        raise MedvaeError(f'{manifest.path}: case "{case.id}": {error}') from None


def prepare_training(
    manifest: Manifest, config: PreparationConfig, *, cache: Path | None = None, quiet: bool = False
) -> tuple[list[PreparedVolume], LandmarkScale | None]:
    """Prepare the healthy training scans and, for intensities by landmarks, learn the scale from them.

    Raises
    ------
    MedvaeError
        As `prepare_healthy` and `fit_landmarks`.
    """
    volumes = prepare_healthy(manifest, "train", before_scale(config), cache=cache, quiet=quiet)
    if config.intensity != "landmarks":
        return volumes, None
    scale = fit_landmarks([v.image for v in volumes], [v.mask for v in volumes], config.percentiles)
    return [StandardisedVolume(volume, scale, config) for volume in volumes], scale


def prepare_healthy(
    manifest: Manifest,
    split: Split,
    config: PreparationConfig,
    *,
    scale: LandmarkScale | None = None,
    cache: Path | None = None,
    quiet: bool = False,
) -> list[PreparedVolume]:
    """Prepare all healthy cases of a split, or open them in a cache, with a progress display.

    ``scale`` as in `prepare_scan`.

    Raises
    ------
    MedvaeError
        At the first case that cannot be prepared: a cohort with a hole is not trained on unnoticed.
    """
    cases = manifest.of_split(split, healthy=True)
    prepared = []
    with Progress(f"Preparing {split} scans", len(cases), quiet=quiet) as progress:
        for done, case in enumerate(cases, start=1):
            prepared.append(prepare_case(manifest, case, config, scale=scale, cache=cache))
            progress.update(done, case=case.id)
    return prepared


def prepare_scan(
    images: Sequence[Path | str],
    config: PreparationConfig,
    *,
    mask: Path | str | None = None,
    scale: LandmarkScale | None = None,
    cache: Path | None = None,
) -> PreparedVolume:
    """Read a scan (one file per modality, on one common grid) and bring it to the standard grid.

    The steps: brain mask, bias field, registration to MNI152, resampling, intensities. Without ``mask`` the brain
    is found as ``config.brain`` says; ``scale`` is the one that a detector has learned for intensities by landmarks
    (``detector.scale``). With ``cache`` (see `medvae.preparation.cache`) a scan that was
    prepared before is opened there, and one that was not is prepared and kept there; the values are the same.

    Raises
    ------
    MedvaeError
        For a file that cannot be read, modalities or a mask on another grid, a brain that is empty or cannot be
        found, or that does not lie where the standard brain lies, or a scale that is missing.
    """
    if config.intensity == "landmarks":
        if scale is None or len(scale.levels) != len(images):
            raise MedvaeError(
                f"{images[0]}: preparation.intensity=landmarks needs the scale that was learned from the training "
                f"scans, for each modality. Give that of the detector (detector.scale), or choose another intensity."
            )
        plain = prepare_scan(images, before_scale(config), mask=mask, cache=cache)
        return StandardisedVolume(plain, scale, config)
    if cache is not None:
        from medvae.preparation.cache import prepare_cached

        return prepare_cached(images, config, mask=mask, cache=cache)
    volumes = [read_volume(image) for image in images]
    first = volumes[0]
    for other in volumes[1:]:
        require_same_grid(other, first.geometry, f"the first modality {first.path}")
    brain, brain_from = _brain(first, mask, config.brain)

    arrays = [volume.array for volume in volumes]
    if config.bias_field == "n4":
        from medvae.preparation.bias import correct_bias

        arrays = [correct_bias(array, brain, first.geometry) for array in arrays]

    transform, registered = np.eye(4), config.registration == "affine"
    _, standard_brain = read_template()
    if config.registration == "auto":
        registered = _dice(_on_grid(brain, first.geometry, transform), standard_brain) < IN_PLACE_DICE
    if registered:
        transform = register(arrays[0], brain, first.geometry, source=str(first.path)).transform

    overlap = _dice(_on_grid(brain, first.geometry, transform), standard_brain)
    if overlap < LOST_DICE:
        raise MedvaeError(
            f"{first.path}: its brain overlaps the MNI152 brain with Dice {overlap:.2f}; at least {LOST_DICE} was "
            f"expected. The scan lies elsewhere or is not a whole brain: set preparation.registration=affine, or "
            f"check its orientation in a viewer."
        )
    prepared = []
    for volume, array in zip(volumes, arrays, strict=True):
        moved, mask_on_grid = move_brain(array, brain, first.geometry, STANDARD_GRID, transform)
        prepared.append(normalise(moved, mask_on_grid, config, str(volume.path)))
    quality = measure_quality(prepared[0], mask_on_grid, transform)
    return PreparedVolume(
        np.stack(prepared), mask_on_grid, first.placement, brain, transform, registered, brain_from, quality
    )


def brain_mask(volume: Volume, mask: Path | str | None, method: BrainMethod = "auto") -> np.ndarray:
    """The brain of a scan on its own grid, ``(X, Y, Z)`` bool: the given mask, or what ``method`` finds.

    Raises
    ------
    MedvaeError
        If the mask is empty or lies on another grid, or no brain can be found.
    """
    return _brain(volume, mask, method)[0]


def _brain(volume: Volume, mask: Path | str | None, method: BrainMethod) -> tuple[np.ndarray, str]:
    if mask is None:
        return find_brain(volume, method)
    given = read_volume(mask)
    require_same_grid(given, volume.geometry, f"its image {volume.path}")
    if not given.array.any():
        raise MedvaeError(f"{mask}: the brain mask is empty. Remove it from the manifest, or make it again.")
    return given.array > 0.5, "given"


def require_same_grid(volume: Volume, expected: Geometry, what: str) -> None:
    """Refuse a volume that lies on another grid than ``what``, saying how far away."""
    found = volume.geometry
    if found.shape != expected.shape:
        raise MedvaeError(f"{volume.path}: has shape {found.shape}, {what} has {expected.shape}. Resample one of them.")
    if not found.same_grid(expected, tolerance_mm=0.1):
        distance = float(np.abs(found.corners_mm() - expected.corners_mm()).max())
        raise MedvaeError(
            f"{volume.path}: lies up to {distance:.1f} mm away from {what} (orientation {found.orientation} against "
            f"{expected.orientation}). Resample it onto that grid, or repair its header."
        )


def _on_grid(mask: np.ndarray, geometry: Geometry, transform: np.ndarray) -> np.ndarray:
    return resample(mask, geometry, STANDARD_GRID, transform=transform) >= 0.5


def _dice(a: np.ndarray, b: np.ndarray) -> float:
    return float(2 * np.count_nonzero(a & b) / max(1, np.count_nonzero(a) + np.count_nonzero(b)))
