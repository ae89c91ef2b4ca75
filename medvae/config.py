"""Every option of a run as one typed, frozen, documented model.

A config is a YAML file; ``key.key=value`` on the command line overrides single values. The resolved config is
written beside every output.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, model_validator

from medvae.errors import MedvaeError
from medvae.networks.limits import require_fit
from medvae.preparation.grid import STANDARD_GRID
from medvae.schema import Strict, parse, read_document

Plane = Literal["axial", "coronal", "sagittal"]
BrainMethod = Literal["auto", "background", "deepbet", "hdbet"]

PLANE_AXIS: dict[Plane, int] = {"sagittal": 0, "coronal": 1, "axial": 2}
"""Array axis of the standard grid (RAS) that a slice is perpendicular to."""


class PreparationConfig(Strict):
    """From a scan as it comes to the standard grid; see ``docs/PREPARATION.md``."""

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
    """2D slices, or 3D patches; a patch as large as the standard grid (80, 96, 80) is the whole volume."""
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

    @property
    def tile_shape(self) -> tuple[int, ...]:
        """Spatial shape of a tile: two axes for slices, three for patches."""
        if self.kind == "patch":
            return self.patch_size
        return tuple(n for axis, n in enumerate(STANDARD_GRID.shape) if axis != PLANE_AXIS[self.plane])

    @model_validator(mode="after")
    def _fits(self) -> SamplingConfig:
        grid = STANDARD_GRID.shape
        if self.kind == "patch" and any(patch > length for patch, length in zip(self.patch_size, grid, strict=True)):
            raise ValueError(
                f"patch_size {list(self.patch_size)} is larger than the standard grid {list(grid)} along some axis: "
                f"use at most that."
            )
        return self


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
    noise_variance: tuple[float, float] = (0.0, 0.0004)
    """Variance of additive Gaussian noise, on normalised intensities."""
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
        if not -1 <= self.sharpness[0] <= self.sharpness[1]:
            raise ValueError(f"sharpness must be a range from low to high, not below −1; found {self.sharpness}.")
        return self


LesionKind = Literal["dark", "bright", "grey", "foreign", "texture", "ring", "oedema", "smooth", "warp"]


class LesionConfig(Strict):
    """Lesions put into healthy tiles, for a network to learn from; see ``medvae/lesions/synthesis.py``."""

    count: tuple[int, int] = (0, 5)
    """Fewest and most lesions per tile."""
    radius_mm: tuple[float, float] = (2.0, 25.0)
    """Smallest and largest mean radius, drawn so that each octave is equally likely."""
    kinds: tuple[LesionKind, ...] = Field(
        ("dark", "bright", "grey", "foreign", "texture", "ring", "oedema"), min_length=1
    )
    """What a lesion does to its tissue, each with equal probability (one that is named twice, twice as often)."""
    follows_tissue: float = Field(0.0, ge=0, le=1)
    """Share of the lesions that stop where tissue becomes darker: at fluid, or at the edge of the white matter."""
    cores: float = Field(0.0, ge=0, le=1)
    """Share of the lesions from 6 mm of radius on that have a core of another kind."""
    white_matter: float = Field(0.5, ge=0, le=1)
    """Share of the lesions below 16 mm of radius that are placed in the brighter half of the brain."""

    @model_validator(mode="after")
    def _ranges(self) -> LesionConfig:
        if not 0 <= self.count[0] <= self.count[1] or self.count[1] == 0:
            raise ValueError(f"count must be a range from low to high that is not always 0; found {self.count}.")
        if not 1 <= self.radius_mm[0] <= self.radius_mm[1]:
            raise ValueError(f"radius_mm must be a range from low to high, at least 1 mm; found {self.radius_mm}.")
        return self


class NetworkConfig(Strict):
    """A network for slices (2D) or patches (3D); see ``medvae/networks/``."""

    kind: Literal["vae", "autoencoder_kl", "unet", "segmenter"] = "vae"
    """"vae": stride-2 convolutions. "autoencoder_kl": MONAI's residual VAE (Rombach et al. 2022, arXiv 2112.10752).
    "unet": MONAI's U-Net, without a latent, to restore the scan from coarse noise (Kascenas et al. 2022). "segmenter":
    the same U-Net with a logit for each voxel, to find what was inserted into healthy scans."""
    widths: tuple[int, ...] = Field((16, 32, 64, 128), min_length=1)
    """Channels after each stride-2 convolution; their number is the depth. "autoencoder_kl": channels of each level,
    of which the first is the full resolution."""
    latent: Literal["dense", "spatial"] = "dense"
    """"dense": one vector for the whole slice or patch. "spatial": a vector at each place of the lowest level."""
    latent_size: int = Field(128, ge=1)
    """Length of the latent vector, or of each place's."""
    squeeze: int = Field(32, ge=1)
    """Channels kept by a 1×1 convolution before the dense latent, which keeps its weight matrix small."""
    normalisation: Literal["none", "instance", "group"] = "none"
    """Normalisation before each activation, within one sample; "group" has at most 8 groups of channels."""
    activation: Literal["leaky_relu", "silu", "gelu"] = "leaky_relu"
    """Nonlinearity; "leaky_relu" has slope 0.1."""
    atlas: bool = False
    """Show the network the mean of the healthy training scans at each place, and the scan's z value against them,
    beside the scan ("segmenter")."""
    mirror: bool = False
    """Show it also the scan mirrored left to right, and the z value of that: what is alike on both sides is rarely a
    lesion (with ``atlas``)."""
    residual_blocks: int = Field(0, ge=0)
    """Residual blocks at each level below the full resolution ("autoencoder_kl": at every level; "unet": convolutions
    in each level's residual unit)."""

    @model_validator(mode="after")
    def _of_one_kind(self) -> NetworkConfig:
        if min(self.widths) < 1:
            raise ValueError(f"widths are numbers of channels, each at least 1; found {list(self.widths)}.")
        if self.atlas and self.kind != "segmenter":
            raise ValueError(f'only kind "segmenter" can be shown an atlas, not "{self.kind}": remove atlas.')
        if self.mirror and not self.atlas:
            raise ValueError("mirror is compared by z values, which need an atlas: add atlas: true, or remove mirror.")
        if self.kind == "autoencoder_kl":
            needed = {"latent": "spatial", "normalisation": "group", "activation": "silu"}
            missing = [f"{key}: {value}" for key, value in needed.items() if getattr(self, key) != value]
            if self.residual_blocks < 1:
                missing.append("residual_blocks: 1 (or more)")
            if missing:
                raise ValueError(f'kind "autoencoder_kl" comes in one form only: write {", ".join(missing)}.')
        return self


