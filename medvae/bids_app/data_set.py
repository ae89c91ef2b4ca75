"""A BIDS data set: that it is one, and which of its participants and sessions are asked for."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medvae.derivatives import DESCRIPTION
from medvae.errors import MedvaeError
from medvae.importing.listing import list_files, some
from medvae.schema import read_object


@dataclass(frozen=True)
class DataSet:
    """A BIDS data set, which is read and never changed."""

    root: Path
    participants: tuple[str, ...]
    """Their labels, without ``sub-``."""

    def sessions(self, participant: str) -> list[str]:
        """The labels of a participant's sessions, without ``ses-``; empty if there are none."""
        return sorted(path.name[4:] for path in (self.root / f"sub-{participant}").glob("ses-*") if path.is_dir())


@dataclass(frozen=True)
class Chosen:
    """What a command is about."""

    participants: tuple[str, ...]
    sessions: tuple[str, ...]
    """Empty for all, also of participants without sessions."""
    named: bool
    """Whether the participants were asked for by their labels."""


def open_data_set(folder: Path, *, described: bool = True) -> DataSet:
    """The data set of a folder.

    Parameters
    ----------
    folder
        Its root.
    described
        Whether ``dataset_description.json`` must be there, as BIDS demands.

    Raises
    ------
    MedvaeError
        If there is no such folder, or it is no BIDS data set.
    """
    if not folder.is_dir():
        list_files(folder)  # says what is there instead
    marker = folder / DESCRIPTION
    if described and not marker.is_file():
        near = next(
            (place for place in (folder.parent, *sorted(folder.glob("*/"))) if (place / DESCRIPTION).is_file()), None
        )
        hint = f" There is one in {near}." if near else ""
        raise MedvaeError(
            f"{folder}: has no {DESCRIPTION}, so it is not the root of a BIDS data set.{hint} Give the root, or let "
            f"--skip-bids-validation take the folder as it is; medvae predict takes single files."
        )
    if described:
        read_object(marker)
    participants = sorted(path.name[4:] for path in folder.glob("sub-*") if path.is_dir())
    if not participants:
        raise MedvaeError(
            f"{folder}: has no participants: there is no folder sub-LABEL. Give the root of the data set."
        )
    return DataSet(folder, tuple(participants))


def choose(data_set: DataSet, participants: Sequence[str] = (), sessions: Sequence[str] = ()) -> Chosen:
    """The participants and sessions of some labels; without labels, all.

    Labels may begin with ``sub-`` and ``ses-``, and several may stand in one string.

    Raises
    ------
    MedvaeError
        If the data set has no such participant, or none of those chosen has such a session.
    """
    wanted = _labels(participants, "sub-")
    if unknown := [label for label in wanted if label not in data_set.participants]:
        raise MedvaeError(
            f"{data_set.root}: has no participant {', '.join(unknown)}."
            f"{_near(unknown[0], data_set.participants)} It has {some(data_set.participants, 12)}. Choose with "
            f"--participant-label."
        )
    chosen = tuple(wanted or data_set.participants)
    times = _labels(sessions, "ses-")
    known = sorted({label for participant in chosen for label in data_set.sessions(participant)})
    if unknown := [label for label in times if label not in known]:
        of = f"participant{'s' * (len(chosen) > 1)} {some(chosen, 4)}"
        there = f"there are {some(known, 12)}" if known else "there are no sessions; leave out --session-label"
        raise MedvaeError(f"{data_set.root}: has no session {', '.join(unknown)} of {of}; {there}.")
    return Chosen(chosen, tuple(times), bool(wanted))


def _labels(given: Sequence[str], prefix: str) -> list[str]:
    words = [word.removeprefix(prefix) for text in given for word in text.replace(",", " ").split()]
    return list(dict.fromkeys(words))


def _near(label: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(label, known, n=1)
    return f" Did you mean {near[0]}?" if near else ""
