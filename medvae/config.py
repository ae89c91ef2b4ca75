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
from medvae.schema import Strict, parse, read_document

Plane = Literal["axial", "coronal", "sagittal"]


class PreparationConfig(Strict):
    """From a scan as it comes to the standard grid."""

    bias_field: Literal["none", "n4"] = "none"
    """"n4" corrects the bias field (Tustison et al. 2010, doi:10.1109/TMI.2010.2046908)."""
    registration: Literal["auto", "none", "affine"] = "auto"
    """"affine" moves the scan to the MNI152 template; "none" leaves it where it is; "auto" moves it unless its brain
    already lies on the template's."""
    intensity: Literal["percentile", "zscore"] = "percentile"
    """"percentile": the chosen percentiles in the brain become 0 and 1. "zscore": mean 0 and SD 1 in the brain."""
    percentiles: tuple[float, float] = (1.0, 99.0)
    """Lower and upper percentile, in the brain."""
    clip: tuple[float, float] | None = (-0.25, 1.5)
    """Limits of the normalised intensity, or null."""


class SamplingConfig(Strict):
    """From prepared volumes to batches of slices."""

    plane: Plane = "axial"
    """Orientation of the slices."""
    min_brain_fraction: float = Field(0.02, ge=0, lt=1)
    """Slices with less brain than this fraction of their pixels are not trained on."""
    batch_size: int = Field(16, ge=1)
    """Slices per step."""
    workers: int = Field(1, ge=0)
    """Processes that augment slices; 0 augments in the training process."""


class AugmentationConfig(Strict):
    """Random changes to the training slices; the ranges are uniform, every one is applied to every slice."""

    rotation_degrees: float = Field(6.0, ge=0, le=180)
    """Largest in-plane rotation to either side (Zimmerer et al. 2019 use 0.1 rad)."""
    scale: tuple[float, float] = (0.95, 1.05)
    """Zoom factor."""
    mirror: bool = True
    """Mirror every second slice left to right, by chance; has no effect on sagittal slices."""
    gamma: tuple[float, float] = (0.9, 1.1)
    """Exponent applied to the intensity range."""
    brightness: tuple[float, float] = (0.95, 1.05)
    """Factor on the intensities."""
    noise_variance: tuple[float, float] = (0.0, 0.0004)
    """Variance of additive Gaussian noise, on normalised intensities."""
    enabled: bool = True
    """False trains on the slices as they are."""


class NetworkConfig(Strict):
    """A convolutional variational autoencoder."""

    widths: tuple[int, ...] = (16, 32, 64, 128)
    """Channels after each stride-2 convolution; their number is the depth."""
    latent_size: int = Field(128, ge=1)
    """Length of the latent vector."""
    squeeze: int = Field(32, ge=1)
    """Channels kept by a 1×1 convolution before the dense latent, which keeps its weight matrix small."""


class ObjectiveConfig(Strict):
    """What the network is trained to minimise."""

    kind: Literal["vae", "cevae"] = "cevae"
    """"vae": the negative ELBO. "cevae": mixed with context encoding (Zimmerer et al. 2018, arXiv 1812.05941)."""
    likelihood: Literal["laplace", "gaussian"] = "laplace"
    """Distribution of a voxel around its reconstruction: absolute or squared error."""
    likelihood_scale: float = Field(0.05, gt=0)
    """Scale of that distribution in normalised intensity: Laplace's b or Gauss's sigma."""
    beta: float = Field(1.0, ge=0)
    """Weight of the KL divergence; both terms are sums per sample, in nats."""
    context_weight: float = Field(0.5, ge=0, le=1)
    """λ, the share of the context-encoding term (ceVAE only)."""
    context_squares: tuple[int, int] = (1, 3)
    """Fewest and most squares blanked per slice."""
    context_side: tuple[float, float] = (0.1, 0.4)
    """Side of a square as a fraction of the slice's shorter side."""
    context_fill: Literal["zero", "value", "noise"] = "value"
    """What replaces the blanked voxels: 0, one random value per square, or uniform noise."""


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
    log_every: int = Field(20, ge=1)
    """Steps between two lines of metrics.jsonl."""
    validate_every: int = Field(500, ge=1)
    """Steps between two measurements on the healthy validation scans."""
    checkpoint_every: int = Field(500, ge=1)
    """Steps between two checkpoints."""


