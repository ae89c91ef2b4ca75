"""A whole run: its options, what must hold between them, and its file."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, model_validator

from medvae.augmentation.options import AugmentationConfig
from medvae.config.learning import NetworkConfig, ObjectiveConfig, TrainingConfig
from medvae.config.limits import require_fit
from medvae.config.maps import CalibrationConfig, PostprocessingConfig, ScoreConfig
from medvae.config.methods import NETWORKS, OBJECTIVES, PARTS, SCORES
from medvae.config.scans import PreparationConfig, SamplingConfig
from medvae.errors import MedvaeError
from medvae.imaging.grid import GRIDS, Grid
from medvae.imaging.planes import slice_shape
from medvae.parsing import parse_yaml
from medvae.schema import Strict, parse, read_document


class Config(Strict):
    """A whole run: how to prepare, train, score and calibrate."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]+$")
    """Name of the method in tables and sidecars."""
    seed: int = Field(0, ge=0)
    """Every random number of a run is derived from it."""
    preparation: PreparationConfig = PreparationConfig()
    """From the input scan to the standard grid."""
    sampling: SamplingConfig = SamplingConfig()
    """From prepared volumes to batches."""
    augmentation: AugmentationConfig = AugmentationConfig()
    """Random changes to the training slices."""
    network: NetworkConfig | None = NetworkConfig()
    """The network; null for a baseline that needs none."""
    objective: ObjectiveConfig = ObjectiveConfig()
    """What the network minimises."""
    training: TrainingConfig = TrainingConfig()
    """The training loop."""
    score: ScoreConfig = ScoreConfig()
    """From volume to score."""
    calibration: CalibrationConfig = CalibrationConfig()
    """Operating points."""
    postprocessing: PostprocessingConfig = PostprocessingConfig()
    """From the map to the lesion mask."""

    @property
    def grid(self) -> Grid:
        """The standard grid of everything between preparation and overlay."""
        return GRIDS[self.preparation.grid]

    @property
    def network_options(self) -> NetworkConfig:
        """`network`, of a run that has one; code that builds or shows a network needs one."""
        if self.network is None:
            raise ValueError(f'"{self.name}" has no network; one was expected.')
        return self.network

    @property
    def tile_shape(self) -> tuple[int, ...]:
        """Spatial shape of a tile: two axes for slices, three for patches."""
        if self.sampling.kind == "patch":
            return self.sampling.patch_size
        return slice_shape(self.grid.shape, self.sampling.planes)

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
        needs_network = SCORES[self.score.kind].needs_network
        if needs_network and self.network is None:
            raise ValueError(f'score.kind "{self.score.kind}" needs a network, but network is null: give one.')
        if not needs_network and self.network is not None:
            raise ValueError(f'score.kind "{self.score.kind}" uses no network: write "network: null".')
        if self.training.start_from and self.network is None:
            raise ValueError("training.start_from: network is null, so there is no training to go on with: remove it.")
        if self.calibration.ranks and not self.scores_ranks:
            raise ValueError(
                f"calibration.ranks are thresholds of {_choice('score.kind', SCORES, 'ranks')} without normative: "
                f"remove them."
            )
        return self

    @model_validator(mode="after")
    def _compares_places(self) -> Config:
        network = self.network
        learned = network is not None and (network.atlas or self.objective.kind not in ("discrepancy", "dae"))
        places = learned or self.score.normative or SCORES[self.score.kind].needs_atlas
        if places and self.preparation.registration == "if_possible":
            raise ValueError(
                "preparation.registration: if_possible is for scores that compare no places, and this one compares the "
                "scan with what is usual at each: write auto."
            )
        return self

    @model_validator(mode="after")
    def _atlas_keeps_its_values(self) -> Config:
        changes = self.augmentation
        atlas = self.network is not None and self.network.atlas
        if atlas and changes.enabled and (changing := changes.changing_intensities()):
            raise ValueError(
                f"network.atlas: augmentation would change the intensities of scan and atlas alike, so leave "
                f"{', '.join(changing)} of augmentation off, and use objective.appearance: it changes the scan."
            )
        return self

    @model_validator(mode="after")
    def _bends_whole_scans(self) -> Config:
        if self.network is None or not self.network.deformable:
            return self
        if self.sampling.kind != "patch":
            raise ValueError(
                "network.deformable bends whole scans, of which patches are cut: use sampling.kind: patch."
            )
        changes = self.augmentation
        if changes.enabled and (moving := changes.moving()):
            raise ValueError(
                f"network.deformable: the atlas is bent onto each scan, which need not be turned or scaled: use "
                f"augmentation.rotation_degrees: 0 and augmentation.scale: [1, 1], and no other change that moves the "
                f"brain (found: {', '.join(moving)})."
            )
        return self

    @model_validator(mode="after")
    def _makes_patients(self) -> Config:
        neighbours = self.network.neighbours if self.network is not None else 0
        if self.objective.patients is None:
            if neighbours:
                raise ValueError(
                    "network.neighbours: slices with their neighbours are cut from whole scans with lesions: add "
                    "objective.patients."
                )
            return self
        if self.objective.kind != "discrepancy":
            raise ValueError(
                f"objective.patients: patients are for a network that finds their lesions, not for objective.kind "
                f'"{self.objective.kind}": remove patients, or use objective.kind: discrepancy.'
            )
        if neighbours and self.sampling.kind != "slice":
            raise ValueError("network.neighbours are those of slices: use sampling.kind: slice, or remove neighbours.")
        if self.augmentation.enabled and (
            others := self.augmentation.moving() + self.augmentation.changing_intensities()
        ):
            raise ValueError(
                f"objective.patients: whole scans are changed by objective.patients and objective.appearance: leave "
                f"{', '.join(others)} of augmentation off."
            )
        return self

    @model_validator(mode="after")
    def _patch_fits_grid(self) -> Config:
        patch, grid = self.sampling.patch_size, self.grid.shape
        if self.sampling.kind == "patch" and any(n > length for n, length in zip(patch, grid, strict=True)):
            raise ValueError(
                f"sampling.patch_size {list(patch)} is larger than the standard grid {list(grid)} along some axis: "
                f"use at most that."
            )
        return self

    @model_validator(mode="after")
    def _network_fits_tile(self) -> Config:
        if self.network is not None:
            try:
                require_fit(self.network, self.tile_shape)
            except ValueError as error:
                raise ValueError(f"network: {error}") from None
        return self

    @model_validator(mode="after")
    def _segments(self) -> Config:
        if self.network is None:
            return self
        fits = {
            _choice("network.kind", NETWORKS, "segments"): NETWORKS[self.network.kind].segments,
            _choice("objective.kind", OBJECTIVES, "needs_segmenter"): OBJECTIVES[self.objective.kind].needs_segmenter,
            _choice("score.kind", SCORES, "needs_segmenter"): SCORES[self.score.kind].needs_segmenter,
        }
        if any(fits.values()) and not all(fits.values()):
            missing = [choice for choice, given in fits.items() if not given]
            raise ValueError(
                f"a network that segments inserted lesions needs {' and '.join(fits)}; write {', '.join(missing)}."
            )
        return self

    @model_validator(mode="after")
    def _posterior(self) -> Config:
        if self.network is None:
            return self
        posterior = NETWORKS[self.network.kind].has_posterior
        if not posterior and OBJECTIVES[self.objective.kind].needs_posterior:
            others = [name for name, o in OBJECTIVES.items() if not (o.needs_posterior or o.needs_segmenter)]
            raise ValueError(
                f'objective.kind "{self.objective.kind}" needs a KL divergence, which network.kind '
                f'"{self.network.kind}" does not have: write objective.kind: {" or ".join(others)}, or '
                f"{_choice('network.kind', NETWORKS, 'has_posterior')}."
            )
        combined = SCORES[self.score.kind].combines
        for kind in [part.kind for part in self.score.parts] if combined else [self.score.kind]:
            if SCORES[kind].needs_posterior and not self.trains_posterior:
                reason = (
                    f'which objective.kind "{self.objective.kind}" does not train'
                    if posterior
                    else f'which network.kind "{self.network.kind}" does not have'
                )
                others = [f'"{name}"' for name, part in PARTS.items() if not part.needs_posterior]
                raise ValueError(
                    f'score.{"parts" if combined else "kind"} "{kind}" needs a KL divergence, {reason}: score with '
                    f"{', '.join(others[:-1])} or {others[-1]}, or train a "
                    f"{_choice('network.kind', NETWORKS, 'has_posterior')} with "
                    f"{_choice('objective.kind', OBJECTIVES, 'needs_posterior')}."
                )
        return self

    @property
    def scores_ranks(self) -> bool:
        """Whether the score's values are ranks within the scan, so that a rank is a threshold."""
        return SCORES[self.score.kind].ranks and not self.score.normative

    @property
    def trains_posterior(self) -> bool:
        """Whether the network has a posterior q(z|x) whose KL divergence is trained."""
        return (
            self.network is not None
            and NETWORKS[self.network.kind].has_posterior
            and OBJECTIVES[self.objective.kind].needs_posterior
        )


def _choice(option: str, kinds: Mapping[str, object], what: str) -> str:
    """The option with every kind of which ``what`` is true: "network.kind: vae or autoencoder_kl"."""
    return f"{option}: {' or '.join(name for name, kind in kinds.items() if getattr(kind, what))}"


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


def changed_config(config: Config, overrides: Sequence[str]) -> Config:
    """A config with overrides of the form ``score.surround_mm=12``; errors as of `read_config`."""
    content = config.model_dump(mode="json")
    for override in overrides:
        _apply(content, override)
    return parse(Config, content, f"{config.name} with {' '.join(overrides)}")


def dump_config(config: Config) -> str:
    """The config with every default written out, as YAML."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _apply(content: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise MedvaeError(f'"{override}" is not an override: write key=value, for instance training.steps=200.')
    value = parse_yaml(text, f'"{override}"')
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
