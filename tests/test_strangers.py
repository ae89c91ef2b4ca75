"""A detector's folder may come from a stranger: it runs no code, reads no file outside itself, asks for no memory that
its weights do not need, and what is wrong with it is told in one sentence."""

import json
import os
import pickle
import shutil
from contextlib import nullcontext

import numpy as np
import pytest
import torch
import yaml
from safetensors.numpy import load_file, save_file

from medvae.detection.detector import PRETRAINED
from medvae.detection.ensemble import load_detector
from medvae.errors import MedvaeError
from medvae.files import write_json
from medvae.training import checkpoints
from medvae.training.loop import train

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
MEMBER = "members/patients_small_t1"


@pytest.fixture
def folder(tmp_path):
    shutil.copytree(PRETRAINED / "t1-2mm", tmp_path / "detector")
    return tmp_path / "detector"


def change(path, **changes):
    write_json(path, json.loads(path.read_text()) | changes)


def change_config(path, section, **changes):
    content = yaml.safe_load(path.read_text())
    content[section] |= changes
    path.write_text(yaml.safe_dump(content))


def refused(folder):
    with pytest.raises(MedvaeError) as caught:
        load_detector(folder)
    assert str(folder) in str(caught.value)
    assert len(str(caught.value)) < 2000
    return str(caught.value)


@pytest.mark.parametrize("name", ["atlas.safetensors", f"{MEMBER}/network.safetensors", "healthy.safetensors"])
@pytest.mark.parametrize(
    ("content", "told"),
    [
        (LFS, "git lfs pull"), (b"", "empty"), (b"<!DOCTYPE html><html>", "web page"), (None, "missing"),
        (b"\xff" * 100, "damaged"), ((2**60).to_bytes(8, "little") + b"{}", "damaged"), ("cut", "damaged"),
        (pickle.dumps({"a": 1}), "damaged"),
    ],
)  # fmt: skip
def test_weights_that_are_something_else_are_called_what_they_are(folder, name, content, told):
    if content == "cut":
        content = (folder / name).read_bytes()[:-50]
    if content is not None:
        (folder / name).write_bytes(content)
    elif name.startswith("healthy"):
        pytest.skip("detectors of earlier versions have none")
    else:
        (folder / name).unlink()
    assert told in refused(folder)


@pytest.mark.parametrize("name", ["calibration.json", "config.yaml", "intensity_scale.json"])
@pytest.mark.parametrize("content", [LFS, b"", b"<html>", b"[1]", b"{}", b"\xff\xfe", b"[" * 9999, b'{"a": NaN}', None])
def test_text_that_is_something_else_is_refused(folder, name, content):
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content)
    with pytest.raises(MedvaeError):
        load_detector(folder)


@pytest.mark.parametrize(
    "name", ["../detector", "..", ".", "", "/etc", "best_t1_dark/../best_t1_dark", "..\\x", "a\0b", 3, None, ["a"]]
)
def test_a_member_is_a_folder_within_the_detector(folder, name):
    change(folder / "calibration.json", members=[name, "best_t1_dark"], weights=[1, 1])
    refused(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"members": []}, {"members": ["best_t1_dark"]}, {"members": "best_t1_dark"}, {"members": {}},
        {"operating_points": []},
        {"operating_points": [{}]}, {"operating_points": [{"name": 1, "false_positive_rate": "x"}]},
        {"operating_points": None}, {"healthy_median": None}, {"healthy_median": "low"}, {"healthy_median": 1e400},
        {"calibrated_on_healthy_scans": 3}, {"calibrated_on_healthy_scans": {}}, {"channels": 10**12},
        {"channels": -1}, {"modalities": []}, {"modalities": 5},
    ],
)  # fmt: skip
def test_a_calibration_that_medvae_did_not_write_is_refused(folder, changes):
    text = json.dumps(json.loads((folder / "calibration.json").read_text()) | changes).replace("Infinity", "1e400")
    (folder / "calibration.json").write_text(text)
    refused(folder)


def test_what_later_versions_add_is_ignored(folder):
    change(folder / "calibration.json", something_new=[1, 2])
    assert load_detector(folder).config.name == load_detector("t1-2mm").config.name