NETWORK_SCORES = (
    "residual", "squared_residual", "kl_gradient", "reconstruction_gradient", "elbo_gradient", "context", "product",
    "sum",
)  # fmt: skip
"""Kinds of score that need a network."""


class ScorePart(Strict):
    """One factor or term of a combined score."""

    kind: Literal[
        "residual", "squared_residual", "kl_gradient", "reconstruction_gradient", "elbo_gradient", "context"
    ]  # fmt: skip
    """As in ``score.kind``; a signed score enters with its absolute value."""
    smoothing_mm: float = Field(0.0, ge=0)
    """Standard deviation of a Gaussian applied to the part before it is combined, in mm."""


class ScoreConfig(Strict):
    """From a prepared volume to a per-voxel score on the standard grid."""

    kind: Literal[
        "residual", "squared_residual", "kl_gradient", "reconstruction_gradient", "elbo_gradient", "context",
        "product", "sum", "intensity", "equalized_intensity",
    ] = "residual"  # fmt: skip
    """"residual": scan − reconstruction with z = μ, signed; "squared_residual": its square. "*_gradient": |∂L/∂x| of a
    loss term (Zimmerer et al. 2019, arXiv 1912.00003). "context": signed residual against what the network restores
    where it was blanked. "product" and "sum" combine ``parts``. "intensity" and "equalized_intensity" are the scan
    itself and need no network."""
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
    batch_size: int = Field(64, ge=1)
    """Slices scored at once; the score does not depend on it."""

    @model_validator(mode="after")
    def _signed(self) -> ScoreConfig:
        unsigned = self.kind.endswith("_gradient") or self.kind in ("squared_residual", "product", "sum")
        if unsigned and self.polarity == "dark":
            raise ValueError(f'kind "{self.kind}" is never negative, so polarity "dark" finds nothing: use "bright".')
        if self.kind in ("product", "sum") and len(self.parts) < 2:
            raise ValueError(f'kind "{self.kind}" needs at least two parts.')
        return self


class CalibrationConfig(Strict):
    """Operating points, fixed on the healthy validation scans."""

    false_positive_rates: tuple[float, ...] = (0.01, 0.05)
    """Shares of healthy brain voxels above each threshold."""
    mask_at: float = 0.01
    """Which of them the written lesion mask uses."""
    normative_shrinkage: float = Field(5.0, ge=0)
    """Pseudo-subjects with which the variance of each place is drawn towards the average variance."""

    @model_validator(mode="after")
    def _known(self) -> CalibrationConfig:
        if any(not 0 < rate < 1 for rate in self.false_positive_rates):
            raise ValueError(f"false_positive_rates must lie between 0 and 1; found {self.false_positive_rates}.")
        if self.mask_at not in self.false_positive_rates:
            raise ValueError(f"mask_at={self.mask_at} must be one of false_positive_rates {self.false_positive_rates}.")
        return self


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

    @model_validator(mode="after")
    def _compatible(self) -> Config:
        needs_network = self.score.kind in NETWORK_SCORES
        if needs_network and self.network is None:
            raise ValueError(f'score.kind "{self.score.kind}" needs a network, but network is null: give one.')
        if not needs_network and self.network is not None:
            raise ValueError(f'score.kind "{self.score.kind}" uses no network: write "network: null".')
        return self


def read_config(path: Path | str, overrides: list[str] | None = None) -> Config:
    """Read a YAML config and apply overrides of the form ``training.steps=200``.

    Raises
    ------
    MedvaeError
        For a missing file, an unknown key (the nearest valid one is named), a wrong type or contradictory options.
    """
    content = read_document(path)
    source = str(path)
    for override in overrides or []:
        if not isinstance(content, dict):
            break
        _apply(content, override)
        source = f"{path} with {' '.join(overrides or [])}"
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
