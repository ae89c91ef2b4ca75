"""Is every file of a manifest there, readable and what the manifest says it is?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medvae.errors import MedvaeError
from medvae.manifest import Case, Manifest, checksum_problems
from medvae.preparation.prepare import brain_mask, require_same_grid
from medvae.volume import read_volume


@dataclass(frozen=True)
class CaseCheck:
    """What was found for a case; ``problems`` is empty if all is well."""

    id: str
    split: str
    kind: str
    """healthy, lesion or unlabelled."""
    shape: str
    spacing_mm: str
    orientation: str
    brain_ml: float | None
    lesion_ml: float | None
    problems: tuple[str, ...]


def check_case(manifest: Manifest, case: Case) -> CaseCheck:
    """Read all files of a case and collect what is wrong with them; never raises for a bad file."""
    problems: list[str] = []
    shape = spacing = orientation = "–"
    brain_ml = lesion_ml = None
    try:
        problems += checksum_problems(manifest, case)
        volumes = [read_volume(image) for image in manifest.images(case)]
        first = volumes[0]
        geometry = first.geometry
        shape, orientation = "×".join(map(str, geometry.shape)), geometry.orientation
        spacing = "×".join(f"{s:g}" for s in np.round(geometry.spacing_mm, 2))
        for volume in volumes[1:]:
            require_same_grid(volume, geometry, f"the first modality {first.path.name}")
        mask = brain_mask(first, manifest.resolve(case.mask) if case.mask else None)
        brain_ml = float(mask.sum() * geometry.voxel_volume_ml)
        if case.label:
            label = read_volume(manifest.resolve(case.label))
            require_same_grid(label, geometry, f"its image {first.path.name}")
            lesion = label.array > 0.5
            lesion_ml = float(lesion.sum() * geometry.voxel_volume_ml)
            if not lesion.any():
                problems.append(f"{label.path.name}: is empty; a case without lesion has no label")
            elif not (lesion & mask).any():
                problems.append(f"{label.path.name}: no lesion voxel lies inside the brain")
    except (MedvaeError, OSError) as error:
        problems.append(str(error))
    kind = "healthy" if case.healthy else "unlabelled" if case.unlabelled else "lesion"
    return CaseCheck(case.id, case.split, kind, shape, spacing, orientation, brain_ml, lesion_ml, tuple(problems))