@pytest.mark.parametrize(
    "changes",
    [
        {"widths": [10**9, 10**9, 10**9]}, {"widths": [100_000] * 4}, {"widths": [1] * 50},
        {"residual_blocks": 10**9}, {"detail": 10**9}, {"widths": [32, 64, 128, 256]},
    ],
)  # fmt: skip
def test_a_config_that_declares_a_larger_network_than_its_weights_is_refused(folder, changes):
    change_config(folder / MEMBER / "config.yaml", "network", **changes)
    refused(folder)


@pytest.mark.parametrize("name", ["atlas.safetensors", "healthy.safetensors", f"{MEMBER}/network.safetensors"])
@pytest.mark.parametrize("wrong", ["shape", "missing", "more", "nan"])
def test_arrays_of_another_shape_or_name_are_refused(folder, name, wrong):
    arrays = load_file(folder / name)
    first = next(iter(arrays))
    if wrong == "shape":
        arrays[first] = np.zeros((2, *arrays[first].shape), np.float32)
    elif wrong == "missing":
        for key in list(arrays)[1:]:
            del arrays[key]
    elif wrong == "more":
        arrays["../../x"] = arrays[first]
    elif name.endswith("network.safetensors"):
        pytest.skip("a network's weights are its own affair")
    else:
        name_of_floats = next(key for key, array in arrays.items() if array.dtype.kind == "f")
        arrays[name_of_floats] = np.full_like(arrays[name_of_floats], np.nan)
    save_file(arrays, folder / name)
    refused(folder)


def test_a_link_out_of_the_folder_shows_nothing_of_its_target(folder, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("root:x:0:0:hidden words\n" * 3)
    for name in ("atlas.safetensors", "calibration.json", "intensity_scale.json"):
        copy = (folder / name).read_bytes()
        (folder / name).unlink()
        (folder / name).symlink_to(secret)
        assert "hidden words" not in refused(folder)
        (folder / name).unlink()
        (folder / name).write_bytes(copy)


def test_links_within_a_data_set_are_followed(folder, tmp_path):
    """As git-annex and DataLad keep large files."""
    (tmp_path / "objects").mkdir()
    shutil.move(folder / "atlas.safetensors", tmp_path / "objects" / "key")
    (folder / "atlas.safetensors").symlink_to("../objects/key")
    assert load_detector(folder).fingerprint == load_detector("t1-2mm").fingerprint


@pytest.mark.parametrize("name", ["..nii", "...nii.gz", "....nii", "a..nii"])
def test_outputs_stay_in_their_folder_whatever_a_scan_is_called(tmp_path, name):
    from medvae.prediction import _files, scans_of_files

    (tmp_path / "in").mkdir()
    for scan in scans_of_files([tmp_path / "in" / name]):
        for path in (written := _files(tmp_path / "out", scan, 0, 0, None)).map, written.mask:
            assert path.resolve().parent == tmp_path / "out"
        assert (tmp_path / "out" / f"{scan.id}.png").resolve().parent == tmp_path / "out"


def test_a_scan_with_a_path_for_a_name_is_refused(tmp_path):
    from medvae.detection.scan import Scan

    for name in ("../a", "/etc/a", "a/b", "a\\b", "a\0b", ""):
        with pytest.raises(MedvaeError, match="name of a scan"):
            Scan(name, (tmp_path / "a.nii",))


class _Runs:
    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return os.mkdir, (self.marker,)


@pytest.mark.parametrize("name", ["random_states_0.pkl", "optimizer.bin"])
def test_a_checkpoint_from_a_stranger_runs_no_code(tmp_path, cohort, monkeypatch, name):
    from test_training import small, stop_after

    from medvae.preparation.prepare import prepare_healthy

    config = small()
    scans = [prepare_healthy(cohort, split, config.preparation, quiet=True) for split in ("train", "validation")]
    original = stop_after(monkeypatch, 3)
    with pytest.raises(KeyboardInterrupt):
        train(config, *scans, tmp_path / "run", quiet=True)
    from medvae.training.objectives import context

    monkeypatch.setattr(context, "cevae_loss", original)
    file = tmp_path / "run" / checkpoints.CHECKPOINT / name
    assert file.is_file()
    torch.save(_Runs(tmp_path / "ran"), file)
    # The states of random generators, which nothing draws from, are left out if they cannot be read.
    random = name.startswith("random")
    with nullcontext() if random else pytest.raises(MedvaeError, match="cannot be read"):
        train(config, *scans, tmp_path / "run", resume=True, quiet=True)
    assert not (tmp_path / "ran").exists()
