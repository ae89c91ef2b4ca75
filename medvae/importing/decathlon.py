"""Medical Segmentation Decathlon: dataset.json with lists of 4D images and 3D labels.

medvae works with one file per modality: overlays, viewers and checks speak of *the* grid and *the* file of a scan. So a
4D image is not used directly; on request (``unpack``) the wanted modalities are written as 3D files next to the
manifest, with the exact placement of the 4D file. Only then is anything but the manifest written: the files are as
large as the data set. Files already unpacked are kept, so that a stopped run can continue.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

from medvae.errors import MedvaeError
from medvae.imaging.endings import scan_name
from medvae.importing.found import Found
from medvae.importing.importer import Importer, Request
from medvae.importing.labels import LESION, channels_of, choose_channels, read_dataset, regions_of
from medvae.importing.ledger import Ledger
from medvae.importing.scan import FoundScan, tidy

if TYPE_CHECKING:
    from medvae.imaging.volume import Volume


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
        Rewrite 3D files that exist already.
    quiet
        No progress display.

    Raises
    ------
    MedvaeError
        If images are 4D and ``unpack`` is None, and for whatever dataset.json lacks.
    """

    ledger = Ledger(source)
    path, content = read_dataset(source)
    channels = channels_of(content, path)
    chosen = choose_channels(channels, modalities, path)
    regions = regions_of(content["labels"], lesion, path)
    there = set(ledger.files)
    readable: list[tuple[Path, Path | None, bool]] = []
    for image, label in _pairs(content, source, path):
        try:
            if image not in there:
                raise MedvaeError("is listed in dataset.json and not there")
            readable.append((image, label if label in there else None, _is_4d(image, len(channels))))
        except MedvaeError as error:
            ledger.skip(image, str(error), name=image.name)
    if not readable:
        raise ledger.nothing_found("Decathlon cases", 'the images that dataset.json lists as "training" and "test"')
    packed = [image for image, _, many in readable if many]
    if packed and unpack is None:
        raise MedvaeError(
            f"{packed[0]}: holds {len(channels)} volumes in one file ({', '.join(channels)}), as do {len(packed)} of "
            f"{len(readable)} images; medvae reads one volume per file. Run the command again with --unpack: the "
            f"volumes are written as {len(packed) * len(chosen)} files beside the manifest. --modality "
            f"{channels[0]} writes only that one."
        )
    scans = []
    names = [channels[index] for index in chosen]
    from medvae.imaging.volume import write_volume
    from medvae.progress import Progress

    with Progress("Unpacking", len(readable), quiet=quiet or not packed) as progress:
        for done, (image, label, many) in enumerate(readable, start=1):
            paths = (
                [unpack / f"{scan_name(image)}_{tidy(name)}.nii.gz" for name in names] if many and unpack else [image]
            )
            if many and (again or not all(path.exists() for path in paths)):
                try:
                    volumes = _read_volumes(image, chosen)
                except MedvaeError as error:
                    ledger.skip(image, str(error), name=image.name)
                    continue
                for volume, path in zip(volumes, paths, strict=True):
                    write_volume(path, volume.array, volume)
            ledger.used([image])
            scans.append(FoundScan(scan_name(image), tuple(paths), label=label))
            progress.update(done, case=scan_name(image))
    if not scans:
        last = ledger.entries[-1]
        raise MedvaeError(f"{source}: no image could be unpacked. {last.what}: {last.why}.")
    notes = [f"Lesion is: {next(iter(regions))}, label values {next(iter(regions.values()))}. Change with --lesion."]
    name = str(content.get("name") or source.resolve().name)
    licence = str(content.get("licence") or content.get("license") or "") or None
    return ledger.close(Found(name, tuple(channels[i] for i in chosen), scans, regions, licence, notes=notes))


def _pairs(content: dict[str, Any], source: Path, path: Path) -> list[tuple[Path, Path | None]]:
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

    from medvae.imaging.content import require_size
    from medvae.signatures import recognised

    try:
        shape = cast("nib.Nifti1Image", nib.load(image)).shape
    except (ImageFileError, OSError, EOFError, ValueError, ArithmeticError, zlib.error) as error:
        raise MedvaeError(f"cannot be read as NIfTI ({recognised(image) or ' '.join(str(error).split())})") from None
    require_size(image, shape)
    if channels == 1 and all(n == 1 for n in shape[3:]):
        return False
    if len(shape) == 4 and shape[3] == channels:
        return True
    raise MedvaeError(f"has shape {tuple(shape)}, dataset.json names {channels} modalities")


def _read_volumes(image: Path, chosen: Sequence[int]) -> list[Volume]:
    """The chosen volumes of a 4D file, with its placement and, but for scaled or 64-bit values, its data type."""
    import nibabel as nib
    import numpy as np

    from medvae.imaging.volume import Geometry, Volume

    packed = cast("nib.Nifti1Image", nib.load(image))
    x, y, z, *_ = packed.shape
    grid = Geometry(packed.affine, (x, y, z))
    try:
        arrays = [np.asarray(packed.dataobj[..., index]) for index in chosen]
    except (OSError, EOFError, ValueError, ArithmeticError, MemoryError, zlib.error) as error:
        raise MedvaeError(f"is cut off or damaged ({error}): download it again") from None
    arrays = [array.astype(np.float32) if array.dtype.itemsize > 4 else array for array in arrays]
    return [Volume(array, grid, packed.header, image) for array in arrays]


@dataclass(frozen=True)
class Options:
    """Of ``medvae manifest decathlon``."""

    modality: Annotated[tuple[str, ...], "Modality, by name; may be repeated. All by default."] = ()
    lesion: Annotated[tuple[str, ...], LESION] = ()
    unpack: Annotated[bool, "Write the volumes of 4D files as 3D files beside the manifest."] = False


def _find(request: Request, options: Options) -> Found:
    folder = request.out.with_name(f"{request.out.stem}_images") if options.unpack else None
    return find_decathlon(
        request.source, options.modality, options.lesion, unpack=folder, again=request.force, quiet=request.quiet
    )


DECATHLON = Importer(
    name="decathlon",
    help="""
    Medical Segmentation Decathlon: a dataset.json that lists images and labels; all for testing.

    Its images hold all modalities in one 4D file, medvae reads one volume per file: --unpack writes those chosen into
    a folder named after the manifest (tumour_images/). What is there already is kept; --overwrite writes it again.
    """,
    example="medvae manifest decathlon Task01_BrainTumour --out tumour.json --modality FLAIR --unpack",
    options=Options,
    find=_find,
    has_healthy=False,
    when_stopped="Stopped, no manifest was written. The same command goes on with what is not unpacked.",
)
