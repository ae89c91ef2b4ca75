"""Options of what is learned and how: lesions to learn from, network, objective, training."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from medvae.augmentation.options import AugmentationConfig
from medvae.config.methods import OBJECTIVES, NetworkName, ObjectiveName
from medvae.schema import Strict

LesionKind = Literal["dark", "bright", "grey", "foreign", "texture", "ring", "oedema", "smooth", "warp"]


class LesionConfig(Strict):
    """Lesions put into healthy tiles, for a network to learn from; see ``medvae/lesions/synthesis.py``."""

    count: tuple[int, int] = (0, 5)
    """Fewest and most lesions per tile; per scan with ``network.deformable``."""
    radius_mm: tuple[float, float] = (2.0, 25.0)
    """Smallest and largest mean radius, drawn so that each octave is equally likely, unless ``smallness`` says
    otherwise."""
    smallness: float = Field(1.0, gt=0)
    """Power of the uniform number that sets the radius: above 1 smaller octaves are more likely than larger ones."""
    kinds: tuple[LesionKind, ...] = Field(
        ("dark", "bright", "grey", "foreign", "texture", "ring", "oedema"), min_length=1
    )
    """What a lesion does to its tissue, each with equal probability (one that is named twice, twice as often)."""
    faintness: float = Field(1.0, gt=0)
    """Power of the uniform number that sets how much a lesion darkens, brightens or replaces: above 1 most are faint.
    A warp and a loss of detail are as strong as ever."""
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


class ReconstructorConfig(Strict):
    """A network that has learned what healthy scans look like, whose opinion another is shown."""

    run: str
    """Its run folder, of a VAE, a ceVAE or a denoising network with the same preparation and tiles; read when training
    begins, and kept with the detector from then on."""
    shows: tuple[Literal["residual", "kl_gradient"], ...] = Field(("residual",), min_length=1)
    """"residual": scan − reconstruction, of each modality. "kl_gradient": |∂KL/∂x| over its mean in the brain of the
    tile. The context score would take hundreds of passes for each tile, and is not offered."""
    network: NetworkConfig | None = None
    """The reconstructor's own network section: filled in when training begins."""


class NetworkConfig(Strict):
    """A network for slices (2D) or patches (3D); see ``medvae/networks/``."""

    RENAMED: ClassVar[dict[str, str]] = {"roughness": "texture", "shading": "bias_field", "prior": "reconstructor"}

    kind: NetworkName = "vae"
    """A network of `medvae.config.methods.NETWORKS`."""
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
    """Show the network the mean of the healthy training scans at each place, and the scan's z score against them,
    beside the scan ("segmenter")."""
    mirror: bool = False
    """Show it also the scan mirrored left to right, and the z score of that: what is alike on both sides is rarely a
    lesion (with ``atlas``)."""
    texture: bool = False
    """Show it also the local SD of fine detail around each voxel, as a z score against healthy scans: lesions can lack
    detail, or have some that does not belong there (with ``atlas``; see ``medvae/normative/texture.py``)."""
    deformable: bool = False
    """Bend the atlas onto each scan before it is shown, by a smooth field, and show how much more room tissue takes
    than in healthy brains as well (with ``atlas``; see ``medvae/normative/deformation.py``).
    Lesions to learn from are then put into whole scans, ``objective.lesions.count`` of them, and what is bent onto is
    the scan with its lesions, as it will be in patients."""
    detail: int = Field(0, ge=0)
    """Channels in which the U-Net ends, for two pointwise layers at full resolution that see them beside all that the
    network is shown; 0 ends in the logit itself ("segmenter")."""
    bias_field: Literal["kept", "removed"] = "kept"
    """"removed" divides each scan, before the network sees it, by the residual bias field: the smooth field in which it
    differs from the mean of the healthy training scans (``medvae/normative/bias_field.py``). With ``atlas`` it is
    always removed."""
    reconstructor: ReconstructorConfig | None = None
    """Show it also what a network that was trained before makes of the scan: reconstruct, then discriminate
    ("segmenter")."""
    residual_blocks: int = Field(0, ge=0)
    """Residual blocks at each level below the full resolution ("autoencoder_kl": at every level; "unet": convolutions
    in each level's residual unit)."""

    @model_validator(mode="after")
    def _of_one_kind(self) -> NetworkConfig:
        if min(self.widths) < 1:
            raise ValueError(f"widths are numbers of channels, each at least 1; found {list(self.widths)}.")
        if self.atlas and self.kind != "segmenter":
            raise ValueError(f'only kind "segmenter" can be shown an atlas, not "{self.kind}": remove atlas.')
        if self.reconstructor and self.kind != "segmenter":
            raise ValueError(
                f'only kind "segmenter" can be shown a reconstructor, not "{self.kind}": remove reconstructor.'
            )
        if self.bias_field == "removed" and self.atlas:
            raise ValueError("a network with atlas sees no residual bias field anyway: remove bias_field.")
        if self.texture and not self.atlas:
            raise ValueError("texture is shown as a z score, which needs an atlas: add atlas: true, or remove texture.")
        if self.deformable and not self.atlas:
            raise ValueError("deformable bends an atlas: add atlas: true, or remove deformable.")
        if self.detail and self.kind != "segmenter":
            raise ValueError(f'only kind "segmenter" has a last stage of detail, not "{self.kind}": remove detail.')
        if self.mirror and not self.atlas:
            raise ValueError("mirror is compared by z scores, which need an atlas: add atlas: true, or remove mirror.")
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

    kind: ObjectiveName = "cevae"
    """An objective of `medvae.config.methods.OBJECTIVES`."""
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
    balance: float = Field(0.0, ge=0, le=1)
    """How much the voxels of small lesions count for more ("discrepancy"): as 300 voxels over the lesion's own, to this
    power, between ½ and 6 times. With 0 a lesion of 2 ml counts for as much as a hundred of 0.02 ml."""
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
            if not OBJECTIVES[self.kind].needs_posterior or self.beta == 0:
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
