"""The worked examples of CONTRIBUTING.md, and of the tutorial on scores, do what they say."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from predicted import make_predictions

from medvae.config import Config, NetworkConfig, methods
from medvae.importing.importer import Request
from medvae.networks.build import build
from medvae.networks.interface import network
from medvae.reporting.cases import read_cases
from medvae.reporting.handoff import open_case
from medvae.scoring.registry import score
from medvae.scoring.volume import score_volume

PAGE = Path(__file__).resolve().parents[1] / "CONTRIBUTING.md"
TUTORIAL = PAGE.parent / "docs" / "tutorials" / "NEW_SCORE.md"


def block(start: str, page: Path = PAGE) -> str:
    """What follows the start of a fenced block, to its end."""
    found = re.search(rf"```{re.escape(start)}(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    assert found, f"{page.name} has no example that begins with {start}"
    return found[1]


def example(file: str, page: Path = PAGE) -> str:
    """The block that begins with the name of a file."""
    return block(f"python\n# {file}\n", page)


def run(file: str, page: Path = PAGE) -> dict:
    """The names that an example defines."""
    names: dict = {"__name__": __name__}  # dataclasses look their module up
    exec(compile(example(file, page), file, "exec"), names)
    return names


def declare(monkeypatch, table: str, known, entry: str | None = None) -> None:
    """Add an example's entry to a table of declared methods."""
    entry = eval("{" + (entry or example(f"medvae/config/methods.py, in {table}")) + "}", vars(methods))
    for name, kind in entry.items():
        monkeypatch.setitem(getattr(methods, table), name, kind)
        known.names()  # complete, before it is added to
        monkeypatch.setitem(known._found, name, None)
        del known._found[name]


def test_a_score(monkeypatch):
    declare(monkeypatch, "SCORES", score)
    run("medvae/scoring/median_distance.py")
    config = Config.model_validate({"name": "a", "network": None, "score": {"kind": "median_distance"}})
    image = np.arange(27, dtype=np.float32).reshape(1, 3, 3, 3)
    mask = np.ones((3, 3, 3), bool)
    mask[0, 0, 0] = False
    np.testing.assert_allclose(score_volume(config, None, image, mask), np.where(mask, image[0] - 13.5, 0))


def test_the_score_of_the_tutorial(monkeypatch):
    declare(monkeypatch, "SCORES", score, '"asymmetry": ' + block('text\n"asymmetry": ', TUTORIAL))
    run("medvae/scoring/asymmetry.py", TUTORIAL)
    config = Config.model_validate(yaml.safe_load("name: asymmetry" + block("text\nname: asymmetry", TUTORIAL)))
    plain = config.model_copy(update={"score": config.score.model_copy(update={"smoothing_mm": 0})})
    image = np.zeros((1, 6, 3, 3), dtype=np.float32)
    image[0, 1, 1, 1] = -1  # a dark spot on one side
    mask = np.ones((6, 3, 3), bool)
    mask[0, 0, 0] = False
    found = score_volume(plain, None, image, mask)
    assert found[1, 1, 1] == -1
    assert found[4, 1, 1] == 1
    assert np.count_nonzero(found) == 2


def test_a_network(monkeypatch):
    declare(monkeypatch, "NETWORKS", network)
    run("medvae/networks/pooling.py")
    made = build(NetworkConfig.model_validate({"kind": "pooling", "widths": [1, 1]}), (8, 8), 1)
    x = torch.arange(64.0).reshape(1, 1, 8, 8)
    assert made(x).reconstruction[0, 0, 0, 0] == x[0, 0, :4, :4].mean()


def test_a_metric(monkeypatch):
    from medvae.evaluation.metrics import registry

    monkeypatch.setattr(registry, "_METRICS", dict(registry._METRICS))
    run("medvae/evaluation/metrics/of_voxels.py")
    (made,) = (metric for metric in registry.registered(registry.PointMetric) if metric.name == "case_precision")
    assert made in [metric for metric, _ in registry.columns(registry.Table.THRESHOLDS, registry.PointMetric)]


def test_an_importer(tmp_path):
    for name in ("sub1/mri/orig_nu.mgz", "sub1/mri/mask.mgz", "sub2/mri/orig_nu.mgz"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    names = run("medvae/importing/fastsurfer.py")
    found = names["FASTSURFER"].find(Request(tmp_path, tmp_path / "m.json"), names["Options"](healthy=True))
    assert [scan.id for scan in found.scans] == ["sub1"]
    assert "sub2" in [skipped.what for skipped in found.skipped]


def test_a_viewer(tmp_path):
    manifest = make_predictions(tmp_path, ["a"], [])
    (case,) = read_cases(tmp_path / "predictions", manifest=manifest)[0]
    opened = open_case(case)
    viewer = run("medvae/reporting/mricrogl_script.py")["MRICROGL_SCRIPT"]
    viewer.write(opened)
    assert [name for name in viewer.files if opened.path(name).is_file()] == list(viewer.files)
    assert viewer.command(opened, str).startswith("MRIcroGL ")


@pytest.mark.parametrize("path", re.findall(r"`(medvae/(?!\S*NAME)[\w/]+\.py)`", PAGE.read_text(encoding="utf-8")))
def test_files_that_are_named_are_there(path):
    assert (PAGE.parent / path).is_file()
