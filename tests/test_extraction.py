"""Whole heads: the tool that was asked for is called, and what is missing or went wrong is told."""

from __future__ import annotations

import importlib.util
import stat
import sys
import types
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from medvae.config import PreparationConfig
from medvae.errors import MedvaeError
from medvae.imaging.volume import Geometry, Volume, read_volume, write_volume
from medvae.preparation import extraction
from medvae.preparation.extraction import find_brain
from medvae.preparation.prepare import prepare_scan
from medvae.preparation.standard_brain import read_template
from tests.conftest import STANDARD_GRID


@pytest.fixture
def head(tmp_path: Path) -> Volume:
    """A file with a brain inside a skull and a skin, over noise."""
    template, mask = read_template()
    skin = ndimage.binary_dilation(mask, iterations=6) & ~ndimage.binary_dilation(mask, iterations=3)
    noise = np.random.default_rng(0).integers(1, 4, mask.shape)
    array = np.where(mask, template, np.where(skin, 0.8 * template.max(), noise)).astype(np.float32)
    return read_volume(write_volume(tmp_path / "a head.nii.gz", array, STANDARD_GRID))


@pytest.fixture
def deepbet(monkeypatch) -> dict:
    """A stand-in for deepbet that answers with ``mask`` and counts its calls."""
    answer = {"mask": read_template()[1], "calls": 0}

    class BrainExtraction:
        def __init__(self, no_gpu: bool) -> None:
            pass

        def run(self, image: nib.Nifti1Image) -> tuple:
            answer["calls"] += 1
            if answer["mask"] is None:
                raise AssertionError("Not enough foreground")
            return image, nib.Nifti1Image(answer["mask"].astype(np.uint8), image.affine), 1.0

    monkeypatch.setitem(sys.modules, "deepbet", types.SimpleNamespace(BrainExtraction=BrainExtraction))
    monkeypatch.setattr(extraction, "_has_deepbet", lambda: True)
    return answer


@pytest.fixture
def no_deepbet(monkeypatch) -> None:
    monkeypatch.setattr(extraction, "_has_deepbet", lambda: False)


def test_auto_leaves_a_stripped_scan_to_its_background(deepbet):
    template, mask = read_template()
    found, origin = find_brain(Volume(template, STANDARD_GRID, path=Path("brain.nii.gz")), "auto")
    assert (origin, deepbet["calls"]) == ("background", 0)
    assert np.array_equal(found, mask)


def test_auto_gives_a_head_to_deepbet(head, deepbet):
    found, origin = find_brain(head, "auto")
    assert (origin, deepbet["calls"]) == ("deepbet", 1)
    assert np.array_equal(found, deepbet["mask"])


def test_auto_does_not_give_an_empty_scan_to_deepbet(deepbet):
    with pytest.raises(MedvaeError, match="empty"):
        find_brain(Volume(np.zeros(STANDARD_GRID.shape, np.float32), STANDARD_GRID), "auto")
    assert deepbet["calls"] == 0


@pytest.mark.usefixtures("no_deepbet")
@pytest.mark.parametrize("method", ["auto", "deepbet"])
def test_a_head_without_deepbet_is_told_how_to_get_it(head, method):
    with pytest.raises(MedvaeError, match=r"a head.nii.gz.*pip install deepbet") as caught:
        find_brain(head, method)
    assert '"mask"' in str(caught.value)


def test_background_never_calls_deepbet(head, deepbet):
    with pytest.raises(MedvaeError, match="head"):
        find_brain(head, "background")
    assert deepbet["calls"] == 0