class ObjectiveConfig(Strict):
    """What the network is trained to minimise."""

    kind: Literal["vae", "cevae", "dae", "discrepancy"] = "cevae"
    """"vae": the negative ELBO. "cevae": mixed with context encoding (Zimmerer et al. 2018, arXiv 1812.05941). "dae":
    restore the scan from coarse noise (Kascenas et al. 2022). "discrepancy": segment lesions that were inserted into
    healthy scans (foreign patches, Tan et al. 2020, arXiv 2011.04197)."""
    likelihood: Literal["laplace", "gaussian"] = "laplace"
    """Distribution of a voxel around its reconstruction: absolute or squared error."""
    likelihood_scale: float = Field(0.05, gt=0)
    """Scale of that distribution in normalised intensity: Laplace's b or Gauss's sigma."""
    beta: float = Field(1.0, ge=0)
    """Weight of the KL divergence; both terms are sums per sample, in nats."""
    kl_warmup_steps: int = Field(0, ge=0)
    """Steps over which β rises from 0 to its value."""
    geco_target: float | None = None
    """Reconstruction term, in nats per brain voxel, that training is held to: β then starts at its value and falls
    while the reconstruction is worse, and rises while it is better (GECO: Rezende & Viola 2018, arXiv 1810.00597).
    The scale is that of "reconstruction" in metrics.jsonl; null keeps β."""
    geco_speed: float = Field(0.05, gt=0)
    """Change of log β per step and nat of difference from the target (GECO)."""
    free_nats: float = Field(0.0, ge=0)
    """KL that each latent dimension may spend without being charged for less (Kingma 2016, arXiv 1606.04934)."""
    noise_cell: int = Field(8, ge=1)
    """Voxels between two nodes of the coarse noise (DAE)."""
    noise_standard_deviation: float = Field(0.2, gt=0)
    """Of the coarse noise, in normalised intensity (DAE)."""
    context_weight: float = Field(0.5, ge=0, le=1)
    """λ, the share of the context-encoding term (ceVAE only)."""
    context_squares: tuple[int, int] = (1, 3)
    """Fewest and most squares (cubes in 3D) blanked per sample."""
    context_side: tuple[float, float] = (0.1, 0.4)
    """Side of a square as a fraction of the sample's shortest side."""
    context_fill: Literal["zero", "value", "noise"] = "value"
    """What replaces the blanked voxels: 0, one random value per square, or uniform noise."""
    dice_weight: float = Field(1.0, ge=0)
    """Of 1 − soft Dice beside the cross-entropy ("discrepancy"). 0 asks for honest probabilities and nothing else."""
    lesions: LesionConfig = LesionConfig()
    """What is inserted (discrepancy)."""
    appearance: AugmentationConfig = AugmentationConfig(
        rotation_degrees=0, scale=(1, 1), mirror=False, bias_field=0.3, gamma=(0.6, 1.6), brightness=(0.8, 1.2),
        contrast=(0.7, 1.4), sharpness=(-0.9, 1.5), noise_variance=(0.0, 0.001),
    )  # fmt: skip
    """Changes to the scan after lesions were inserted, so that both look alike: other scanners (discrepancy)."""

    @model_validator(mode="after")
    def _geco(self) -> ObjectiveConfig:
        if self.geco_target is not None:
            if self.kind == "dae" or self.beta == 0:
                raise ValueError("geco_target adapts β, which this objective does not use: remove it.")
            if self.kl_warmup_steps:
                raise ValueError("geco_target and kl_warmup_steps both change β: keep one of the two.")
        return self


