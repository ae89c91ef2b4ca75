"""The MR sequences of a scan, a manifest or a detector: their names, and the spellings of a name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

UNKNOWN = "unknown"
"""The modality of a detector that does not state which one it learned, such as those of earlier versions."""

_SPELLINGS = {
    "FLAIR": r"(3d)?(t2w?)?flair(w|3d|space)?|t2f",
    "T1c": r"t1w?(c|ce|gd|gad|post)",
    "T1": r"t1(w|n|wi|weighted|mprage|mpr|spgr)?|mprage",
    "T2": r"t2(w|wi|weighted|tse|fse|spc|space)?",
    "PD": r"pd(w|weighted)?",
    "T2star": r"t2(star|\*)w?",
    "SWI": r"swi",
    "DWI": r"dwi",
    "ADC": r"adc",
}
"""Name to its spellings in lower case without ``-``, ``_`` and spaces: those of BIDS, BraTS, IXI and nnU-Net."""

_BIDS_ENTITY = re.compile(r"(sub|ses|acq|space|desc|run|rec|label|res|den|dir|echo|part|task|mod|chunk|split)-", re.I)


def modality_name(written: str) -> str:
    """The name of a sequence in its common spelling, as ``"T1"`` for ``"t1w"``; as written if it is not known."""
    key = re.sub(r"[-_\s]", "", written).lower()
    return next((name for name, spellings in _SPELLINGS.items() if re.fullmatch(spellings, key)), written)


def modality_of_file(path: Path | str) -> str | None:
    """The sequence at the end of a file's name, as in BIDS and BraTS; None if there is none.

    ``sub-01_FLAIR.nii.gz`` and ``p7_flair_brain.nii`` are FLAIR, ``IXI012-HH-1211-T1.nii.gz`` is T1,
    ``sub-01_ce-gadolinium_T1w.nii.gz`` is T1c; ``sub-01_space-T1w_mask.nii.gz`` says nothing.
    """
    found, _ = _split(Path(path).name)
    agent = found == "T1" and re.search(r"(^|[_.\s])ce-", Path(path).name, re.I)
    return "T1c" if agent else found


def without_modality(name: str) -> str:
    """The name of a scan without its sequence: ``"sub-01"`` of ``"sub-01_FLAIR"``; as it is if it has none."""
    return _split(name)[1]


def _split(name: str) -> tuple[str | None, str]:
    """The sequence at the end of a name, and the name without it."""
    pieces = [piece for piece in re.split(r"[_.\s]", name) if piece]
    for place in reversed(range(len(pieces))):
        piece = pieces[place]
        if _BIDS_ENTITY.match(piece):
            continue
        before, _, last = piece.rpartition("-")
        for candidate, kept in ((piece, ""), (last, before)):
            found = modality_name(candidate)
            if found in _SPELLINGS:
                return found, "_".join(filter(None, [*pieces[:place], kept, *pieces[place + 1 :]]))
    return None, name


def same_modalities(one: Sequence[str], other: Sequence[str]) -> bool:
    """Whether both are the same sequences in the same order, as far as both are known."""
    if UNKNOWN in one or UNKNOWN in other:
        return len(one) == len(other)
    return tuple(one) == tuple(other)


def places_of(wanted: Sequence[str], declared: Sequence[str]) -> list[int] | None:
    """Where each wanted sequence is among the declared ones; None if one is missing or declared more than once.

    Unknown sequences match only if as many are wanted as are declared, in that order.
    """
    if same_modalities(wanted, declared):
        return list(range(len(wanted)))
    declared = list(declared)
    if UNKNOWN in wanted or any(declared.count(name) != 1 for name in wanted):
        return None
    return [declared.index(name) for name in wanted]
