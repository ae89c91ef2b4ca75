"""The available networks, objectives and scores: what each is, and what it needs of the others.

They are declared here, where nothing imports PyTorch, and implemented under the same names in `medvae.networks`,
`medvae.training.objectives` and `medvae.scoring`. The texts of the options, and the refusal of combinations that do not
fit, follow from these tables.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import AfterValidator, Field


@dataclass(frozen=True)
class NetworkKind:
    """A kind of network."""

    meaning: str
    """What it is, in a sentence."""
    has_posterior: bool = False
    """It encodes a tile as a distribution q(z|x), which has a KL divergence."""
    segments: bool = False
    """It gives a logit for each voxel, and no reconstruction."""


@dataclass(frozen=True)
class ObjectiveKind:
    """Something to minimise."""

    meaning: str
    """What it is, in a sentence."""
    needs_posterior: bool = False
    """It contains the KL divergence, weighted by β: a network without a posterior cannot be trained with it."""
    needs_segmenter: bool = False
    """It compares logits with lesions that were inserted."""


@dataclass(frozen=True)
class ScoreKind:
    """A map that says how anomalous each voxel is."""

    meaning: str
    """What it is, in a sentence."""
    needs_network: bool = True
    """False for a score of the scan alone."""
    needs_posterior: bool = False
    """It uses the KL divergence of a network that was trained with it."""
    needs_segmenter: bool = False
    """It uses the logits of a network that segments; all other networks reconstruct."""
    needs_atlas: bool = False
    """It is given the scan as z scores against the mean of healthy scans."""
    is_part: bool = False
    """It may be a part of a combined score."""
    combines: bool = False
    """It is made of the scores in ``score.parts``, each divided by its healthy mean."""
    smooths: bool = False
    """It applies ``score.smoothing_mm`` itself, before its last step, and the map is not smoothed again."""
    ranks: bool = False
    """Its values are ranks within the scan, which ``calibration.ranks`` can name."""
    values: Literal["signed", "magnitude", "logit"] = "signed"
    """"signed": distinguishes deviations to either side. "magnitude": never negative, high for a deviation to either
    side. "logit": high where a lesion is, low where none is."""


NETWORKS: Mapping[str, NetworkKind] = {
    "vae": NetworkKind("stride-2 convolutions", has_posterior=True),
    "autoencoder_kl": NetworkKind(
        "MONAI's residual VAE (Rombach et al. 2022, arXiv 2112.10752)", has_posterior=True
    ),
    "unet": NetworkKind(
        "MONAI's U-Net, without a latent, to restore the scan from coarse noise (Kascenas et al. 2022)"
    ),
    "segmenter": NetworkKind(
        "the same U-Net with a logit for each voxel, to find what was inserted into healthy scans", segments=True
    ),
}  # fmt: skip

OBJECTIVES: Mapping[str, ObjectiveKind] = {
    "vae": ObjectiveKind("the negative ELBO", needs_posterior=True),
    "cevae": ObjectiveKind(
        "the negative ELBO mixed with context encoding (Zimmerer et al. 2018, arXiv 1812.05941)", needs_posterior=True
    ),
    "dae": ObjectiveKind("restore the scan from coarse noise (Kascenas et al. 2022)"),
    "discrepancy": ObjectiveKind(
        "segment lesions that were inserted into healthy scans (foreign patches, Tan et al. 2020, arXiv 2011.04197)",
        needs_segmenter=True,
    ),
}

SCORES: Mapping[str, ScoreKind] = {
    "residual": ScoreKind("scan − reconstruction with z = μ, signed", is_part=True),
    "squared_residual": ScoreKind("the square of the residual", is_part=True, values="magnitude"),
    "kl_gradient": ScoreKind(
        "|∂KL/∂x| (Zimmerer et al. 2019, arXiv 1912.00003)", needs_posterior=True, is_part=True, values="magnitude"
    ),
    "reconstruction_gradient": ScoreKind("|∂ −log p(x|z)/∂x|", is_part=True, values="magnitude"),
    "elbo_gradient": ScoreKind("|∂ −ELBO/∂x|", needs_posterior=True, is_part=True, values="magnitude"),
    "context": ScoreKind("scan − what the network restores where the scan was blanked, signed", is_part=True),
    "restoration": ScoreKind(
        "signed change until the model believes the scan (Chen et al. 2020, doi:10.1016/j.media.2020.101713)",
        needs_posterior=True,
        is_part=True,
    ),
    "product": ScoreKind("the product of the parts (Zimmerer et al. 2019, arXiv 1907.02796)", combines=True,
                         values="magnitude"),
    "sum": ScoreKind("the sum of the parts", combines=True, values="magnitude"),
    "discrepancy": ScoreKind("the logit of a network that segments", needs_segmenter=True, values="logit"),
    "intensity": ScoreKind("the scan itself, without a network", needs_network=False),
    "equalized_intensity": ScoreKind("the scan with its histogram equalised, without a network", needs_network=False),
    "brightness_rank": ScoreKind(
        "the rank of a voxel's brightness in the scan's brain, smoothed and then as log-odds, without a network",
        needs_network=False,
        smooths=True,
        ranks=True,
    ),
    "z_score": ScoreKind(
        "the scan's z score against the mean of healthy scans, bent onto it, without a network",
        needs_network=False,
        needs_atlas=True,
    ),
}  # fmt: skip

PARTS: Mapping[str, ScoreKind] = {name: kind for name, kind in SCORES.items() if kind.is_part}


FORMER_NAMES: Mapping[str, str] = {"deviation": "z_score"}
"""Names in earlier detectors, and their present names."""


def _one_of(what: str, known: Mapping[str, object]) -> Callable[[str], str]:
    def check(name: str) -> str:
        name = FORMER_NAMES.get(name, name)
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f': did you mean "{near[0]}"?' if near else "."
            raise ValueError(f'"{name}" is not {what}{hint} Choose one of {", ".join(known)}.')
        return name

    return check


def _text(kinds: Mapping[str, NetworkKind] | Mapping[str, ObjectiveKind] | Mapping[str, ScoreKind]) -> str:
    return " ".join(f'"{name}": {kind.meaning}.' for name, kind in kinds.items())


NetworkName = Annotated[
    str,
    AfterValidator(_one_of("a network", NETWORKS)),
    Field(description=_text(NETWORKS), json_schema_extra={"enum": [*NETWORKS]}),
]
ObjectiveName = Annotated[
    str,
    AfterValidator(_one_of("an objective", OBJECTIVES)),
    Field(description=_text(OBJECTIVES), json_schema_extra={"enum": [*OBJECTIVES]}),
]
ScoreName = Annotated[
    str,
    AfterValidator(_one_of("a score", SCORES)),
    Field(description=_text(SCORES), json_schema_extra={"enum": [*SCORES]}),
]
PartName = Annotated[
    str,
    AfterValidator(_one_of("a part of a combined score", PARTS)),
    Field(description=_text(PARTS), json_schema_extra={"enum": [*PARTS]}),
]
