"""Select a detector on lesions inserted into healthy validation scans, without using the test set.

    python pipelines/validation_lesions.py runs/a runs/b t1-2mm --data MANIFEST --cache CACHE --out runs/validation

Each form gives three scans per validation scan, with one lesion of 0.5–2, 2–8 or 8–30 ml each. Forms: a ring, a mass
that displaces tissue, oedema along white matter, tissue without texture, bright tissue. Neither training nor the test
cohort uses this code for lesions; but a network trained on the kinds *smooth* and *warp* has seen lesions similar to
tissue without texture and to a mass. MS-like lesions (``medvae.lesions``, a patient's whole load at once) are added,
three scans per person. Their family is also in the test cohort, in other people.

The selection criterion is half the AP of the MS-like scans plus half the mean AP of the other forms and sizes, so that
neither the large lesions nor those that are easily made dominate.

Scans and scores are kept in OUT: another detector is compared without repeating the work, and after Ctrl-C the same
command continues.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

from medvae.detection.base import Calibrated
from medvae.detection.ensemble import load_detector
from medvae.errors import MedvaeError
from medvae.evaluation.curves import SparseCounts
from medvae.files import sha256, write_bytes, write_text
from medvae.imaging.grid import DEFAULT_GRID
from medvae.imaging.volume import Volume
from medvae.lesions import insert, read_shapes, white_matter
from medvae.manifest import Manifest, read_manifest
from medvae.preparation.prepare import prepare_healthy
from medvae.preparation.prepared import PreparedVolume, standardised
from medvae.progress import Progress
from medvae.reporting.tables import markdown_table, print_table

SHAPES = Path(__file__).resolve().parents[1] / "data_manifests" / "included" / "lesion_shapes.npz"
SIZES_ML = {"small": (0.5, 2.0), "medium": (2.0, 8.0), "large": (8.0, 30.0)}
REPEATS_OF_MS = 3
SEED = 2028
TRIES = 200


@dataclass(frozen=True)
class Brain:
    """A healthy scan in units of its white matter, ``(X, Y, Z)`` each; lengths in voxels."""

    image: np.ndarray
    mask: np.ndarray
    white: np.ndarray
    depth: np.ndarray


Form = Callable[[Brain, float, np.random.Generator], tuple[np.ndarray, np.ndarray]]
"""From a brain and a radius in voxels to the changed image and each voxel's degree of lesion membership."""


