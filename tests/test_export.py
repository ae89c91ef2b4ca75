"""Detectors for other programs: ONNX and TorchScript networks, and bundles that MONAI runs."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

import medvae
from medvae.cli import app
from medvae.config import Config
from medvae.detection.detector import Detector, pretrained
from medvae.detection.ensemble import load_detector
from medvae.errors import MedvaeError, MedvaeWarning
from medvae.exporting import comparison, onnx
from medvae.exporting.bundle import export_bundle
from medvae.exporting.bundle import metadata as bundle_metadata
from medvae.exporting.bundle_parts import Networks, load_bundle, run_each, scans_of_folder
from medvae.exporting.network import MEANINGS, Member, members_with_network, template_volume
from medvae.exporting.networks_folder import export_networks
from medvae.exporting.terms import _OF_PRETRAINED, NOT_STATED, terms_of
from medvae.fitting import fit, fit_ensemble
from medvae.normative.inputs import INPUTS
from medvae.prediction import predict, scans_of_files

DENSE = {
    "sampling": {"plane": "coronal", "workers": 0},
    "network": {"widths": [4, 8, 8], "latent_size": 8, "squeeze": 4},
    "training": {"steps": 2, "validate_every": 100},
}
SEGMENTER = {
    "sampling": {"kind": "patch", "patch_size": [32, 32, 32], "patches_per_volume": 2, "batch_size": 2, "workers": 0},
    "augmentation": {"enabled": False},
    "network": {
        "kind": "segmenter", "widths": [4, 8], "normalisation": "instance", "atlas": True, "mirror": True,
        "texture": True, "detail": 4,
    },
    "objective": {"kind": "discrepancy"},
    "training": {"steps": 2, "validate_every": 100},
    "score": {"kind": "discrepancy", "polarity": "bright", "smoothing_mm": 2},
}  # fmt: skip
SPATIAL = DENSE | {"network": {"widths": [4, 8], "latent": "spatial", "latent_size": 3}}
SWITCHED = DENSE | {
    "network": {
        "kind": "unet",
        "backbone": {"target": "monai.networks.nets.SegResNet", "options": {"init_filters": 8}},
    },
    "objective": {"kind": "dae"},
}
PLAIN = {"network": None, "score": {"kind": "equalized_intensity", "polarity": "bright"}}
KINDS = {"dense": DENSE, "segmenter": SEGMENTER, "spatial": SPATIAL, "backbone": SWITCHED}
onnx_is_there = pytest.mark.skipif(
    not all(map(onnx.importlib.util.find_spec, ("onnx", "onnxruntime"))), reason="onnx or onnxruntime is not installed"
)
fire_is_there = pytest.mark.skipif(not onnx.importlib.util.find_spec("fire"), reason="fire is not installed")


@pytest.fixture(scope="module")
def runs(cohort, tmp_path_factory, prepared):
    folder = tmp_path_factory.mktemp("exported")
    for name, content in {**KINDS, "plain": PLAIN}.items():
        fit(Config.model_validate({"name": name, **content}), cohort, folder / name, cache=prepared, quiet=True)
    return folder


@pytest.fixture(scope="module")
def ensemble(runs, cohort, prepared):
    fit_ensemble(
        [runs / "dense", runs / "plain"], cohort, runs / "both", name="two", weights=[3, 1], cache=prepared, quiet=True
    )
    return runs / "both"


def of(runs, kind):
    (member,) = members_with_network(load_detector(runs / kind, device="cpu"))
    return member


@onnx_is_there
@pytest.mark.parametrize("kind", KINDS)
def test_an_onnx_network_computes_what_pytorch_does_for_any_number_of_tiles(runs, kind, tmp_path):
    import onnxruntime

    written, left_out = export_networks(load_detector(runs / kind), tmp_path / "out", "onnx", terms_of(runs / kind))
    assert [item.name for item in written] == [kind]
    assert left_out == []
    told = json.loads((tmp_path / "out" / f"{kind}.json").read_text())
    session = onnxruntime.InferenceSession(written[0].file, providers=["CPUExecutionProvider"])
    assert [one.name for one in session.get_inputs()] == [told["input"]["name"]]
    assert [one.name for one in session.get_outputs()] == list(told["outputs"])
    member = of(runs, kind)
    shape = told["input"]["shape"]
    assert shape[:2] == ["batch", len(told["input"]["channels"])]
    tile = torch.rand(5, shape[1], *member.config.tile_shape, generator=torch.Generator().manual_seed(0))
    wanted = member.plain(tile)
    wanted = wanted if isinstance(wanted, tuple) else [wanted]
    for found, right in zip(session.run(None, {"tile": tile.numpy()}), wanted, strict=True):
        np.testing.assert_allclose(found, right.numpy(), atol=1e-4)
    assert told["compared_with_pytorch"]["largest_difference"] < 1e-4
    assert written[0].any_size == (kind != "dense")


def test_torchscript_needs_no_medvae(runs, tmp_path):
    code = (
        "import sys, torch\n"
        "for file in sys.argv[1:]:\n"
        "    network, tile = torch.jit.load(file), torch.load(file + '.tile')\n"
        "    torch.save(network(tile), file + '.found')\n"
        "print(any(name.startswith('medvae') for name in sys.modules))"
    )
    files, tiles = {kind: tmp_path / kind / f"{kind}.ts" for kind in KINDS}, {}
    for kind, file in files.items():
        export_networks(load_detector(runs / kind), file.parent, "torchscript", terms_of(runs / kind))
        member = of(runs, kind)
        tiles[kind] = torch.rand(3, member.channel_count, *member.config.tile_shape)
        torch.save(tiles[kind], f"{file}.tile")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, *map(str, files.values())], capture_output=True, text=True
    )
    assert done.stdout.strip() == "False", done.stderr
    for kind, file in files.items():
        found, wanted = torch.load(f"{file}.found"), of(runs, kind).plain(tiles[kind])
        for one, other in zip(*((x,) if isinstance(x, torch.Tensor) else x for x in (found, wanted)), strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


def test_a_fixed_size_and_the_steps_of_others_are_told(runs):
    assert of(runs, "dense").step is None
    assert of(runs, "spatial").step == 4
    volume = template_volume(load_detector(runs / "segmenter"))
    member = of(runs, "segmenter")
    sizes = comparison.sizes_of(member, member.shown(volume))
    assert sizes.trained == (32, 32, 32)
    assert sizes.other == (28, 32, 36)
    spatial = of(runs, "spatial")
    assert comparison.sizes_of(spatial, spatial.shown(volume)).other == (76, 84)  # cut on one side, padded on the other


def test_the_channels_of_a_tile_are_named_in_the_order_in_which_the_network_takes_them(runs):
    member = of(runs, "segmenter")
    channels = member.description()["input"]["channels"]
    assert [channel["map"] for channel in channels.values()] == list(member.channels.names)
    assert {name for kind in INPUTS for name in kind.maps} <= set(MEANINGS)
    large = next(m for m in members_with_network(load_detector("t1-2mm")) if m.config.network.neighbours)
    channels = large.description()["input"]["channels"]
    assert len(channels) == large.channel_count == 10
    assert [(c["map"], c["slice"]) for c in channels.values()][4:6] == [("scan", 2), ("mirrored", -2)]


def test_a_network_that_differs_is_not_written(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(comparison, "TOLERANCE", -1.0)
    with pytest.raises(MedvaeError, match="differs from PyTorch's"):
        export_networks(load_detector(runs / "dense"), tmp_path / "out", "torchscript", terms_of(runs / "dense"))
    assert list(tmp_path.iterdir()) == []


def test_an_ensemble_exports_each_network_and_says_what_is_left_out(runner, ensemble, tmp_path):
    done, said = runner("export", ensemble, "--to", "torchscript", "--out", tmp_path / "out", "--licence", "CC-BY-4.0")
    assert done.exit_code == 0, said
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"dense.ts", "dense.json", "LICENCE.md"}
    assert "plain has no network" in said
    told = json.loads((tmp_path / "out" / "dense.json").read_text())
    assert told["weight_in_ensemble"] == 3
    assert told["licence"] == "CC-BY-4.0"
    assert told["detector"]["name"] == "two"


@pytest.fixture
def runner():
    from typer.testing import CliRunner

    def run(*arguments):
        done = CliRunner().invoke(app, [str(argument) for argument in arguments])
        return done, f"{done.output}{done.exception}"

    return run


def test_a_detector_without_a_network_is_refused_as_onnx_and_accepted_as_a_bundle(tmp_path):
    detector = load_detector("flair-rank-2mm")
    with pytest.raises(
        MedvaeError, match=r'"flair-rank-2mm" has no network \(its score is brightness_rank\).*--to monai'
    ):
        export_networks(detector, tmp_path / "out", "onnx", terms_of("flair-rank-2mm"))
    assert not (tmp_path / "out").exists()
    export_bundle(detector, "flair-rank-2mm", tmp_path / "bundle", terms_of("flair-rank-2mm"))
    assert torch.load(tmp_path / "bundle" / "models" / "model.pt", weights_only=True) == {}
    assert load_bundle(tmp_path / "bundle").fingerprint == detector.fingerprint


@pytest.mark.parametrize("to", ["onnx", "torchscript", "monai"])
def test_an_existing_folder_is_left_as_it_is(runner, runs, tmp_path, to):
    (tmp_path / "mine.txt").write_text("mine")
    done, said = runner("export", runs / "dense", "--to", to, "--out", tmp_path)
    assert done.exit_code == 1
    assert "is not empty" in said
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_what_is_missing_is_told_with_the_extra(runs, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    there = onnx.importlib.util.find_spec
    monkeypatch.setattr(onnx.importlib.util, "find_spec", lambda name: None if "onnx" in name else there(name))
    with pytest.raises(MedvaeError, match=r'onnx and onnxruntime.*pip install "medvae-anomaly\[export\]"'):
        export_networks(load_detector(runs / "dense"), tmp_path / "out", "onnx", terms_of(runs / "dense"))


def test_other_formats_and_detectors_are_refused(runner, tmp_path):
    assert "none of monai, onnx" in runner("export", "t1-2mm", "--to", "coreml", "--out", tmp_path / "a")[1]
    assert "holds no detector" in runner("export", tmp_path / "none", "--to", "monai", "--out", tmp_path / "a")[1]
    assert list(tmp_path.iterdir()) == []


def test_a_network_shown_gradients_is_refused(runs):
    member = of(runs, "dense")
    options = member.config.network_options
    shown = {"run": "somewhere", "shows": ["kl_gradient"], "network": options.model_dump()}
    config = Config.model_validate(
        {"name": "x", **SEGMENTER, "network": SEGMENTER["network"] | {"reconstructor": shown}}
    )
    with pytest.raises(MedvaeError, match=r"gradient of a reconstructor's KL divergence.*--to monai"):
        _ = Member("x", replace(member.detector, config=config)).plain


def test_the_terms_of_every_detector_that_comes_with_medvae_are_known(runs):
    assert set(_OF_PRETRAINED) == set(pretrained())
    assert "IXI" in terms_of("t1-2mm").text
    assert terms_of("t1-2mm").licence == "CC-BY-SA-3.0"
    assert terms_of(runs / "dense").licence == NOT_STATED


MONAI_SCHEMA = {
    "schema": str, "version": str, "changelog": dict, "monai_version": str, "pytorch_version": str,
    "numpy_version": str, "required_packages_version": dict, "task": str, "description": str, "authors": str,
    "copyright": str, "network_data_format": dict,
}  # fmt: skip
"""What MONAI's schema of 2024-07-25 requires, and of which type."""
TENSOR = {"type": str, "format": str, "num_channels": int, "spatial_shape": list, "dtype": str, "value_range": list}


