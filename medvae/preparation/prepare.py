"""Scans prepared, or opened in a cache where they were prepared before."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from medvae.config import PreparationConfig
from medvae.errors import MedvaeError
from medvae.imaging.volume import volume_of_array
from medvae.manifest import Case, Manifest, Split
from medvae.preparation.cache import prepare_cached
from medvae.preparation.intensity import before_scale
from medvae.preparation.landmarks import LandmarkScale, fit_landmarks
from medvae.preparation.prepared import PreparedVolume, standardised
from medvae.preparation.steps import prepare_volumes, run_steps
from medvae.progress import Progress


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
    manifest: Manifest,
    config: PreparationConfig,
    *,
    scale: LandmarkScale | None = None,
    cache: Path | None = None,
    quiet: bool = False,
) -> tuple[list[PreparedVolume], LandmarkScale | None]:
    """Prepare the healthy training scans and, for intensities by landmarks, learn the scale from them.

    With a ``scale`` that was learned before, that one is used.

    Raises
    ------
    MedvaeError
        As `prepare_healthy` and `fit_landmarks`.
    """
    volumes = prepare_healthy(manifest, "train", before_scale(config), cache=cache, quiet=quiet)
    if config.intensity != "landmarks":
        return volumes, None
    scale = scale or fit_landmarks([v.image for v in volumes], [v.mask for v in volumes], config.percentiles)
    return [standardised(volume, scale, config) for volume in volumes], scale


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
        At the first case that cannot be prepared: training never silently skips a case.
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
    _require_scale(config, scale, len(images), images[0])
    plain = before_scale(config)
    if cache is not None:
        return _on_scale(prepare_cached(images, plain, mask=mask, cache=cache), config, scale)
    return _on_scale(run_steps(images, plain, mask=mask), config, scale)


def prepare_array(
    images: np.ndarray,
    affine: np.ndarray,
    config: PreparationConfig,
    *,
    mask: np.ndarray | None = None,
    scale: LandmarkScale | None = None,
) -> PreparedVolume:
    """`prepare_scan` for a scan in memory: the result is the one of its file.

    Parameters
    ----------
    images
        ``(C, X, Y, Z)``, one for each modality.
    affine
        ``(4, 4)``, voxel index to world coordinates in mm, RAS+.
    config, scale
        As in `prepare_scan`.
    mask
        ``(X, Y, Z)``, the brain, where it is above 0.5.

    Raises
    ------
    MedvaeError
        As `prepare_scan`.
    """
    names = [f"channel {number} of the array" for number in range(len(images))] if len(images) > 1 else ["the array"]
    _require_scale(config, scale, len(images), names[0])
    volumes = [volume_of_array(image, affine, name) for image, name in zip(images, names, strict=True)]
    given = None if mask is None else volume_of_array(mask, affine, "the mask")
    return _on_scale(prepare_volumes(volumes, before_scale(config), mask=given), config, scale)


def _require_scale(config: PreparationConfig, scale: LandmarkScale | None, images: int, source: Path | str) -> None:
    if config.intensity == "landmarks" and (scale is None or len(scale.levels) != images):
        raise MedvaeError(
            f"{source}: preparation.intensity=landmarks needs the scale that was learned from the training "
            f"scans, for each modality. Give that of the detector (detector.scale), or choose another intensity."
        )


def _on_scale(volume: PreparedVolume, config: PreparationConfig, scale: LandmarkScale | None) -> PreparedVolume:
    if scale is None or config.intensity != "landmarks":
        return volume
    return standardised(volume, scale, config)
