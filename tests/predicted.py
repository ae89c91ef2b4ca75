"""A folder as `medvae predict` leaves it, made without a detector."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy import ndimage

from medvae.derivatives import MAP_SUFFIX, MASK_SUFFIX
from medvae.files import sha256, write_json
from medvae.imaging.volume import Geometry, write_volume
from medvae.manifest import Case, Manifest, read_manifest, write_manifest

GRID = Geometry(np.array([[-2.0, 0, 0, 40], [0, 2.0, 0, -50], [0, 0, 2.0, -30], [0, 0, 0, 1]]), (40, 48, 36))
"""LAS, so that a page that mixes up left and right is found out."""
THRESHOLD = 0.5


def make_predictions(folder: Path, lesions: list[str], healthy: list[str], *, grid: Geometry = GRID) -> Manifest:
    """Scans in ``folder/scans``, predictions in ``folder/predictions`` and the manifest of both."""
    cases = []
    for number, name in enumerate([*lesions, *healthy]):
        rng = np.random.default_rng(number)
        inside = np.zeros(grid.shape, bool)
        inside[4:-4, 4:-4, 4:-4] = True
        noise = ndimage.gaussian_filter(rng.standard_normal(grid.shape), 1.5)
        heat = np.where(inside, np.clip(0.3 + 0.1 * noise / noise.std(), 0.01, 0.99), 0).astype(np.float32)
        truth = np.zeros(grid.shape, bool)
        label = None
        if name in lesions:
            truth[8:14, 20:28, 12:18] = True
            heat[9:15, 20:28, 12:18] = np.clip(heat[9:15, 20:28, 12:18] + 0.1 * (number + 3), 0, 0.99)
            label = f"scans/case{number}_truth.nii.gz"
            write_volume(folder / label, truth.astype(np.uint8), grid)
        scan = folder / f"scans/case{number}.nii.gz"
        write_volume(scan, np.where(inside, 500 + 40 * noise - 200 * truth, 0).astype(np.float32), grid)
        write_prediction(folder / "predictions", name, scan, heat, grid, p_value=1 / (number + 1))
        cases.append(Case(id=name, image=f"scans/case{number}.nii.gz", label=label, split="test"))
    manifest = Manifest(name="small <cohort>", modality={"0": "T1"}, cases=cases)
    return read_manifest(write_manifest(manifest, folder / "cohort.json"))


def write_prediction(folder: Path, name: str, scan: Path, heat: np.ndarray, grid: Geometry, *, p_value: float) -> None:
    """Map, mask and sidecar of one scan."""
    mask = heat > THRESHOLD
    write_volume(folder / f"{name}{MAP_SUFFIX}", heat, grid)
    write_volume(folder / f"{name}{MASK_SUFFIX}", mask.astype(np.uint8), grid)
    points = {"fpr_0.01": {"FalsePositiveRate": 0.01, "Threshold": THRESHOLD}}
    common = {
        "Sources": [scan.name], "SourcesSha256": [sha256(scan)], "Model": "<b>method</b>", "ModelFingerprint": "f" * 64,
        "OperatingPoints": points | {"fpr_0.05": {"FalsePositiveRate": 0.05, "Threshold": 0.45}},
        "HealthyScans": {"training": 20, "validation": 6}, "BrainMaskFrom": "background", "RegisteredToMNI152": False,
        "Software": {"medvae": "0.1.0"},
    }  # fmt: skip
    write_json(folder / f"{name}{MAP_SUFFIX.removesuffix('.nii.gz')}.json", common)
    own = {"OperatingPoint": "fpr_0.01", "Threshold": THRESHOLD, "ThresholdSource": "6 scans", "CasePValue": p_value}
    own |= {"CasePValueMeaning": "how unusual", "LesionVolumeMl": float(mask.sum() * grid.voxel_volume_ml)}
    own |= {"BrainVolumeMl": float((heat > 0).sum() * grid.voxel_volume_ml), "Guarantee": "None."}
    write_json(folder / f"{name}{MASK_SUFFIX.removesuffix('.nii.gz')}.json", own | common)
