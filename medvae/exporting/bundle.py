"""A detector as a bundle of MONAI: a folder that ``python -m monai.bundle run`` executes on a folder of scans.

``BUNDLE/configs/metadata.json``    what it is, versions, terms, inputs and outputs, by MONAI's schema
``BUNDLE/configs/inference.json``   how scans become maps: MONAI's data set, composition and writer, medvae's detector
``BUNDLE/models/detector/``         the detector, as `medvae predict` takes it
``BUNDLE/models/model.pt``          the weights of its networks, as MONAI's specification asks for
``BUNDLE/docs/README.md``           how to run it
``BUNDLE/LICENSE``                  the terms of the weights
"""

from __future__ import annotations

import importlib.metadata
import io
import re
import shutil
from pathlib import Path
from typing import Any

import torch

from medvae import __version__
from medvae.derivatives import MAP_SUFFIX, MASK_SUFFIX, SPREAD_SUFFIX
from medvae.detection.base import Calibrated
from medvae.detection.detector import find_detector
from medvae.detection.ensemble import Ensemble
from medvae.exporting.bundle_parts import DETECTOR, METADATA, Networks
from medvae.exporting.network import OUTPUTS, Member, members_with_network
from medvae.exporting.networks_folder import require_new
from medvae.exporting.terms import Terms
from medvae.files import whole_folder, write_bytes, write_json, write_text

SCHEMA = "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"
INFERENCE, WEIGHTS = "configs/inference.json", "models/model.pt"
VERSION = "0.1.0"
_PARTS = "medvae.exporting.bundle_parts"
_DISTRIBUTION = "medvae-anomaly"


def export_bundle(detector: Calibrated, source: Path | str, out: Path | str, terms: Terms) -> Path:
    """Write the bundle of a detector that was loaded from ``source``.

    Raises
    ------
    MedvaeError
        If ``out`` is not empty, or ``source`` holds no detector.
    """
    out, source = require_new(out), find_detector(source)
    with whole_folder(out) as folder:
        _copy(source, folder / DETECTOR)
        stream = io.BytesIO()
        torch.save({name: tensor.cpu() for name, tensor in Networks(detector).state_dict().items()}, stream)
        write_bytes(folder / WEIGHTS, stream.getvalue())
        write_json(folder / METADATA, metadata(detector, terms))
        write_json(folder / INFERENCE, inference(detector))
        write_text(folder / "docs" / "README.md", readme(detector, terms))
        if terms.card is not None:
            write_text(folder / "docs" / "model_card.md", terms.card)
        write_text(folder / "LICENSE", terms.text)
    return out


def _copy(source: Path, destination: Path) -> None:
    """The detector's files as they are, so that its fingerprint stays, and what lies beside one of an older version."""
    shutil.copytree(source, destination, ignore=shutil.ignore_patterns(".*", "__pycache__"))
    beside = source.with_name(f"{source.name}.json")
    if beside.is_file():
        shutil.copyfile(beside, destination.with_name(f"{destination.name}.json"))


def inference(detector: Calibrated) -> dict[str, Any]:
    """The content of ``inference.json``."""
    saved = {"anomaly": MAP_SUFFIX, "lesion": MASK_SUFFIX}
    if isinstance(detector, Ensemble):
        saved["spread"] = SPREAD_SUFFIX
    return {
        "bundle_root": ".",
        "dataset_dir": "$@bundle_root + '/scans'",
        "output_dir": "$@bundle_root + '/maps'",
        "device": "auto",
        "detector": {"_target_": f"{_PARTS}.load_bundle", "bundle_root": "@bundle_root", "device": "@device"},
        "network_def": {"_target_": f"{_PARTS}.Networks", "detector": "@detector"},
        "preprocessing": {
            "_target_": "monai.transforms.Compose",
            "transforms": [{"_target_": f"{_PARTS}.PrepareScand", "keys": "image", "detector": "@detector"}],
        },
        "dataset": {
            "_target_": "monai.data.Dataset",
            "data": {"_target_": f"{_PARTS}.scans_of_folder", "folder": "@dataset_dir", "detector": "@detector"},
            "transform": "@preprocessing",
        },
        "inferer": {"_target_": f"{_PARTS}.FindLesionsd", "keys": "image", "detector": "@detector"},
        "postprocessing": {
            "_target_": "monai.transforms.Compose",
            "transforms": [
                {
                    "_target_": "monai.transforms.SaveImaged",
                    "keys": key,
                    "output_dir": "@output_dir",
                    "output_postfix": suffix.removeprefix("_").removesuffix(".nii.gz"),
                    "output_ext": ".nii.gz",
                    "output_dtype": "uint8" if key == "lesion" else "float32",
                    "resample": True,
                    "separate_folder": False,
                    "print_log": False,
                }
                for key, suffix in saved.items()
            ],
        },
        "run": [
            {
                "_target_": f"{_PARTS}.run_each",
                "dataset": "@dataset",
                "inferer": "@inferer",
                "postprocessing": "@postprocessing",
            }
        ],
    }


