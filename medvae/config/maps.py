"""Options from a network to a lesion mask: score, calibration, post-processing."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from medvae.config.methods import SCORES, PartName, ScoreName
from medvae.schema import Strict


class ScorePart(Strict):
    """One factor or term of a combined score."""

    kind: PartName
    """A score of `medvae.config.methods.PARTS`; a signed one enters with its absolute value."""
    smoothing_mm: float = Field(0.0, ge=0)
    """Standard deviation of a Gaussian applied to the part before it is combined, in mm."""


class ScoreConfig(Strict):
    """From a prepared volume to a per-voxel score on the standard grid."""

    kind: ScoreName = "residual"
    """A score of `medvae.config.methods.SCORES`."""
    polarity: Literal["bright", "dark", "both"] = "both"
    """Which sign is anomalous: brighter than expected, darker than expected, or either."""
    one_sided: bool = False
    """Set scores below 0 to 0: deviations to the other side count as none. For an ensemble member that looks for dark
    or for bright lesions only, and should not cancel what others find."""
    smoothing_mm: float = Field(0.0, ge=0)
    """Standard deviation of a Gaussian applied to the signed score inside the brain, in mm; to the ranks, for
    "brightness_rank"."""
    guided_mm: float = Field(0.0, ge=0)
    """Radius (half the side of the cube, in mm) of a guided filter after the Gaussian, which gives the score the edges
    of the scan (He et al. 2013, doi:10.1109/TPAMI.2012.213). 0 is off; less than a voxel counts as one."""
    surround_mm: float = Field(0.0, ge=0, le=50)
    """SD of a Gaussian, in mm, whose mean of the score around each voxel is added to the score, ``surround_weight``
    times. What is faint in the middle of much that is suspicious is more likely a lesion than what is alone. 0: off."""
    surround_weight: float = Field(1.0, ge=0)
    """How much that mean counts beside the score itself."""
    normative: bool = False
    """Convert the score to a z score at each voxel, with the mean and SD of the healthy training scans."""
    normative_first: bool = False
    """With ``normative``, or of the kind "z_score": take the z score, and the side of ``polarity`` if ``one_sided``,
    before the score is smoothed and what surrounds a voxel is added, not after. What varies much among healthy people
    then counts for less in its surroundings too."""
    parts: tuple[ScorePart, ...] = (
        ScorePart(kind="kl_gradient", smoothing_mm=4.0),
        ScorePart(kind="squared_residual"),
    )
    """Parts that "product" and "sum" combine; each is first divided by its healthy mean. The default product is that of
    Zimmerer et al. 2019, arXiv 1907.02796."""
    smoothgrad_draws: int = Field(0, ge=0)
    """Noisy copies over which a gradient is averaged (SmoothGrad); 0 uses the scan itself."""
    smoothgrad_noise: float = Field(0.05, gt=0)
    """Standard deviation of that noise, in normalised intensity."""
    context_side: int = Field(16, ge=2)
    """Side of the blanked patches of the context score, in voxels."""
    context_spacing: int = Field(3, ge=2)
    """Patches this many sides apart are blanked together."""
    context_shifts: int = Field(2, ge=1)
    """Shifted grids along each axis of a slice; the cost is (spacing · shifts)² passes."""
    restoration_steps: int = Field(30, ge=1)
    """Gradient steps of the restoration score."""
    restoration_step_size: float = Field(0.01, gt=0)
    """Root mean square change per step, in normalised intensity."""
    flipped: bool = False
    """Average with the score of the mirrored scan ("discrepancy")."""
    batch_size: int = Field(64, ge=1)
    """Slices scored at once (for patches, a sixteenth of this); the score does not depend on it."""

    @model_validator(mode="after")
    def _signed(self) -> ScoreConfig:
        kind = SCORES[self.kind]
        if kind.values == "magnitude" and self.polarity == "dark":
            raise ValueError(f'kind "{self.kind}" is never negative, so polarity "dark" finds nothing: use "bright".')
        if kind.values == "logit" and self.polarity != "bright":
            raise ValueError(
                f'kind "{self.kind}" is high where a lesion is, whatever its sign: write polarity: bright.'
            )
        if self.one_sided and self.polarity == "both":
            raise ValueError('one_sided leaves out one side, but polarity "both" has none: write "bright" or "dark".')
        if kind.needs_atlas and self.normative:
            raise ValueError(f'kind "{self.kind}" is a z score already: remove normative.')
        if self.normative_first and (not (self.normative or kind.needs_atlas) or kind.smooths):
            raise ValueError(
                f"normative_first takes the z score before the smoothing: it needs normative: true or kind: z_score, "
                f'and a kind that is not smoothed within (found "{self.kind}").'
            )
        if kind.combines and len(self.parts) < 2:
            raise ValueError(f'kind "{self.kind}" needs at least two parts.')
        return self


class CalibrationConfig(Strict):
    """Operating points, fixed on the healthy validation scans."""

    false_positive_rates: tuple[float, ...] = (0.01, 0.05)
    """Fractions of healthy brain voxels above each threshold."""
    confidence: float = Field(0.0, ge=0, lt=1)
    """With how much confidence further people of the same sites have at most these rates on average: 0 sets a threshold
    by the share in the validation scans themselves, 0.9 by the upper end of its one-sided 90 % interval over people."""
    made_of: str | None = None
    """The sequence of the scans that the healthy scans were made of, if a program gave them another contrast: sidecars
    say so, as real scans have other rates."""
    mask_at: float | str = 0.01
    """The one used for the lesion mask, or the name of another operating point, such as "fwer_0.2"."""
    ranks: tuple[float, ...] = ()
    """Operating points "rank_0.9" of the score "brightness_rank": what lies above is flagged, 0.5 being the middle of
    the scan and 1 brighter than everything. They need no healthy scan, and say nothing about healthy scans."""
    family_wise: tuple[float, ...] = ()
    """Levels of operating points "fwer_0.2": the probability of any false finding in a new healthy scan. n healthy
    validation subjects cannot guarantee a level below 1/(n + 1); see docs/CALIBRATION.md."""
    cluster_above: float | None = None
    """Calibrated score above which findings are measured for "cluster_fwer_0.2": the probability of any false finding
    above a certain size. A number fixed beforehand, such as 3 for a normative z; null measures none."""
    false_positive_volume_ml: tuple[float, ...] = ()
    """Bounds of operating points "fpv_5ml": the expected volume flagged in a new healthy scan, in ml. n subjects cannot
    guarantee less than false_positive_volume_cap_ml / (n + 1)."""
    false_positive_volume_cap_ml: float = Field(20.0, gt=0)
    """Cap on the false-positive volume of a scan, in ml; the guarantee needs a bounded loss."""
    case_statistic: Literal["maximum", "percentile", "largest_cluster"] = "maximum"
    """Statistic behind the p-value of a case: its largest score, the 99.9th percentile of its score, or the volume of
    its largest finding above cluster_above."""
    normative_shrinkage: float = Field(5.0, ge=0)
    """Pseudo-subjects by which the variance at each voxel is shrunk towards the average variance."""

    @model_validator(mode="after")
    def _known(self) -> CalibrationConfig:
        if any(not 0 < rate < 1 for rate in self.false_positive_rates):
            raise ValueError(f"false_positive_rates must lie between 0 and 1; found {self.false_positive_rates}.")
        if not self.false_positive_rates:
            raise ValueError(
                "false_positive_rates must hold at least one: the first sets the scale of the anomaly map."
            )
        if any(not 0 < rank < 1 for rank in self.ranks):
            raise ValueError(f"ranks must lie between 0 and 1; found {self.ranks}.")
        named = (*self.promised, *map(rank_name, self.ranks))
        if isinstance(self.mask_at, str) and self.mask_at not in named:
            names = ", ".join(named) or "none, as family_wise, false_positive_volume_ml and ranks are empty"
            raise ValueError(f'mask_at="{self.mask_at}" must be a rate, or one of the named points: {names}.')
        if isinstance(self.mask_at, float) and self.mask_at not in self.false_positive_rates:
            raise ValueError(f"mask_at={self.mask_at} must be one of false_positive_rates {self.false_positive_rates}.")
        if any(not 0 < level < 1 for level in self.family_wise):
            raise ValueError(f"family_wise must lie between 0 and 1; found {self.family_wise}.")
        cap = self.false_positive_volume_cap_ml
        if any(not 0 < volume < cap for volume in self.false_positive_volume_ml):
            raise ValueError(
                f"false_positive_volume_ml must lie between 0 and false_positive_volume_cap_ml={cap:g}: what no scan "
                f"can exceed needs no promise; found {self.false_positive_volume_ml}."
            )
        if self.case_statistic == "largest_cluster" and self.cluster_above is None:
            raise ValueError('case_statistic "largest_cluster" needs cluster_above: above which score?')
        return self

    def on_healthy_scans(self) -> CalibrationConfig:
        """The same for thresholds from healthy scans: without ranks, and masks at a rate if they were at a rank."""
        at_rank = self.mask_at in [rank_name(rank) for rank in self.ranks]
        mask_at = self.false_positive_rates[0] if at_rank else self.mask_at
        return self.model_copy(update={"ranks": (), "mask_at": mask_at})

    @property
    def promised(self) -> tuple[str, ...]:
        """Names of the operating points that come with a guarantee, as ``docs/CALIBRATION.md`` explains."""
        names = [f"fwer_{level:g}" for level in self.family_wise]
        if self.cluster_above is not None:
            names += [f"cluster_fwer_{level:g}" for level in self.family_wise]
        return (*names, *(f"fpv_{volume:g}ml" for volume in self.false_positive_volume_ml))


def rank_name(rank: float) -> str:
    """Name of the operating point of a rank, as "rank_0.9"."""
    return f"rank_{rank:g}"


class RandomWalkerConfig(Strict):
    """The outline of a finding, where random walks from its strongest voxels meet those from around it; they cross
    edges of the scan seldom (Grady 2006). Strengths are multiples of the mask's threshold, both counted from the
    healthy median."""

    seeds_above: float = Field(2.25, ge=1)
    """Voxels of a finding that surely belong to it; where it has none above this, its strongest fifth."""
    background_below: float = Field(0.7, ge=0, le=1)
    """Voxels around a finding that surely do not belong to it."""
    reach_mm: float = Field(4.0, gt=0, le=50)
    """The outline lies at most this far outside the finding, in mm of the standard grid."""


class PostprocessingConfig(Strict):
    """From the anomaly map to the lesion mask; all off by default. Choose values on healthy validation scans only."""

    erosion_mm: float = Field(0.0, ge=0, le=20)
    """Nothing within this distance of the brain's edge is flagged, in mm of the standard grid. The rim is also excluded
    from the maxima and volumes of the healthy scans behind family_wise and false_positive_volume_ml."""
    grow_to: float | None = None
    """Findings grow down to the threshold of this false-positive rate (one of calibration.false_positive_rates): a
    voxel above it is flagged if it is connected to one above the mask's own threshold (hysteresis)."""
    random_walker: RandomWalkerConfig | None = None
    """Outline findings by a random walker, which cuts what the smoothing spread beyond a strong lesion and adds what
    belongs to it in the scan; without it their outline is the threshold's. Not beside grow_to."""
    peak_share: float = Field(1.0, gt=0, le=1)
    """Findings are removed if they nowhere exceed the threshold for this fraction of the mask's own false-positive
    rate. With 0.2 and a mask at 0.1 %, a finding stays if it contains a value that 0.02 % of the healthy voxels
    exceed."""
    minimum_lesion_ml: float = Field(0.0, ge=0)
    """Findings of this volume or less are removed, in ml."""

    @model_validator(mode="after")
    def _one_outline(self) -> PostprocessingConfig:
        if self.random_walker is not None and self.grow_to is not None:
            raise ValueError("grow_to and random_walker both outline findings. Choose one of them.")
        return self