@pytest.mark.parametrize("name", ["t1-2mm", "flair-rank-2mm"])
def test_the_metadata_hold_what_the_schema_of_monai_requires(name):
    told = bundle_metadata(load_detector(name), terms_of(name))
    for key, kind in MONAI_SCHEMA.items():
        assert isinstance(told[key], kind), key
    formats = [value for key, value in told.items() if key.endswith("_data_format")]
    assert len(formats) == {"t1-2mm": 3, "flair-rank-2mm": 1}[name]
    for one in formats:
        for tensor in [*one["inputs"].values(), *one["outputs"].values()]:
            for key, kind in TENSOR.items():
                assert isinstance(tensor[key], kind), key
            assert all(isinstance(side, str | int) for side in tensor["spatial_shape"])
    json.dumps(told, allow_nan=False)


def run_bundle(bundle: Path, scans: Path, maps: Path) -> subprocess.CompletedProcess:
    """As a user runs it, in the bundle's folder."""
    here = str(Path(medvae.__file__).parents[1])
    return subprocess.run(
        [sys.executable, "-m", "monai.bundle", "run", "--config_file", "configs/inference.json", "--dataset_dir",
         str(scans), "--output_dir", str(maps)],
        cwd=bundle, env=os.environ | {"PYTHONPATH": here}, capture_output=True, text=True,
    )  # fmt: skip


