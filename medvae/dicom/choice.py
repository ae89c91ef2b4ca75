"""Which series of a study is the scan that a detector takes, and why the others are not."""

from __future__ import annotations

from collections.abc import Sequence

from medvae.dicom.series import Series
from medvae.dicom.slices import SECONDARY_CAPTURE
from medvae.dicom.study import Study
from medvae.errors import MedvaeError

FEWEST_SLICES = 10
SHORTEST_MM = 60.0
"""Fewer slices, and less of a head, are a localiser or a slab, not a scan of a brain."""
THIN_MM = 2.5
"""Slices at most this far apart count as 3D: they come before thick ones."""

_LOCALISERS = ("locali", "scout", "survey", "smartbrain", "aahead", "3 plane", "3-plane", "3plane")
"""Words of the descriptions of several vendors."""
_MADE_OF_ANOTHER = {
    "MPR": "a reformatted series",
    "PROJECTION IMAGE": "a projection",
    "MIP": "a projection",
    "MINIP": "a projection",
    "MOSAIC": "a mosaic of slices",
    "SUBTRACTION": "a subtraction",
    "SCREEN SAVE": "a screenshot",
    "SCREENSHOT": "a screenshot",
    "POSDISP": "a picture of slice positions",
    "PHASE MAP": "a phase image",
    "P": "a phase image",
    "R": "a real part",
    "I": "an imaginary part",
}
"""Words of ImageType, from the third on."""


def choose(study: Study, wanted: Sequence[str], *, asked: str | None = None) -> Series:
    """The series for a detector: the one that was asked for, or the only one that fits best.

    Parameters
    ----------
    study
        What there is.
    wanted
        The sequence that the detector takes; of several detectors, each one's; any if there is none.
    asked
        Number or UID of the series; its sequence then does not count, its geometry does.

    Raises
    ------
    MedvaeError
        If there is none or several, or its geometry has a defect. All series are listed.
    """
    best = _best(study.series, wanted)
    intact = [one for one in best if not one.defect]
    if asked is not None:
        chosen = _asked_for(study, asked)
    elif not best:
        raise MedvaeError(
            f"{study.source}: holds no series that is a 3D MR scan of {' or '.join(wanted) or 'a head'}. If one is, "
            f"name it with --series.\n{listing(study, wanted)}"
        )
    elif len(intact) > 1:
        raise MedvaeError(
            f"{study.source}: {len(intact)} series fit the detector. Choose one: "
            f"--series {' or '.join(one.label for one in intact)}.\n{listing(study, wanted)}"
        )
    else:
        chosen = (intact or best)[0]
    if chosen.defect:
        raise MedvaeError(
            f"{study.source}: {chosen.name}: {chosen.defect}. Export the series again, or choose another with --series."
            f"\n{listing(study, wanted)}"
        )
    return chosen


def listing(study: Study, wanted: Sequence[str], chosen: Series | None = None) -> str:
    """A line for each series, with number, description and slices, and why it is left out; and what is in none."""
    best = _best(study.series, wanted)
    numbers = max(len(one.label) for one in study.series)
    texts = [one.first.description[:40] + (f" [{one.part}]" if one.part else "") for one in study.series]
    width = max(map(len, texts))
    lines = [
        f"  {one.label:>{numbers}}  {text:<{width}}  {_size(one)}"
        + ("  <- chosen" if one is chosen else f"  ({why})" if (why := _why_not(one, wanted, best)) else "")
        for one, text in zip(study.series, texts, strict=True)
    ]
    copies = sum({one.first.series: one.copies for one in study.series}.values())
    left = {**study.unread, "a copy of another": copies} if copies else study.unread
    return "\n".join([*lines, *(f"  in no series: {count} DICOM files, {why}" for why, count in left.items())])


def _asked_for(study: Study, asked: str) -> Series:
    found = study.series
    by_label = [one for one in found if asked in (one.label, one.first.series)]
    by_label = by_label or [one for one in found if one.label.split(".")[0] == asked]
    if len(by_label) == 1:
        return by_label[0]
    several = f"--series {asked} stands for several volumes: name one of them" if by_label else ""
    wrong = several or f"has no series {asked}: name one of these"
    raise MedvaeError(f"{study.source}: {wrong} by its number.\n{listing(study, ())}")


def _best(found: Sequence[Series], wanted: Sequence[str]) -> list[Series]:
    """The series that may be the scan, without those that another one is better than."""
    fitting = [one for one in found if not _unfit(one) and (not wanted or one.sequence in (None, *wanted))]
    ranks = [_rank(one) for one in fitting]
    return [one for one, rank in zip(fitting, ranks, strict=True) if rank == min(ranks)]


def _rank(one: Series) -> tuple[bool, bool, bool]:
    """Smaller is better: its description names the sequence, it is no product of another, its slices are thin."""
    return one.sequence is None, "DERIVED" in one.first.image_type, one.step_mm > THIN_MM


def _why_not(one: Series, wanted: Sequence[str], best: Sequence[Series]) -> str:
    """Why a series is not the scan; empty if it may be."""
    if why := _unfit(one):
        return why
    if wanted and one.sequence not in (None, *wanted):
        return f"{one.sequence} by its description"
    if one.defect:
        return one.defect
    if not best or one in best:
        return ""
    mine, others = _rank(one), _rank(best[0])
    reasons = ("its description names no sequence", "made of another series", f"slices {one.step_mm:.3g} mm apart")
    return next(why for why, worse, than in zip(reasons, mine, others, strict=True) if worse > than)


def _unfit(one: Series) -> str:
    """Why a series is no scan of a head, whatever the detector."""
    first = one.first
    text = f"{first.description} {first.protocol}".lower()
    if first.sop_class.startswith(SECONDARY_CAPTURE):
        return "a screenshot"
    if first.modality != "MR":
        return f"{first.modality or 'of no modality'}, not MR"
    if not first.photometric.startswith("MONOCHROME2"):
        return f"{first.photometric or 'not grey'}: colours, or inverted"
    kinds = set(first.image_type[2:])
    if "LOCALIZER" in {kind for slice_ in one.slices for kind in slice_.image_type} or any(
        word in text for word in _LOCALISERS
    ):
        return "a localiser"
    for kind, what in _MADE_OF_ANOTHER.items():
        if kind in kinds:
            return what
    if one.directions > 2 and len(one.slices) < 60:
        return f"a localiser: its slices lie in {one.directions} directions"
    count = len(one.slices)
    if count == 1:
        return "a single slice"
    if count < FEWEST_SLICES or (one.extent_mm and one.extent_mm < SHORTEST_MM):
        return f"{one.extent_mm:.0f} mm: not a whole head"
    return ""


def _size(one: Series) -> str:
    first, count = one.first, len(one.slices)
    lengths = (*(first.spacing or ())[::-1], *([one.step_mm] if one.step_mm else []))
    mm = " × ".join(f"{length:.3g}" for length in lengths)
    return f"{first.modality} {count} slice{'s' * (count != 1)}" + (f" of {mm} mm" if mm else "")
