"""The participant level: scans predicted by `medvae.prediction`, and copied into the folders and names of BIDS."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from medvae.bids_app.lesion_roi import refresh_roi
from medvae.bids_app.output import OVERLAYS, check_output, describe_output
from medvae.bids_app.scans import RawScans
from medvae.derivatives import MASK_SUFFIX
from medvae.detection.base import Calibrated
from medvae.errors import MedvaeError
from medvae.modality import UNKNOWN
from medvae.prediction import Prediction, predict
from medvae.prediction_folder import open_folder, record_failures
from medvae.reporting.bids_export import anat_folder, bids_name, write_bids


@dataclass(frozen=True)
class Outcome:
    """What became of the scans."""

    predictions: list[Prediction]
    failures: dict[str, str]
    """Name of a scan to its error."""
    not_copied: str
    """Why predictions are not in the data set; empty if all are."""


def sequence_of(detector: Calibrated) -> str:
    """The sequence of a detector, by which its images are found in a data set.

    Raises
    ------
    MedvaeError
        If it takes several, or does not say which.
    """
    if len(detector.modalities) == 1 and detector.modalities[0] != UNKNOWN:
        return detector.modalities[0]
    raise MedvaeError(
        f'the detector "{detector.config.name}" takes {", ".join(detector.modalities)}: medvae bids works with '
        f"detectors of one known sequence. List the scans in a manifest, and use medvae predict --manifest."
    )


def predict_participants(
    detector: Calibrated,
    found: RawScans,
    raw: Path,
    out: Path,
    *,
    at: float | str | None = None,
    roi: bool = False,
    cache: Path | None = None,
    overwrite: bool = False,
    jobs: int = 1,
    then: Callable[[Prediction], Prediction] | None = None,
    quiet: bool = False,
) -> Outcome:
    """Predict scans of a BIDS data set into a folder of derivatives.

    A scan that fails does not stop the others. What this very detector has already predicted is not computed again.
    Several processes may work on participants of one data set at a time.

    Parameters
    ----------
    detector
        A detector of one sequence.
    found
        The scans.
    raw
        The data set, which is not changed.
    out
        The folder of the derivatives.
    at, cache, overwrite, jobs, then, quiet
        As in `medvae.prediction.predict`, which works in ``out/overlays``.
    roi
        Also write masks under the name that fMRIPrep looks for.

    Raises
    ------
    MedvaeError
        If ``out`` may not be the folder (`medvae.bids_app.output.check_output`), or holds derivatives of another
        detector or operating point and ``overwrite`` is not given.
    """
    check_output(raw, out)
    point = detector.point(detector.config.calibration.mask_at if at is None else at)
    open_folder(out, detector, point, overwrite=overwrite)
    describe_output(raw, out)
    overlays = out / OVERLAYS
    predictions, failures = predict(
        detector,
        found.scans,
        overlays,
        rate=at if isinstance(at, float) else None,
        at=at if isinstance(at, str) else None,
        cache=cache,
        overwrite=overwrite,
        jobs=jobs,
        then=then,
        quiet=quiet,
    )
    record_failures(overlays, [], found.broken)
    not_copied = ""
    if predictions:
        try:
            write_bids(overlays, out, only=[made.id for made in predictions], overwrite=overwrite)
        except MedvaeError as error:  # the maps are there all the same, and so are the others of the data set
            not_copied = str(error)
        for name in (bids_name(made.id) for made in predictions):
            if (mask := out / anat_folder(name) / f"{name}{MASK_SUFFIX}").is_file():
                refresh_roi(mask, wanted=roi)
    return Outcome(predictions, failures | found.broken, not_copied)
