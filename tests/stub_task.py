"""A task for the page's other process that needs no detector, in a module that is imported at once."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from medvae.app.detectors import AUTO, Choice, Point
from medvae.app.history import PAGE, PREDICTIONS, Found
from medvae.app.predicting import Asked, Made
from medvae.errors import MedvaeError


@dataclass(frozen=True)
class Stub:
    """In place of the detector: does at once what a scan's name asks for."""

    gate: Path
    """Scans called ``wait`` wait until this file is there."""

    def __call__(self, wanted, tell):
        if isinstance(wanted, Asked):
            return [
                Choice("stub", "stub", "T1", (Point("fpr_0.01", "1 % FPR", ""),), "1 % FPR"),
                Choice(AUTO, "auto", ""),
            ]
        for stage in ("preparing", "scoring", "writing"):
            tell(stage)
            if "wait" in wanted.file:
                while not self.gate.exists():
                    time.sleep(0.02)
        if "die" in wanted.file:
            os._exit(9)
        if "break" in wanted.file:
            raise MedvaeError(f"{wanted.folder / wanted.file}: cannot be read.")
        (wanted.folder / PREDICTIONS).mkdir()
        (wanted.folder / PAGE).mkdir()
        found = Found(
            detector="stub", point=wanted.at or "fpr_0.01", volume_ml=1.5, findings=2, p_value=0.25, seconds=os.getpid()
        )
        return Made(found, ("a note",))
