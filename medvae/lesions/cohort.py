"""Lesions inserted into the healthy scans of a cohort, written as a cohort of their own."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from medvae.errors import MedvaeError
from medvae.files import sha256, write_text
from medvae.lesions.insertion import Settings, insert
from medvae.lesions.shapes import Shapes
from medvae.lesions.tissue import white_matter
from medvae.manifest import Manifest, Split, read_manifest, write_manifest
from medvae.volume import Volume, read_volume, write_volume


def insert_cohort(
    manifest: Manifest,
    out_dir: Path | str,
    *,
    shapes: Shapes,
    seed: int,
    repeats: int = 1,
    split: Split = "test",
    settings: Settings | None = None,
) -> Manifest:
    """Write every healthy case of a split with lesions inserted, and a manifest of them.

    For each case and repeat ``K``: ``ID_inserted-K_T1.nii.gz`` in the scan's own grid and integer type (else
    float32), ``ID_inserted-K_lesions.nii.gz`` (uint8), a copy of the brain mask if the case has one; then
    ``inserted_lesions.csv`` with one line per lesion, and last ``inserted.json``. The lesions of a case depend on
    the seed, its id and the repeat alone.

    Parameters
    ----------
    manifest
        A cohort of skull-stripped T1 scans.
    out_dir
        Folder to write to.
    shapes
        Where the shapes come from.
    seed
        The same seed gives the same files, bit by bit.
    repeats
        Scans with lesions made from each healthy scan.
    split
        The split whose healthy cases are taken; it stays the split of the cases written.
    settings
        How lesions are drawn.

    Returns
    -------
    Manifest
        As read from ``out_dir/inserted.json``. A case's subject is that of the healthy scan.

    Raises
    ------
    MedvaeError
        If the cohort is not T1 alone, has no healthy case in the split, or a file cannot be read or written.
    """
    if list(manifest.modality.values()) != ["T1"]:
        raise MedvaeError(
            f"{manifest.path}: its modalities are {', '.join(manifest.modality.values())}; lesions can be inserted "
            f"into T1 scans only, because their contrast was measured on T1."
        )
    healthy = manifest.of_split(split, healthy=True)
    if not healthy:
        raise MedvaeError(f"{manifest.path}: has no healthy case in the split {split}; choose another split.")
    out = Path(out_dir)
    cases, table = [], ["case,x_mm,y_mm,z_mm,volume_ml,contrast"]
    for case in healthy:
        volume = read_volume(manifest.images(case)[0])
        mask = volume.array != 0 if case.mask is None else read_volume(manifest.resolve(case.mask)).array > 0
        white = white_matter(volume, mask)
        mask_name = None if case.mask is None else f"{case.id}_mask.nii.gz"
        if mask_name:
            write_volume(out / mask_name, mask.astype(np.uint8), volume)
        for repeat in range(repeats):
            rng = _generator(seed, case.id, repeat)
            result = insert(volume, mask, shapes, rng=rng, settings=settings, white=white)
            name = f"{case.id}_inserted-{repeat}"
            image = write_volume(out / f"{name}_T1.nii.gz", _as_stored(result.array, volume), volume)
            write_volume(out / f"{name}_lesions.nii.gz", result.truth.astype(np.uint8), volume, intent="lesions")
            change = {
                "id": name,
                "image": image.name,
                "mask": mask_name,
                "label": f"{name}_lesions.nii.gz",
                "subject": case.subject_id,
                "sha256": sha256(image),
            }
            cases.append(case.model_copy(update=change))
            for one in result.lesions:
                place = ",".join(f"{mm:.1f}" for mm in one.centre_mm)
                table.append(f"{name},{place},{one.volume_ml:.3f},{one.contrast:.4f}")
    write_text(out / "inserted_lesions.csv", "\n".join(table) + "\n")
    written = Manifest(
        name=f"{manifest.name}, lesions inserted", licence=manifest.licence, modality=manifest.modality, cases=cases
    )
    return read_manifest(write_manifest(written, out / "inserted.json"))


def _generator(seed: int, case_id: str, repeat: int) -> np.random.Generator:
    name = int.from_bytes(hashlib.sha256(case_id.encode()).digest()[:8], "big")
    return np.random.default_rng([seed, name, repeat])


def _as_stored(array: np.ndarray, source: Volume) -> np.ndarray:
    """In the source file's integer type, if its values are such; brain stays above 0, the background's value."""
    stored = source.header.get_data_dtype() if source.header is not None else np.dtype(np.float32)
    if stored.kind not in "iu" or not np.array_equal(source.array, np.rint(source.array)):
        return array
    return np.where(source.array > 0, np.maximum(np.rint(array), 1), np.rint(array)).astype(stored)