def metadata(detector: Calibrated, terms: Terms) -> dict[str, Any]:
    """The content of ``metadata.json``, by MONAI's schema of 2024-07-25."""
    version = importlib.metadata.version
    name, sequences = detector.config.name, ", ".join(detector.modalities)
    any_shape: dict[str, Any] = {
        "type": "image", "spatial_shape": ["*", "*", "*"], "dtype": "float32", "is_patch_data": False,
    }  # fmt: skip
    networks = {f"{_word(m.name)}_data_format": _network_format(m) for m in _members(detector)}
    return {
        "schema": SCHEMA,
        "version": VERSION,
        "changelog": {VERSION: f"exported by medvae {__version__} from {name}, fingerprint {detector.fingerprint}"},
        "monai_version": version("monai"),
        "pytorch_version": version("torch").partition("+")[0],
        "numpy_version": version("numpy"),
        "required_packages_version": {
            _DISTRIBUTION: __version__,
            **{package: version(package) for package in ("nibabel", "scipy", "SimpleITK", "safetensors", "pydantic")},
        },
        "name": name,
        "task": f"Unsupervised detection of lesions in {sequences} MRI of the brain",
        "description": f"Voxelwise anomaly map and lesion mask of a {sequences} scan of a brain, on its own grid, "
        f"after training on healthy scans only. The scan is prepared, scored and brought back by medvae.",
        "authors": "The medvae developers" if terms.card else "not stated",
        "copyright": f"Licence of the weights: {terms.licence}. See LICENSE.",
        "data_source": "see LICENSE and docs/model_card.md" if terms.card else "not stated",
        "data_type": "nibabel",
        "image_classes": f"{sequences}, intensities as in the file",
        "pred_classes": "anomaly map in [0, 1], 0.5 is the threshold of the first operating point; 0 outside the brain",
        "intended_use": "Research. Not a medical device, not for clinical use.",
        "network_data_format": {
            "inputs": {
                "image": any_shape
                | {
                    "format": "magnitude",
                    "modality": "MR",
                    "num_channels": detector.channels,
                    "value_range": [],
                    "channel_def": {str(index): sequence for index, sequence in enumerate(detector.modalities)},
                }
            },
            "outputs": {
                "pred": any_shape
                | {"format": "magnitude", "num_channels": 1, "value_range": [0, 1], "channel_def": {"0": "anomaly map"}}
            },
        },
        **networks,
    }


def _members(detector: Calibrated) -> list[Member]:
    return members_with_network(detector) if len(Networks(detector)) else []


def _network_format(member: Member) -> dict[str, Any]:
    """The format of a network's tiles. Sides that may differ are given by their step: ``16*n``."""
    sides: list[str | int] = list(member.config.tile_shape)
    if member.step is not None and not member.config.network_options.backbone:
        sides = [f"{member.step}*{letter}" for letter, _ in zip("nmk", sides, strict=False)]
    described = member.description()["input"]["channels"]
    channels = {
        index: " ".join(str(channel[key]) for key in ("map", "modality")) for index, channel in described.items()
    }
    common = {"type": "image", "dtype": "float32", "value_range": [], "is_patch_data": True, "spatial_shape": sides}
    single = {"format": "magnitude", "num_channels": member.detector.channels}
    return {
        "inputs": {
            "tile": common
            | {"format": "magnitude", "modality": "MR", "num_channels": member.channel_count, "channel_def": channels}
        },
        "outputs": {
            name: common
            | (single | {"num_channels": 1} if name == "logits" else single)
            | {"channel_def": {"0": OUTPUTS[name]}}
            for name in member.outputs
            if name in ("logits", "reconstruction")
        },
    }


def _word(name: str) -> str:
    """A name of letters, digits and underscores, as MONAI's schema takes it."""
    return re.sub(r"[^_a-zA-Z0-9]", "_", name)


def readme(detector: Calibrated, terms: Terms) -> str:
    """The content of ``docs/README.md``."""
    name, sequences = detector.config.name, ", ".join(detector.modalities)
    example = "SUBJECT_T1.nii.gz" if detector.channels == 1 else ", ".join(
        f"SUBJECT_{sequence}.nii.gz" for sequence in detector.modalities
    )  # fmt: skip
    spread = (
        f"| `ID{SPREAD_SUFFIX}` | where the members of the ensemble disagree, 0 to 0.5 |\n"
        if isinstance(detector, Ensemble)
        else ""
    )
    card = "\nResults, limits and failures: [model card](model_card.md).\n" if terms.card else ""
    return f"""# {name}: lesions in {sequences} MRI of the brain

A detector of medvae {__version__} (the distribution {_DISTRIBUTION}) as a bundle of MONAI
{importlib.metadata.version("monai")}. Research only: not a medical device, not for clinical use.

```
pip install "{_DISTRIBUTION}[export]"
cd BUNDLE
python -m monai.bundle run --config_file configs/inference.json --dataset_dir SCANS --output_dir MAPS
```

`SCANS` is a folder of {sequences} scans ({example}; NIfTI, MGH, MHA or NRRD; skull-stripped, or raw heads where deepbet
is installed). From another folder, add `--bundle_root BUNDLE`; `--device cuda` chooses a device.

| in `MAPS` | what |
|---|---|
| `ID{MAP_SUFFIX}` | anomaly map from 0 to 1 on the scan's own grid; 0.5 is the threshold of the first operating point |
| `ID{MASK_SUFFIX}` | 1 above the threshold, post-processed as the detector's config says |
{spread}
A scan that fails stops no other; why it failed is said at the end. The maps are those of
`medvae predict models/detector SCAN --out DIR`, which also writes sidecars (threshold and its guarantee, volumes, brain
regions), pictures and tables, and takes brain masks and other operating points.

MONAI reads the list of scans, composes the steps and writes the images. Preparation (brain, bias field, registration,
intensities), the score and the way back to the scan's grid are medvae's, as MONAI has no such parts. `network_def`
holds the networks alone, with the weights of `models/model.pt`; one network's output is not yet the map.
{card}
Licence of the weights: {terms.licence}; see `LICENSE`.
"""
