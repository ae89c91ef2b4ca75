"""Which of the detectors that come with medvae is for a scan's sequence: ``medvae predict auto``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from medvae.config import PreparationConfig
from medvae.detection.detector import PRETRAINED, pretrained
from medvae.detection.ensemble import load_detector
from medvae.detection.joined import JOINT, Joined
from medvae.detection.scan import Scan
from medvae.detection.stored import read_calibration, stored_modalities
from medvae.devices import AUTO as DEVICE
from medvae.errors import MedvaeError
from medvae.preparation.contrast import tissue_contrast
from medvae.preparation.prepare import prepare_scan

AUTO = "auto"
"""Asks for the detector of a scan's sequence; `medvae.detection.joined.JOINT` for those of all its sequences."""
_LOOK = PreparationConfig(bias_field="n4", registration="if_possible")


class Choice(NamedTuple):
    """A detector that comes with medvae, and why it was chosen."""

    name: str
    reason: str


def is_joint(run: Path | str) -> bool:
    """Whether ``run`` asks for the detectors of all sequences, joined, and does not name a folder on disk."""
    return str(run) == JOINT and not Path(run).exists()


def joint_detector(scans: Sequence[Scan], *, device: str = DEVICE) -> Joined:
    """The detectors that come with medvae for the sequences of some scans, as one.

    Raises
    ------
    MedvaeError
        If the scans do not declare two or more sequences for which there is a detector, all the same ones.
    """
    known = by_sequence()
    declared = {scan.modalities for scan in scans}
    if len(declared) > 1 or None in declared:
        raise MedvaeError(
            f"{JOINT}: is for scans of several sequences each, as a manifest lists them or file names say, with "
            f"the same ones for all. For files of one sequence name its detector, or auto."
        )
    (names,) = declared
    fitting = [name for name in dict.fromkeys(names or ()) if name in known]
    if len(fitting) < 2:
        raise MedvaeError(
            f"{JOINT}: of {', '.join(names or ())} there is a detector for {', '.join(fitting) or 'none'}; two or more "
            f"of {', '.join(known)} were expected. For one sequence take auto."
        )
    return Joined.of({name: load_detector(known[name], device=device) for name in fitting})


def is_auto(run: Path | str) -> bool:
    """Whether ``run`` asks for a choice, and does not name a folder on disk."""
    return str(run) == AUTO and not Path(run).exists()


def by_sequence() -> dict[str, str]:
    """The names of the detectors that come with medvae, by the one sequence that each takes.

    Of several, the one that learned from scans.
    """
    known: dict[str, str] = {}
    learned: set[str] = set()
    for name in pretrained():
        folder = PRETRAINED / name
        stored = read_calibration(folder)
        modalities = stored_modalities(folder, stored)
        if len(modalities) == 1 and modalities[0] not in learned:
            known[modalities[0]] = name
            if stored.calibrated_on_healthy_scans["validation"]:
                learned.add(modalities[0])
    return known


def choose_detector(scans: Sequence[Scan]) -> Choice:
    """The one detector for some scans.

    A scan's sequence is the one that its manifest or its file's name declares; where nothing does, the scan is prepared
    and its tissues are compared (`medvae.preparation.contrast`), which takes as long as a prediction.

    Parameters
    ----------
    scans
        At least one scan.

    Raises
    ------
    MedvaeError
        If there is no detector for a scan's sequence, or several; if the sequence is neither declared nor evident; or
        if the scans need different detectors. Says which there are.
    """
    known = by_sequence()
    choices: dict[str, list[Scan]] = {}
    reasons: dict[str, str] = {}
    for scan in scans:
        choice = _of_one(scan, known)
        choices.setdefault(choice.name, []).append(scan)
        reasons.setdefault(choice.name, choice.reason)
    if len(choices) > 1:
        needed = "; ".join(f"{name} for {_some(of)}" for name, of in choices.items())
        raise MedvaeError(
            f"auto: the scans are of several sequences, and a folder holds the predictions of one detector: {needed}. "
            f"Predict each group with its own --out."
        )
    (name,) = choices
    return Choice(name, reasons[name])


def _of_one(scan: Scan, known: Mapping[str, str]) -> Choice:
    if scan.modalities is None:
        return _by_looks(scan, known)
    declared = ", ".join(scan.modalities)
    fitting = [modality for modality in dict.fromkeys(scan.modalities) if modality in known]
    if len(fitting) == 1:
        return Choice(known[fitting[0]], f"for {fitting[0]} by {scan.declared_in}")
    problem = "for several of which there is a detector" if fitting else "for which none comes with medvae"
    joint = f", or {JOINT} for the mean of all" if fitting else ""
    raise MedvaeError(
        f'auto: scan "{scan.id}" is {declared} by {scan.declared_in}, {problem}: {_options(known)}{joint}.'
    )


def _by_looks(scan: Scan, known: Mapping[str, str]) -> Choice:
    volume = prepare_scan(scan.images[:1], _LOOK, mask=scan.mask)
    contrast = None  # without its place on the template nobody knows which tissue is where
    if volume.quality is not None:
        contrast = tissue_contrast(volume.image[0], volume.mask, volume.grid)
    fitting = [modality for modality in known if contrast is not None and contrast.fits(modality)]
    if len(fitting) == 1:
        return Choice(known[fitting[0]], f"as the scan looks like {fitting[0]}")
    looks = f"it looks like {' or '.join(fitting)}" if fitting else "it looks like none that there is a detector for"
    raise MedvaeError(
        f'auto: the sequence of scan "{scan.id}" is neither declared nor evident ({looks}): {_options(known)}, or let '
        f"the file's name end in its sequence, as {scan.id}_{fitting[0] if fitting else 'FLAIR'}.nii.gz."
    )


def _options(known: Mapping[str, str]) -> str:
    return "instead of auto name " + " or ".join(f"{name} ({modality})" for modality, name in known.items())


def _some(scans: Sequence[Scan]) -> str:
    return ", ".join(scan.id for scan in scans[:4]) + ", …" * (len(scans) > 4)
