"""The study file: which methods, with which scores and seeds, on which cohort, and how they are compared."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Literal

import yaml
from pydantic import Field, PrivateAttr, field_validator, model_validator

from medvae.config import Config, PostprocessingConfig, ScoreConfig
from medvae.evaluation.bootstrap import RESAMPLES
from medvae.files import write_text
from medvae.lesions.families import SIZES_ML, Family, Size
from medvae.schema import Strict, parse, read_document

NAME = r"^[A-Za-z0-9_.-]+$"
POSTPROCESSED = "+post"
"""Suffix of the name of a row measured on post-processed masks."""
CHANCE = "chance"
BASELINES: dict[str, dict[str, object]] = {
    "normative_baseline": {"kind": "intensity", "smoothing_mm": 1.5, "normative": True},
    "intensity_baseline": {"kind": "equalized_intensity"},
}
"""Scores of the rows without a network, those of ``configs/``, without their polarity."""


class Method(Strict):
    """A config to train, once per seed; or an existing detector."""

    name: str | None = Field(None, pattern=NAME)
    """In tables and folders; the config's own by default."""
    config: str | None = None
    """Path of the YAML file."""
    detector: str | None = None
    """Instead of a config: path of a run or a detector, or the name of one that comes with medvae. It is measured as it
    is; make sure that it was not trained on scans of the study's test split."""
    overrides: tuple[str, ...] = ()
    """Overrides of single values, such as "training.steps=200"."""
    seeds: tuple[int, ...] | None = Field(None, min_length=1)
    """Replaces the study's seeds."""
    scores: tuple[str, ...] | None = Field(None, min_length=1)
    """Only these of the study's scores, by name."""

    @model_validator(mode="after")
    def _one_source(self) -> Method:
        if (self.config is None) == (self.detector is None):
            raise ValueError("a method is a config to train or a detector: write one of the two.")
        if self.detector is not None and (self.overrides or self.seeds or self.scores):
            raise ValueError("a detector is measured as it is: overrides, seeds and scores are for configs.")
        return self

    @property
    def label(self) -> str:
        """The name, or else the source of the method."""
        return self.name or Path(self.source).stem

    @property
    def source(self) -> str:
        """The config or the detector, whichever is written."""
        return self.config or self.detector or ""


class ScoreVariant(ScoreConfig):
    """Changes to each method's own score; fields left out keep the method's values."""

    name: str | None = Field(None, pattern=NAME)
    """In tables and folders; the kind, with "_z" where normative is written, by default."""

    @property
    def label(self) -> str:
        """The name, or its default."""
        return self.name or f"{self.kind}{'_z' * (self.normative and 'normative' in self.model_fields_set)}"

    @property
    def changes(self) -> dict[str, object]:
        """The fields set in the study, without the name."""
        return self.model_dump(include=self.model_fields_set - {"name"})

    @model_validator(mode="after")
    def _named(self) -> ScoreVariant:
        if self.name is None and "kind" not in self.model_fields_set:
            raise ValueError("a score without a kind needs a name.")
        return self


class InsertedLesions(Strict):
    """Lesions inserted into healthy scans of the cohort (T1), a separate target for each family."""

    shapes: str | None = None
    """Path of the library of lesion shapes (.npz) for the family ms, see ``pipelines/make_lesion_shapes.py``."""
    families: tuple[Family, ...] = Field(("ms",), min_length=1)
    """Kinds of lesions, see `medvae.lesions.families`: ms, tumour, bright, texture, mass_effect, stroke."""
    sizes: tuple[Size, ...] = Field(tuple(SIZES_ML), min_length=1)
    """Sizes for families other than ms: small, medium, large. Each gives a separate scan."""
    seed: int = Field(0, ge=0)
    """Seed of locations, shapes and contrasts."""
    repeats: int = Field(1, ge=1)
    """Scans with lesions made from each healthy scan."""
    split: Literal["test", "validation"] = "test"
    """Split whose healthy scans are used. "validation" makes a study for model selection: no test scan is opened, so
    the choice is not made on the test set."""

    @model_validator(mode="after")
    def _complete(self) -> InsertedLesions:
        if "ms" in self.families and self.shapes is None:
            raise ValueError("shapes: the family ms is made of real shapes; give the path of a library (.npz).")
        for what, given in (("families", self.families), ("sizes", self.sizes)):
            if len(set(given)) < len(given):
                raise ValueError(f"{what}: one of {', '.join(given)} is there twice.")
        return self


