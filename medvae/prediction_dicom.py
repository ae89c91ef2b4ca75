"""Scans that are given to `medvae predict` as DICOM: each becomes a NIfTI file in the folder of the predictions."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from medvae import __version__
from medvae.derivatives import CONVERTED, DICOM_SUFFIX, read_mask_sidecar
from medvae.detection.base import Calibrated
from medvae.detection.scan import Scan
from medvae.dicom.choice import choose, listing
from medvae.dicom.conversion import convert
from medvae.dicom.series import Series
from medvae.dicom.study import is_study, read_study
from medvae.errors import MedvaeError
from medvae.files import scratch_folder, write_bytes
from medvae.imaging.volume import read_overlay
from medvae.modality import UNKNOWN
from medvae.prediction import Prediction
from medvae.prediction_folder import record_failures, sidecar_path


@dataclass(frozen=True)
class FromDicom:
    """The series that a scan is made from."""

    source: Path
    """The folder, zip or file that was given."""
    series: Series
    told: str
    """Which series was chosen, and a line for each of the study if there are several."""


@contextlib.contextmanager
def series_of_scans(
    scans: Sequence[Scan],
    given: Sequence[Path],
    wanted: Sequence[str],
    out: Path,
    *,
    asked: str | None = None,
    must_tell: bool = False,
    quiet: bool = False,
) -> Iterator[tuple[list[Scan], dict[str, FromDicom], dict[str, str]]]:
    """Find the series of each scan that is given as DICOM; what zips hold is there until the block ends.

    Parameters
    ----------
    scans
        The scans by their names, in the order of ``given``.
    given
        What each was given as: a folder, a zip, a DICOM file, or a volume file.
    wanted
        The sequences of which one is to be found.
    out
        The folder of the predictions.
    asked
        The number or UID of the series, where one scan alone is DICOM.
    must_tell
        Refuse a series whose description does not name one of the sequences.

    Yields
    ------
    scans, series, failures
        The scans with their images as they will be converted, the series of those that are DICOM by the scan's name,
        and why a study has none.
    """
    found: dict[str, FromDicom] = {}
    failures: dict[str, str] = {}
    ready: list[Scan] = []
    with contextlib.ExitStack() as stack:
        for scan, source in zip(scans, given, strict=True):
            if not is_study(source):
                ready.append(scan)
                continue
            try:
                unpacked = stack.enter_context(scratch_folder(out / "unpacked"))
                study = read_study(source, unpacked, quiet=quiet)
                series = choose(study, wanted, asked=asked)
                if must_tell and series.sequence not in wanted:
                    raise MedvaeError(
                        f"{source}: {series.name}: its description names no sequence that there is a detector for. "
                        f"Name a detector instead of auto."
                    )
            except MedvaeError as error:
                failures[scan.id] = str(error)
                continue
            told = f"{source}: {series.name}"
            if len(study.series) > 1 or study.unread or series.copies:
                told += f", of {len(study.series)}\n{listing(study, wanted, series)}"
            found[scan.id] = FromDicom(source, series, told)
            ready.append(_declared(scan, series, out, wanted, asked is not None))
        yield ready, found, failures


def _declared(scan: Scan, series: Series, out: Path, wanted: Sequence[str], asked: bool) -> Scan:
    """The scan as it will be converted; of the sequence that its series' description names.

    Where a person has named the series, a description of another sequence is not believed: the scan's looks tell.
    """
    sequence = series.sequence if series.sequence in wanted or not asked else None
    return replace(
        scan,
        images=(out / CONVERTED / f"{scan.id}.nii.gz",),
        modalities=None if sequence is None else (sequence,),
        declared_in=f'the description of its series "{series.first.description}"',
    )


def sequences_of(detector: Calibrated | None, otherwise: Iterable[str]) -> tuple[str, ...]:
    """The sequences of which a study must hold one; none if the detector does not say which it takes.

    Raises
    ------
    MedvaeError
        If the detector takes several of a person.
    """
    if detector is None:
        return tuple(otherwise)
    wanted = detector.modalities
    if len(wanted) > 1:
        raise MedvaeError(
            f'the detector "{detector.config.name}" takes {", ".join(wanted)} of each person, and of DICOM one series '
            f"is taken. Convert the series to NIfTI on one grid, and give them in a manifest."
        )
    return () if UNKNOWN in wanted else tuple(wanted)


def convert_scans(
    scans: Sequence[Scan],
    found: Mapping[str, FromDicom],
    out: Path,
    *,
    failed: Mapping[str, str],
    overwrite: bool = False,
) -> tuple[list[Scan], dict[str, str]]:
    """Make the files of the scans that are DICOM; return all scans that there are, and why the others are not.

    The folder ``out`` of the predictions has been opened; failures are recorded there with those that ``failed``
    before. A series that was converted by an earlier command is not converted again.
    """
    ready, failures = [], {}
    for scan in scans:
        if one := found.get(scan.id):
            try:
                convert(one.series, scan.images[0], overwrite=overwrite)
            except MedvaeError as error:
                failures[scan.id] = str(error)
                continue
        ready.append(scan)
    said = {name: why.split("\n")[0] for name, why in {**failed, **failures}.items()}  # without the list of series
    record_failures(out, [], said)
    return ready, failures


def write_segmentations(
    predictions: Sequence[Prediction], found: Mapping[str, FromDicom], detector: Calibrated
) -> tuple[list[Path], list[str]]:
    """Write each mask as a DICOM segmentation beside it; return their paths, and why others could not be written."""
    from medvae.dicom.segmentation import Algorithm, segmentation_bytes

    written, problems = [], []
    for made in predictions:
        path = made.mask.with_name(f"{made.id}{DICOM_SUFFIX}")
        try:
            point = str(read_mask_sidecar(sidecar_path(made.mask)).get("OperatingPoint", ""))
            algorithm = Algorithm(detector.config.name, __version__, detector.fingerprint, point)
            mask = read_overlay(made.mask).array > 0
            written.append(write_bytes(path, segmentation_bytes(mask, found[made.id].series, algorithm)))
        except MedvaeError as error:
            problems.append(str(error))
    return written, problems
