"""The options of an augmentation, and the order in which its changes are applied."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from medvae.augmentation.base import Augmentation
from medvae.augmentation.bias_field import BiasField, BiasFieldOptions
from medvae.augmentation.brightness import Brightness, BrightnessOptions
from medvae.augmentation.contrast import Contrast, ContrastOptions
from medvae.augmentation.extra import ExtraTransform
from medvae.augmentation.gamma import Gamma, GammaOptions
from medvae.augmentation.mirror import Mirror, MirrorOptions
from medvae.augmentation.noise import Noise, NoiseOptions
from medvae.augmentation.sharpness import Sharpness, SharpnessOptions
from medvae.augmentation.spatial import Spatial, SpatialOptions
from medvae.augmentation.thick_slices import ThickSlices, ThickSlicesOptions
from medvae.schema import Strict

AUGMENTATIONS: tuple[type[Augmentation[Any, Any]], ...] = (
    Spatial, Mirror, Sharpness, ThickSlices, BiasField, Gamma, Brightness, Contrast, Noise,
)  # fmt: skip
"""In the order of application; the transforms of ``extra`` follow."""


class EngineOptions(Strict):
    """Where augmentation is done."""

    backend: Literal["batchgenerators", "tensor"] = "batchgenerators"
    """Where it is done: one by one in the worker processes with batchgenerators, or on whole batches with PyTorch, on
    the device that trains. The distributions are the same, the single draws are not."""


class AugmentationConfig(
    # pydantic lists the fields of the last base first: this is the order of a config file, backwards
    NoiseOptions, ThickSlicesOptions, SharpnessOptions, BrightnessOptions, GammaOptions, BiasFieldOptions,
    ContrastOptions, MirrorOptions, SpatialOptions, EngineOptions,
):  # fmt: skip
    """Random changes to the training slices or patches; every one is applied to every one of them.

    Numbers are drawn uniformly from their range; factors around 1 (scale, gamma, contrast) below 1 as often as above,
    uniformly on either side. A range without width changes nothing.
    """

    REMOVED: ClassVar[dict[str, object]] = {"bending_mm": 0.0}

    enabled: bool = True
    """False trains on the slices as they are."""
    extra: tuple[ExtraTransform, ...] = ()
    """Transforms of MONAI or batchgenerators that follow, in this order, each with its arguments, for instance
    ``[{transform: monai.transforms.RandGibbsNoise, prob: 0.3, alpha: [0, 0.5]}]``."""

    def changes(self, mirror_axis: int | None) -> list[Augmentation[Any, Any]]:
        """The changes that these ranges switch on, in their order; ``extra`` aside.

        Parameters
        ----------
        mirror_axis
            Spatial axis along which a mirrored brain is a brain, or None.
        """
        made = (augmentation(self, mirror_axis) for augmentation in AUGMENTATIONS)
        return [change for change in made if change.active]

    def moving(self) -> list[str]:
        """Fields that move the brain, mirroring aside."""
        return [field for change in self.changes(None) if change.moves_mask for field in change.fields.model_fields]

    def changing_intensities(self) -> list[str]:
        """Fields that change intensities rather than move the brain."""
        fields = [next(iter(c.fields.model_fields)) for c in self.changes(None) if not c.moves_mask]
        return fields + (["extra"] if self.extra else [])