class TrainingConfig(Strict):
    """The loop."""

    steps: int = Field(2000, ge=0)
    """Optimiser steps."""
    learning_rate: float = Field(1e-3, gt=0)
    """Peak learning rate of Adam."""
    warmup_steps: int = Field(100, ge=0)
    """Linear warm-up; a cosine to zero follows."""
    clip_gradient_norm: float = Field(1.0, gt=0)
    """Gradients longer than this are shortened; loss in nats per voxel."""
    precision: Literal["no", "bf16", "fp16"] = "no"
    """Automatic mixed precision. KL and sums stay in float32."""
    ema_decay: float = Field(0.0, ge=0, lt=1)
    """Decay of an exponential moving average of the weights, which is then what is kept; 0 keeps the last weights."""
    compile: bool = False
    """Compile the network with ``torch.compile``: pays on long runs only."""
    channels_last: bool = False
    """Store activations channels-last: helps convolutions on a GPU, not on a CPU."""
    log_every: int = Field(20, ge=1)
    """Steps between two lines of metrics.jsonl."""
    validate_every: int = Field(500, ge=1)
    """Steps between two measurements on the healthy validation scans."""
    checkpoint_every: int = Field(500, ge=1)
    """Steps between two checkpoints."""
    tensorboard: bool = False
    """Also write the numbers of metrics.jsonl and the reconstructions to RUN/tensorboard, for TensorBoard."""


NETWORK_SCORES = (
    "residual", "squared_residual", "kl_gradient", "reconstruction_gradient", "elbo_gradient", "context", "restoration",
    "product", "sum", "discrepancy",
)  # fmt: skip
"""Kinds of score that need a network."""


class ScorePart(Strict):
    """One factor or term of a combined score."""

    kind: Literal[
        "residual", "squared_residual", "kl_gradient", "reconstruction_gradient", "elbo_gradient", "context",
        "restoration",
    ]  # fmt: skip
    """As in ``score.kind``; a signed score enters with its absolute value."""
    smoothing_mm: float = Field(0.0, ge=0)
    """Standard deviation of a Gaussian applied to the part before it is combined, in mm."""


