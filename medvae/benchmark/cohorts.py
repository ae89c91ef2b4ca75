"""Combine cases of several manifests, wherever their files are."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from medvae.errors import MedvaeError
from medvae.manifest import Case, Manifest, read_manifest, write_manifest


def combine(
    path: Path | str,
    name: str,
    parts: Sequence[tuple[Manifest, Iterable[Case]]],
    *,
    modalities: Sequence[str] | None = None,
) -> Manifest:
    """Write a manifest of selected cases of several manifests; no image is copied.

    Parameters
    ----------
    path
        The JSON file to write; the paths in it are relative to it.
    name
        Name of the new cohort.
    parts
        Manifests, and the cases to take from each.
    modalities
        Modalities to take, by name; by default those of the first manifest.

    Raises
    ------
    MedvaeError
        If a manifest lacks one of the modalities, two of them define label values differently, or a case id occurs
        twice.
    """
    path = Path(path)
    wanted = list(modalities or parts[0][0].modality.values())
    cases, values, licences = [], {}, []
    for manifest, chosen in parts:
        chosen = list(chosen)
        names = list(manifest.modality.values())
        missing = [one for one in wanted if one not in names]
        if missing:
            raise MedvaeError(f"{manifest.path}: has no {', '.join(missing)}; it has {', '.join(names)}.")
        for case in chosen:
            images = [_relative(manifest.images(case)[names.index(one)], path) for one in wanted]
            checksums = [case.sha256] if isinstance(case.sha256, str) else case.sha256
            change = {
                "image": images[0] if len(images) == 1 else images,
                "mask": _relative(manifest.resolve(case.mask), path) if case.mask else None,
                "label": _relative(manifest.resolve(case.label), path) if case.label else None,
                "sha256": [checksums[names.index(one)] for one in wanted] if checksums else None,
            }
            cases.append(case.model_copy(update=change))
        if any(case.label for case in chosen):
            values[str(manifest.path)] = manifest.label_values
        if manifest.licence and manifest.licence not in licences:
            licences.append(manifest.licence)
    if len({str(found) for found in values.values()}) > 1:
        raise MedvaeError(
            f"{' and '.join(values)} read label values differently: their cases cannot be in one manifest."
        )
    content = Manifest(
        name=name, licence="; ".join(licences) or None, modality={str(i): one for i, one in enumerate(wanted)},
        label_values=next(iter(values.values()), None), cases=[],
    )  # fmt: skip
    return read_manifest(write_manifest(content.model_copy(update={"cases": cases}), path))


def _relative(file: Path, path: Path) -> str:
    try:
        return Path(os.path.relpath(file.resolve(), path.parent.resolve())).as_posix()
    except ValueError:  # on another drive
        return str(file.resolve())