def ring(brain: Brain, radius: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A bright rim around a dark core."""
    distance, _ = ball(brain, radius, rng, brain.depth > 4)
    weight = fall(distance - 1, 0.08)
    rim = np.exp(-(((distance - 0.85) / 0.15) ** 2) / 2)
    change = rng.uniform(0, 0.35) * rim - rng.uniform(0.15, 0.6) * fall(distance - 0.6, 0.08)
    return brain.image * (1 + weight * change), weight


def mass(brain: Brain, radius: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A mass somewhat darker than the tissue it displaces."""
    distance, offsets = ball(brain, radius, rng, brain.depth > 5)
    away = np.sqrt((offsets**2).sum(axis=0))
    source = np.indices(brain.mask.shape) - offsets * 0.5 * np.exp(-((away / radius) ** 2) / 2)
    pushed = ndimage.map_coordinates(brain.image, source, order=1)
    weight = fall(distance - 0.9, 0.08)
    return pushed * (1 - rng.uniform(0.1, 0.35) * weight), weight


def oedema(brain: Brain, radius: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Hypointensity that fades outwards and is confined to the white matter."""
    distance, _ = ball(brain, radius, rng, brain.white & (brain.depth > 3))
    weight = np.clip(1.3 - distance, 0, 1) * ndimage.gaussian_filter(brain.white.astype(np.float32), 0.5)
    return brain.image * (1 - rng.uniform(0.12, 0.35) * weight), weight + 0.2  # lesion from 0.3


def no_detail(brain: Brain, radius: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Tissue without texture."""
    distance, _ = ball(brain, radius, rng, brain.depth > 3)
    weight = fall(distance - 1, 0.08)
    there = np.maximum(ndimage.gaussian_filter(brain.mask.astype(np.float32), 2.5), 1e-3)
    smooth = ndimage.gaussian_filter(brain.image * brain.mask, 2.5) / there
    return brain.image + 0.9 * weight * (smooth - brain.image), weight


def bright(brain: Brain, radius: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Brighter by a constant in all tissues plus a fraction of each."""
    distance, _ = ball(brain, radius, rng, brain.depth > 2)
    weight = fall(distance - 1, 0.08)
    return brain.image + weight * (0.5 + 0.5 * brain.image) * rng.uniform(0.1, 0.35), weight


FORMS: dict[str, Form] = {"ring": ring, "mass": mass, "oedema": oedema, "no detail": no_detail, "bright": bright}


def ball(brain: Brain, radius: float, rng: np.random.Generator, allowed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Perturbed distance from an allowed voxel in units of the radius, and the offsets ``(3, X, Y, Z)`` from it."""
    places = np.argwhere(allowed)
    centre = places[rng.integers(len(places))]
    offsets = np.indices(allowed.shape, dtype=np.float32) - centre.reshape(3, 1, 1, 1)
    rough = ndimage.gaussian_filter(rng.standard_normal(allowed.shape, np.float32), 2.0)
    return np.sqrt((offsets**2).sum(axis=0)) / radius * np.exp(0.25 * rough / rough.std()), offsets


def fall(x: np.ndarray, width: float) -> np.ndarray:
    """Smooth step: 1 well below 0, ½ at 0, 0 well above."""
    return 1 / (1 + np.exp(np.clip(x / width, -30, 30)))


def with_lesion(brain: Brain, form: Form, size: str, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The image with one lesion of a volume within the size's range, and its truth.

    Raises
    ------
    MedvaeError
        If no such lesion was found: the scan is hardly a brain.
    """
    low, high = SIZES_ML[size]
    for _ in range(TRIES):
        volume_ml = float(np.exp(rng.uniform(np.log(low), np.log(high))))
        radius = (volume_ml / DEFAULT_GRID.voxel_volume_ml * 3 / (4 * np.pi)) ** (1 / 3)
        image, weight = form(brain, radius, rng)
        truth = (weight > 0.5) & brain.mask
        if low <= truth.sum() * DEFAULT_GRID.voxel_volume_ml <= high:
            return np.where(brain.mask, np.maximum(image, 0.01), 0).astype(np.float32), truth
    raise MedvaeError(f"a {size} lesion found no room in a brain of {brain.mask.sum()} voxels; check the scan.")


def lesions_of(volume: PreparedVolume, person: int) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """All scans with lesions made from one healthy scan: kind, image and truth."""
    plain = Volume(volume.image[0], volume.grid.geometry)
    white = white_matter(plain, volume.mask)
    depth = ndimage.distance_transform_edt(ndimage.binary_fill_holes(volume.mask))
    brain = Brain(volume.image[0], volume.mask, white, depth)
    for number, (name, form) in enumerate(FORMS.items()):
        for index, size in enumerate(SIZES_ML):
            rng = np.random.default_rng([SEED, person, number, index])
            yield f"{name}, {size}", *with_lesion(brain, form, size, rng)
    shapes = read_shapes(SHAPES)
    for repeat in range(REPEATS_OF_MS):
        made = insert(plain, volume.mask, shapes, rng=np.random.default_rng([SEED, person, 100, repeat]), white=white)
        yield f"MS-like, {repeat + 1}", made.array, made.truth


def make_scans(manifest: Manifest, detector: Calibrated, cache: Path | None, out: Path) -> list[PreparedVolume]:
    """The healthy validation scans in units of white matter; scans with lesions are written to ``out``."""
    plain = {"intensity": "white_matter", "clip": None}
    prepared = prepare_healthy(
        manifest, "validation", detector.config.preparation.model_copy(update=plain), cache=cache
    )
    with Progress("Inserting lesions", len(prepared)) as progress:
        for person, volume in enumerate(prepared):
            if not (out / f"{person}.done").exists():
                for kind, image, truth in lesions_of(volume, person):
                    save(out / f"{person}, {kind}.npz", image=image, truth=truth)
                write_text(out / f"{person}.done", "")
            progress.update(person + 1)
    return prepared


def score(detector: Calibrated, volume: PreparedVolume, image: np.ndarray) -> np.ndarray:
    """The score of a healthy scan with its image replaced by ``(1, X, Y, Z)``, in units of white matter."""
    return detector.score(standardised(volume.with_image(image), detector.scale, detector.config.preparation))


def scores(detector: Calibrated, prepared: list[PreparedVolume], scans: Path, out: Path) -> None:
    """Score all scans with lesions; existing scores are kept."""
    files = sorted(scans.glob("*.npz"))
    with Progress(f"Scoring with {detector.config.name}", len(files)) as progress:
        for done, path in enumerate(files, start=1):
            if not (out / path.name).exists():
                volume = prepared[int(path.name.split(",")[0])]
                save(out / path.name, score=score(detector, volume, np.load(path)["image"][None]))
            progress.update(done, scan=path.stem)


def healthy_scores(detector: Calibrated, prepared: list[PreparedVolume], folder: Path) -> list[np.ndarray]:
    """The scores of the healthy validation scans, ``(X, Y, Z)`` each and −∞ outside the brain; kept in ``folder``."""
    found = []
    with Progress("Scoring healthy scans", len(prepared)) as progress:
        for person, volume in enumerate(prepared):
            path = folder / f"{person}, healthy.npz"
            if not path.exists():
                save(path, score=score(detector, volume, volume.image))
            found.append(np.where(volume.mask, np.load(path)["score"], -np.inf))
            progress.update(person + 1)
    return found


def measure(prepared: list[PreparedVolume], scans: Path, found: Path) -> dict[str, float]:
    """AP of each kind, pooled over the voxels of its scans."""
    counts: dict[str, list[SparseCounts]] = {}
    for path in sorted(scans.glob("*.npz")):
        person, kind, size = path.stem.split(", ")
        mask = prepared[int(person)].mask
        counted = SparseCounts.of(np.load(found / path.name)["score"][mask], np.load(path)["truth"][mask])
        counts.setdefault(kind if kind == "MS-like" else f"{kind}, {size}", []).append(counted)
    return {kind: SparseCounts.merged(cases).summary().ap for kind, cases in counts.items()}


def table(results: dict[str, dict[str, float]]) -> tuple[list[str], list[list[str]]]:
    """A row for each detector: the mean over sizes for each form, and the selection criterion."""
    header = ["detector", "MS-like", *FORMS, *SIZES_ML, "to choose by"]
    rows = []
    for name, aps in results.items():
        forms = [np.mean([aps[f"{form}, {size}"] for size in SIZES_ML]) for form in FORMS]
        sizes = [np.mean([aps[f"{form}, {size}"] for form in FORMS]) for size in SIZES_ML]
        number = (aps["MS-like"] + np.mean(forms)) / 2
        rows.append([name, *(f"{ap:.3f}" for ap in (aps["MS-like"], *forms, *sizes, number))])
    return header, rows


def _key(cohort: Manifest, detector: Calibrated) -> str:
    """Key of the scans with lesions: source brains and preparation."""
    healthy = cohort.of_split("validation", healthy=True)
    images = [sha256(image) for case in healthy for image in cohort.images(case)]
    preparation = detector.config.preparation.model_dump(mode="json", exclude={"intensity", "clip"})
    return hashlib.sha256(json.dumps([SEED, images, preparation]).encode()).hexdigest()[:12]


def save(path: Path, **arrays: np.ndarray) -> None:
    """Write arrays to a compressed file, whole or not at all."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    write_bytes(path, buffer.getvalue())


def ready(
    found: list[str], manifest: Path, cache: Path | None, out: Path
) -> tuple[list[Calibrated], list[PreparedVolume], Path]:
    """The detectors, the healthy validation scans, and the folder in ``out`` that keeps ``scans`` and ``scores``."""
    detectors = [load_detector(name) for name in found]
    for name, detector in zip(found, detectors, strict=True):
        if detector.scale is None:
            raise MedvaeError(
                f"{name}: has preparation.intensity={detector.config.preparation.intensity}. This program compares "
                f"detectors with intensities by landmarks, for which a scan's own unit does not matter."
            )
    cohort = read_manifest(manifest)
    made = out / _key(cohort, detectors[0])  # scans of another cohort must not be mistaken for these
    return detectors, make_scans(cohort, detectors[0], cache, made / "scans"), made


def scored(detector: Calibrated, prepared: list[PreparedVolume], made: Path) -> Path:
    """The folder of a detector's scores, one file for each of the scans."""
    folder = made / "scores" / detector.fingerprint[:12]
    scores(detector, prepared, made / "scans", folder)
    return folder


def main(found: list[str], manifest: Path, cache: Path | None, out: Path) -> None:
    """Make ``out``: scans with lesions, scores and the table."""
    detectors, prepared, made = ready(found, manifest, cache, out)
    results = {
        name: measure(prepared, made / "scans", scored(detector, prepared, made))
        for name, detector in zip(found, detectors, strict=True)
    }
    header, rows = table(results)
    print_table("AP on lesions put into healthy validation scans", header, rows)
    print(f"written: {write_text(out / 'table.md', markdown_table(header, rows))}")


def run(program: str, description: str, main: Callable[[list[str], Path, Path | None, Path], None]) -> None:
    """Call ``main`` with the command line of this program, or of one that uses the same scans."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("detectors", metavar="DETECTOR", nargs="+", help="run folder, detector's folder, or its name")
    parser.add_argument("--data", type=Path, required=True, metavar="MANIFEST", help="the healthy cohort")
    parser.add_argument("--cache", type=Path, help="folder of prepared scans")
    parser.add_argument("--out", type=Path, default=Path("runs/validation"), help="folder for everything")
    chosen = parser.parse_args()
    try:
        main(chosen.detectors, chosen.data, chosen.cache, chosen.out)
    except MedvaeError as error:
        sys.exit(f"{program}: {error}")
    except KeyboardInterrupt:
        sys.exit("\nStopped; run the same command again to go on.")


if __name__ == "__main__":
    run("validation_lesions", __doc__, main)