def test_a_head_is_prepared_like_its_brain(tmp_path, head, deepbet):
    config = PreparationConfig()
    prepared = prepare_scan([head.path], config)
    assert prepared.brain_from == "deepbet"
    template, mask = read_template()
    brain = write_volume(tmp_path / "brain.nii.gz", template, STANDARD_GRID)
    assert np.array_equal(prepared.image, prepare_scan([brain], config).image)
    assert prepared.quality.dice == 1
    assert prepared.quality.mutual_information > 1

    given = ndimage.binary_erosion(mask).astype(np.uint8)
    path = write_volume(tmp_path / "mask.nii.gz", given, STANDARD_GRID)
    by_mask = prepare_scan([head.path], config, mask=path)
    assert (by_mask.brain_from, deepbet["calls"]) == ("given", 1)  # a given mask always wins
    assert np.array_equal(by_mask.source_mask, given > 0)


@pytest.mark.parametrize(
    ("mask", "complaint"),
    [
        (None, "found no brain.*Not enough foreground"),
        (np.zeros(STANDARD_GRID.shape), "measures 0 ml"),
        (np.ones(STANDARD_GRID.shape), "measures 4,915 ml"),
        (np.ones((4, 4, 4)), r"has shape \(4, 4, 4\)"),
    ],
)
def test_what_is_no_brain_is_not_used(head, deepbet, mask, complaint):
    deepbet["mask"] = mask
    with pytest.raises(MedvaeError, match=f"a head.nii.gz.*{complaint}"):
        find_brain(head, "deepbet")


def program(folder: Path, body: str) -> None:
    folder.mkdir()
    file = folder / "hd-bet"
    file.write_text(f"#!{sys.executable}\nimport sys\n{body}\n")
    file.chmod(file.stat().st_mode | stat.S_IXUSR)


HD_BET = """
import nibabel as nib
options = dict(zip(sys.argv[1::2], sys.argv[2::2]))
assert "--save_bet_mask" in sys.argv and options["-device"] in ("cpu", "cuda")
head = nib.load(options["-i"])
brain = nib.load({brain!r})
assert head.shape == brain.shape and (head.affine == brain.affine).all()
nib.save(brain, options["-o"].replace(".nii.gz", "_bet.nii.gz"))
"""


def test_hd_bet_is_run_as_a_program(tmp_path, monkeypatch, head):
    _, mask = read_template()
    brain = write_volume(tmp_path / "m.nii.gz", mask.astype(np.uint8), STANDARD_GRID)
    program(tmp_path / "bin", HD_BET.format(brain=str(brain)))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    found, origin = find_brain(head, "hdbet")
    assert origin == "hdbet"
    assert np.array_equal(found, mask)


@pytest.mark.parametrize(
    ("body", "complaint"),
    [("sys.exit('no space left on device')", r"exit code 1\): no space left"), ("", r"exit code 0\): it said nothing")],
)
def test_a_failing_hd_bet_is_quoted(tmp_path, monkeypatch, head, body, complaint):
    program(tmp_path / "bin", body)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(MedvaeError, match=f"a head.nii.gz: hd-bet made no brain mask .{complaint}"):
        find_brain(head, "hdbet")


def test_a_missing_hd_bet_is_named(tmp_path, monkeypatch, head):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MedvaeError, match=r"hd-bet, which is not on the PATH.*pip install hd-bet"):
        find_brain(head, "hdbet")


@pytest.mark.skipif(importlib.util.find_spec("deepbet") is None, reason="needs pip install deepbet")
def test_deepbet_itself_gives_a_mask_on_the_scans_grid(repository):
    scan = read_volume(repository / "data_manifests" / "included" / "ixi" / "IXI012_T1.nii.gz")
    array, geometry = np.flip(scan.array, 1).swapaxes(0, 2), scan.geometry.affine.copy()
    geometry[:3, 3] += geometry[:3, 1] * (scan.array.shape[1] - 1)
    geometry[:3, 1] *= -1
    geometry[:, [0, 2]] = geometry[:, [2, 0]]
    turned = Volume(np.ascontiguousarray(array), Geometry(geometry, array.shape), path=scan.path)
    found, _ = find_brain(turned, "deepbet")
    inside = turned.array > 0
    assert 2 * np.count_nonzero(found & inside) > 0.95 * (np.count_nonzero(found) + np.count_nonzero(inside))
