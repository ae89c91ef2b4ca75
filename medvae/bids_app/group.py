"""The group level: one table over all participants, made of the masks and sidecars that there are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from medvae.bids_app.data_set import DataSet
from medvae.bids_app.output import GROUP, OVERLAYS, check_output
from medvae.derivatives import FAILURES, MASK_SUFFIX, read_mask_sidecar
from medvae.errors import MedvaeError
from medvae.files import write_json, write_text
from medvae.imaging.morphology import finding_volumes_ml
from medvae.imaging.volume import read_volume
from medvae.importing.bids_names import take_apart
from medvae.schema import read_object

_SIDECAR = MASK_SUFFIX.removesuffix(".nii.gz") + ".json"
ABSENT = "n/a"
"""As BIDS writes what is not known."""
COLUMNS: dict[str, dict[str, Any]] = {
    "participant_id": {"Description": "The participant, as in participants.tsv of the data set."},
    "session_id": {"Description": "The session; n/a in a data set without sessions."},
    "case_id": {"Description": "Name of the scan, by which its files are called; n/a for a participant without one."},
    "volume_ml": {"Description": "Volume of the lesion mask; n/a for a scan that failed.", "Units": "mL"},
    "findings": {"Description": "Number of findings: connected components of the lesion mask (26 neighbours)."},
    "largest_ml": {"Description": "Volume of the largest finding.", "Units": "mL"},
    "p_value": {"Description": "How unusual the scan is among healthy scans; n/a if the detector does not store them."},
    "operating_point": {"Description": "Operating point of the lesion mask."},
    "brain_ml": {"Description": "Volume of the brain that was searched.", "Units": "mL"},
    "unlike": {
        "Description": "Whether the scan was announced as unlike those that the detector is for, or as doubtful.",
        "Levels": {"true": "Announced; notes say why.", "false": "Not announced."},
    },
    "notes": {"Description": "What was announced, or why the scan failed."},
    "detector": {"Description": "Name of the detector."},
}


def write_group(data_set: DataSet, out: Path, *, participants: Iterable[str] | None = None) -> tuple[Path, list[str]]:
    """Write ``lesions.tsv`` and ``lesions.json``: a row for each scan, also one that failed, or one for who has none.

    Parameters
    ----------
    data_set
        The raw data set: its participants are the table's.
    out
        The folder of the derivatives.
    participants
        Labels of those who are listed; all by default.

    Returns
    -------
    table, without
        The table, and the labels of participants without a prediction.

    Raises
    ------
    MedvaeError
        If there is no prediction yet, or a file of one cannot be read.
    """
    check_output(data_set.root, out)
    listed = list(data_set.participants if participants is None else participants)
    failed = out / OVERLAYS / FAILURES
    errors = read_object(failed) if failed.is_file() else {}
    rows: list[dict[str, str]] = []
    without = []
    for label in listed:
        own = [_row(path) for path in _sidecars(out / f"sub-{label}")]
        if not own:
            without.append(label)
        done = {row["case_id"] for row in own}
        own += [row for row in _failures(errors, label) if row["case_id"] not in done]
        rows += own or [{"participant_id": f"sub-{label}"}]
    if len(without) == len(listed):
        hint = f" {len(errors)} scans failed; see {failed}." if errors else ""
        raise MedvaeError(
            f"{out}: holds no prediction of these participants yet.{hint} Run the participant level first: "
            f"medvae bids {data_set.root} {out} participant"
        )
    lines = ["\t".join(COLUMNS), *("\t".join(row.get(name) or ABSENT for name in COLUMNS) for row in rows)]
    write_json(out / f"{GROUP}.json", COLUMNS)
    return write_text(out / f"{GROUP}.tsv", "\n".join(lines) + "\n"), without


def _sidecars(folder: Path) -> list[Path]:
    """The sidecars of a participant's masks: they are written last, so what they belong to is whole."""
    return sorted([*folder.glob(f"anat/*{_SIDECAR}"), *folder.glob(f"ses-*/anat/*{_SIDECAR}")])


def _failures(errors: Mapping[str, Any], label: str) -> list[dict[str, str]]:
    own = [name for name in errors if name.startswith(f"sub-{label}_")]
    return [_named(name.rpartition("_")[0]) | {"notes": _line([str(errors[name])])} for name in own]


def _row(path: Path) -> dict[str, str]:
    sidecar: Mapping[str, Any] = read_mask_sidecar(path)
    name = path.name.removesuffix(_SIDECAR)
    findings = _findings_ml(sidecar, path.with_name(f"{name}{MASK_SUFFIX}"))
    return _named(name) | {
        "volume_ml": _number(sidecar.get("LesionVolumeMl")),
        "findings": str(len(findings)),
        "largest_ml": _number(float(np.max(findings, initial=0))),
        "p_value": _number(sidecar.get("CasePValue")),
        "operating_point": str(sidecar.get("OperatingPoint", "")),
        "brain_ml": _number(sidecar.get("BrainVolumeMl")),
        "unlike": str(bool(sidecar.get("Notes"))).lower(),
        "notes": _line(sidecar.get("Notes", [])),
        "detector": str(sidecar.get("Model", "")),
    }


def _findings_ml(sidecar: Mapping[str, Any], mask: Path) -> np.ndarray:
    """Volumes of the findings, from the mask itself where an earlier version wrote its sidecar."""
    if (listed := sidecar.get("Findings")) is not None:
        return np.array([finding["VolumeMl"] for finding in listed], dtype=np.float64)
    volume = read_volume(mask)
    return finding_volumes_ml(volume.array > 0, volume.geometry.voxel_volume_ml)


def _named(scan: str) -> dict[str, str]:
    taken = take_apart(Path(f"{scan}{MASK_SUFFIX}"))
    session = taken.entities.get("ses") if taken else None
    return {
        "participant_id": scan.split("_", 1)[0],
        "session_id": f"ses-{session}" if session else "",
        "case_id": scan,
    }


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def _line(texts: Iterable[str]) -> str:
    """Texts as one cell of a table."""
    return " ".join(" ".join(text.split()) for text in texts).replace('"', "'")  # which would begin a quoted cell
