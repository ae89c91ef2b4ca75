"""Random changes to a slice or a patch, with batchgenerators, seeded by (seed, epoch, index).

`medvae.sampling.tensor_augmentation` does the same on whole batches, on the device that trains.
"""

from __future__ import annotations

import contextlib
import math
import random
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from batchgenerators.transforms.abstract_transforms import AbstractTransform

from medvae.config import AugmentationConfig
from medvae.imaging.grid import DEFAULT_GRID
from medvae.imaging.planes import Plane
from medvae.sampling.sharpness import SharpnessTransform
from medvae.sampling.smooth_field import SmoothFieldTransform
from medvae.sampling.thick_slices import ThickSlicesTransform


def left_right_axis(plane: Plane | None) -> int | None:
    """The spatial axis of a slice (of a patch, without a plane) along which a mirrored brain is a brain.

    On the standard grid (RAS) left to right is the first axis of a patch and of axial and coronal slices; sagittal
    slices have none.
    """
    return None if plane == "sagittal" else 0


class Augmenter:
    """Augments one slice or patch at a time; the same seed gives the same result on every machine and worker.

    Spatial changes move image and mask together, with linear interpolation (order 1: the order, not the library,
    decides the time). Positive angles turn axis 0 towards axis 1 in a slice; in a patch the rotation matrix is
    ``R_x R_y R_z``, right-handed, about its centre. Intensity changes act inside the brain, take their statistics
    there, and come in the order sharpness, slices, bias field, gamma, brightness, contrast, noise; the background
    stays 0.

    Parameters
    ----------
    config
        The ranges.
    shape
        Spatial shape of what will be augmented: ``(H, W)`` or ``(X, Y, Z)``.
    mirror_axis
        Spatial axis to mirror along, or None: see `left_right_axis`.
    voxel_mm
        Edge of a voxel, in mm; that of the default grid if not given.
    """

    def __init__(
        self,
        config: AugmentationConfig,
        shape: Sequence[int],
        *,
        mirror_axis: int | None,
        voxel_mm: float = DEFAULT_GRID.voxel_mm,
    ) -> None:
        from batchgenerators.transforms.abstract_transforms import Compose
        from batchgenerators.transforms.color_transforms import (
            BrightnessMultiplicativeTransform,
            ContrastAugmentationTransform,
            GammaTransform,
        )
        from batchgenerators.transforms.spatial_transforms import MirrorTransform, SpatialTransform

        angle = np.deg2rad(config.rotation_degrees)
        spatial: list[Callable] = [
            SpatialTransform(
                tuple(shape), patch_center_dist_from_border=None, do_elastic_deform=False, random_crop=False,
                do_rotation=angle > 0, angle_x=(-angle, angle), angle_y=(-angle, angle), angle_z=(-angle, angle),
                do_scale=config.scale != (1.0, 1.0), scale=config.scale, independent_scale_for_each_axis=False,
                order_data=1, order_seg=0, border_mode_data="constant", border_cval_data=0,
                border_mode_seg="constant", border_cval_seg=0,
            )
        ]  # fmt: skip
        if config.mirror and mirror_axis is not None:
            spatial.append(MirrorTransform(axes=(mirror_axis,)))  # mirrors with probability one half
        if config.sharpness != (0.0, 0.0):
            spatial.append(SharpnessTransform(config.sharpness))
        if config.thick_slices > 0:
            spatial.append(ThickSlicesTransform(config.thick_slices, config.slice_mm, voxel_mm))
        if config.bias_field > 0:
            spatial.append(SmoothFieldTransform(config.bias_field))
        inside: list[Callable] = []
        if config.gamma != (1.0, 1.0):
            inside.append(GammaTransform(config.gamma, retain_stats=False))
        if config.brightness != (1.0, 1.0):
            inside.append(BrightnessMultiplicativeTransform(config.brightness))
        if config.contrast != (1.0, 1.0):  # preserving the range would clip, and so move the mean
            inside.append(ContrastAugmentationTransform(config.contrast, preserve_range=False))
        if config.noise_variance[1] > 0:
            inside.append(_NoiseTransform(config.noise_variance))
        self._spatial, self._inside = Compose(spatial), Compose(inside)

    def __call__(self, image: np.ndarray, mask: np.ndarray, seed: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Augment one slice or patch; the arguments are left as they are.

        Parameters
        ----------
        image
            ``(C, *spatial)`` float32.
        mask
            ``(1, *spatial)`` bool, the brain.
        seed
            Non-negative integers, for instance (seed, epoch, index).

        Returns
        -------
        tuple of numpy.ndarray
            Image and mask, of the same shapes and types; the mask may have become empty.
        """
        with _seeded(seed):
            batch = self._spatial(data=image[None].copy(), seg=mask[None].astype(np.float32))
            moved = batch["seg"][0] > 0.5
            result = np.zeros_like(image)
            if moved.any():  # the colour transforms see the brain's voxels only, as (1, C, voxels)
                result[:, moved[0]] = self._inside(data=batch["data"][:, :, moved[0]])["data"][0]
        return result, moved


class _NoiseTransform(AbstractTransform):
    """Gaussian noise of a uniformly drawn variance; batchgenerators' own takes its variance for the deviation."""

    def __init__(self, variance: tuple[float, float]) -> None:
        self.variance = variance

    def __call__(self, **batch: np.ndarray) -> dict[str, np.ndarray]:
        for sample in batch["data"]:
            deviation = math.sqrt(np.random.uniform(*self.variance))  # noqa: NPY002
            sample += np.random.normal(0, deviation, sample.shape)  # noqa: NPY002
        return batch


@contextlib.contextmanager
def _seeded(seed: Sequence[int]) -> Iterator[None]:
    """Seed the global generators that batchgenerators draws from, and put their state back afterwards."""
    numpy_state, python_state = np.random.get_state(), random.getstate()  # noqa: NPY002 - what batchgenerators uses
    word = int(np.random.SeedSequence(seed).generate_state(1)[0])
    np.random.seed(word)  # noqa: NPY002
    random.seed(word)
    try:
        yield
    finally:
        np.random.set_state(numpy_state)  # noqa: NPY002
        random.setstate(python_state)
