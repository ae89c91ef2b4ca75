"""The terms of a detector's weights, which go with them wherever they are copied."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from medvae.detection.detector import PRETRAINED, find_detector

NOT_STATED = "not stated: the terms of the scans that it was trained on apply"
_OF_PRETRAINED = {
    **dict.fromkeys(("t1-2mm", "flair-2mm", "t2-2mm"), "CC-BY-SA-3.0"),
    **dict.fromkeys(("flair-rank-2mm", "t2-rank-2mm"), "Apache-2.0"),
}


@dataclass(frozen=True)
class Terms:
    """A licence."""

    licence: str
    """Its SPDX identifier, or a sentence."""
    text: str
    """The notice that is written beside what is exported."""
    card: str | None = None
    """The model card, in Markdown."""


def terms_of(detector: Path | str, licence: str | None = None) -> Terms:
    """The terms of a detector that comes with medvae; of another one the ``licence`` that is stated for it."""
    folder = find_detector(detector)
    if folder.resolve().parent == PRETRAINED.resolve() and folder.name in _OF_PRETRAINED:
        notice = (PRETRAINED / "LICENCES.md").read_text(encoding="utf-8")
        card = PRETRAINED / f"{folder.name}.md"
        return Terms(_OF_PRETRAINED[folder.name], notice, card.read_text(encoding="utf-8"))
    licence = licence or NOT_STATED
    return Terms(licence, f"Licence of the weights of this detector: {licence}.\nmedvae, which runs it: Apache-2.0.\n")
