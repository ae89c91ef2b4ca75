"""A skull-stripped 1 mm scan read, brought to 2 mm and normalised: medvae, MONAI, nibabel with SciPy, and TorchIO.

    python benchmarks/reading.py [SCAN] [--repeats 15]

Without SCAN, an included scan of 2 mm is interpolated to 1 mm and written as int16 ``.nii.gz`` in LPS order, 240 × 240
× 160 voxels. Processor seconds of one thread, medians of alternating turns; memory is what a process of its own needed
beyond its imports. The brain is where the scan is not 0, intensities become a z score in it, and interpolation is
linear. *medvae* takes the mean of the brain in each voxel of the standard grid, after a smoothing that keeps fine
detail from aliasing; *medvae, as the others* does neither, on MONAI's grid. *All checks* is `prepare_scan` without
registration and N4. A program whose package is not installed is left out.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from turns import medians, peak_mb, shower

from medvae.config import PreparationConfig
from medvae.imaging.grid import DEFAULT_GRID
from medvae.imaging.volume import Geometry, read_volume, resample
from medvae.preparation.intensity import normalise
from medvae.preparation.prepare import prepare_scan
from medvae.preparation.registration import move_brain

INCLUDED = Path(__file__).parent.parent / "data_manifests" / "included" / "ixi" / "IXI012_T1.nii.gz"
SHAPE = (240, 240, 160)
CONFIG = PreparationConfig(registration="none", intensity="zscore", clip=None)

Made = tuple[np.ndarray, np.ndarray]
"""Intensities ``(X, Y, Z)`` and the affine of their grid."""


def made_scan(folder: Path) -> Path:
    """The included scan at 1 mm. Its voxels lie on those of the standard grid, so that results can be compared."""
    source = read_volume(INCLUDED)
    affine = np.diag([-1.0, -1.0, 1.0, 1.0])
    affine[:3, 3] = [120, 112, -73]
    values = resample(source.array, source.geometry, Geometry(affine, SHAPE))
    values *= 1000 / values.max()
    path = folder / "scan.nii.gz"
    nib.save(nib.Nifti1Image(np.rint(values).astype(np.int16), affine), path)
    return path


def by_medvae(path: Path) -> Made:
    """What `medvae.preparation.steps` does, without brain mask, checks, registration and N4."""
    scan, grid = read_volume(path), DEFAULT_GRID.geometry
    moved, brain = move_brain(scan.array, scan.array != 0, scan.geometry, grid)
    return normalise(moved, brain, CONFIG, str(path)), grid.affine


def by_medvae_plainly(path: Path) -> Made:
    """What the others do."""
    scan = read_volume(path)
    low = scan.geometry.corners_mm().min(0)
    shape = [(int(n) + 1) // 2 for n in np.ptp(scan.geometry.corners_mm(), axis=0) + 1]
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = low
    moved = resample(scan.array, scan.geometry, Geometry(affine, (shape[0], shape[1], shape[2])), antialias=False)
    return normalise(moved, moved != 0, CONFIG, str(path)), affine


def by_medvae_with_checks(path: Path) -> Made:
    """A prepared scan."""
    return prepare_scan([path], CONFIG).image[0], DEFAULT_GRID.geometry.affine


@functools.cache
def monai_pipeline() -> Callable:
    """The dictionary transforms of MONAI's tutorials, made once for all scans."""
    from monai import transforms as mt

    return mt.Compose(
        [
            mt.LoadImaged("image"),
            mt.EnsureChannelFirstd("image"),
            mt.Orientationd("image", axcodes="RAS", labels=(("L", "R"), ("P", "A"), ("I", "S"))),
            mt.Spacingd("image", pixdim=(2, 2, 2), mode="bilinear"),
            mt.NormalizeIntensityd("image", nonzero=True),
        ]
    )


