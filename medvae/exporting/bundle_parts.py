"""What the config of a bundle names by ``_target_``: the parts between MONAI's data set and MONAI's writer.

A bundle keeps the dotted names of this file, so they stay as they are.
"""

from __future__ import annotations

import functools
import importlib.metadata
import warnings
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch
from monai.config.type_definitions import KeysCollection
from monai.data.meta_tensor import MetaTensor
from monai.transforms.transform import MapTransform
from torch import nn

from medvae.detection.base import Calibrated
from medvae.detection.ensemble import Ensemble, load_detector
from medvae.detection.scan import Scan, scan_of, scans_of_files
from medvae.errors import MedvaeError, MedvaeWarning
from medvae.imaging.endings import ENDINGS
from medvae.modality import UNKNOWN, modality_of_file
from medvae.schema import read_object

DETECTOR, METADATA = "models/detector", "configs/metadata.json"
SCAN, PREPARED = "scan", "prepared"

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def ends(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """A function whose `MedvaeError` ends the program with exit code 1 and its sentence.

    MONAI wraps every other exception in one of its own, and the sentence would stand within a hundred lines.
    """

    @functools.wraps(function)
    def wrapped(*arguments: Arguments.args, **named: Arguments.kwargs) -> Result:
        try:
            return function(*arguments, **named)
        except MedvaeError as error:
            raise SystemExit(f"medvae: {error}") from None

    return wrapped


@ends
def load_bundle(bundle_root: Path | str, device: str = "auto") -> Calibrated:
    """The detector of a bundle, with a `MedvaeWarning` if the bundle was made with another MONAI.

    Raises
    ------
    SystemExit
        If there is no bundle in the folder.
    """
    root = Path(bundle_root)
    if not (root / DETECTOR).is_dir():
        raise MedvaeError(
            f"{root.resolve()}: is no bundle that medvae has exported. Run the command in the bundle's folder, or add "
            f"--bundle_root BUNDLE."
        )
    made, here = read_object(root / METADATA).get("monai_version"), importlib.metadata.version("monai")
    if made != here:
        warnings.warn(
            MedvaeWarning(
                f"{root / METADATA}: the bundle was made with MONAI {made}, and {here} is installed. Compare the map "
                f"of one scan with that of medvae predict {root / DETECTOR} before relying on it."
            ),
            stacklevel=2,
        )
    return load_detector(root / DETECTOR, device=device)


class Networks(nn.ModuleDict):
    """The networks of a detector by their members' names; those of one that has none are empty."""

    def __init__(self, detector: Calibrated) -> None:
        members = detector.members if isinstance(detector, Ensemble) else {detector.config.name: detector}
        found = {name: getattr(member, "network", None) for name, member in members.items()}
        super().__init__({name.replace(".", "_"): network for name, network in found.items() if network is not None})


@ends
def scans_of_folder(folder: Path | str, detector: Calibrated) -> list[dict[str, Any]]:
    """The scans of a folder for `monai.data.Dataset`: ``{"image": file or files, "scan": Scan}`` each.

    A detector of several sequences is given the files that differ only in the sequence at the end of their names.

    Raises
    ------
    SystemExit
        If the folder holds no scan, or a sequence of one is missing.
    """
    folder = Path(folder)
    files = sorted(path for path in folder.glob("*") if path.name.lower().endswith(ENDINGS) and path.is_file())
    if not files:
        raise MedvaeError(f"{folder}: holds no scan ({', '.join(ENDINGS)}). Give the folder by --dataset_dir.")
    scans = scans_of_files(files) if detector.channels == 1 else _by_sequences(files, detector.modalities)
    return [{"image": [str(image) for image in scan.images], SCAN: scan} for scan in scans]


def _by_sequences(files: Sequence[Path], wanted: Sequence[str]) -> list[Scan]:
    if UNKNOWN in wanted:
        raise MedvaeError("The detector does not say which sequences it takes: use medvae predict with a manifest.")
    people: dict[str, dict[str, Path]] = {}
    for file in files:
        sequence = modality_of_file(file)
        if sequence in wanted:
            stem = file.name.partition(".")[0]
            person = stem.rpartition("_")[0] or stem
            people.setdefault(person, {})[str(sequence)] = file
    for person, images in people.items():
        if missing := [sequence for sequence in wanted if sequence not in images]:
            raise MedvaeError(
                f'{files[0].parent}: "{person}" has no {" and no ".join(missing)}; files are called '
                f"{person}_{missing[0]}.nii.gz. Add it, or take the other files of {person} away."
            )
    if not people:
        raise MedvaeError(f"{files[0].parent}: no file's name ends in {' or '.join(wanted)}.")
    return [scan_of(images) for images in people.values()]


class PrepareScand(MapTransform):
    """Prepare a scan as the detector needs it: the value of ``keys`` stays, `PREPARED` is added."""

    def __init__(self, keys: KeysCollection, detector: Calibrated) -> None:
        super().__init__(keys)
        self.detector = detector

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """``data`` with the `medvae.preparation.prepared.PreparedVolume` of its scan."""
        scan: Scan = data[SCAN]
        return dict(data) | {PREPARED: scan.prepare(self.detector)}


class FindLesionsd(MapTransform):
    """The maps of a prepared scan: ``anomaly``, ``lesion`` and, of an ensemble, ``spread``, on the scan's own grid."""

    def __init__(self, keys: KeysCollection, detector: Calibrated) -> None:
        super().__init__(keys)
        self.detector = detector
        self.point = detector.point(detector.config.calibration.mask_at)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """``data`` with maps ``(1, X, Y, Z)``; what is unusual about the scan is a `MedvaeWarning`."""
        scan: Scan = data[SCAN]
        volume = data[PREPARED]
        found = self.detector.native_maps(volume, self.point)
        for note in found.notes:
            warnings.warn(MedvaeWarning(f"{scan.id}: {note}"), stacklevel=2)
        arrays = {"anomaly": found.anomaly, "lesion": found.lesion_mask, "spread": found.spread}
        geometry = volume.source.geometry
        affine = torch.from_numpy(geometry.affine.copy())
        # As MONAI's reader tells it; without the shape its writer takes permuted axes for those of a slice, and fails.
        told: dict[str, Any] = {"original_affine": affine.numpy(), "spatial_shape": np.array(geometry.shape)}
        told |= {"filename_or_obj": f"{scan.id}.nii.gz"}
        maps = {
            key: MetaTensor(torch.from_numpy(array)[None], affine=affine, meta=dict(told))
            for key, array in arrays.items()
            if array is not None
        }
        return {key: value for key, value in data.items() if key != PREPARED} | maps


@ends
def run_each(
    dataset: Sequence[dict[Hashable, Any]],
    inferer: Callable[[Any], Any],
    postprocessing: Callable[[Any], Any],
) -> None:
    """Carry out the steps for each scan; one that fails stops no other.

    Raises
    ------
    SystemExit
        At the end, if scans have failed: why.
    """
    failures = []
    for index in range(len(dataset)):
        try:
            done = postprocessing(inferer(dataset[index]))
        except (MedvaeError, RuntimeError) as error:  # MONAI says with which transform, and keeps the cause
            failures.append(str(_cause(error)))
            continue
        print(f"{done[SCAN].id}: done", flush=True)
    if failures:
        raise MedvaeError("\n".join([*failures, f"{len(failures)} of {len(dataset)} scans failed."]))


def _cause(error: BaseException) -> MedvaeError:
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, MedvaeError):
            return link
        link = link.__cause__
    raise error
