"""One scan session that an importer found: its files and what is known about the subject."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Kind = Literal["healthy", "lesion", "unlabelled"]
Sex = Literal["F", "M", "O"]


@dataclass(frozen=True)
class FoundScan:
    """One scan session: its files and what is known of the person."""

    id: str
    images: tuple[Path, ...]
    """One file per modality."""
    healthy: bool = False
    """Declared free of lesions. A scan that is not, and has no label, is unlabelled."""
    label: Path | None = None
    mask: Path | None = None
    subject: str | None = None
    site: str | None = None
    age: float | None = None
    """In years."""
    sex: Sex | None = None

    @property
    def kind(self) -> Kind:
        """A label decides; without one, what was declared."""
        return "lesion" if self.label else "healthy" if self.healthy else "unlabelled"

    @property
    def subject_id(self) -> str:
        """The person this scan belongs to."""
        from medvae.manifest import person_of  # pydantic comes with it

        return self.subject or person_of(self.id)


def tidy(name: str) -> str:
    """A name that can be a case's id: white space and slashes become underscores."""
    return re.sub(r"[\s/\\]+", "_", name.strip())
