"""The program that changes scans as another scanner would: its changes, and a small run of it."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from medvae.config import read_config
from medvae.fitting import fit
from medvae.imaging.volume import read_volume
from medvae.manifest import read_manifest, write_manifest

REPOSITORY = Path(__file__).resolve().parents[1]
PROGRAM = runpy.run_path(str(REPOSITORY / "pipelines" / "robustness.py"))
CHANGES = PROGRAM["CHANGES"]


@pytest.fixture(scope="module")
def scan():
    volume = read_volume(REPOSITORY / "data_manifests" / "included" / "ixi" / "IXI049_T1.nii.gz")
    return volume.array.astype(np.float64), volume.array > 0, volume


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_seeded_and_keeps_the_brain_recognisable(scan, name):
    array, mask, volume = scan
    first, again = (CHANGES[name](array, mask, volume, np.random.default_rng(3)) for _ in range(2))
    assert np.array_equal(first, again)
    assert first.shape == array.shape
    inner = ndimage.binary_erosion(mask, iterations=3)
    assert np.corrcoef(first[inner], array[inner])[0, 1] > 0.7
    assert (name == "as it is") == np.array_equal(first, array)


def test_changes_do_what_they_are_called(scan):
    array, mask, volume = scan
    inner = ndimage.binary_erosion(mask, iterations=4)
    change = lambda name: CHANGES[name](array, mask, volume, np.random.default_rng(0))  # noqa: E731
    ratio = change("shading of ± 30 %")[mask] / array[mask]
    assert np.abs(ratio - 1).max() == pytest.approx(0.3)
    flat, steep = (change(name) for name in CHANGES if "contrast" in name)
    order = np.argsort(array[inner])
    assert (np.diff(flat[inner][order]) >= 0).all()
    assert np.ptp(np.log(flat[inner])) < np.ptp(np.log(array[inner])) < np.ptp(np.log(steep[inner]))
    noisy = change("noise of 5 %") - array
    assert noisy[inner].std() == pytest.approx(0.05 * np.median(array[mask]), rel=0.05)
    axis = int(np.argmax(np.abs(volume.geometry.affine[2, :3])))
    detail = lambda x, along: np.diff(x, 2, axis=along)[:-2, :-2, :-2].std()  # noqa: E731
    thick = change("slices of 6 mm")
    others = [other for other in range(3) if other != axis]
    assert detail(thick, axis) < 0.5 * detail(array, axis)
    assert all(detail(thick, other) > 0.5 * detail(array, other) for other in others)
    assert thick[inner].mean() == pytest.approx(array[inner].mean(), rel=0.01)
    assert change("blurred by 4 mm")[inner].std() < array[inner].std()


def test_the_program_makes_its_table_and_goes_on(tmp_path, monkeypatch):
    cohort = read_manifest(REPOSITORY / "data_manifests" / "included_t1.json")
    few = [
        *cohort.of_split("train")[:4],
        *cohort.of_split("validation")[:2],
        *cohort.of_split("test", healthy=True)[:1],
    ]
    for index, case in enumerate(few):
        few[index] = case.model_copy(update={"image": str(cohort.images(case)[0])})
    small = read_manifest(write_manifest(cohort.model_copy(update={"cases": few}), tmp_path / "small.json"))
    run = tmp_path / "run"
    fit(
        read_config(REPOSITORY / "configs" / "normative_baseline.yaml"),
        small,
        run,
        cache=tmp_path / "out" / "prepared",
        quiet=True,
    )
    names = PROGRAM["main"].__globals__
    monkeypatch.setitem(names, "CHANGES", {name: CHANGES[name] for name in ("as it is", "noise of 5 %")})
    monkeypatch.setitem(names, "FAMILIES", {"tumour": ("medium",)})
    PROGRAM["main"](str(run), small.path, tmp_path / "out")
    lines = (tmp_path / "out" / "table.md").read_text().splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["as it is"] * 2 + ["noise of 5 %"] * 2
    first = [[cell.strip() for cell in line.split("|")[3:-1]] for line in lines[2:4]]
    assert first[0] == first[1]  # the detector is the baseline here
    sidecars = sorted((tmp_path / "out" / "maps").rglob("*mask.json"))
    before = [path.stat().st_mtime_ns for path in sidecars]
    assert json.loads(sidecars[0].read_text())
    PROGRAM["main"](str(run), small.path, tmp_path / "out")
    assert [path.stat().st_mtime_ns for path in sidecars] == before