class ScoreConfig(Strict):
    """From a prepared volume to a per-voxel score on the standard grid."""

    kind: Literal[
        "residual", "squared_residual", "kl_gradient", "reconstruction_gradient", "elbo_gradient", "context",
        "restoration", "product", "sum", "discrepancy", "intensity", "equalized_intensity",
    ] = "residual"  # fmt: skip
    """"residual": scan − reconstruction with z = μ, signed; "squared_residual": its square. "*_gradient": |∂L/∂x| of a
    loss term (Zimmerer et al. 2019, arXiv 1912.00003). "context": signed residual against what the network restores
    where it was blanked. "restoration": signed change until the model believes the scan (Chen et al. 2020,
    doi:10.1016/j.media.2020.101713). "product" and "sum" combine ``parts``. "discrepancy": the logit of a network that
    segments (network.kind segmenter). "intensity" and
    "equalized_intensity" are the scan itself and need no network."""
    polarity: Literal["bright", "dark", "both"] = "both"
    """Which sign is anomalous: brighter than expected, darker than expected, or either."""
    smoothing_mm: float = Field(0.0, ge=0)
    """Standard deviation of a Gaussian applied to the signed score inside the brain, in mm."""
    normative: bool = False
    """Turn the score into a z value at each place, by mean and SD over the healthy training scans."""
    parts: tuple[ScorePart, ...] = (
        ScorePart(kind="kl_gradient", smoothing_mm=4.0),
        ScorePart(kind="squared_residual"),
    )
    """What "product" and "sum" combine; each part is divided by its healthy mean first. The default product is that of
    Zimmerer et al. 2019, arXiv 1907.02796."""
    smoothgrad_draws: int = Field(0, ge=0)
    """Noisy copies over which a gradient is averaged (SmoothGrad); 0 uses the scan as it is."""
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
    """Root mean square change of a step, in normalised intensity."""
    flipped: bool = False
    """Average with the score of the mirrored scan ("discrepancy")."""
    batch_size: int = Field(64, ge=1)
    """Slices scored at once (a sixteenth of it for patches); the score does not depend on it."""

    @model_validator(mode="after")
    def _signed(self) -> ScoreConfig:
        unsigned = self.kind.endswith("_gradient") or self.kind in ("squared_residual", "product", "sum")
        if unsigned and self.polarity == "dark":
            raise ValueError(f'kind "{self.kind}" is never negative, so polarity "dark" finds nothing: use "bright".')
        if self.kind == "discrepancy" and self.polarity != "bright":
            raise ValueError('kind "discrepancy" is high where a lesion is, whatever its sign: write polarity: bright.')
        if self.kind in ("product", "sum") and len(self.parts) < 2:
            raise ValueError(f'kind "{self.kind}" needs at least two parts.')
        return self


