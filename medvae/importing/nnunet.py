"""nnU-Net raw data sets, version 2 (``channel_names``) and version 1 (``modality``).

Every scan with a label is a lesion case, every other one unlabelled: both are for testing. nnU-Net's own split into
imagesTr and imagesTs is irrelevant here, because medvae does not learn from labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from medvae.errors import MedvaeError
from medvae.imaging.endings import ENDINGS
from medvae.importing.found import Found
from medvae.importing.importer import Importer, Request
from medvae.importing.labels import LESION, channels_of, choose_channels, read_dataset, regions_of
from medvae.importing.ledger import Ledger
from medvae.importing.scan import FoundScan


def find_nnunet(source: Path, modalities: Sequence[str] = (), lesion: Sequence[str] = ()) -> Found:
    """Cases of the nnU-Net data set ``source`` (the folder with dataset.json).

    Raises
    ------
    MedvaeError
        If there is no dataset.json, no case, or a name is asked for that the file does not have.
    """
    ledger = Ledger(source)
    files = ledger.files
    path, content = read_dataset(source)
    channels = channels_of(content, path)
    chosen = choose_channels(channels, modalities, path)
    regions = regions_of(content["labels"], lesion, path)
    ending = content.get("file_ending", ".nii.gz")
    if ending not in ENDINGS:
        raise MedvaeError(
            f'{path}: "file_ending" is {ending!r}; medvae reads {", ".join(ENDINGS)}. Convert the files first.'
        )
    listed = content.get("dataset")
    cases = (
        _listed(listed, source, path) if isinstance(listed, dict) else _globbed(source, files, ending, len(channels))
    )
    scans = []
    for name, (images, label) in sorted(cases.items()):
        missing = [index for index in chosen if index >= len(images) or not _usable(images[index])]
        if missing:
            ledger.skip(name, f"has no {', '.join(channels[i] for i in missing)} (_{missing[0]:04d}{ending})")
            for file in (*images, label):
                if _usable(file):
                    ledger.skip(file, "belongs to a case that is skipped")
            continue
        for index in sorted(set(range(len(images))) - set(chosen)):
            if _usable(images[index]):
                ledger.skip(images[index], "is another channel: choose with --modality")
        scans.append(FoundScan(name, tuple(images[index] for index in chosen), label=label if _usable(label) else None))
    if not scans:
        plain = [p for p in files if p.parent.name == "imagesTr"]
        advice = f"For {plain[0].name} without _0000, try: medvae manifest decathlon" if plain and not cases else ""
        looked = f"imagesTr/CASE_0000{ending} and imagesTs/CASE_0000{ending}"
        raise ledger.nothing_found("nnU-Net cases", looked, advice)
    notes = [f"Lesion is: {next(iter(regions))}, label values {next(iter(regions.values()))}. Change with --lesion."]
    labelled = sum(scan.label is not None for scan in scans)
    expected = content.get("numTraining")
    if isinstance(expected, int) and expected > labelled:
        notes.append(f"dataset.json promises {expected} training cases, {labelled} with a label were found.")
    name = str(content.get("name") or source.resolve().name)
    wanted = tuple(channels[i] for i in chosen)
    return ledger.close(Found(name, wanted, scans, regions, _licence(content), notes=notes))


def _usable(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0


def _licence(content: dict[str, Any]) -> str | None:
    return str(content.get("licence") or content.get("license") or "") or None


def _globbed(source: Path, files: Sequence[Path], ending: str, channels: int) -> dict[str, tuple[list[Path], Path]]:
    """Images of every channel and the label of each case, by the names that nnU-Net prescribes."""
    cases: dict[str, tuple[list[Path], Path]] = {}
    for images, labels in (("imagesTr", "labelsTr"), ("imagesTs", "labelsTs")):
        for file in files:
            if file.parent != source / images or not file.name.endswith(ending):
                continue
            name, _, number = file.name.removesuffix(ending).rpartition("_")
            if name and len(number) == 4 and number.isdigit():
                names = [source / images / f"{name}_{index:04d}{ending}" for index in range(channels)]
                cases.setdefault(name, (names, source / labels / f"{name}{ending}"))
    return cases


def _listed(listed: dict[str, Any], source: Path, path: Path) -> dict[str, tuple[list[Path], Path]]:
    """Cases of the "dataset" entry, whose paths are relative to dataset.json or absolute."""
    try:
        return {
            name: ([source / image for image in case["images"]], source / case["label"])
            for name, case in listed.items()
        }
    except (TypeError, KeyError):
        raise MedvaeError(f'{path}: every case of "dataset" needs "images" (a list) and "label".') from None


@dataclass(frozen=True)
class Options:
    """Of ``medvae manifest nnunet``."""

    modality: Annotated[tuple[str, ...], "Channel, by name; may be repeated. All by default."] = ()
    lesion: Annotated[tuple[str, ...], LESION] = ()


def _find(request: Request, options: Options) -> Found:
    return find_nnunet(request.source, options.modality, options.lesion)


NNUNET = Importer(
    name="nnunet",
    help="""
    nnU-Net raw data sets (versions 1 and 2): imagesTr, labelsTr and imagesTs with a dataset.json; all for testing.

    Cases with a label are lesion cases, the others unlabelled.
    """,
    example="medvae manifest nnunet nnUNet_raw/Dataset042_Brain --out brain.json --modality FLAIR",
    options=Options,
    find=_find,
    has_healthy=False,
)