class Ensembles(Strict):
    """Mean scores of several rows; see `medvae.detection.ensemble`."""

    seeds: bool | tuple[str, ...] = False
    """Rows that are averaged over their seeds; true: all with a network."""
    methods: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Name of an ensemble to the rows that it averages, made for each seed that all of them have."""

    @field_validator("methods")
    @classmethod
    def _two(cls, methods: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        for name, members in methods.items():
            if len(members) < 2 or len(set(members)) < len(members):
                raise ValueError(f'"{name}" must name two different rows or more; found {", ".join(members)}.')
        return methods


class StudyConfig(Strict):
    """A study. Paths are relative to the file."""

    name: str = Field(pattern=NAME)
    """Name of the study in titles."""
    manifest: str
    """The cohort: healthy training, validation and test scans, and test scans with lesions."""
    inserted: InsertedLesions | None = None
    """A second target: lesions inserted into healthy scans. Without it only the manifest's lesions are used."""
    methods: tuple[Method, ...] = ()
    """Methods to train or measure."""
    scores: tuple[ScoreVariant, ...] = ()
    """Scores to compute from each trained network; by default the config's own. ``{name: own}`` is the config's."""
    seeds: tuple[int, ...] = Field((0,), min_length=1)
    """Seeds of initialisation and training."""
    ensembles: Ensembles = Ensembles()
    """Rows to average."""
    baselines: bool | Literal["dark", "bright", "both"] = True
    """The two baselines without a network, with the preparation and calibration of the first method. True uses the sign
    of lesions on the cohort's modality (dark on T1, bright on T2, FLAIR and PD, else either); or give the sign."""
    postprocessing: PostprocessingConfig | None = None
    """Replaces the configs' own post-processing. If set, each row appears with and without it. Choose the values on
    healthy validation scans."""
    reference: str | None = None
    """Row that the others are compared with, paired by scan; by default normative_baseline, or else the first."""
    resamples: int = Field(RESAMPLES, ge=100)
    """Resamples of the bootstrap over subjects."""
    keep_maps: bool = False
    """Keep the overlays of every row and seed in ``OUT/maps`` after measuring: several MB per 1 mm scan."""
    _path: Path = PrivateAttr(default=Path("study.yaml"))

    @property
    def path(self) -> Path:
        """The file this study was read from."""
        return self._path

    @property
    def split(self) -> Literal["test", "validation"]:
        """The split that is measured."""
        return self.inserted.split if self.inserted else "test"

    def resolve(self, relative: str) -> Path:
        """A path written in the study, relative to the study's folder."""
        return self._path.parent / relative

    @model_validator(mode="after")
    def _consistent(self) -> StudyConfig:
        labels = [score.label for score in self.scores]
        for label, times in Counter(labels).items():
            if times > 1:
                raise ValueError(f'scores: "{label}" is there {times} times; give each a name of its own.')
        for method in self.methods:
            for wanted in method.scores or ():
                if wanted not in labels:
                    known = ", ".join(labels) or "none"
                    raise ValueError(f'methods: "{wanted}" is none of the scores ({known}).')
        for what, seeds in (
            ("seeds", self.seeds),
            *((f"methods: {m.label}", m.seeds) for m in self.methods),
        ):
            if seeds and (len(set(seeds)) < len(seeds) or min(seeds) < 0):
                raise ValueError(f"{what}: seeds must be different whole numbers from 0; found {list(seeds)}.")
        if not self.methods and self.baselines is False:
            raise ValueError("there is nothing to compare: no methods and no baselines.")
        return self


def read_study(path: Path | str) -> StudyConfig:
    """Read and check a study file; configs and manifest are not opened yet.

    Raises
    ------
    MedvaeError
        For a missing file, an unknown key (the nearest valid one is named), a wrong type or conflicting options.
    """
    path = Path(path)
    study = parse(StudyConfig, read_document(path), path)
    study._path = path
    return study


def write_study_file(study: StudyConfig, path: Path | str) -> StudyConfig:
    """Write a study made in a program, so that ``medvae benchmark`` can continue it; paths are as given.

    Returns
    -------
    StudyConfig
        As read from the file.
    """
    content = study.model_dump(mode="json", exclude_unset=True)
    return read_study(write_text(path, yaml.safe_dump(content, sort_keys=False, allow_unicode=True)))


def baseline_config(name: str, polarity: str, first: Config | None) -> Config:
    """The config of a baseline, prepared and calibrated as ``first``."""
    score = ScoreConfig.model_validate(BASELINES[name] | {"polarity": polarity})
    if first is None:
        return Config(name=name, network=None, score=score)
    return Config(
        name=name, network=None, score=score, preparation=first.preparation, calibration=first.calibration
    )  # fmt: skip


def polarity_of(modalities: list[str]) -> str:
    """The sign of lesions on these modalities."""
    first = {name.upper() for name in modalities}
    if first == {"T1"}:
        return "dark"
    return "bright" if first <= {"T2", "FLAIR", "PD"} else "both"
