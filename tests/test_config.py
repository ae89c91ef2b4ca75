import pytest
import yaml
from pydantic import ValidationError

from medvae.config import Config, dump_config, read_config
from medvae.config.methods import NETWORKS, OBJECTIVES, SCORES
from medvae.config.reference import reference
from medvae.errors import MedvaeError


def write(folder, content):
    path = folder / "method.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_dump_reads_back_equal(tmp_path):
    config = Config(name="a", seed=3)
    path = tmp_path / "c.yaml"
    path.write_text(dump_config(config))
    assert read_config(path) == config


def test_overrides_reach_nested_values_with_the_right_type(tmp_path):
    path = write(tmp_path, {"name": "a"})
    config = read_config(path, ["training.steps=7", "training.learning_rate=1e-4", "network.widths=[8, 16]", "seed=2"])
    assert (config.training.steps, config.training.learning_rate) == (7, 1e-4)
    assert (config.network.widths, config.seed) == ((8, 16), 2)


@pytest.mark.parametrize(
    ("content", "overrides", "words"),
    [
        ({"name": "a", "trainig": {}}, [], 'unknown key "trainig": did you mean "training"'),
        ({"name": "a", "training": {"step": 3}}, [], 'unknown key "training.step": did you mean "steps"'),
        (
            {"name": "a", "network": {"latent_siz": 3}},
            [],
            'unknown key "network.latent_siz": did you mean "latent_size"',
        ),
        ({"name": "a"}, ["training.steps=many"], "training.steps"),
        ({"name": "a"}, ["training.steps"], "key=value"),
        ({"name": "a"}, ["name.x=1"], '"name" is a value'),
        ({"name": "a", "network": None}, [], "needs a network"),
        ({"name": "a", "score": {"kind": "intensity"}}, [], "network: null"),
        ({"name": "a", "calibration": {"mask_at": 0.2}}, [], "mask_at"),
        ({"name": "a", "score": {"kind": "kl_gradient", "polarity": "dark"}}, [], "never negative"),
        ({"name": "a", "score": {"one_sided": True}}, [], "leaves out one side"),
        ({"name": "a", "score": {"kind": "sum", "parts": [{"kind": "residual"}]}}, [], "at least two parts"),
        (
            {"name": "a", "score": {"kind": "klgradient"}},
            [],
            '"score.kind": "klgradient" is not a score: did you mean "kl_gradient"? Choose one of residual, squared',
        ),
        (
            {"name": "a", "score": {"kind": "sum", "parts": [{"kind": "residual"}, {"kind": "product"}]}},
            [],
            '"score.parts.1.kind": "product" is not a part of a combined score. Choose one of residual, ',
        ),
        ({"name": "a", "objective": {"kind": "ceva"}}, [], 'not an objective: did you mean "cevae"?'),
        ({"name": "a", "network": {"kind": "vit"}}, [], '"vit" is not a network. Choose one of vae, autoencoder_kl'),
        ({"name": "a", "score": {"kind": "discrepancy"}}, [], "write polarity: bright"),
        (
            {"name": "a", "score": {"kind": "discrepancy", "polarity": "bright"}},
            [],
            "network.kind: segmenter and objective.kind: discrepancy and score.kind: discrepancy; write network.kind",
        ),
        ({"name": "a", "network": None, "score": {"kind": "z_score", "normative": True}}, [], "z score already"),
        ({"name": "a", "objective": {"kind": "discrepancy", "geco_target": -0.2}}, [], "adapts β"),
        ({"name": "a", "sampling": {"kind": "patch", "patch_size": [96, 96, 96]}}, [], "larger than the standard grid"),
        ({"name": "a", "objective": {"geco_target": -0.2, "kl_warmup_steps": 5}}, [], "both change β"),
        ({"name": "a", "objective": {"geco_target": -0.2, "beta": 0}}, [], "adapts β"),
        ({"name": "a", "preparation": {"registration": "if_possible"}}, [], "scores that compare no places"),
        ({}, [], 'key "name" is missing'),
    ],
)
def test_mistakes_are_named(tmp_path, content, overrides, words):
    path = write(tmp_path, content)
    with pytest.raises(MedvaeError) as caught:
        read_config(path, overrides)
    assert words in str(caught.value)