class CalibrationConfig(Strict):
    """Operating points, fixed on the healthy validation scans."""

    false_positive_rates: tuple[float, ...] = (0.01, 0.05)
    """Shares of healthy brain voxels above each threshold."""
    mask_at: float | str = 0.01
    """Which of them the written lesion mask uses; or the name of another operating point, as "fwer_0.2"."""
    family_wise: tuple[float, ...] = ()
    """Levels of operating points "fwer_0.2": the probability of any false finding in a new healthy scan. n healthy
    validation subjects promise no level below 1/(n + 1); see docs/CALIBRATION.md."""
    cluster_above: float | None = None
    """Calibrated score above which findings are measured for "cluster_fwer_0.2": the probability of any false finding
    beyond a size. A number fixed beforehand, as 3 for a normative z; null measures none."""
    false_positive_volume_ml: tuple[float, ...] = ()
    """Bounds of operating points "fpv_5ml": the expected volume flagged in a new healthy scan, in ml. n subjects
    promise no less than false_positive_volume_cap_ml / (n + 1)."""
    false_positive_volume_cap_ml: float = Field(20.0, gt=0)
    """What a scan with a larger false-positive volume counts, in ml; no promise without a largest loss."""
    case_statistic: Literal["maximum", "percentile", "largest_cluster"] = "maximum"
    """What the p-value of a case compares: its largest score, the 99.9th percentile of its score, or the volume of its
    largest finding above cluster_above."""
    normative_shrinkage: float = Field(5.0, ge=0)
    """Pseudo-subjects with which the variance of each place is drawn towards the average variance."""

    @model_validator(mode="after")
    def _known(self) -> CalibrationConfig:
        if any(not 0 < rate < 1 for rate in self.false_positive_rates):
            raise ValueError(f"false_positive_rates must lie between 0 and 1; found {self.false_positive_rates}.")
        if not self.false_positive_rates:
            raise ValueError(
                "false_positive_rates must hold at least one: the first sets the scale of the anomaly map."
            )
        if isinstance(self.mask_at, str) and self.mask_at not in self.promised:
            names = ", ".join(self.promised) or "none, as family_wise and false_positive_volume_ml are empty"
            raise ValueError(f'mask_at="{self.mask_at}" must be a rate, or one of the promised points: {names}.')
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

    @property
    def promised(self) -> tuple[str, ...]:
        """Names of the operating points that come with a promise, as ``docs/CALIBRATION.md`` explains."""
        names = [f"fwer_{level:g}" for level in self.family_wise]
        if self.cluster_above is not None:
            names += [f"cluster_fwer_{level:g}" for level in self.family_wise]
        return (*names, *(f"fpv_{volume:g}ml" for volume in self.false_positive_volume_ml))


class PostprocessingConfig(Strict):
    """From the anomaly map to the lesion mask; all off by default. Choose values on healthy validation scans only."""

    erosion_mm: float = Field(0.0, ge=0, le=20)
    """Nothing is flagged this near to the outside of the brain, in mm of the standard grid; nor does the rim count in
    the maxima and volumes of the healthy scans behind family_wise and false_positive_volume_ml."""
    grow_to: float | None = None
    """False-positive rate (one of calibration.false_positive_rates) down to whose threshold findings grow: a voxel
    above it is flagged if it is connected with one above the mask's own threshold (hysteresis)."""
    minimum_lesion_ml: float = Field(0.0, ge=0)
    """Findings of this volume or less are removed, in ml."""


