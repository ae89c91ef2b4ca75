"""Lesions inserted into the healthy scans of a cohort, written as a cohort of their own."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path

import numpy as np

from medvae.errors import MedvaeError
from medvae.files import sha256, write_text
from medvae.imaging.volume import Volume, read_volume, write_volume
from medvae.lesions.families import SIZES_ML, Family, Size, insert_family
from medvae.lesions.geometry import Scene
from medvae.lesions.insertion import Inserted, Settings, insert
from medvae.lesions.outlines import Shapes
from medvae.lesions.tissue import white_matter
from medvae.manifest import Manifest, Split, read_manifest, write_manifest
from medvae.progress import Progress


def insert_cohort(
    manifest: Manifest,
    out_dir: Path | str,
    *,
    shapes: Shapes | None = None,
    seed: int,
    repeats: int = 1,
    split: Split = "test",
    settings: Settings | None = None,
    family: Family = "ms",
    sizes: Sequence[Size] = tuple(SIZES_ML),
    quiet: bool = True,
) -> Manifest:
    """Write every healthy case of a split with lesions inserted, and a manifest of them.

    For each case and repeat ``K``: ``ID_inserted-K_T1.nii.gz`` in the scan's own grid and integer type (else
    float32), ``ID_inserted-K_lesions.nii.gz`` (uint8), a copy of the brain mask if the case has one; then
    ``inserted_lesions.csv`` with one line per lesion, and last ``inserted.json``. The lesions of a case depend on
    the seed, its id and the repeat alone. Another family than ``ms`` gives a scan with one lesion for each size, called
    ``ID_FAMILY-SIZE-K``.

    Parameters
    ----------
    manifest
        A cohort of skull-stripped T1 scans.
    out_dir
        Folder to write to.
    shapes
        Where the shapes of ``ms`` come from; the other families need none.
    seed
        The same seed gives the same files, bit by bit.
    repeats
        Scans with lesions made from each healthy scan.
    split
        The split whose healthy cases are taken; it stays the split of the cases written.
    settings
        How lesions of ``ms`` are drawn.
    family
        Kind of lesion, see `medvae.lesions.families`.
    sizes
        Of the lesions of the other families.
    quiet
        No progress display.

    Returns
    -------
    Manifest
        As read from ``out_dir/inserted.json``. A case's subject is that of the healthy scan.

    Raises
    ------
    MedvaeError
        If the cohort is not T1 alone, has no healthy case in the split, shapes are missing, or a file cannot be read or
        written.
    """
    if list(manifest.modality.values()) != ["T1"]:
        raise MedvaeError(
            f"{manifest.path}: its modalities are {', '.join(manifest.modality.values())}; lesions can be inserted "
            f"into T1 scans only, because their contrast was measured on T1."
        )
    healthy = manifest.of_split(split, healthy=True)
    if not healthy:
        raise MedvaeError(f"{manifest.path}: has no healthy case in the split {split}; choose another split.")
    if family != "ms":
        shapes = None
    elif shapes is None:
        raise MedvaeError("lesions of the family ms are made of real shapes: give a library of them (.npz).")
    out = Path(out_dir)
    cases, table = [], ["case,x_mm,y_mm,z_mm,volume_ml,contrast"]
    kinds = 1 if family == "ms" else len(sizes)
    progress = Progress(f"Inserting {family}", len(healthy) * repeats * kinds, quiet=quiet)
    with progress:
        for case in healthy:
            volume = read_volume(manifest.images(case)[0])
            mask = volume.array != 0 if case.mask is None else read_volume(manifest.resolve(case.mask)).array > 0
            makers = _makers(volume, mask, family, sizes, shapes, settings)
            mask_name = None if case.mask is None else f"{case.id}_mask.nii.gz"
            if mask_name:
                write_volume(out / mask_name, mask.astype(np.uint8), volume)
            for repeat, (kind, make) in product(range(repeats), makers.items()):
                result = make(_generator(seed, case.id, repeat, kind))
                name = f"{case.id}_{kind}-{repeat}"
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
                progress.update(len(cases), case=name)
    write_text(out / "inserted_lesions.csv", "\n".join(table) + "\n")
    written = Manifest(
        name=f"{manifest.name}, {'lesions' if family == 'ms' else family} inserted", licence=manifest.licence,
        modality=manifest.modality, cases=cases,
    )  # fmt: skip
    return read_manifest(write_manifest(written, out / "inserted.json"))


def _makers(
    volume: Volume,
    mask: np.ndarray,
    family: Family,
    sizes: Sequence[Size],
    shapes: Shapes | None,
    settings: Settings | None,
) -> dict[str, Callable[[np.random.Generator], Inserted]]:
    """Kind of lesions, as in a scan's name, to what inserts them into one scan, whose tissues are looked for once.

    ``shapes`` are those of ``ms``, None for another family.
    """
    if shapes is not None:
        library, white = shapes, white_matter(volume, mask)
        return {"inserted": lambda rng: insert(volume, mask, library, rng=rng, settings=settings, white=white)}
    scene = Scene.of(volume, mask)

    def of_size(size: Size) -> Callable[[np.random.Generator], Inserted]:
        return lambda rng: insert_family(volume, mask, family, size, rng=rng, scene=scene)

    return {f"{family}-{size}": of_size(size) for size in sizes}


def _generator(seed: int, case_id: str, repeat: int, kind: str) -> np.random.Generator:
    words = [case_id] if kind == "inserted" else [case_id, kind]
    names = [int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "big") for word in words]
    return np.random.default_rng([seed, *names, repeat])


def _as_stored(array: np.ndarray, source: Volume) -> np.ndarray:
    """In the source file's integer type, if its values are such and all fit; brain stays above the background's 0."""
    stored = source.header.get_data_dtype() if source.header is not None else np.dtype(np.float32)
    if stored.kind not in "iu" or not np.array_equal(source.array, np.rint(source.array)):
        return array
    if np.rint(array.max()) > np.iinfo(stored).max:  # a bright lesion
        return array
    return np.where(source.array > 0, np.maximum(np.rint(array), 1), np.rint(array)).astype(stored)
