"""Options from scans to tiles: preparation and sampling."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from medvae.imaging.grid import DEFAULT_GRID, require_known
from medvae.imaging.planes import PLANES, Plane
from medvae.schema import Strict

BrainMethod = Literal["auto", "background", "deepbet", "hdbet"]


class PreparationConfig(Strict):
    """From the input scan to the standard grid; see ``docs/PREPARATION.md``."""

    grid: str = DEFAULT_GRID.name
    """The standard grid, by its name: "mni152-2mm" is 80 × 96 × 80 voxels of 2 mm (``medvae/imaging/grid.py``).
    Options in mm hold on any grid; those in voxels, such as the size of patches, were chosen for 2 mm."""
    brain: BrainMethod = "auto"
    """How to find the brain without a mask in the manifest: "background", the nonzero voxels of a skull-stripped scan;
    "deepbet" or "hdbet", skull stripping with these tools; "auto", the background, or deepbet if the scan is a whole
    head."""
    bias_field: Literal["none", "n4"] = "none"
    """"n4" corrects the bias field (Tustison et al. 2010, doi:10.1109/TMI.2010.2046908)."""
    registration: Literal["auto", "none", "affine", "if_possible"] = "auto"
    """"affine" registers the scan to the MNI152 template; "none" leaves it where it is; "auto" registers it unless its
    brain already lies on the template's; "if_possible" is "auto" for scores that compare no places (ranks, the residual
    of a denoising network, or a learned discrepancy without an atlas): where the registration fails, the centre of the
    brain is moved onto that of the template's."""
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
    plane: Plane | Literal["all"] = "axial"
    """Orientation of the slices. "all": one network for slices of all three planes, whose scores are averaged."""
    patch_size: tuple[int, int, int] = (64, 64, 64)
    """Voxels of a patch along each axis of the standard grid."""
    patches_per_volume: int = Field(8, ge=1)
    """Patches drawn from a volume per epoch; slices, with ``objective.patients``."""
    patch_overlap: float = Field(0.5, ge=0, lt=1)
    """Fraction of a patch that its neighbour overlaps when a volume is scored."""
    min_brain_fraction: float = Field(0.02, ge=0, lt=1)
    """Slices with less brain than this fraction of their pixels are excluded from training."""
    batch_size: int = Field(16, ge=1)
    """Slices, or patches, per step."""
    workers: int = Field(1, ge=0)
    """Worker processes that cut and augment tiles; 0 uses the training process."""

    @property
    def planes(self) -> tuple[Plane, ...]:
        """The planes of the slices."""
        return PLANES if self.plane == "all" else (self.plane,)