@fire_is_there
def test_monai_runs_a_bundle_with_the_maps_of_predict(ensemble, cohort, tmp_path):
    detector = load_detector(ensemble)
    export_bundle(detector, ensemble, tmp_path / "bundle", terms_of(ensemble))
    scans = tmp_path / "scans"
    scans.mkdir()
    files = [cohort.images(cohort.case(name))[0] for name in ("sub06", "sub07")]
    turned = nib.load(files[1]).as_reoriented(nib.orientations.axcodes2ornt(("P", "S", "R")))  # as IXI's are
    nib.save(turned, scans / "sub07_T1.nii.gz")
    (scans / "sub06_T1.nii.gz").write_bytes(files[0].read_bytes())
    (scans / "broken_T1.nii.gz").write_bytes(b"no scan")
    (scans / "sub06_FLAIR.nii.gz").write_bytes(files[0].read_bytes())
    done = run_bundle(tmp_path / "bundle", scans, tmp_path / "maps")
    assert done.returncode == 1, done.stderr  # of four scans
    assert done.stderr.strip().endswith("2 of 4 scans failed."), done.stderr
    assert "Traceback" not in done.stderr
    assert "broken_T1.nii.gz" in done.stderr
    assert "is FLAIR by the name of its file" in done.stderr
    good = [scans / "sub06_T1.nii.gz", scans / "sub07_T1.nii.gz"]
    predictions, failures = predict(detector, scans_of_files(good), tmp_path / "predicted", quiet=True)
    assert failures == {}
    found = sorted((tmp_path / "maps").iterdir())
    assert len(found) == 6  # three for each
    assert {path.name for path in found} == {p.name for p in (tmp_path / "predicted").glob("*.nii.gz")}
    for path in found:
        one, other = nib.load(path), nib.load(tmp_path / "predicted" / path.name)
        np.testing.assert_allclose(one.affine, other.affine, atol=1e-5)
        np.testing.assert_allclose(one.get_fdata(), other.get_fdata(), atol=1e-4)
        assert one.get_data_dtype() == other.get_data_dtype()
    assert predictions[1].lesion_volume_ml > 0


