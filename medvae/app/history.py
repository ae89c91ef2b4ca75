"""The scans of this computer: what was dropped on the page, what became of it, and where its files lie.

``FOLDER/scans/ID/entry.json``     the entry, as `Entry`
``FOLDER/scans/ID/NAME.nii.gz``    the scan as it came, or ``NAME.zip``, a study
``FOLDER/scans/ID/predictions/``   what `medvae predict` writes for it
``FOLDER/scans/ID/page/``          its page with the viewer, and the volumes of that
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from medvae.errors import MedvaeError
from medvae.files import remove_folder, remove_leftovers, told, write_json
from medvae.locks import locked
from medvae.schema import Strict, parse, read_document

State = Literal["queued", "running", "done", "failed", "cancelled"]
ENTRY = "entry.json"
SCANS = "scans"
PREDICTIONS, PAGE = "predictions", "page"
STUDIES = (".zip", ".dcm")
"""Ends of the names of scans that came as DICOM."""
_BUSY = (
    "{folder}: is the history of another medvae app, which is running ({{owner}}). Use its page, or give this one a "
    "--folder of its own."
)


class Found(Strict):
    """What was found in a scan."""

    detector: str
    """Name of the detector, also where it was chosen by the scan's sequence."""
    point: str
    """Operating point of the mask."""
    volume_ml: float
    findings: int
    p_value: float | None
    seconds: float
    """From the start of its preparation until its page was written."""


class Entry(Strict):
    """A scan and what became of it."""

    id: str = Field(pattern=r"^[0-9a-f]{16}$")
    name: str
    """Of the file as its owner calls it: shown, and never a path."""
    file: str = Field(pattern=r"^[^/\\.][^/\\]*$")
    """Of the scan in the folder of the entry."""
    size: int = Field(ge=0)
    """Bytes."""
    received: str
    """When, with the time zone."""
    detector: str
    """As `medvae.app.detectors.Choice.key`."""
    at: str = ""
    """Name of the operating point; empty for the detector's own."""
    series: str = ""
    """Number or UID of the series of a study; empty for the one that fits."""
    state: State = "queued"
    message: str = ""
    """Why it failed."""
    notes: tuple[str, ...] = ()
    """What to read before trusting the maps."""
    found: Found | None = None

    @property
    def stem(self) -> str:
        """What the files are called that are made of it."""
        return self.file.partition(".")[0]


class Gone(MedvaeError):
    """There is no such entry."""

    def __init__(self) -> None:
        super().__init__("There is no such scan here; it was deleted, perhaps in another window.")


class History:
    """The entries of a folder, in the order in which they came; every change is on the disk when the call returns.

    What a stopped program was at is queued again. Broken entries are listed in ``broken`` and left alone.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.broken: list[str] = []
        self.change = threading.Condition()
        """Notified of every change; held for several that belong together."""
        self.version = time.time_ns() // 10**6
        """Grows with every change, and from one program to the next, of which the same page may ask."""
        self._entries: dict[str, Entry] = {}
        with told(folder):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / SCANS).mkdir(mode=0o700, exist_ok=True)
        remove_leftovers(folder / SCANS)
        found = []
        for path in sorted((folder / SCANS).glob(f"*/{ENTRY}")):
            try:
                entry = parse(Entry, read_document(path), path)
                if entry.id != path.parent.name:
                    raise MedvaeError(f"{path}: is the entry {entry.id}, and lies in the folder of another.")
                found.append(entry)
            except MedvaeError as error:
                self.broken.append(str(error))
        for entry in sorted(found, key=lambda entry: (entry.received, entry.id)):
            self._entries[entry.id] = entry
            if entry.state == "running":
                self.set(entry.id, state="queued")

    def __iter__(self) -> Iterator[Entry]:
        with self.change:
            return iter(list(self._entries.values()))

    def __getitem__(self, id: str) -> Entry:
        """The entry of an id.

        Raises
        ------
        Gone
            If there is none.
        """
        with self.change:
            if id not in self._entries:
                raise Gone
            return self._entries[id]

    def folder_of(self, id: str) -> Path:
        """The folder of an entry that is there; an id from outside leads nowhere else.

        Raises
        ------
        Gone
            If there is none.
        """
        return self.folder / SCANS / self[id].id

    def add(self, entry: Entry) -> None:
        """List an entry whose folder has been written."""
        with self.change:
            self._entries[entry.id] = entry
            self.changed()

    def set(self, id: str, **values: Any) -> Entry:
        """Change some values of an entry."""
        with self.change:
            entry = self[id].model_copy(update=values)
            self._entries[id] = entry
            self.changed()
            write_json(self.folder_of(id) / ENTRY, entry.model_dump(mode="json"))
            return entry

    def clear(self, id: str) -> None:
        """Remove what was made of a scan; the scan stays."""
        for name in (PREDICTIONS, PAGE):
            remove_folder(self.folder_of(id) / name)

    def remove(self, id: str) -> None:
        """Remove an entry with all its files."""
        with self.change:
            folder = self.folder_of(id)
            remove_folder(folder)
            del self._entries[id]
            self.changed()

    def changed(self) -> None:
        """Tell who waits; also of what is shown with the entries."""
        with self.change:
            self.version += 1
            self.change.notify_all()


@contextlib.contextmanager
def opened(folder: Path) -> Iterator[History]:
    """The history of a folder, for one program at a time.

    Raises
    ------
    MedvaeError
        If another one has it, or it cannot be written.
    """
    with locked(folder, busy=_BUSY.format(folder=str(folder).replace("{", "{{").replace("}", "}}"))):
        yield History(folder)


def default_folder() -> Path:
    """Where a user's programs keep their data on this system."""
    from platformdirs import user_data_path

    return user_data_path("medvae", appauthor=False) / "app"


def now() -> str:
    """The time, with the time zone."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
