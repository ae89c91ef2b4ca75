"""The group level: one table over all participants, made of the masks and sidecars that there are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from medvae.bids_app.data_set import DataSet
from medvae.bids_app.output import GROUP, OVERLAYS, check_output
from medvae.derivatives import FAILURES, MASK_SIDECAR, MASK_SUFFIX, read_mask_sidecar
from medvae.errors import MedvaeError
from medvae.files import write_json, write_text
from medvae.importing.bids_names import take_apart
from medvae.prediction_tables import ABSENT, LESIONS, cell
from medvae.schema import read_object

OWN = {
    "participant_id": {"Description": "The participant, as in participants.tsv of the data set."},
    "session_id": {"Description": "The session; n/a in a data set without sessions."},
}
COLUMNS: dict[str, dict[str, Any]] = OWN | {column.name: column.described for column in LESIONS}
"""Those of `medvae.prediction_tables`, and whose scan it is. A scan that failed has only its notes, which say why."""


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
        own = [_row(path, out) for path in _sidecars(out / f"sub-{label}")]
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
    lines = ["\t".join(COLUMNS), *("\t".join(row.get(name, ABSENT) for name in COLUMNS) for row in rows)]
    write_json(out / f"{GROUP}.json", COLUMNS)
    return write_text(out / f"{GROUP}.tsv", "\n".join(lines) + "\n"), without


def _sidecars(folder: Path) -> list[Path]:
    """The sidecars of a participant's masks."""
    return sorted([*folder.glob(f"anat/*{MASK_SIDECAR}"), *folder.glob(f"ses-*/anat/*{MASK_SIDECAR}")])


def _failures(errors: Mapping[str, Any], label: str) -> list[dict[str, str]]:
    own = [name for name in errors if name.startswith(f"sub-{label}_")]
    return [_named(name.rpartition("_")[0]) | {"notes": cell(errors[name])} for name in own]


def _row(path: Path, out: Path) -> dict[str, str]:
    name = path.name.removesuffix(MASK_SIDECAR)
    mask = path.relative_to(out).with_name(f"{name}{MASK_SUFFIX}").as_posix()
    sidecar = read_mask_sidecar(path) | {"case_id": name, "mask": mask}
    return _named(name) | {column.name: cell(column.of(sidecar)) for column in LESIONS}


def _named(scan: str) -> dict[str, str]:
    taken = take_apart(Path(f"{scan}{MASK_SUFFIX}"))
    session = taken.entities.get("ses") if taken else None
    return {
        "participant_id": scan.split("_", 1)[0],
        "session_id": f"ses-{session}" if session else ABSENT,
        "case_id": scan,
    }