def test_a_denoising_network_compares_no_places():
    parts = {"preparation": {"registration": "if_possible"}, "objective": {"kind": "dae"}}
    assert Config.model_validate({"name": "a", **parts}).preparation.registration == "if_possible"


@pytest.mark.parametrize("kinds", ["[smoth]", "[dark, smoth]"])
def test_a_wrong_item_is_one_mistake_and_not_a_list_too_short_as_well(tmp_path, kinds):
    with pytest.raises(MedvaeError) as raised:
        read_config(write(tmp_path, {"name": "a"}), [f"objective.lesions.kinds={kinds}"])
    assert "found 'smoth'" in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1


def test_an_empty_list_is_too_short(tmp_path):
    with pytest.raises(MedvaeError, match="at least 1 item"):
        read_config(write(tmp_path, {"name": "a"}), ["objective.lesions.kinds=[]"])


def test_every_option_is_documented():
    def fields(model, prefix=""):
        for name, field in model.model_fields.items():
            yield prefix + name, field
            inner = field.annotation
            for candidate in (inner, *getattr(inner, "__args__", ())):
                if hasattr(candidate, "model_fields"):
                    yield from fields(candidate, f"{prefix}{name}.")

    undocumented = [name for name, field in fields(Config) if not field.description]
    assert not undocumented


def test_an_option_of_a_method_describes_every_choice():
    for section, kinds in (("network", NETWORKS), ("objective", OBJECTIVES), ("score", SCORES)):
        field = type(getattr(Config(name="a"), section)).model_fields["kind"]
        for name, kind in kinds.items():
            assert f'"{name}": {kind.meaning}.' in field.description


def test_every_shipped_config_is_valid(repository):
    configs = sorted((repository / "configs").glob("*.yaml"))
    assert len(configs) >= 9
    for path in configs:
        assert read_config(path).name == path.stem
    for path in (repository / "configs" / "full").glob("*.yaml"):
        assert read_config(path).name == f"{path.stem}_full"
        assert (repository / "configs" / path.name).exists()  # the small preset of the same method


def test_keys_of_earlier_versions_are_read():
    """Finished detectors keep loading: renamed keys under both names, removed ones where they did nothing."""
    older = {"network": {"kind": "segmenter", "atlas": True, "roughness": True}, "objective": {"kind": "discrepancy"},
             "augmentation": {"enabled": False, "bending_mm": 0.0},
             "score": {"kind": "discrepancy", "polarity": "bright"}}  # fmt: skip
    newer = older | {
        "network": {"kind": "segmenter", "atlas": True, "texture": True},
        "augmentation": {"enabled": False},
    }
    assert Config.model_validate({"name": "a"} | older) == Config.model_validate({"name": "a"} | newer)
    assert "texture: true" in dump_config(Config.model_validate({"name": "a"} | older))
    removed = Config.model_validate({"name": "a", "network": {"kind": "unet", "shading": "removed"},
                                     "objective": {"kind": "dae"}})  # fmt: skip
    assert removed.network.bias_field == "removed"
    baseline = Config.model_validate({"name": "a", "network": None, "score": {"kind": "deviation"}})
    assert baseline.score.kind == "z_score"
    with pytest.raises(ValidationError, match="bending_mm"):
        Config.model_validate({"name": "a", "augmentation": {"bending_mm": 3.0}})
    with pytest.raises(ValidationError, match="roughness"):
        Config.model_validate({"name": "a", "network": {"roughness": True, "texture": True}})


def test_the_reference_of_options_is_that_of_the_config(repository):
    assert (repository / "docs" / "CONFIG.md").read_text(encoding="utf-8") == reference()
