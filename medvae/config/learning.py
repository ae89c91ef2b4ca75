"""Options of what is learned and how: lesions to learn from, network, objective, training."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from medvae.augmentation.options import AugmentationConfig
from medvae.config.backbone import BackboneConfig
from medvae.config.methods import OBJECTIVES, NetworkName, ObjectiveName
from medvae.config.patients import PatientConfig
from medvae.schema import Strict

LesionKind = Literal["dark", "bright", "grey", "foreign", "texture", "ring", "oedema", "smooth", "warp"]


class LesionConfig(Strict):
    """Lesions put into healthy tiles, for a network to learn from; see ``medvae/lesions/synthesis.py``."""

    count: tuple[int, int] = (0, 5)
    """Fewest and most lesions per tile; per scan with ``network.deformable``."""
    radius_mm: tuple[float, float] = (2.0, 25.0)
    """Smallest and largest mean radius, drawn with every octave equally likely unless ``smallness`` changes that."""
    smallness: float = Field(1.0, gt=0)
    """Exponent of the uniform random number that sets the radius: above 1, smaller octaves are more likely."""
    kinds: tuple[LesionKind, ...] = Field(
        ("dark", "bright", "grey", "foreign", "texture", "ring", "oedema"), min_length=1
    )
    """Effects of a lesion on its tissue, drawn with equal probability (one listed twice is drawn twice as often)."""
    faintness: float = Field(1.0, gt=0)
    """Exponent of the uniform random number that sets how much a lesion darkens, brightens or replaces: above 1, most
    are faint. Warps and loss of detail are unaffected."""
    follows_tissue: float = Field(0.0, ge=0, le=1)
    """Fraction of lesions that end where tissue becomes darker: at fluid, or at the edge of the white matter."""
    cores: float = Field(0.0, ge=0, le=1)
    """Fraction of lesions with a radius of 6 mm or more that have a core of another kind."""
    white_matter: float = Field(0.5, ge=0, le=1)
    """Fraction of lesions with a radius below 16 mm that are placed in the brighter half of the brain."""

    @model_validator(mode="after")
    def _ranges(self) -> LesionConfig:
        if not 0 <= self.count[0] <= self.count[1] or self.count[1] == 0:
            raise ValueError(f"count must be a range from low to high that is not always 0; found {self.count}.")
        if not 1 <= self.radius_mm[0] <= self.radius_mm[1]:
            raise ValueError(f"radius_mm must be a range from low to high, at least 1 mm; found {self.radius_mm}.")
        return self


class ReconstructorConfig(Strict):
    """A network trained on healthy scans, whose output is an input of another network."""

    run: str
    """Run folder of a VAE, a ceVAE or a denoising network with the same preparation and tiles. It is read when training
    starts, and stored with the detector from then on."""
    shows: tuple[Literal["residual", "kl_gradient"], ...] = Field(("residual",), min_length=1)
    """"residual": scan − reconstruction, of each modality. "kl_gradient": |∂KL/∂x| divided by its mean in the tile's
    brain. The context score is not offered: it would take hundreds of passes per tile."""
    network: NetworkConfig | None = None
    """The reconstructor's own network section: filled in when training begins."""


