"""What an importer found in a folder."""

from __future__ import annotations

from dataclasses import dataclass, field

from medvae.importing.scan import FoundScan


@dataclass(frozen=True)
class Skipped:
    """A file or case that is not in the manifest, and why."""

    what: str
    why: str
    sort: str = ""
    """What entries whose ``why`` differs in details have in common; they are shown together."""


@dataclass(frozen=True)
class Found:
    """The result of reading a folder."""

    name: str
    """Name of the cohort."""
    modality: tuple[str, ...]
    scans: list[FoundScan]
    label_values: dict[str, list[int]] | None = None
    licence: str | None = None
    skipped: list[Skipped] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What the user should know: what was assumed, what is missing."""
    accounted: bool = False
    """Whether a `medvae.importing.ledger.Ledger` has seen to it that every image is used or skipped."""
