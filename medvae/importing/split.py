"""Training, validation and test split: by subject, seeded, balanced by site and age."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from medvae.errors import MedvaeError
from medvae.importing.scan import FoundScan
from medvae.manifest import Split

AGE_GROUP_YEARS = 10


@dataclass(frozen=True)
class Fractions:
    """Fractions of the healthy subjects; the rest is for testing."""

    train: float = 0.7
    validation: float = 0.15

    def __post_init__(self) -> None:
        if not (0 <= self.train <= 1 and 0 <= self.validation <= 1 and self.train + self.validation <= 1 + 1e-9):
            raise MedvaeError(
                f"--train {self.train:g} and --validation {self.validation:g} must be shares from 0 to 1 that add up "
                f"to at most 1; the rest is for testing. For instance --train 0.7 --validation 0.15."
            )

    def shares(self) -> dict[Split, float]:
        """Share of each split."""
        return {"train": self.train, "validation": self.validation, "test": 1 - self.train - self.validation}


def split_subjects(scans: Sequence[FoundScan], fractions: Fractions, seed: int) -> dict[str, Split]:
    """The split of every subject.

    A subject with a lesion or an unlabelled scan goes to test. The healthy ones are ordered by site and ten-year age
    group, at random within a group, and assigned one by one to the split that lacks most of its share so far. So every
    group is split in the same proportions, as far as its size allows, and the remainder of a small group evens out in
    the next. The order at random is a hash of seed and person: it does not depend on the order of ``scans``.
    """
    people: dict[str, list[FoundScan]] = {}
    for scan in sorted(scans, key=lambda scan: scan.id):
        people.setdefault(scan.subject_id, []).append(scan)
    healthy = {name: own for name, own in people.items() if all(scan.kind == "healthy" for scan in own)}
    result: dict[str, Split] = {name: "test" for name in people if name not in healthy}

    def place(name: str) -> tuple[str, float, str]:
        first = healthy[name][0]
        group = -1 if first.age is None else first.age // AGE_GROUP_YEARS
        return first.site or "", group, hashlib.sha256(f"{seed}:{name}".encode()).hexdigest()

    shares = fractions.shares()
    counts: dict[Split, int] = dict.fromkeys(shares, 0)
    for done, name in enumerate(sorted(healthy, key=place), start=1):
        # Rounded, so that 0.7 + 0.15 and its rest compare equal where they are meant to.
        split = max(shares, key=lambda s: round(shares[s] * done - counts[s], 9))
        counts[split] += 1
        result[name] = split
    return result