def by_monai(path: Path) -> Made:
    """By dictionary transforms."""
    image = monai_pipeline()({"image": str(path)})["image"]
    return image[0].numpy(), np.asarray(image.affine)


def by_nibabel(path: Path) -> Made:
    """nibabel's own resampling, which SciPy does."""
    from nibabel.processing import resample_to_output

    image = resample_to_output(nib.load(path), (2, 2, 2), order=1)
    values = image.get_fdata(dtype=np.float32)
    brain = values != 0
    return np.where(brain, (values - values[brain].mean()) / values[brain].std(), 0), image.affine


@functools.cache
def torchio_pipeline() -> Callable:
    """TorchIO's transforms."""
    import torchio as tio

    return tio.Compose(
        [tio.ToCanonical(), tio.Resample(2, image_interpolation="linear"), tio.ZNormalization(lambda x: x != 0)]
    )


def by_torchio(path: Path) -> Made:
    """By TorchIO's transforms."""
    import torchio as tio

    image = torchio_pipeline()(tio.ScalarImage(path))
    return image.data[0].numpy(), image.affine


WAYS: dict[str, Callable[[Path], Made]] = {
    "medvae": by_medvae,
    "medvae, as the others": by_medvae_plainly,
    "medvae, all checks": by_medvae_with_checks,
    "MONAI": by_monai,
    "nibabel, SciPy": by_nibabel,
}
if importlib.util.find_spec("torchio"):
    WAYS["TorchIO"] = by_torchio


def on_standard_grid(made: Made) -> np.ndarray:
    """A result at the voxels of the standard grid: copied where they are its own, as all but TorchIO's are."""
    values, affine = made
    x, y, z = values.shape
    return resample(values, Geometry(affine, (x, y, z)), DEFAULT_GRID.geometry)


def correlation(a: Made, b: Made) -> float:
    """Of two results in the brain of both, on the standard grid."""
    first, second = on_standard_grid(a), on_standard_grid(b)
    both = (first != 0) & (second != 0)
    return float(np.corrcoef(first[both], second[both])[0, 1])


def memory_mb(way: str, path: Path, repeats: int) -> float:
    """What a process of its own needed beyond its imports."""
    command = [sys.executable, __file__, str(path), "--only", way]
    found = []
    for _ in range(repeats):
        environment = os.environ | {"OMP_NUM_THREADS": "1", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stderr)
        found.append(json.loads(done.stdout.splitlines()[-1]))
    return statistics.median(found)


def own_memory_mb(way: str, path: Path, small: Path) -> float:
    """In this process: what the scan needs after a small one has brought in all that is imported."""
    WAYS[way](small)
    before = peak_mb()
    WAYS[way](path)
    return peak_mb() - before


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scan", nargs="?", type=Path, help="in MNI152 space, or near it")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--quick", action="store_true", help="a smoke run: one turn, without memory")
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--only", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.only:
        print(json.dumps(own_memory_mb(options.only, options.scan, INCLUDED)))
        return
    with tempfile.TemporaryDirectory() as folder:
        path = options.scan or made_scan(Path(folder))
        found = medians(
            {name: lambda way=way: way(path) for name, way in WAYS.items()}, 1 if options.quick else options.repeats
        )
        header, rows = ["program", "seconds", "medvae is"], []
        if not options.quick:
            header.append("memory (MB)")
        if not options.scan:
            header.append("correlation with MONAI")
        reference = None if options.scan else by_monai(path)
        for name, way in WAYS.items():
            row = [name, f"{found[name]:.3f}", f"{found[name] / found['medvae']:.1f}×"]
            if not options.quick:
                row.append(f"{memory_mb(name, path, 3):.0f}")
            if reference is not None:
                row.append(f"{correlation(way(path), reference):.6f}")
            rows.append(row)
        shape = " × ".join(map(str, nib.load(path).shape))
    shower(options.markdown)(f"Read, brought to 2 mm, normalised: {shape} voxels", header, rows)


if __name__ == "__main__":
    main()
