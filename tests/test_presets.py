"""Every preset trains and finds its way to a score; the full ones are built."""

import json
from pathlib import Path

import numpy as np
import pytest

from medvae.config import read_config
from medvae.detection.detector import Detector
from medvae.networks.build import build_network
from medvae.normative.inputs import NetworkInputs
from medvae.preparation.prepare import prepare_healthy
from medvae.training.loop import train

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
PRESETS = sorted(p.stem for p in CONFIGS.glob("*.yaml") if read_config(p).network is not None)
ALIKE = {
    "dae_t1": (
        "dae_slice",
        {"name", "network.bias_field", "sampling.plane", "training.steps"}
        | {f"preparation.{name}" for name in ("bias_field", "intensity")}
        | {
            f"score.{name}"
            for name in ("one_sided", "normative_first", "smoothing_mm", "surround_mm", "surround_weight")
        }
        | {f"calibration.{name}" for name in ("mask_at", "false_positive_rates")},
    ),
    "dae_flair": (
        "dae_slice",
        {"name", "sampling.plane", "training.steps", "preparation.registration", "preparation.bias_field"}
        | {f"score.{name}" for name in ("polarity", "smoothing_mm", "normative", "guided_mm")}
        | {"score.surround_mm", "score.surround_weight", "calibration.made_of", "calibration.mask_at"}
        | {"calibration.false_positive_rates"},
    ),
    "best_t1_large": ("best_t1", {"name", "seed", "objective.lesions.smallness", "objective.appearance.bias_field"}),
    "patients_t2": (
        "patients_flair",
        {"name", "objective.patients.sequence", "score.smoothing_mm"}
        | {f"postprocessing.random_walker.{name}" for name in ("seeds_above", "background_below")},
    ),
}
"""Presets of which one that is trained here differs in these values only."""
TRAINED = [name for name in PRESETS if name not in ALIKE]
SLICES = ("patients_t1", "patients_flair")
NOISY = dict.fromkeys(("best_t1", *SLICES), (24, 10, 6)) | {"patients_small_t1": (40, 14, 8)}
"""Of which more steps are needed to see that the loss falls: how many, and how many last and first are compared."""


@pytest.fixture(scope="module")
def scans(cohort, prepared):
    preparation = read_config(CONFIGS / "cevae_slice.yaml").preparation
    training, validation = (
        prepare_healthy(cohort, split, preparation, cache=prepared, quiet=True) for split in ("train", "validation")
    )
    return training[:3], validation


def values(node, *path):
    """The values of a config by their dotted names."""
    if not isinstance(node, dict):
        return {".".join(path): node}
    return {key: value for name, one in node.items() for key, value in values(one, *path, name).items()}


@pytest.mark.parametrize("name", ALIKE)
def test_a_preset_that_is_not_trained_here_differs_in_a_value_from_one_that_is(name):
    other, expected = ALIKE[name]
    mine, theirs = (values(read_config(CONFIGS / f"{one}.yaml").model_dump()) for one in (name, other))
    assert other in TRAINED
    assert {key for key in mine.keys() | theirs.keys() if mine.get(key) != theirs.get(key)} == expected


@pytest.mark.parametrize("name", TRAINED)
def test_some_steps_lower_the_loss_and_the_network_scores(tmp_path, scans, name, hasty_bending):
    many, late, early = NOISY.get(name, (10, 3, 2))
    steps = [f"training.steps={many}", "training.warmup_steps=0", "training.log_every=1", "sampling.workers=0"]
    batch = 8 if name in SLICES else 2  # whose slices are often without a lesion
    alone = [
        "training.start_from=null",
        "score.normative=false",
        "score.normative_first=false",
        "score.one_sided=false",
        "sampling.patch_overlap=0",
    ]
    config = read_config(CONFIGS / f"{name}.yaml", [*steps, *alone, f"sampling.batch_size={batch}"])
    training, validation = (volumes[:1] for volumes in scans)
    fitted_to = scans[0] if config.network.atlas or config.network.bias_field == "removed" else training
    inputs = NetworkInputs.fit(config.network, 1, fitted_to)
    network = train(config, training, [], tmp_path / "run", quiet=True, inputs=inputs)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [line["total"] for line in lines]
    assert np.mean(losses[-late:]) < np.mean(losses[:early])
    score = Detector.calibrate(config, network, fitted_to, validation, atlas=inputs.atlas).score(validation[0])
    assert np.isfinite(score).all()
    assert score[validation[0].mask].std() > 0


@pytest.mark.parametrize("name", sorted(p.stem for p in (CONFIGS / "full").glob("*.yaml")))
def test_full_presets_fit_their_tiles(name):
    network = build_network(read_config(CONFIGS / "full" / f"{name}.yaml"), modalities=1)
    assert sum(p.numel() for p in network.parameters()) < 60_000_000
