"""The module for 3D Slicer, as far as it goes without Slicer: its logic with a stand-in, and the real command."""

import importlib.util
import os
import sys
import types
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

MODULE = Path(__file__).parents[1] / "integrations" / "slicer" / "MedvaeAnomaly" / "MedvaeAnomaly.py"


class Node:
    """Of a volume or a segmentation: remembers what is called."""

    def __init__(self, path=None):
        self.path, self.calls = path, []

    def GetName(self):
        return "T1"

    def GetDisplayNode(self):
        return self

    def __getattr__(self, name):
        return lambda *arguments: self.calls.append((name, *arguments))


@pytest.fixture
def module(monkeypatch):
    slicer, base, loaded = types.ModuleType("slicer"), types.ModuleType("slicer.ScriptedLoadableModule"), []
    for name in ("ScriptedLoadableModule", "ScriptedLoadableModuleLogic", "ScriptedLoadableModuleWidget"):
        setattr(base, name, type(name, (), {}))

    def load(path, *_):
        assert Path(path).is_file()
        loaded.append(Node(path))
        return loaded[-1]

    slicer.loaded, slicer.layers = loaded, []
    slicer.util = types.SimpleNamespace(
        saveNode=lambda node, path: nib.save(nib.Nifti1Image(node.array, np.eye(4)), path),
        loadVolume=load,
        loadSegmentation=load,
        setSliceViewerLayers=lambda **layers: slicer.layers.append(layers),
    )
    monkeypatch.setitem(sys.modules, "slicer", slicer)
    monkeypatch.setitem(sys.modules, "slicer.ScriptedLoadableModule", base)
    spec = importlib.util.spec_from_file_location("MedvaeAnomaly", MODULE)
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


@pytest.fixture
def program(tmp_path):
    """The command as a user has it: a file that can be run."""
    path = tmp_path / ("medvae.bat" if os.name == "nt" else "medvae")
    root = MODULE.parents[3]
    if os.name == "nt":
        path.write_text(f'@set PYTHONPATH={root}\n@"{sys.executable}" -m medvae %*\n')
    else:
        path.write_text(f'#!/bin/sh\nPYTHONPATH="{root}" exec "{sys.executable}" -m medvae "$@"\n')
        path.chmod(0o755)
    return str(path)


def volume(array):
    node = Node()
    node.array = array
    return node


def test_map_and_mask_are_loaded_and_shown_over_the_scan(module, program):
    """With a detector that has no network, on a brain of noise: quick, and whatever it finds is loaded."""
    x, y, z = np.ogrid[-1:1:60j, -1:1:70j, -1:1:60j]
    brain = x**2 + y**2 + z**2 < 0.8
    scan = volume(np.where(brain, 100 + np.random.default_rng(0).normal(0, 5, brain.shape), 0).astype(np.float32))
    module.MedvaeAnomalyLogic().find(scan, program, "flair-rank-2mm")
    anomaly, mask = module.slicer.loaded
    assert ("SetThreshold", 0.5, 1) in anomaly.calls
    assert mask.calls == [("SetName", "T1 lesions")]
    assert module.slicer.layers == [{"background": scan, "foreground": anomaly, "foregroundOpacity": 0.6}]
    assert not Path(anomaly.path).exists()  # nothing of the patient's is left in the temporary folder


def test_what_goes_wrong_is_said_in_medvaes_words(module, program):
    with pytest.raises(ValueError, match="Choose a scan"):
        module.MedvaeAnomalyLogic().find(None, program)
    with pytest.raises(ValueError, match="is no program"):
        module.MedvaeAnomalyLogic().find(volume(np.zeros((4, 4, 4), np.float32)), "/nowhere/medvae")
    with pytest.raises(ValueError, match=r"scan\.nii\.gz") as caught:
        module.MedvaeAnomalyLogic().find(volume(np.zeros((4, 4, 4), np.float32)), program)
    assert "Traceback" not in str(caught.value)


def test_the_program_gets_nothing_of_slicers_own_python(module, monkeypatch):
    monkeypatch.setenv("PYTHONHOME", "/slicer")
    monkeypatch.setenv("LD_LIBRARY_PATH", "/slicer/lib")
    assert not {"PYTHONHOME", "LD_LIBRARY_PATH"} & set(module.outside())
