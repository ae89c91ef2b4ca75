"""Cohorts of inserted lesions, one per family, from the healthy scans of a manifest."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from medvae.benchmark.cohorts import combine
from medvae.errors import MedvaeError
from medvae.lesions import FAMILIES, SIZES_ML, insert_cohort, read_shapes
from medvae.manifest import Manifest, Split, read_manifest

COHORT = "cohort.json"
TAKEN: tuple[Split, ...] = ("test", "validation")
"""Splits whose healthy scans lesions are inserted into."""

Choice = TypeVar("Choice", bound=str)


def write_families(
    source: Path | str,
    out: Path | str,
    families: Sequence[str],
    *,
    sizes: Sequence[str] = tuple(SIZES_ML),
    shapes: Path | str | None = None,
    split: str = "test",
    repeats: int = 1,
    seed: int = 0,
    again: bool = False,
    quiet: bool = True,
) -> list[Manifest]:
    """Insert lesions of several families, and write ``OUT/FAMILY/cohort.json`` for each.

    The manifest is written last and lists the scans with lesions and every healthy scan of the source, whatever its
    split. A family that has one is complete and is remade only with ``again``; unfinished ones are remade.

    Raises
    ------
    MedvaeError
        Before anything is written: for an unknown family, size or split, families that exist already, or missing
        shapes. Then as `medvae.lesions.insert_cohort`.
    """
    out = Path(out)
    kinds, bins = _known("--family", families, FAMILIES), _known("--size", sizes, tuple(SIZES_ML))
    (taken,) = _known("--split", [split], TAKEN)
    there = [family for family in kinds if (out / family / COHORT).exists()]
    if there and not again:
        raise MedvaeError(
            f"{out}: holds {', '.join(there)} already. Choose another --out, or replace it with --overwrite."
        )
    if "ms" in kinds and shapes is None:
        raise MedvaeError("--shapes: lesions of the family ms are made of real shapes; give a library of them (.npz).")
    library = read_shapes(shapes) if shapes else None
    cohort = read_manifest(source)
    healthy = [case for case in cohort.cases if case.healthy]
    written = []
    for family in kinds:
        folder = out / family
        (folder / COHORT).unlink(missing_ok=True)
        made = insert_cohort(
            cohort, folder, shapes=library, seed=seed, repeats=repeats, split=taken, family=family, sizes=bins,
            quiet=quiet,
        )  # fmt: skip
        written.append(combine(folder / COHORT, made.name, [(made, made.cases), (cohort, healthy)]))
    return written


def _known(what: str, given: Sequence[str], known: Sequence[Choice]) -> list[Choice]:
    """The given items of ``known``, each once, in the given order."""
    chosen: dict[Choice, None] = {}
    for one in given:
        found = next((choice for choice in known if choice == one), None)
        if found is None:
            raise MedvaeError(f'{what}: "{one}" is none of {", ".join(known)}.')
        chosen[found] = None
    return list(chosen)