class Config(Strict):
    """A whole run: how to prepare, train, score and calibrate."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]+$")
    """Name of the method in tables and sidecars."""
    seed: int = Field(0, ge=0)
    """Every random number of a run is derived from it."""
    preparation: PreparationConfig = PreparationConfig()
    """From a scan as it comes to the standard grid."""
    sampling: SamplingConfig = SamplingConfig()
    """From prepared volumes to batches."""
    augmentation: AugmentationConfig = AugmentationConfig()
    """Random changes to the training slices."""
    network: NetworkConfig | None = NetworkConfig()
    """The network; null for a baseline that needs none."""
    objective: ObjectiveConfig = ObjectiveConfig()
    """What the network minimises."""
    training: TrainingConfig = TrainingConfig()
    """The loop."""
    score: ScoreConfig = ScoreConfig()
    """From volume to score."""
    calibration: CalibrationConfig = CalibrationConfig()
    """Operating points."""
    postprocessing: PostprocessingConfig = PostprocessingConfig()
    """From the map to the lesion mask."""

    @model_validator(mode="after")
    def _known_rate(self) -> Config:
        rates, grow_to = self.calibration.false_positive_rates, self.postprocessing.grow_to
        if grow_to is not None and grow_to not in rates:
            raise ValueError(
                f"postprocessing.grow_to={grow_to} must be one of calibration.false_positive_rates {rates}."
            )
        return self

    @model_validator(mode="after")
    def _compatible(self) -> Config:
        needs_network = self.score.kind in NETWORK_SCORES
        if needs_network and self.network is None:
            raise ValueError(f'score.kind "{self.score.kind}" needs a network, but network is null: give one.')
        if not needs_network and self.network is not None:
            raise ValueError(f'score.kind "{self.score.kind}" uses no network: write "network: null".')
        return self

    @model_validator(mode="after")
    def _atlas_keeps_its_values(self) -> Config:
        changes = self.augmentation
        if self.network is not None and self.network.atlas and changes.enabled:
            off = {"contrast": (1, 1), "bias_field": 0, "gamma": (1, 1), "brightness": (1, 1), "sharpness": (0, 0),
                   "noise_variance": (0, 0)}  # fmt: skip
            changing = [name for name, value in off.items() if getattr(changes, name) != value]
            if changing:
                raise ValueError(
                    f"network.atlas: augmentation would change the intensities of scan and atlas alike, so leave "
                    f"{', '.join(changing)} of augmentation off, and use objective.appearance: it changes the scan."
                )
        return self

    @model_validator(mode="after")
    def _network_fits_tile(self) -> Config:
        if self.network is not None:
            try:
                require_fit(self.network, self.sampling.tile_shape)
            except ValueError as error:
                raise ValueError(f"network: {error}") from None
        return self

    @model_validator(mode="after")
    def _posterior(self) -> Config:
        if self.network is None:
            return self
        segmenting = {
            "network.kind: segmenter": self.network.kind == "segmenter",
            "objective.kind: discrepancy": self.objective.kind == "discrepancy",
            "score.kind: discrepancy": self.score.kind == "discrepancy",
        }
        if any(segmenting.values()):
            missing = [option for option, given in segmenting.items() if not given]
            if missing:
                raise ValueError(f"a network that segments inserted lesions needs {' and '.join(segmenting)}; write "
                                 f"{', '.join(missing)}.")  # fmt: skip
            return self
        unet = self.network.kind == "unet"
        if unet and self.objective.kind in ("vae", "cevae"):
            raise ValueError(
                f'objective.kind "{self.objective.kind}" needs a KL divergence, which network.kind "unet" does not '
                f"have: write objective.kind: dae, or network.kind: vae."
            )
        combined = self.score.kind in ("product", "sum")
        for kind in [part.kind for part in self.score.parts] if combined else [self.score.kind]:
            if kind in ("kl_gradient", "elbo_gradient", "restoration") and (unet or self.objective.kind == "dae"):
                reason = (
                    'which network.kind "unet" does not have' if unet else 'which objective.kind "dae" does not train'
                )
                raise ValueError(
                    f'score.{"parts" if combined else "kind"} "{kind}" needs a KL divergence, {reason}: score with '
                    f'"residual", "squared_residual" or "reconstruction_gradient", or train a network.kind: vae with '
                    f"objective.kind: vae or cevae."
                )
        return self


def read_config(path: Path | str | None, overrides: list[str] | None = None) -> Config:
    """Read a YAML config and apply overrides of the form ``training.steps=200``; without a path, the defaults.

    Raises
    ------
    MedvaeError
        For a missing file, an unknown key (the nearest valid one is named), a wrong type or contradictory options.
    """
    content = {"name": "defaults"} if path is None else read_document(path)
    source = "the default config" if path is None else str(path)
    for override in overrides or []:
        if not isinstance(content, dict):
            break
        _apply(content, override)
    if overrides:
        source += f" with {' '.join(overrides)}"
    return parse(Config, content, source)


def dump_config(config: Config) -> str:
    """The config with every default written out, as YAML."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _apply(content: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise MedvaeError(f'"{override}" is not an override: write key=value, for instance training.steps=200.')
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise MedvaeError(f'"{override}": the value cannot be read as YAML.') from None
    if isinstance(value, str):  # YAML 1.1 reads 1e-3 as a word; a person means a number
        with contextlib.suppress(ValueError):
            value = float(value)
    *parents, last = key.split(".")
    for parent in parents:
        inner = content.get(parent)
        if inner is None:
            content[parent] = inner = {}
        if not isinstance(inner, dict):
            raise MedvaeError(f'"{override}": "{parent}" is a value, it has no key "{last}".')
        content = inner
    content[last] = value
