"""Random changes to a slice, with batchgenerators, seeded by (seed, epoch, index)."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator, Sequence

import numpy as np

from medvae.config import AugmentationConfig, Plane


class SliceAugmenter:
    """Augments one slice at a time; the same seed sequence gives the same slice on every machine and worker.

    Spatial changes move image and mask together, with linear interpolation (order 1: the order, not the library,
    decides the time). Intensity changes act inside the brain; the background stays 0.
    """

    def __init__(self, config: AugmentationConfig, plane: Plane, shape: Sequence[int]) -> None:
        from batchgenerators.transforms.abstract_transforms import Compose
        from batchgenerators.transforms.color_transforms import BrightnessMultiplicativeTransform, GammaTransform
        from batchgenerators.transforms.noise_transforms import GaussianNoiseTransform
        from batchgenerators.transforms.spatial_transforms import MirrorTransform, SpatialTransform

        angle = np.deg2rad(config.rotation_degrees)
        transforms = [
            SpatialTransform(
                tuple(shape), patch_center_dist_from_border=None, do_elastic_deform=False, random_crop=False,
                do_rotation=angle > 0, angle_x=(-angle, angle), do_scale=config.scale != (1.0, 1.0),
                scale=config.scale, independent_scale_for_each_axis=False, order_data=1, order_seg=0,
                border_mode_data="constant", border_cval_data=0, border_mode_seg="constant", border_cval_seg=0,
            )
        ]  # fmt: skip
        if plane != "sagittal" and config.mirror:
            transforms.append(MirrorTransform(axes=(0,)))  # mirrors with probability one half
        transforms += [
            GammaTransform(config.gamma, retain_stats=False),
            BrightnessMultiplicativeTransform(config.brightness),
            GaussianNoiseTransform(config.noise_variance),
        ]
        self._transform = Compose(transforms)

    def __call__(self, image: np.ndarray, mask: np.ndarray, seed: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Augment ``image`` ``(C, H, W)`` float32 and ``mask`` ``(1, H, W)`` bool; neither is changed in place."""
        with _seeded(seed):
            result = self._transform(data=image[None].copy(), seg=mask[None].astype(np.float32))
        moved = result["seg"][0] > 0.5
        return np.where(moved, result["data"][0], 0).astype(np.float32), moved


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
