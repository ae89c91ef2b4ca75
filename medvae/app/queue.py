"""The queue: scans are predicted one after the other in another process, in the order in which they came."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable

from medvae.app.detectors import AUTO, Choice
from medvae.app.history import Entry, History
from medvae.app.predicting import Asked, Predicting, Wanted
from medvae.errors import MedvaeError
from medvae.kept import Done, KeptProcess


class Queue:
    """Predicts what is queued in a history, from `start` until `stop`.

    Parameters
    ----------
    history
        The scans.
    task
        What the other process does.
    """

    def __init__(self, history: History, task: Predicting) -> None:
        self.history = history
        self.choices: list[Choice] = []
        self.stage: dict[str, str] = {}
        """What is done now with the scan that is predicted, by its id."""
        self._process = KeptProcess(task)
        self._stopped = False
        self._thread: threading.Thread | None = None

    def ask_detectors(self) -> list[Choice]:
        """Start the other process, and ask it which detectors there are.

        Raises
        ------
        MedvaeError
            If one that the user has named is none.
        """
        done = self._process(Asked.DETECTORS)
        if done is None or isinstance(done.result, MedvaeError):
            raise done.result if done else MedvaeError("Stopped before the detectors were read.")
        self.choices = done.result
        return self.choices

    def start(self) -> None:
        """Begin with what is queued, and go on with what comes."""
        self._stopped = False
        self._thread = threading.Thread(target=self._work, name="queue", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the process, with the scan that it is at: that one is queued, and begins anew after the next start."""
        with self.history.change:
            self._stopped = True
            self.history.change.notify_all()
        self._process.end()
        if self._thread is not None:
            self._thread.join()
            self._process.end()  # one that was started meanwhile

    def cancel(self, id: str) -> Entry:
        """Do not predict a scan, or no further; the others go on. One that is finished stays as it is.

        Raises
        ------
        Gone
            If there is no such scan.
        """
        with self.history.change:
            entry = self.history[id]
            if entry.state not in ("queued", "running"):
                return entry
            cancelled = self.history.set(id, state="cancelled")
            if entry.state == "running":
                self._process.end()
            return cancelled

    def again(self, id: str, *, series: str = "") -> Entry:
        """Queue a scan again that failed or was cancelled; of a study, by another series if one is named.

        Raises
        ------
        Gone
            If there is no such scan.
        """
        with self.history.change:
            if self.history[id].state in ("failed", "cancelled"):  # and the process may still be ending with it
                self.history.change.wait_for(lambda: id not in self.stage)
            entry = self.history[id]
            if entry.state not in ("failed", "cancelled"):
                return entry
            named = series or entry.series
            return self.history.set(id, state="queued", series=named, message="", notes=(), found=None)

    def remove(self, id: str) -> None:
        """Remove a scan and what was made of it, and predict it no further.

        Raises
        ------
        Gone
            If there is no such scan.
        """
        with self.history.change:
            self.cancel(id)
            self.history.change.wait_for(lambda: id not in self.stage)
            self.history.remove(id)

    def _work(self) -> None:
        self._process(Asked.GET_READY, wanted=lambda: not self._stopped)  # what is wrong is told of the first scan
        while True:
            with self.history.change:
                self.history.change.wait_for(lambda: self._stopped or self._next() is not None)
                entry = None if self._stopped else self._next()
                if entry is None:
                    return
                self.stage[entry.id] = ""
            try:
                self._predict(entry)
            except MedvaeError as error:  # the disk is full, say
                with contextlib.suppress(MedvaeError):  # which is then remembered only until the program ends
                    self.history.set(entry.id, state="failed", message=str(error))
            finally:
                with self.history.change:
                    del self.stage[entry.id]
                    self.history.changed()

    def _next(self) -> Entry | None:
        return next((entry for entry in self.history if entry.state == "queued"), None)

    def _predict(self, entry: Entry) -> None:
        with self.history.change:
            if self.history[entry.id].state != "queued":  # cancelled at this moment
                return
            self.history.set(entry.id, state="running", message="", notes=(), found=None)
        self.history.clear(entry.id)
        if entry.detector not in {choice.key for choice in self.choices}:
            self._fail(
                entry,
                f"the detector {entry.detector} is not offered now. Start medvae app --detector {entry.detector}, and "
                f"queue the scan again.",
            )
            return
        folder = self.history.folder_of(entry.id)

        def told(stage: str) -> None:
            self.stage[entry.id] = stage
            self.history.changed()

        wanted = Wanted(entry.id, folder, entry.file, entry.detector, entry.at, entry.series)
        done = self._process(wanted, told, lambda: not self._stopped and self._running(entry.id))
        with self.history.change:
            if not self._running(entry.id):  # it was cancelled, perhaps when it was as good as done
                self.history.clear(entry.id)
            elif done is None:  # all is stopped
                self.history.set(entry.id, state="queued")
            elif isinstance(done.result, MedvaeError):
                self._fail(entry, str(done.result), done)
            else:
                notes = tuple(dict.fromkeys(self._plain(entry, [*done.warned, *done.result.notes])))
                self.history.set(entry.id, state="done", found=done.result.found, notes=notes)

    def _running(self, id: str) -> bool:
        return self.history[id].state == "running"

    def _fail(self, entry: Entry, message: str, done: Done | None = None) -> None:
        self.history.clear(entry.id)
        notes = self._plain(entry, done.warned if done else ())
        self.history.set(entry.id, state="failed", message=self._plain(entry, [message])[0], notes=notes)

    def _plain(self, entry: Entry, messages: Iterable[str]) -> tuple[str, ...]:
        return tuple(in_its_owners_words(text, self.history, entry) for text in messages)


def in_its_owners_words(text: str, history: History, entry: Entry) -> str:
    """A message that names the scan as its owner calls it, and not by where it lies here."""
    folder = history.folder_of(entry.id)
    return text.replace(str(folder / entry.file), entry.name).replace(f"{folder}/", "")


def is_choice(choices: list[Choice], detector: str, at: str) -> bool:
    """Whether a detector is offered; with "auto" none may be asked for at an operating point, as each has its own."""
    return any(choice.key == detector for choice in choices) and not (detector == AUTO and at)
