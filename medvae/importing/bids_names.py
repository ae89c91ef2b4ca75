"""Names of BIDS files taken apart, and which of them are lesion maps and brain masks."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medvae.imaging.endings import scan_name

SAME_SCAN = ("sub", "ses", "acq", "ce", "rec", "run")
"""Entities that tell one scan from another; the rest (echo, part, desc, …) tell versions of a scan."""
_NATIVE = ("orig", "individual", "scanner")
_MAPS = ("mask", "roi", "msk", "lesion", "lesions", "seg", "dseg", "label", "labels", "pseg", "probseg")


@dataclass(frozen=True)
class BIDSFile:
    """``sub-01_ses-1_T1w`` has the entities sub and ses and the suffix T1w; that of ``sub-01_lesion-msk`` is msk."""

    path: Path
    entities: dict[str, str]
    suffix: str

    def space(self, image_suffix: str) -> str | None:
        """Standard space, or None for the space of the image itself."""
        space = self.entities.get("space")
        return None if space in (*_NATIVE, image_suffix) else space

    def scan(self, names: Sequence[str] = SAME_SCAN) -> tuple[str | None, ...]:
        """What tells one scan from another."""
        return tuple(self.entities.get(name) for name in names)

    @property
    def id(self) -> str:
        """The name of the scan, ``sub-01_ses-1``."""
        return "_".join(f"{name}-{value}" for name, value in self.entities.items() if name in SAME_SCAN)

    def is_lesion_map(self, word: str) -> bool:
        """Whether it is a mask, segmentation or region and the word is in its name, or its label is L, as BIDS has it.

        A word in the name of the subject does not count.
        """
        suffix, word = self.suffix.lower(), word.lower()
        if suffix not in _MAPS and word not in suffix:
            return False
        name = re.sub(r"^sub-[^_]+_", "", scan_name(self.path)).lower()
        return word in name or self.entities.get("label") == "L"

    @property
    def rank(self) -> int:
        """Which of several maps of one lesion to take, the smallest: a mask before a segmentation or probabilities."""
        suffix = self.suffix.lower()
        return _MAPS.index(suffix) if suffix in _MAPS else len(_MAPS)

    @property
    def is_brain_mask(self) -> bool:
        """Whether it is a mask with ``desc-brain`` or ``label-brain``."""
        said = (self.entities.get("desc", "").lower(), self.entities.get("label", "").lower())
        return self.suffix.lower() == "mask" and "brain" in said


def take_apart(path: Path) -> BIDSFile | None:
    """The parts of a file's name; None without a subject."""
    *parts, last = scan_name(path).split("_")
    pairs = [part.split("-", 1) for part in parts if "-" in part]
    entities = {name: value for name, value in pairs}
    return BIDSFile(path, entities, last.rpartition("-")[2]) if entities.get("sub") else None
