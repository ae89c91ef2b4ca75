"""What the page's other process does: it predicts a scan as ``medvae predict`` does, and writes the page of it."""

from __future__ import annotations

import enum
import functools
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from medvae.app.detectors import AUTO, Choice, offered
from medvae.app.history import PAGE, PREDICTIONS, Found
from medvae.errors import MedvaeError

if TYPE_CHECKING:  # PyTorch comes with them, which only the other process needs
    from medvae.detection.base import Calibrated
    from medvae.prediction import Prediction

PAGE_NAME = "page"


class Asked(enum.Enum):
    """What the process is asked besides scans."""

    DETECTORS = enum.auto()
    """Which there are."""
    GET_READY = enum.auto()
    """For the first scan, before it comes."""


@dataclass(frozen=True)
class Wanted:
    """A scan that is to be predicted."""

    id: str
    folder: Path
    """Of its entry."""
    file: str
    detector: str
    at: str
    """Name of the operating point; empty for the detector's own."""
    series: str = ""
    """Number or UID of the series of a study; empty for the one that fits."""


@dataclass(frozen=True)
class Made:
    """What was found, and what to read before trusting it."""

    found: Found
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Predicting:
    """The task of the process: it says which detectors there are, or predicts a scan; detectors stay loaded."""

    device: str
    runs: tuple[str, ...]
    """Detectors that the user has named."""

    def __call__(self, wanted: Wanted | Asked, tell: Callable[[str], None]) -> Made | list[Choice] | None:
        """What was found in a scan, or what else is asked for; ``tell`` hears the stages of `medvae.prediction`.

        Raises
        ------
        MedvaeError
            As the command line says it.
        """
        if wanted is Asked.DETECTORS:
            from medvae.devices import find_device

            find_device(self.device)  # before the page opens, and not with every scan
            return offered(self.runs)
        if wanted is Asked.GET_READY:
            self._get_ready()
            return None
        return self._predict(wanted, tell)

    def _get_ready(self) -> None:
        """Import what takes its time, and load what is asked for first in all likelihood."""
        import medvae.reporting.case_picture
        import medvae.reporting.report_cases
        import medvae.reporting.seen
        import medvae.reporting.viewers  # noqa: F401

        for run in self.runs[:1]:
            _detector(run, self.device)

    def _predict(self, wanted: Wanted, tell: Callable[[str], None]) -> Made:
        from medvae.detection.by_sequence import by_sequence, choose_detector
        from medvae.dicom.study import is_study, named_after
        from medvae.prediction import predict_scan, scans_of_files
        from medvae.prediction_dicom import convert_scans, sequences_of, series_of_scans
        from medvae.prediction_folder import open_folder
        from medvae.reporting.seen import Seen

        began = time.monotonic()
        out, given = wanted.folder / PREDICTIONS, wanted.folder / wanted.file
        tell("preparing")
        auto = wanted.detector == AUTO
        named = None if auto else _detector(wanted.detector, self.device)
        sequences = sequences_of(named, otherwise=by_sequence()) if is_study(given) else ()
        scans = scans_of_files([named_after(given)])
        with series_of_scans(
            scans, [given], sequences, out, asked=wanted.series or None, must_tell=auto, quiet=True
        ) as (scans, found, failed):
            _require_none(failed)
            name, reason = choose_detector(scans) if auto else (wanted.detector, "")
            detector = named or _detector(name, self.device)
            at = wanted.at or detector.config.calibration.mask_at
            open_folder(out, detector, detector.point(at), overwrite=True)
            scans, failed = convert_scans(scans, found, out, failed={})
            _require_none(failed)
        made = predict_scan(detector, scans[0], out, at, overwrite=True, stage=tell)
        made = Seen(detector, None, out)(made)
        findings = write_page(made, wanted.id, wanted.folder)
        result = Found(
            detector=detector.config.name,
            point=detector.point(at).name,
            volume_ml=made.lesion_volume_ml,
            findings=findings,
            p_value=made.case_p_value,
            seconds=round(time.monotonic() - began, 1),
        )
        chosen = (f"detector: {name}, {reason}",) if reason else ()
        return Made(result, (*chosen, *(one.told for one in found.values()), *made.notes))


def _require_none(failures: Mapping[str, str]) -> None:
    for why in failures.values():
        raise MedvaeError(why)


def write_page(made: Prediction, id: str, folder: Path) -> int:
    """Write the page of a prediction, as `medvae report` does, into the folder of its entry; the number of findings."""
    from medvae import __version__
    from medvae.reporting.cases import read_cases
    from medvae.reporting.page_templates import page_templates
    from medvae.reporting.report_cases import case_writer, make_case

    (case,), _ = read_cases(folder / PREDICTIONS, ids=[made.id], scans={made.id: made.scan})
    shared = {
        "around": [None, None],
        "number": 1,
        "count": 1,
        "version": __version__,
        "address": f"/scans/{id}",
        "up": "",
    }
    write = case_writer(page_templates("medvae.app").get_template("scan.html"), folder / PAGE, case, shared)
    row, _ = make_case(case, None, PAGE_NAME, write, lambda text: text.replace(f"{folder}/", ""))
    return int(row.findings)


@functools.lru_cache(maxsize=4)
def _detector(run: str, device: str) -> Calibrated:
    from medvae.detection.ensemble import load_detector

    return load_detector(run, device=device)