def test_a_bundle_of_another_monai_is_announced(runs, tmp_path):
    export_bundle(load_detector(runs / "plain"), runs / "plain", tmp_path / "bundle", terms_of(runs / "plain"))
    load_bundle(tmp_path / "bundle")
    file = tmp_path / "bundle" / "configs" / "metadata.json"
    told = json.loads(file.read_text())
    assert told["monai_version"] == metadata.version("monai")
    file.write_text(json.dumps(told | {"monai_version": "0.9.0"}))
    with pytest.warns(MedvaeWarning, match=r"made with MONAI 0\.9\.0, and .* is installed"):
        load_bundle(tmp_path / "bundle")
    with pytest.raises(SystemExit, match=r"is no bundle.*--bundle_root"):
        load_bundle(tmp_path)


def test_the_weights_of_a_bundle_are_those_of_its_networks_and_run_no_code(runs, tmp_path):
    detector = load_detector(runs / "segmenter")
    export_bundle(detector, runs / "segmenter", tmp_path / "bundle", terms_of(runs / "segmenter"))
    networks = Networks(load_bundle(tmp_path / "bundle"))
    networks.load_state_dict(torch.load(tmp_path / "bundle" / "models" / "model.pt", weights_only=True))
    assert list(networks) == ["segmenter"]


def test_scans_of_several_sequences_are_put_together_by_name(tmp_path):
    detector = Detector.of_ranks(load_detector("flair-rank-2mm").config, ("T1", "FLAIR"))
    for name in ("b_FLAIR.nii.gz", "b_T1.nii.gz", "a_T1w.nii.gz", "a_flair.nii.gz", "a_T2.nii.gz", "notes.txt"):
        (tmp_path / name).touch()
    found = scans_of_folder(tmp_path, detector)
    assert [[Path(image).name for image in item["image"]] for item in found] == [
        ["a_T1w.nii.gz", "a_flair.nii.gz"], ["b_FLAIR.nii.gz", "b_T1.nii.gz"],
    ]  # fmt: skip
    assert found[0]["scan"].for_detector(detector).modalities == ("T1", "FLAIR")
    (tmp_path / "b_T1.nii.gz").unlink()
    with pytest.raises(SystemExit, match='"b" has no T1'):
        scans_of_folder(tmp_path, detector)


def test_an_empty_folder_of_scans_is_told(tmp_path):
    with pytest.raises(SystemExit, match=r"holds no scan.*--dataset_dir"):
        scans_of_folder(tmp_path, load_detector("flair-rank-2mm"))


def test_an_error_that_is_not_the_users_is_not_swallowed():
    def fails(_):
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        run_each([{}], fails, fails)


def test_neither_help_nor_predict_imports_what_exports():
    watched = ("onnx", "onnxruntime", "fire")
    code = f"import sys, medvae.cli, medvae.prediction; print([name for name in {watched} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
