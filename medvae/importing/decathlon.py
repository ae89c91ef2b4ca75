"""Medical Segmentation Decathlon: dataset.json with lists of 4D images and 3D labels.

medvae works with one file per modality: overlays, viewers and checks speak of *the* grid and *the* file of a scan. So
a 4D image is not taken as it is; on request (``unpack``) the modalities that are wanted are written as 3D files beside
the manifest, with the very placement of the 4D file. Only then is anything written besides the manifest: the files are
as large as the data set. What is already unpacked is kept, so that a run that was stopped goes on.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path

from medvae.errors import MedvaeError
from medvae.importing.found import Found, Scan, Skipped, tidy
from medvae.importing.labels import channels_of, choose_channels, read_dataset, regions_of
from medvae.importing.listing import list_files, nothing_found, stem
from medvae.progress import Progress


def find_decathlon(
    source: Path,
    modalities: Sequence[str] = (),
    lesion: Sequence[str] = (),
    *,
    unpack: Path | None = None,
    again: bool = False,
    quiet: bool = False,
) -> Found:
    """Cases of the Decathlon task ``source`` (the folder with dataset.json).

    Parameters
    ----------
    source, modalities, lesion
        The folder, and names of modalities and labels as dataset.json has them.
    unpack
        Folder for the 3D files of 4D images.
    again
        Write 3D files that exist already once more.
    quiet
        No progress display.

    Raises
    ------
    MedvaeError
        If images are 4D and ``unpack`` is None, and for whatever dataset.json lacks.
    """
    files, skipped = list_files(source)
    path, content = read_dataset(source)
    channels = channels_of(content, path)
    chosen = choose_channels(channels, modalities, path)
    regions = regions_of(content["labels"], lesion, path)
    there = set(files)
    readable: list[tuple[Path, Path | None, bool]] = []
    for image, label in _pairs(content, source, path):
        try:
            if image not in there:
                raise MedvaeError("is listed in dataset.json and not there")
            readable.append((image, label if label in there else None, _is_4d(image, len(channels))))
        except MedvaeError as error:
            skipped.append(Skipped(str(image.relative_to(source)), str(error)))
    if not readable:
        raise nothing_found(
            source, files, "Decathlon cases", 'the images that dataset.json lists as "training" and "test"'
        )
    packed = [image for image, _, many in readable if many]
    if packed and unpack is None:
        raise MedvaeError(
            f"{packed[0]}: holds {len(channels)} volumes in one file ({', '.join(channels)}), as do {len(packed)} of "
            f"{len(readable)} images; medvae reads one volume per file. Run the command again with --unpack: the "
            f"volumes are written as {len(packed) * len(chosen)} files beside the manifest. --modality "
            f"{channels[0]} writes only that one."
        )
    scans = []
    with Progress("Unpacking", len(readable), quiet=quiet or not packed) as progress:
        for done, (image, label, many) in enumerate(readable, start=1):
            try:
                images = _unpack(image, [(i, channels[i]) for i in chosen], unpack, again) if many else [image]
                scans.append(Scan(stem(image), tuple(images), label=label))
            except MedvaeError as error:
                skipped.append(Skipped(str(image.relative_to(source)), str(error)))
            progress.update(done, case=stem(image))
    if not scans:
        raise MedvaeError(f"{source}: no image could be unpacked. {skipped[-1].what}: {skipped[-1].why}.")
    notes = [f"Lesion is: {next(iter(regions))}, label values {next(iter(regions.values()))}. Change with --lesion."]
    name = str(content.get("name") or source.resolve().name)
    licence = str(content.get("licence") or content.get("license") or "") or None
    return Found(name, tuple(channels[i] for i in chosen), scans, regions, licence, skipped, notes)


def _pairs(content: dict, source: Path, path: Path) -> list[tuple[Path, Path | None]]:
    """Image and label of the training list, image alone of the test list."""
    try:
        training = [(source / case["image"], source / case["label"]) for case in content.get("training", [])]
        test = [(source / (case if isinstance(case, str) else case["image"]), None) for case in content.get("test", [])]
    except (TypeError, KeyError):
        raise MedvaeError(f'{path}: every entry of "training" needs "image" and "label".') from None
    return training + test


def _is_4d(image: Path, channels: int) -> bool:
    """Whether the file holds one volume per modality, from its header."""
    import nibabel as nib
    from nibabel.filebasedimages import ImageFileError

    try:
        shape = nib.load(image).shape
    except (ImageFileError, OSError, EOFError, ValueError, zlib.error) as error:
        raise MedvaeError(f"cannot be read as NIfTI ({' '.join(str(error).split())})") from None
    if len(shape) == 3 and channels == 1:
        return False
    if len(shape) == 4 and shape[3] == channels:
        return True
    raise MedvaeError(f"has shape {tuple(shape)}, dataset.json names {channels} modalities")


def _unpack(image: Path, chosen: Sequence[tuple[int, str]], folder: Path, again: bool) -> list[Path]:
    """Write the chosen volumes of a 4D file, unless they are there."""
    import nibabel as nib
    import numpy as np

    from medvae.volume import Geometry, Volume, write_volume

    paths = [folder / f"{stem(image)}_{tidy(name)}.nii.gz" for _, name in chosen]
    if all(path.exists() for path in paths) and not again:
        return paths
    packed = nib.load(image)
    grid = Geometry(packed.affine, packed.shape[:3])
    for (index, _), path in zip(chosen, paths, strict=True):
        try:
            array = np.asarray(packed.dataobj[..., index])
        except (OSError, EOFError, ValueError, zlib.error) as error:
            raise MedvaeError(f"is cut off or damaged ({error}): download it again") from None
        if array.dtype.kind == "f" or array.dtype.itemsize > 4:  # scaled integers are read as float64
            array = array.astype(np.float32)
        write_volume(path, array, Volume(array, grid, packed.header))
    return paths
