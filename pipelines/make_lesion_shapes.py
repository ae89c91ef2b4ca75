"""Collect the shapes of real lesions, for lesions inserted into healthy scans.

    python pipelines/make_lesion_shapes.py --masks open_ms/lesion_masks --out data_manifests/included

Every 26-connected component of at least ``--smallest`` mm³ becomes one shape. Patients whose scans are test cases
are excluded (``--leave-out``): training on the shape of a test lesion would leak the test set.
The written ``lesion_shapes.npz`` holds plain arrays (``numpy.load(path, allow_pickle=False)``):

=================  =================  ==================================================================
``bits``           ``(B,)`` uint8     all shapes concatenated, ``numpy.packbits`` (first bit highest)
``shapes``         ``(n, 3)`` int32   voxels of each shape's tight box along x, y, z (RAS)
``offsets``        ``(n,)`` int64     first *bit* of each shape; it has ``shapes[i].prod()`` bits in C order
``patients``       ``(n,)`` int16     number of the patient
``volumes_mm3``    ``(n,)`` int32     volume of each shape
``centres_mm``     ``(n, 3)`` float32 centre of each box in the masks' world (RAS; MNI152 for the included library)
``spacing_mm``     ``(3,)`` float32   size of a shape's voxel
=================  =================  ==================================================================

Read shape ``i`` with::

    library = numpy.load("lesion_shapes.npz", allow_pickle=False)
    flat = numpy.unpackbits(library["bits"])
    start, box = library["offsets"][i], library["shapes"][i]
    shape = flat[start : start + box.prod()].reshape(box).astype(bool)
"""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Annotated

import nibabel as nib
import numpy as np
import typer
from scipy import ndimage

from medvae.errors import MedvaeError
from medvae.files import write_bytes
from medvae.imaging.components import components
from medvae.imaging.volume import Geometry, read_volume, resample

TEST_PATIENTS = (7, 26)


def collect(paths: list[Path], smallest_mm3: float) -> dict[str, np.ndarray]:
    """All components of at least ``smallest_mm3`` of several lesion masks of one spacing, as the arrays above."""
    bits, shapes, patients, volumes, centres = [], [], [], [], []
    spacing = None
    for path in paths:
        lesions, affine = _in_ras(path)
        steps = tuple(float(n) for n in np.diag(affine)[:3])
        if spacing is not None and not np.allclose(steps, spacing, atol=1e-3):
            raise MedvaeError(f"{path}: has voxels of {steps} mm, the masks before it {spacing} mm.")
        spacing = steps
        labels = components(lesions).labels
        for number, box in enumerate(ndimage.find_objects(labels), start=1):
            shape = labels[box] == number
            volume = np.count_nonzero(shape) * np.prod(spacing)
            if volume < smallest_mm3:
                continue
            middle = [(part.start + part.stop - 1) / 2 for part in box]
            bits.append(shape.ravel())
            shapes.append(shape.shape)
            patients.append(_patient(path))
            volumes.append(round(volume))
            centres.append((affine @ [*middle, 1.0])[:3])
    lengths = np.array([part.size for part in bits], dtype=np.int64)
    return {
        "bits": np.packbits(np.concatenate(bits)),
        "shapes": np.array(shapes, dtype=np.int32),
        "offsets": np.cumsum(lengths) - lengths,
        "patients": np.array(patients, dtype=np.int16),
        "volumes_mm3": np.array(volumes, dtype=np.int32),
        "centres_mm": np.array(centres, dtype=np.float32),
        "spacing_mm": np.array(spacing, dtype=np.float32),
    }


def _in_ras(path: Path) -> tuple[np.ndarray, np.ndarray]:
    volume = read_volume(path)
    image = nib.as_closest_canonical(nib.Nifti1Image(np.zeros(volume.array.shape, np.uint8), volume.geometry.affine))
    ras = Geometry(image.affine, image.shape)
    return resample(volume.array, volume.geometry, ras, order=0) > 0, np.asarray(image.affine)


def _patient(path: Path) -> int:
    found = re.search(r"\d+", path.name)
    if not found:
        raise MedvaeError(f"{path}: its name holds no patient number, such as patient01_lesions.nii.gz does.")
    return int(found.group())


def main(
    masks: Annotated[Path, typer.Option(help="Folder of lesion masks (.nii.gz), patient number in the name.")],
    out: Annotated[Path, typer.Option(help="Folder that lesion_shapes.npz is written to.")],
    smallest: Annotated[float, typer.Option(help="Smallest lesion kept, in mm³.")] = 20.0,
    leave_out: Annotated[list[int], typer.Option(help="Patients that are test cases.")] = list(TEST_PATIENTS),  # noqa: B006
) -> None:
    """Write the shapes of all lesions except those of the test patients."""
    paths = [path for path in sorted(masks.glob("*.nii.gz")) if _patient(path) not in leave_out]
    if not paths:
        raise MedvaeError(f"{masks}: holds no lesion masks (*.nii.gz).")
    library = collect(paths, smallest)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **library)
    path = write_bytes(out / "lesion_shapes.npz", buffer.getvalue())
    print(f"{path}: {len(library['shapes']):,} shapes of {len(paths)} patients, {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    typer.run(main)
