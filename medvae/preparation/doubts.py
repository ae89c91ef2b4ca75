"""What a person should know before trusting the maps of a prepared scan: one sentence for each cause.

This is the one place where what was measured of a prepared scan becomes sentences. A cause that is known (another
sequence, a small brain, a part that is missing) is said once: numbers of the alignment that it explains are not doubted
as well. Nothing is refused here; see `medvae.preparation.alignment` for places that cannot be right.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medvae.preparation.alignment import doubt
from medvae.preparation.anatomy import (
    BRIGHTEST_SINUS,
    LEAST_CEREBELLUM,
    MOST_SYMMETRY,
    cerebellum_share,
    cut_ends,
    sinus_brightness,
    symmetry,
    uncovered_ends,
)
from medvae.preparation.contrast import unlike
from medvae.preparation.prepared import PreparedVolume
from medvae.preparation.standard_brain import read_template
from medvae.preparation.unusual import CT, SMALLEST_BRAIN_ML, cut_off, unusual_brain

ENHANCED = (
    "its straight sinus is brighter than white matter, as after contrast agent: vessels, and what else takes up the "
    "agent, may be flagged, for the detector learned from T1 without it."
)
OUTLINE = (
    "deepbet, which was trained on T1, found its brain: look at the outline of the map, and give a brain mask in a "
    "manifest if it is wrong."
)


def doubts(volume: PreparedVolume, modalities: Sequence[str], *, needs_place: bool = True) -> tuple[str, ...]:
    """Warnings about a scan, for a detector of these sequences.

    Parameters
    ----------
    volume
        The prepared scan.
    modalities
        What its images are taken for, in their order, as `medvae.modality.modality_name` gives it.
    needs_place
        Whether the detector compares places with the template's. If not, a doubtful place is no matter, and a brain
        that was only centred there does not show where its parts are.
    """
    placed = needs_place or volume.quality is not None
    other = _other_sequence(volume, modalities) if placed else []
    notes = [note for note in volume.notes if note != CT]
    if CT in volume.notes and not (placed and _looks_like_t1(volume, modalities[0])) and modalities[0] != "CT":
        notes, other = [*notes, CT], []
    many = _mean_of_many(volume) if placed else []
    missing, explained = _missing(volume, placed=placed)
    small = [] if missing and placed and _registered_ml(volume) >= SMALLEST_BRAIN_ML else _size(volume)
    if CT in notes or other:
        explained.add("information")
    if small:
        explained.add("scales")
    place = doubt(volume.quality, explained) if volume.quality is not None and needs_place else None
    outline = [OUTLINE] if volume.brain_from == "deepbet" and modalities[0] in ("FLAIR", "T2") else []
    return (*notes, *other, *many, *small, *missing, *([place] if place else []), *outline)


def _other_sequence(volume: PreparedVolume, modalities: Sequence[str]) -> list[str]:
    """Images that do not look like their sequence, and T1 after contrast agent."""
    found = []
    for modality, image in zip(modalities, volume.image, strict=True):
        told = unlike(modality, image, volume.mask, volume.grid)
        if told is None and modality == "T1":
            brightness = sinus_brightness(image, volume.mask, volume.grid)
            told = ENHANCED if brightness is not None and brightness > BRIGHTEST_SINUS else None
        found += [told] if told else []
    return found


def _looks_like_t1(volume: PreparedVolume, modality: str) -> bool:
    """Whether a T1 looks like one, whatever its values."""
    return modality in ("T1", "T1c") and unlike(modality, volume.image[0], volume.mask, volume.grid) is None


def _mean_of_many(volume: PreparedVolume) -> list[str]:
    alike = symmetry(volume.image[0], volume.mask)
    if alike <= MOST_SYMMETRY:
        return []
    return [
        f"its halves mirror each other (correlation {alike:.2f}; one person's 0.84 at most) as in a mean of many "
        f"people, such as an atlas, or a strongly blurred scan: its maps say nothing about a person."
    ]


def _missing(volume: PreparedVolume, *, placed: bool) -> tuple[list[str], set[str]]:
    """Parts of the brain that are missing, and the numbers of the alignment that this explains."""
    cut = cut_ends(np.asarray(volume.source_mask), volume.source.geometry)
    if not placed:
        return list(cut_off(cut)), set()
    uncovered = uncovered_ends(volume.mask, volume.grid)
    cerebellum = cerebellum_share(volume.mask, volume.grid)
    told = []
    if cerebellum < LEAST_CEREBELLUM and "bottom" not in cut:
        uncovered.pop("bottom", None)  # the lower end of the cerebellum
        told.append(
            f"its brain mask covers {cerebellum:.0%} of the place of the cerebellum, which is not searched: if the "
            f"scan shows it, give another brain mask."
        )
    told += cut_off(cut, uncovered)
    return told, {"dice", "scales"} if told else set()


def _size(volume: PreparedVolume) -> list[str]:
    return list(unusual_brain(np.asarray(volume.source_mask), volume.source.geometry))


def _registered_ml(volume: PreparedVolume) -> float:
    """The volume that the template's brain has in the scan's space: that of the whole, also where a part is missing."""
    whole = np.count_nonzero(read_template(volume.grid)[1]) * volume.grid.voxel_volume_ml
    return float(whole * abs(np.linalg.det(volume.transform[:3, :3])))
