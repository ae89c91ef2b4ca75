"""What is made of each prediction for a person's eyes, in the process that predicted the scan."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from medvae.detection.base import Calibrated
from medvae.errors import MedvaeError
from medvae.manifest import Manifest
from medvae.prediction import Prediction


@dataclass(frozen=True)
class Seen:
    """Draws a prediction, and writes the files that open it in viewers: the ``then`` of `medvae.prediction.predict`."""

    detector: Calibrated
    manifest: Manifest | None
    """Source of the truth."""
    out: Path
    """The folder of the predictions."""
    pictures: bool = True
    workspaces: bool = True

    def __call__(self, made: Prediction) -> Prediction:
        """The prediction with the commands that open it, and a note if there are no files for viewers.

        Raises
        ------
        MedvaeError
            If the truth of its case cannot be read, or a file cannot be written.
        """
        if self.pictures:
            from medvae.reporting.case_picture import draw_predictions  # takes a second, and nobody waits for it here

            draw_predictions([made], self.manifest, self.detector)
        if not self.workspaces:
            return made
        from medvae.reporting.viewers import write_viewer_files

        try:
            written, problems = write_viewer_files(
                self.out, ids=[made.id], manifest=self.manifest, scans={made.id: made.scan}
            )
        except MedvaeError as error:
            written, problems = [], {made.id: str(error)}
        return replace(
            made,
            notes=(*made.notes, *problems.values()),
            look=tuple(command for one in written for command in one.first_choice),
        )
