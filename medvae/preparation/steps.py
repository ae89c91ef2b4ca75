"""The steps of preparation, in the order in which they are done: one scan, from its files to the standard grid."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from medvae.config import PreparationConfig
from medvae.errors import MedvaeError
from medvae.imaging.grid import GRIDS, Grid
from medvae.imaging.readers import require_same_grid
from medvae.imaging.volume import Geometry, Volume, read_volume, resample
from medvae.imaging.zero import from_zero
from medvae.preparation.alignment import Misplaced, measure_quality
from medvae.preparation.centring import centre
from medvae.preparation.extraction import given_or_found
from medvae.preparation.intensity import normalise
from medvae.preparation.prepared import InMemory, PreparedVolume
from medvae.preparation.registration import move_brain, register
from medvae.preparation.standard_brain import read_template
from medvae.preparation.unusual import CT, like_ct, unusual_brain, unusual_ends, unusual_values, unusual_voxels

IN_PLACE_DICE = 0.9
"""Overlap with the standard brain above which ``registration: auto`` takes a scan to lie in MNI152 space already."""

LOST_DICE = 0.7
"""Overlap with the standard brain below which an unregistered scan is refused."""

STEP_VERSIONS = {
    "reading": 1,
    "mask": 2,
    "zero": 1,
    "bias_field": 1,
    "registration": 2,
    "resampling": 2,
    "intensity": 1,
}
"""Version of each step, part of the name under which a cache keeps a prepared scan.

Raise a step's number in the commit that may change its result for any scan, even in the last bit: another algorithm,
another default inside the step, a fixed bug. What the `PreparationConfig` says, the template and the standard grid need
no number, they are part of the name themselves. If it is forgotten, users with a cache keep the results of the old
code.
"""


def run_steps(
    images: Sequence[Path | str], config: PreparationConfig, *, mask: Path | str | None = None
) -> PreparedVolume:
    """Read a scan and bring it to the standard grid.

    Intensities by landmarks are left at ``before_scale(config)``; the learned scale follows in
    `medvae.preparation.prepare.prepare_scan`, which documents arguments and errors.
    """
    volumes = [read_volume(image) for image in images]
    return prepare_volumes(volumes, config, mask=None if mask is None else read_volume(mask))


def prepare_volumes(
    volumes: Sequence[Volume], config: PreparationConfig, *, mask: Volume | None = None
) -> PreparedVolume:
    """`run_steps` for a scan that has been read: brain mask, zero, bias field, registration to MNI152, resampling,
    intensities."""
    grid, first = GRIDS[config.grid], volumes[0]
    for other in volumes[1:]:
        require_same_grid(other, first.placement, f"the first modality {first.path}")
    brain, brain_from = given_or_found(first, mask, config.brain)

    notes = tuple(note for volume in volumes for note in [*unusual_voxels(volume), *unusual_values(volume, brain)])
    notes += (CT,) if like_ct(first, brain) else ()

    arrays = [from_zero(volume.array, brain) for volume in volumes]
    if config.bias_field == "n4":
        from medvae.preparation.n4 import correct_bias  # SimpleITK is needed for this step only

        arrays = [correct_bias(array, brain, first.geometry) for array in arrays]

    try:
        place = _place(arrays[0], brain, first, config.registration, grid)
    except Misplaced as error:
        causes = [*notes, *unusual_brain(brain, first.geometry), *unusual_ends(brain, first.geometry)]
        raise Misplaced(" ".join([str(error), *(f"Also, {cause}" for cause in causes)]), error.problems) from None
    prepared = []
    for volume, array in zip(volumes, arrays, strict=True):
        moved, mask_on_grid = move_brain(array, brain, first.geometry, grid.geometry, place.transform)
        prepared.append(normalise(moved, mask_on_grid, config, str(volume.path)))
    quality = None
    if not place.centred:
        quality = measure_quality(prepared[0], mask_on_grid, place.transform, grid)
    made = InMemory(np.stack(prepared), mask_on_grid, brain)
    notes += place.notes
    return PreparedVolume(
        made, first.placement, place.transform, place.registered, brain_from, quality, notes, grid=grid
    )


class _Place(NamedTuple):
    """Where a brain lies on the standard grid."""

    transform: np.ndarray
    """``(4, 4)``, from the standard grid's world to the scan's, in mm."""
    registered: bool
    centred: bool = False
    """Its structures lie near those of the template's at best."""
    notes: tuple[str, ...] = ()


def _place(array: np.ndarray, brain: np.ndarray, scan: Volume, method: str, grid: Grid) -> _Place:
    """Find the place of a scan as ``preparation.registration`` says."""
    where, geometry = np.eye(4), scan.geometry
    standard = read_template(grid)[1]
    registered = method == "affine"
    if method in ("auto", "if_possible"):
        registered = _dice(_on(grid.geometry, brain, geometry, where), standard) < IN_PLACE_DICE
    if registered:
        try:
            where = register(array, brain, geometry, source=str(scan.path), grid=grid).transform
        except Misplaced as error:
            if method != "if_possible":
                raise
            note = (
                f"could not be registered to the MNI152 template ({error.problems}), which this detector does not "
                f"need: the centre of its brain was moved there, and whether the scan looks like its sequence was not "
                f"checked."
            )
            return _Place(centre(brain, geometry, grid), registered=False, centred=True, notes=(note,))
    overlap = _dice(_on(grid.geometry, brain, geometry, where), standard)
    if overlap < LOST_DICE:
        raise MedvaeError(
            f"{scan.path}: its brain overlaps the MNI152 brain with Dice {overlap:.2f}; at least {LOST_DICE} was "
            f"expected. The scan lies elsewhere or is not a whole brain: set preparation.registration=affine, or "
            f"check its orientation in a viewer."
        )
    return _Place(where, registered)


def _on(target: Geometry, mask: np.ndarray, geometry: Geometry, transform: np.ndarray) -> np.ndarray:
    return resample(mask, geometry, target, transform=transform) >= 0.5


def _dice(a: np.ndarray, b: np.ndarray) -> float:
    both = int(np.count_nonzero(a)) + int(np.count_nonzero(b))
    return 2 * int(np.count_nonzero(a & b)) / max(1, both)