class NetworkConfig(Strict):
    """A network for slices (2D) or patches (3D); see ``medvae/networks/``."""

    RENAMED: ClassVar[dict[str, str]] = {"roughness": "texture", "shading": "bias_field", "prior": "reconstructor"}

    kind: NetworkName = "vae"
    """A network of `medvae.config.methods.NETWORKS`."""
    widths: tuple[int, ...] = Field((16, 32, 64, 128), min_length=1)
    """Channels after each stride-2 convolution; their number is the depth. "autoencoder_kl": channels of each level,
    the first is full resolution."""
    latent: Literal["dense", "spatial"] = "dense"
    """"dense": one vector for the whole slice or patch. "spatial": a vector at each position of the lowest level."""
    latent_size: int = Field(128, ge=1)
    """Length of the latent vector, or of the vector at each position."""
    squeeze: int = Field(32, ge=1)
    """Channels kept by a 1×1 convolution before the dense latent, which keeps its weight matrix small."""
    normalisation: Literal["none", "instance", "group"] = "none"
    """Normalisation before each activation, within one sample; "group" has at most 8 groups of channels."""
    activation: Literal["leaky_relu", "silu", "gelu"] = "leaky_relu"
    """Nonlinearity; "leaky_relu" has slope 0.1."""
    atlas: bool = False
    """Additional inputs: the mean of the healthy training scans at each voxel, and the scan's z score against them
    ("segmenter")."""
    mirror: bool = False
    """Additional inputs: the scan mirrored left to right and, with ``atlas``, its z score. What is symmetric is rarely
    a lesion ("segmenter")."""
    texture: bool = False
    """Additional input: the local SD of fine detail around each voxel, as a z score against healthy scans. Lesions can
    lack detail, or have abnormal detail (with ``atlas``; see ``medvae/normative/texture.py``)."""
    deformable: bool = False
    """Warp the atlas to each scan with a smooth field first, and also input how much more volume tissue takes up than
    in healthy brains (with ``atlas``; see ``medvae/normative/deformation.py``). Synthetic lesions are then inserted
    into whole scans, ``objective.lesions.count`` per scan, and the atlas is warped to the scan with its lesions, as it
    will be in patients."""
    neighbours: int = Field(0, ge=0, le=8)
    """Slices on each side that a slice is judged with, as further channels (2.5D; with ``objective.patients``)."""
    detail: int = Field(0, ge=0)
    """Output channels of the U-Net, which two pointwise layers at full resolution receive together with all inputs of
    the network; 0 outputs the logit itself ("segmenter")."""
    bias_field: Literal["kept", "removed"] = "kept"
    """"removed" divides each scan, before the network sees it, by its residual bias field: the smooth field by which it
    differs from the mean of the healthy training scans (``medvae/normative/bias_field.py``). With ``atlas`` it is
    always removed."""
    reconstructor: ReconstructorConfig | None = None
    """Additional input: the output of a network trained earlier. Reconstruct, then discriminate ("segmenter")."""
    residual_blocks: int = Field(0, ge=0)
    """Residual blocks at each level below the full resolution ("autoencoder_kl": at every level; "unet": convolutions
    in each level's residual unit)."""
    backbone: BackboneConfig | None = None
    """Any network of MONAI instead of the U-Net of "unet" and "segmenter"; ``widths``, ``normalisation``,
    ``activation`` and ``residual_blocks`` then have no effect."""

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
        if self.neighbours and (self.kind != "segmenter" or self.reconstructor):
            raise ValueError(
                'neighbours are shown to a network of kind "segmenter" without reconstructor only: remove neighbours.'
            )
        if self.backbone and self.kind not in ("unet", "segmenter"):
            raise ValueError(f'a backbone is the inside of kind "unet" or "segmenter", not "{self.kind}": remove it.')
        if self.mirror and self.kind != "segmenter":
            raise ValueError(f'only kind "segmenter" can be shown the mirrored scan, not "{self.kind}": remove mirror.')
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
    """Target of the reconstruction term, in nats per brain voxel: β starts at its value, falls while the reconstruction
    is worse and rises while it is better (GECO: Rezende & Viola 2018, arXiv 1810.00597). The scale is that of
    "reconstruction" in metrics.jsonl; null keeps β fixed."""
    geco_speed: float = Field(0.05, gt=0)
    """Change of log β per step and nat of difference from the target (GECO)."""
    free_nats: float = Field(0.0, ge=0)
    """Free bits: KL of each latent dimension below which it is not penalised (Kingma 2016, arXiv 1606.04934)."""
    noise_cell: int = Field(8, ge=1)
    """Voxels between two nodes of the coarse noise (DAE)."""
    noise_standard_deviation: float = Field(0.2, gt=0)
    """Standard deviation of the coarse noise, in normalised intensity (DAE)."""
    context_weight: float = Field(0.5, ge=0, le=1)
    """λ, the share of the context-encoding term (ceVAE only)."""
    context_squares: tuple[int, int] = (1, 3)
    """Fewest and most squares (cubes in 3D) blanked per sample."""
    context_side: tuple[float, float] = (0.1, 0.4)
    """Side of a square as a fraction of the sample's shortest side."""
    context_fill: Literal["zero", "value", "noise"] = "value"
    """What replaces the blanked voxels: 0, one random value per square, or uniform noise."""
    dice_weight: float = Field(1.0, ge=0)
    """Weight of 1 − soft Dice, added to the cross-entropy ("discrepancy"). 0 trains for calibrated probabilities
    only."""
    balance: float = Field(0.0, ge=0, le=1)
    """Extra weight of the voxels of small lesions ("discrepancy"): 300 voxels divided by the lesion's number of voxels,
    to this power, limited to ½–6. With 0, a lesion of 2 ml weighs as much as a hundred of 0.02 ml."""
    lesions: LesionConfig = LesionConfig()
    """Synthetic lesions to insert ("discrepancy")."""
    patients: PatientConfig | None = None
    """Make whole scans into patients, with lesions that imitate diseases ("discrepancy"). ``lesions`` are then one kind
    of several, with ``count`` per scan."""
    appearance: AugmentationConfig = AugmentationConfig(
        rotation_degrees=0, scale=(1, 1), mirror=False, bias_field=0.3, gamma=(0.6, 1.6), brightness=(0.8, 1.2),
        contrast=(0.7, 1.4), sharpness=(-0.9, 1.5), noise_variance=(0.0, 0.001),
    )  # fmt: skip
    """Changes to the scan after lesion insertion, applied to tissue and lesions alike: other scanners
    ("discrepancy")."""

    @model_validator(mode="after")
    def _geco(self) -> ObjectiveConfig:
        if self.geco_target is not None:
            if not OBJECTIVES[self.kind].needs_posterior or self.beta == 0:
                raise ValueError("geco_target adapts β, which this objective does not use: remove it.")
            if self.kl_warmup_steps:
                raise ValueError("geco_target and kl_warmup_steps both change β: keep one of the two.")
        return self


class TrainingConfig(Strict):
    """The training loop."""

    steps: int = Field(2000, ge=0)
    """Optimiser steps."""
    start_from: str | None = None
    """A finished detector whose training goes on, with other scans or another objective: its folder, or the name of one
    that comes with medvae; of an ensemble, the folder of a member (``t1-2mm/members/patients_small_t1``). Its weights
    are the first ones, and its atlas and intensity scale are used as they are. The ``network`` section must be the
    same."""
    start_weights_only: bool = False
    """Of ``start_from`` take the weights alone: for scans of another sequence, or prepared otherwise. Atlas and
    intensity scale are then made of the training scans."""
    learning_rate: float = Field(1e-3, gt=0)
    """Peak learning rate of Adam."""
    warmup_steps: int = Field(100, ge=0)
    """Linear warm-up; a cosine to zero follows."""
    clip_gradient_norm: float = Field(1.0, gt=0)
    """Gradients are clipped to this norm; the loss is in nats per voxel."""
    precision: Literal["no", "bf16", "fp16"] = "no"
    """Automatic mixed precision. KL and sums stay in float32."""
    ema_decay: float = Field(0.0, ge=0, lt=1)
    """Decay of an exponential moving average of the weights, which is then saved; 0 saves the last weights."""
    compile: bool = False
    """Compile the network with ``torch.compile``: worthwhile for long runs only."""
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
