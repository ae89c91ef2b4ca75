"""The timings run, and what is timed side by side does the same."""

import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from medvae.augmentation.options import AugmentationConfig
from medvae.config import Config
from medvae.preparation.prepared import InMemory
from medvae.training.objectives.elbo import vae_loss

PROGRAMS = Path(__file__).parents[1] / "benchmarks"
STILL = AugmentationConfig(
    rotation_degrees=0, scale=(1, 1), mirror=False, gamma=(1, 1), brightness=(1.07, 1.07), noise_variance=(0, 0)
)


@pytest.fixture(scope="module")
def program():
    """The names of a program, as Python imports them from its folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(PROGRAMS)
        yield lambda name: runpy.run_path(str(PROGRAMS / f"{name}.py"))


@pytest.fixture(scope="module")
def monai(program):
    return program("against_monai")


@pytest.fixture
def told(program, monkeypatch, capsys):
    """What a program prints."""

    def run(name, *arguments):
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        program(name)["main"]()
        return capsys.readouterr().out

    return run


def tiles_of(found):
    image, mask = (found["image"], found["mask"]) if isinstance(found, dict) else found
    return torch.as_tensor(image).numpy(), torch.as_tensor(mask).numpy() > 0


WAYS = ("by_monai", "by_batchgenerators", "by_tensors")


@pytest.mark.parametrize("shape", [(3, 1, 20, 24), (2, 1, 12, 16, 14)])
def test_augmentation_changes_as_much_in_every_way(monai, shape):
    image, mask = monai["make_batch"](shape)
    for way in WAYS:
        found, inside = tiles_of(monai[way](image, mask, STILL)())
        np.testing.assert_allclose(found, image * np.float32(1.07), rtol=1e-6)
        assert np.array_equal(inside, mask)

    numbers = {}
    for way in WAYS:
        random = monai[way](image, mask, AugmentationConfig())
        batches = [tiles_of(random()) for _ in range(40)]
        assert all(not x[~m].any() for x, m in batches)
        values = np.concatenate([x[m] for x, m in batches])
        numbers[way] = [values.mean(), values.std(), np.mean([m.mean() for _, m in batches])]
    for way in WAYS[1:]:
        assert numbers[way] == pytest.approx(numbers["by_monai"], rel=0.05), way


def small_volumes(shape=(80, 96, 80)):
    grid = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    mask = sum(g**2 for g in grid) < 0.5
    image = np.where(mask, np.random.default_rng(0).random(shape), 0).astype(np.float32)
    return [InMemory(image[None], mask, mask)]


def test_both_losses_of_the_same_network_are_one_number(monai):
    config: Config = monai["config_of"](2, "VarAutoEncoder", "tensor", 1, 0)
    image, mask = map(torch.from_numpy, monai["make_batch"]((4, 1, *config.tile_shape)))
    network = monai["var_autoencoder"](config.tile_shape).eval()
    expected = monai["monai_loss"](network(image), image, mask, config.objective)
    found = vae_loss(monai["FromMonai"](network), image, mask, None, scale=config.objective.likelihood_scale)
    torch.testing.assert_close(found.total, expected)


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("whose", ["monai_steps", "medvae_steps"])
def test_both_scripts_take_steps(monai, dimensions, whose, monkeypatch):
    monkeypatch.setitem(monai[whose].__globals__, "WIDTHS", (4, 4, 4, 4))
    config = monai["config_of"](dimensions, "VarAutoEncoder", "tensor", 2, 0)
    steps = monai[whose](config, small_volumes(), "VarAutoEncoder", iter(range(100)).__next__)
    assert [next(steps), next(steps)] == [(1, 1), (1, 1)]  # a clock that counts how often it is read


@pytest.mark.parametrize("dimensions", [2, 3])
def test_maps_of_both_inferers_are_the_same(monai, dimensions):
    ways = monai["inference_ways"](dimensions)
    same = "MONAI, the brain's box" if dimensions == 3 else "MONAI, whole volume"
    np.testing.assert_allclose(ways[same](), ways["medvae"](), atol=1e-5)


def test_readers_make_the_same_scan(program, tmp_path):
    reading = program("reading")
    path = reading["made_scan"](tmp_path)
    reference = reading["by_monai"](path)
    for name, way in reading["WAYS"].items():
        smoothed_or_between = name in ("medvae", "medvae, all checks", "TorchIO")
        assert reading["correlation"](way(path), reference) > (0.97 if smoothed_or_between else 0.999999), name


def test_curves_agree(program):
    curves = program("curves")
    scores, truth = curves["voxels"](20_000)
    auroc, ap = curves["by_scikit_learn"](scores, truth)
    for name, method in curves["METHODS"].items():
        coarse = "thresholds" in name
        assert method(scores, truth) == pytest.approx((auroc, ap), abs=0.02 if coarse else 1e-3), name


def test_programs_print_tables(told):
    printed = told("against_monai", "augmentation", "inference", "--quick", "--markdown")
    assert printed.count("|---|") == 2
    assert "| 3D, 2 patches of 64³ | default |" in printed


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="memory and open files are read from /proc")
def test_many_cases_go_a_long_way(tmp_path):
    command = [sys.executable, PROGRAMS / "long_way.py", "--cases", "10", "--stages", "prepare", "--folder", tmp_path]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert "| `medvae prepare` | 10 | 0." in told
    assert "exit status" not in told


def test_all_of_them_go_into_one_page(tmp_path):
    command = [sys.executable, PROGRAMS / "everything.py", "--quick", "--programs", "cache.py", "--out"]
    subprocess.run([*command, tmp_path / "runs" / "bench.md"], check=True, capture_output=True)
    page = (tmp_path / "runs" / "bench.md").read_text(encoding="utf-8")
    assert f"torch {torch.__version__}" in page
    assert "    python benchmarks/cache.py --scans 1" in page
    assert "| Included T1" in page
