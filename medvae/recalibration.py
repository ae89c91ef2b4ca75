"""Recalibrate a finished detector's thresholds on healthy scans of the site where it will be used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from medvae.config import Config
from medvae.detection.base import Calibrated
from medvae.detection.detector import FOLDER, find_detector
from medvae.detection.ensemble import load_detector
from medvae.detection.guarantees import check_levels
from medvae.detection.scan import Scan
from medvae.devices import AUTO
from medvae.errors import MedvaeError
from medvae.manifest import Manifest, Split
from medvae.overwriting import check_new
from medvae.progress import Progress
from medvae.schema import parse
from medvae.training.run_folder import one_at_a_time, record_thresholds, refuse_learned


@dataclass(frozen=True)
class HealthyScan:
    """A scan without a lesion, its subject, and where it was made."""

    scan: Scan
    subject: str
    site: str = ""


@dataclass(frozen=True)
class Recalibrated:
    """A detector with new thresholds, and how the old ones performed."""

    detector: Calibrated
    realised: dict[float, float]
    """For each false-positive rate: the share of the brain voxels of the new scans above the old threshold; empty for a
    detector whose thresholds were ranks."""
    before: dict[float, float]
    """The old thresholds, on the same score."""
    notes: dict[str, tuple[str, ...]]
    """What a person should know about a scan, by its name, e.g. that it looks like another sequence."""


def healthy_scans(manifest: Manifest, splits: Sequence[Split] = ("validation",)) -> list[HealthyScan]:
    """The healthy cases of some splits of a manifest."""
    return [
        HealthyScan(Scan.of_case(manifest, case), case.subject_id, case.site or "")
        for split in splits
        for case in manifest.of_split(split, healthy=True)
    ]


def recalibrate(
    run: Path | str,
    healthy: Sequence[HealthyScan],
    out: Path | str,
    *,
    where: str = "the scans",
    name: str | None = None,
    cache: Path | None = None,
    overwrite: bool = False,
    device: str = AUTO,
    quiet: bool = False,
) -> Recalibrated:
    """Set the thresholds of a detector on other healthy scans; what it learned and its score do not change.

    A threshold that 0.1 % of the voxels of one scanner's healthy scans exceed may be exceeded by more, or fewer, of
    another's. Everything derived from healthy subjects is recomputed: the operating points, their guarantees, the
    p-value of a scan and the scale of the anomaly map.

    Parameters
    ----------
    run
        Run folder or detector's folder, or the name of a detector that comes with medvae.
    healthy
        Scans without a lesion that the detector has not learned from.
    out
        A new folder; the detector is saved in ``out/detector``.
    where
        Name of the scans in errors, e.g. the manifest's path.
    name
        Name of the new detector, in tables and sidecars; the old one's with ``_recalibrated`` by default.
    cache
        Folder of prepared scans: those it holds are reused, new ones are added.
    overwrite
        Replace a recalibrated detector, or an ensemble, that ``out`` holds; not the one that ``run`` names.
    device
        Where the networks work, as in `medvae.devices.find_device`.
    quiet
        No progress display.

    Raises
    ------
    MedvaeError
        If there is no scan, one cannot be prepared or was learned from, there are too few subjects for what the
        detector's config guarantees, ``out`` is not empty, or there is no such device.
    """
    folder = find_detector(run)
    out = check_new(out, [folder], overwrite=overwrite)
    if not healthy:
        raise MedvaeError(f"{where}: has no healthy scan. Thresholds are set on scans without a lesion.")
    images = {item.scan.id: item.scan.images for item in healthy}
    refuse_learned([folder], images, where)
    detector = load_detector(folder, device=device)
    named = detector.config.model_dump() | {"name": name or f"{detector.config.name}_recalibrated"}
    config = parse(Config, named, f'the name "{name}"')
    people = [item.subject for item in healthy]
    check_levels(detector.config.calibration.promised, len(set(people)), detector.config.calibration)

    volumes, scores = [], []
    with Progress("Scoring healthy scans", len(healthy), quiet=quiet) as progress:
        for done, item in enumerate(healthy, start=1):
            try:
                volumes.append(item.scan.prepare(detector, cache=cache))
            except MedvaeError as error:
                raise MedvaeError(f'{where}: case "{item.scan.id}": {error}') from None
            scores.append(detector.score(volumes[-1]))
            progress.update(done, scan=item.scan.id)

    made = replace(detector, config=config).recalibrated(volumes, scores, people, [item.site for item in healthy])
    came_from = {"model": detector.config.name, "fingerprint": detector.fingerprint}
    with one_at_a_time(out):
        check_new(out, [folder], overwrite=overwrite)
        record_thresholds(
            out, [folder], images, modalities=detector.modalities, recalibrated_from=came_from
        )  # first: no detector without its record
        made = made.save(out / FOLDER)
    pooled = np.concatenate([score[volume.mask] for score, volume in zip(scores, volumes, strict=True)])
    rated = [(p.false_positive_rate, p.threshold) for p in detector.points if p.kind == "voxel_rate"]
    before = {rate: threshold for rate, threshold in rated if rate is not None}
    realised = {rate: float(np.mean(pooled > threshold)) for rate, threshold in before.items()}
    doubts = {item.scan.id: detector.doubts(volume) for item, volume in zip(healthy, volumes, strict=True)}
    return Recalibrated(made, realised, before, {name: found for name, found in doubts.items() if found})
