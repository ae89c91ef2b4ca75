"""Tiny copies of downloads, and how a manifest is made of them."""

import json
import sys

import nibabel as nib
import numpy as np
import pytest

from medvae.cli import main
from medvae.importing.split import Fractions
from medvae.importing.to_manifest import make_manifest
from medvae.manifest import read_manifest, write_manifest


def tiny(folder, *names, shape=(3, 4, 5)):
    """Write a small NIfTI file under each name."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        values = np.arange(np.prod(shape), dtype=np.int16).reshape(shape)
        nib.save(nib.Nifti1Image(values, np.diag([1.0, 2, 3, 1])), path)
    return folder


def manifest_of(found, out, **options):
    """The manifest as it reads back from disk, every file it names being there."""
    manifest = make_manifest(found, out, fractions=options.pop("fractions", Fractions()), **options)
    return read_manifest(write_manifest(manifest, out))


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["medvae", "manifest", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        main()
    return caught.value.code


def reasons(found):
    return {entry.what: entry.why for entry in found.skipped}


def ixi(folder, modalities=("T1", "T2")):
    for number, site in [(2, "Guys"), (12, "HH"), (35, "IOP")]:
        for name in modalities:
            tiny(folder, f"IXI-{name}/IXI{number:03d}-{site}-{800 + number:04d}-{name}.nii.gz")
    return folder


def dataset(folder, **content):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


def decathlon(folder):
    tiny(folder / "imagesTr", "B_1.nii.gz", "B_2.nii.gz", shape=(3, 4, 5, 2))
    tiny(folder / "imagesTs", "B_3.nii.gz", shape=(3, 4, 5, 2))
    tiny(folder / "labelsTr", "B_1.nii.gz", "B_2.nii.gz")
    pairs = [{"image": f"./imagesTr/B_{i}.nii.gz", "label": f"./labelsTr/B_{i}.nii.gz"} for i in (1, 2, 9)]
    labels = {"0": "background", "1": "edema", "2": "core"}
    modality = {"0": "FLAIR", "1": "T1w"}
    test = ["./imagesTs/B_3.nii.gz"]
    return dataset(folder, name="BRATS", licence="CC", modality=modality, labels=labels, training=pairs, test=test)
