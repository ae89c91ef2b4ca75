"""One scan, prepared: each step in the order it is done, and what is needed to go back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy import ndimage

from medvae.config import BrainMethod, PreparationConfig
from medvae.errors import MedvaeError
from medvae.manifest import Case, Manifest, Split
from medvae.preparation.extraction import find_brain
from medvae.preparation.grid import STANDARD_GRID
from medvae.preparation.intensity import limited, normalise, on_scale
from medvae.preparation.landmarks import LandmarkScale, fit_landmarks
from medvae.preparation.registration import RegistrationQuality, measure_quality, move_brain, read_template, register
from medvae.progress import Progress
from medvae.volume import Geometry, Volume, read_volume, resample

IN_PLACE_DICE = 0.9
"""Overlap with the standard brain above which ``registration: auto`` takes a scan to lie in MNI152 space already."""

LOST_DICE = 0.7
"""Overlap with the standard brain below which an unregistered scan is refused."""


@dataclass(frozen=True)
class PreparedVolume:
    """A scan on the standard grid, and the way back to its own.

    ``image`` ``(C, X, Y, Z)`` float32 and ``mask`` ``(X, Y, Z)`` bool lie on the standard grid; ``source`` is the
    first modality as it was read, ``source_mask`` the brain on the source's grid, and ``transform`` ``(4, 4)``
    leads from the standard grid's world to the source's, in mm. ``brain_from`` says where the mask was taken from
    ("given", "background", "deepbet" or "hdbet"), ``quality`` how well the brain lies on the template.
    """

    image: np.ndarray
    mask: np.ndarray
    source: Volume
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


def prepare_case(
    manifest: Manifest, case: Case, config: PreparationConfig, *, scale: LandmarkScale | None = None
) -> PreparedVolume:
    """Read and prepare a case of a manifest; ``scale`` as in :func:`prepare_scan`.

    Raises
    ------
    MedvaeError
        Naming the manifest, the case and the file.
    """
    try:
        mask = manifest.resolve(case.mask) if case.mask else None
        return prepare_scan(manifest.images(case), config, mask=mask, scale=scale)
    except MedvaeError as error:
        raise MedvaeError(f'{manifest.path}: case "{case.id}": {error}') from None


def prepare_training(
    manifest: Manifest, config: PreparationConfig, *, quiet: bool = False
) -> tuple[list[PreparedVolume], LandmarkScale | None]:
    """Prepare the healthy training scans and, for intensities by landmarks, learn the scale from them.

    Raises
    ------
    MedvaeError
        As :func:`prepare_healthy` and :func:`fit_landmarks`.
    """
    if config.intensity != "landmarks":
        return prepare_healthy(manifest, "train", config, quiet=quiet), None
    plain = config.model_copy(update={"intensity": "percentile", "clip": None})
    volumes = prepare_healthy(manifest, "train", plain, quiet=quiet)
    scale = fit_landmarks([v.image for v in volumes], [v.mask for v in volumes], config.percentiles)
    return [_standardised(volume, scale, config) for volume in volumes], scale


def prepare_healthy(
    manifest: Manifest,
    split: Split,
    config: PreparationConfig,
    *,
    scale: LandmarkScale | None = None,
    quiet: bool = False,
) -> list[PreparedVolume]:
    """Prepare all healthy cases of a split, with a progress display; ``scale`` as in :func:`prepare_scan`.

    Raises
    ------
    MedvaeError
        At the first case that cannot be prepared: a cohort with a hole is not trained on unnoticed.
    """
    cases = manifest.of_split(split, healthy=True)
    prepared = []
    with Progress(f"Preparing {split} scans", len(cases), quiet=quiet) as progress:
        for done, case in enumerate(cases, start=1):
            prepared.append(prepare_case(manifest, case, config, scale=scale))
            progress.update(done, case=case.id)
    return prepared


def prepare_scan(
    images: Sequence[Path | str],
    config: PreparationConfig,
    *,
    mask: Path | str | None = None,
    scale: LandmarkScale | None = None,
) -> PreparedVolume:
    """Read a scan (one file per modality, on one common grid) and bring it to the standard grid.

    The steps: brain mask, bias field, registration to MNI152, resampling, intensities. Without ``mask`` the brain
    is found as ``config.brain`` says; ``scale`` is the one that a detector has learned for intensities by landmarks.

    Raises
    ------
    MedvaeError
        For a file that cannot be read, modalities or a mask on another grid, a brain that is empty or cannot be
        found, or that does not lie where the standard brain lies.
    """
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
    for modality, (volume, array) in enumerate(zip(volumes, arrays, strict=True)):
        moved, mask_on_grid = move_brain(array, brain, first.geometry, STANDARD_GRID, transform)
        source = str(volume.path)
        prepared.append(normalise(moved, mask_on_grid, config, source, scale=scale, modality=modality))
    quality = measure_quality(prepared[0], mask_on_grid, transform)
    return PreparedVolume(np.stack(prepared), mask_on_grid, first, brain, transform, registered, brain_from, quality)


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


def _standardised(volume: PreparedVolume, scale: LandmarkScale, config: PreparationConfig) -> PreparedVolume:
    """A volume that was prepared with unlimited percentiles, on the learned scale: what `normalise` would give."""
    mask, source = volume.mask, str(volume.source.path)
    channels = [
        limited(on_scale(channel, mask, scale, modality, source), mask, config)
        for modality, channel in enumerate(volume.image)
    ]
    return replace(volume, image=np.stack(channels))


def _on_grid(mask: np.ndarray, geometry: Geometry, transform: np.ndarray) -> np.ndarray:
    return resample(mask, geometry, STANDARD_GRID, transform=transform) >= 0.5


def _dice(a: np.ndarray, b: np.ndarray) -> float:
    return float(2 * np.count_nonzero(a & b) / max(1, np.count_nonzero(a) + np.count_nonzero(b)))
