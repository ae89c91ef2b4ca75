"""Healthy T1 scans made into healthy FLAIR and T2 scans, for networks of sequences that no healthy cohort has.

    python pipelines/synthetic_sequences.py MANIFEST --sequence FLAIR --out runs/flair/healthy --cache CACHE

Each scan is prepared as for training (brain mask, N4, the standard grid) and given the contrast of another sequence: a
random curve of its T1 intensity, with fluid, grey and white matter at the levels of that sequence. Anatomy, texture,
noise and errors of skull stripping stay those of the real scan. At the border of the ventricles, where a voxel that is
half fluid has the T1 intensity of grey matter, the curve is a straight line from fluid to white matter. Levels vary
within the brain and between the ``--variants`` of a training person (one for validation), as do flow artefacts. The
ranges are those of textbook scans at 1.5 and 3 T (fluid nulled on FLAIR, grey matter brighter than white matter on
both); they were fitted to no scan, but looked at beside five of the patients that the detectors are measured on.

*Written.* One volume for each variant in MNI152 space, its brain mask, and manifest.json with the people's splits.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

from medvae.config import PreparationConfig
from medvae.errors import MedvaeError
from medvae.imaging.volume import write_volume
from medvae.manifest import Case, Manifest, Split, read_manifest, write_manifest
from medvae.preparation.prepare import prepare_healthy
from medvae.preparation.prepared import PreparedVolume
from medvae.regions.atlas import region_atlas

T1 = PreparationConfig(bias_field="n4", intensity="percentile", clip=None)
"""How the scans are prepared: the same as for detectors with intensities by landmarks, so a cache serves both."""

SPLITS: tuple[Split, ...] = ("train", "validation")
FLUID, GREY, WHITE = 3.0, 45.0, 85.0
"""Percentiles of a healthy T1 brain at which the three tissues lie."""

NEAR_VENTRICLE_MM = 5.0
"""From a ventricle of the atlas: where fluid borders on white matter and not on cortex."""


@dataclass(frozen=True)
class Levels:
    """Ranges of intensity, white matter being 1."""

    fluid: tuple[float, float]
    grey: tuple[float, float]
    beyond: tuple[float, float]
    """Of what is brighter than white matter on T1 by a third of the way from fluid: fat, vessels, the pallidum."""


LEVELS = {
    "FLAIR": Levels(fluid=(0.05, 0.45), grey=(1.03, 1.45), beyond=(0.7, 1.1)),
    "T2": Levels(fluid=(2.0, 3.8), grey=(1.2, 1.7), beyond=(0.6, 0.95)),
}


def another_sequence(t1: np.ndarray, mask: np.ndarray, ventricle: np.ndarray, sequence: str, seed: int) -> np.ndarray:
    """The same brain in another sequence.

    Parameters
    ----------
    t1, mask
        ``(X, Y, Z)`` on the standard grid, any linear scale, and bool.
    ventricle
        ``(X, Y, Z)`` bool: near a ventricle.
    sequence
        One of `LEVELS`.
    seed
        Of the contrast.

    Returns
    -------
    ndarray
        ``(X, Y, Z)`` float32, white matter at about 1, above 0 in the brain and 0 around it.
    """
    rng, levels = np.random.default_rng(seed), LEVELS[sequence]
    fluid, grey, white = np.percentile(t1[mask], [FLUID, GREY, WHITE])
    share = np.where(mask, (t1 - fluid) / (white - fluid), 0)
    middle = float((grey - fluid) / (white - fluid))
    at_fluid, at_grey, beyond = (rng.uniform(*span) for span in (levels.fluid, levels.grey, levels.beyond))
    image = np.interp(share, [0, middle, 1, 1.35], [at_fluid, at_grey, 1, beyond])
    straight = np.interp(share, [0, 1], [at_fluid, 1])
    size = 3
    lowest = ndimage.minimum_filter(np.where(mask, share, 1), size)
    highest = ndimage.maximum_filter(share, size)
    border = _step(highest, 0.85) * _step(-lowest, -0.3) * ndimage.gaussian_filter(ventricle.astype(float), 1)
    image += (straight - image) * border * rng.uniform(0.4, 1)
    is_fluid, is_white = _step(-share, -middle / 2), _step(share, (1 + middle) / 2)
    is_grey = np.clip(1 - is_fluid - is_white, 0, 1)
    image *= 1 + is_grey * rng.uniform(0, 0.08) * _noise(mask.shape, 16, rng)
    image *= 1 + is_white * rng.uniform(0, 0.06) * _noise(mask.shape, 16, rng)
    if rng.random() < 0.5:  # fluid that moves
        flow = np.clip(_noise(mask.shape, 8, rng) - rng.uniform(0.5, 2), 0, 1) * rng.uniform(0, 0.8)
        image += is_fluid * flow * (1 - at_fluid)
    image += rng.uniform(0, 0.04) * max(1.0, at_fluid / 2) * rng.normal(size=mask.shape)
    return np.where(mask, np.maximum(image, 0.01), 0).astype(np.float32)


def _step(x: np.ndarray, at: float) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip((x - at) / 0.04, -50, 50)))


def _noise(shape: tuple[int, ...], cell: int, rng: np.random.Generator) -> np.ndarray:
    """Smooth, of unit spread, with a node every ``cell`` voxels."""
    nodes = rng.normal(size=[max(3, -(-n // cell) + 1) for n in shape])
    field = ndimage.zoom(nodes, [n / m for n, m in zip(shape, nodes.shape, strict=True)], order=1, grid_mode=False)
    return field / field.std()


def near_ventricles(volume: PreparedVolume) -> np.ndarray:
    """``(X, Y, Z)`` bool: within `NEAR_VENTRICLE_MM` of a lateral ventricle of the atlas."""
    shape, affine = volume.mask.shape, volume.grid.geometry.affine
    places = np.indices(shape).reshape(3, -1).T @ affine[:3, :3].T + affine[:3, 3]
    return (region_atlas().at(places).to_ventricle_mm <= NEAR_VENTRICLE_MM).reshape(shape)


def main(manifest: Path, sequence: str, variants: int, out: Path, cache: Path | None) -> None:
    """Make the cohort.

    Raises
    ------
    MedvaeError
        If a scan cannot be prepared.
    """
    cohort, cases = read_manifest(manifest), []
    for split in SPLITS:
        people = cohort.of_split(split, healthy=True)
        for case, volume in zip(people, prepare_healthy(cohort, split, T1, cache=cache), strict=True):
            mask, near = np.array(volume.mask), near_ventricles(volume)
            brain = write_volume(out / f"{case.id}_brain.nii.gz", mask.astype(np.uint8), volume.grid.geometry)
            for variant in range(variants if split == "train" else 1):
                name, number = f"{case.id}_{variant}", int.from_bytes(case.id.encode(), "little") + variant
                made = another_sequence(np.array(volume.image[0]), mask, near, sequence, number)
                path = write_volume(out / f"{name}_{sequence}.nii.gz", made, volume.grid.geometry, space="mni152")
                cases.append(Case(
                    id=name, image=path.name, mask=brain.name, split=split, subject=case.subject_id, site=case.site,
                    age=case.age, sex=case.sex,
                ))  # fmt: skip
    name = f"Healthy {sequence}, made of: {cohort.name}"
    made_of = Manifest(name=name, licence=cohort.licence, modality={"0": sequence}, cases=cases)
    print(f"written: {write_manifest(made_of, out / 'manifest.json')} ({len(cases)} scans)")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path, help="healthy T1 scans")
    parser.add_argument("--sequence", choices=LEVELS, required=True)
    parser.add_argument("--variants", type=int, default=3, help="contrasts for each training person (3)")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cache", type=Path, help="prepared scans of the T1 cohort")
    given = parser.parse_args()
    try:
        given.out.mkdir(parents=True, exist_ok=True)
        main(given.manifest, given.sequence, given.variants, given.out, given.cache)
    except MedvaeError as problem:
        sys.exit(str(problem))
