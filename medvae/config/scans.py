"""Options from scans to tiles: preparation, sampling, augmentation."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from medvae.imaging.grid import DEFAULT_GRID, require_known
from medvae.imaging.planes import Plane
from medvae.schema import Strict

BrainMethod = Literal["auto", "background", "deepbet", "hdbet"]


class PreparationConfig(Strict):
    """From a scan as it comes to the standard grid; see ``docs/PREPARATION.md``."""

    grid: str = DEFAULT_GRID.name
    """The standard grid, by its name: "mni152-2mm" is 80 × 96 × 80 voxels of 2 mm (``medvae/imaging/grid.py``).
    Options in mm hold on any grid; those in voxels, such as the size of patches, were chosen for 2 mm."""
    brain: BrainMethod = "auto"
    """Where the brain of a scan without a mask in the manifest is: "background", what is not zero in a skull-stripped
    scan; "deepbet" or "hdbet", what these tools find in a head; "auto", the background, or deepbet if it is a head."""
    bias_field: Literal["none", "n4"] = "none"
    """"n4" corrects the bias field (Tustison et al. 2010, doi:10.1109/TMI.2010.2046908)."""
    registration: Literal["auto", "none", "affine"] = "auto"
    """"affine" moves the scan to the MNI152 template; "none" leaves it where it is; "auto" moves it unless its brain
    already lies on the template's."""
    intensity: Literal["percentile", "zscore", "landmarks", "white_matter"] = "percentile"
    """"percentile": the chosen percentiles in the brain become 0 and 1. "zscore": mean 0 and SD 1 in the brain.
    "landmarks": the percentiles and the deciles between them become those of the healthy training scans (Nyúl et al.
    2000, doi:10.1109/42.836373). "white_matter": the most frequent intensity of white matter becomes 1 (T1 only)."""
    percentiles: tuple[float, float] = (1.0, 99.0)
    """Lower and upper percentile, in the brain."""
    clip: tuple[float, float] | None = (-0.25, 1.5)
    """Limits of the normalised intensity, or null."""

    @field_validator("grid")
    @classmethod
    def _known_grid(cls, name: str) -> str:
        return require_known(name)

    @model_validator(mode="after")
    def _limits(self) -> PreparationConfig:
        if self.intensity == "zscore" and self.clip is not None and self.clip[0] > -1:
            raise ValueError(
                f'intensity "zscore" has its mean at 0: clip {list(self.clip)} would cut off much of the brain. Write '
                f"clip: null, or limits such as [-4, 6]."
            )
        return self


class SamplingConfig(Strict):
    """From prepared volumes to batches of slices or patches."""

    kind: Literal["slice", "patch"] = "slice"
    """2D slices, or 3D patches; a patch as large as the standard grid is the whole volume."""
    plane: Plane = "axial"
    """Orientation of the slices."""
    patch_size: tuple[int, int, int] = (64, 64, 64)
    """Voxels of a patch along each axis of the standard grid."""
    patches_per_volume: int = Field(8, ge=1)
    """Patches drawn from a volume per epoch."""
    patch_overlap: float = Field(0.5, ge=0, lt=1)
    """Share of a patch that its neighbour covers too, when a volume is scored."""
    min_brain_fraction: float = Field(0.02, ge=0, lt=1)
    """Slices with less brain than this fraction of their pixels are not trained on."""
    batch_size: int = Field(16, ge=1)
    """Slices, or patches, per step."""
    workers: int = Field(1, ge=0)
    """Processes that cut and augment; 0 does so in the training process."""


class AugmentationConfig(Strict):
    """Random changes to the training slices or patches; every one is applied to every one of them.

    Numbers are drawn uniformly from their range; factors around 1 (scale, gamma, contrast) below 1 as often as above,
    uniformly on either side. A range without width changes nothing.
    """

    backend: Literal["batchgenerators", "tensor"] = "batchgenerators"
    """Where it is done: one by one in the worker processes with batchgenerators, or on whole batches with PyTorch, on
    the device that trains. The distributions are the same, the single draws are not."""
    rotation_degrees: float = Field(6.0, ge=0, le=180)
    """Largest rotation to either side, in the plane of a slice or about each of the three axes of a patch (Zimmerer et
    al. 2019 use 0.1 rad)."""
    scale: tuple[float, float] = (0.95, 1.05)
    """Factor on the field of view: above 1 the brain becomes smaller."""
    mirror: bool = True
    """Mirror every second slice left to right, by chance; has no effect on sagittal slices."""
    contrast: tuple[float, float] = (1.0, 1.0)
    """Factor on the distance from the mean inside the brain, drawn for each channel; (1, 1) is off."""
    bias_field: float = Field(0.0, ge=0, lt=1)
    """Largest relative amplitude of a smooth multiplicative field, as coils cause it; 0 is off."""
    gamma: tuple[float, float] = (0.9, 1.1)
    """Exponent applied to the intensity range."""
    brightness: tuple[float, float] = (0.95, 1.05)
    """Factor on the intensities, drawn for each channel."""
    sharpness: tuple[float, float] = (0.0, 0.0)
    """Weight of the difference to a copy blurred by one voxel that is added: −1 is the blurred copy, 1 doubles the fine
    detail. Scanners differ in it."""
    thick_slices: float = Field(0.0, ge=0, le=1)
    """Share of the scans that are cut into thick slices along one axis by chance, as many clinical scans are."""
    slice_mm: tuple[float, float] = (3.0, 7.0)
    """Thinnest and thickest of these slices; choose them thicker than a voxel of the standard grid."""
    noise_variance: tuple[float, float] = (0.0, 0.0004)
    """Variance of additive Gaussian noise, on normalised intensities."""
    bending_mm: float = Field(0.0, ge=0)
    """Two scans of three are bent before lesions are put in: SD of the displacement of points 16 mm apart, linear
    between them (with ``network.deformable``)."""
    enabled: bool = True
    """False trains on the slices as they are."""

    @model_validator(mode="after")
    def _ranges(self) -> AugmentationConfig:
        for name in ("scale", "gamma", "contrast"):
            low, high = getattr(self, name)
            if not 0 < low <= 1 <= high:
                raise ValueError(f"{name} must be a range of positive factors around 1; found {(low, high)}.")
        for name in ("brightness", "noise_variance"):
            low, high = getattr(self, name)
            if not 0 <= low <= high:
                raise ValueError(f"{name} must be a range from low to high, not negative; found {(low, high)}.")
        if not 0 < self.slice_mm[0] <= self.slice_mm[1]:
            raise ValueError(f"slice_mm must be a range from low to high, above 0; found {self.slice_mm}.")
        if not -1 <= self.sharpness[0] <= self.sharpness[1]:
            raise ValueError(f"sharpness must be a range from low to high, not below −1; found {self.sharpness}.")
        return self
