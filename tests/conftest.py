"""A small cohort made of the template brain, varied by smooth fields: quick, but brains all the same."""

from __future__ import annotations

import os
import signal
from pathlib import Path

# One thread for every process, also for those that tests start, and before anything that has threads is imported: the
# tests' arrays are small, and threads that spin while they wait made the suite ten times slower on a busy machine.
for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"):
    os.environ[_variable] = "1"
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"

import numpy as np
import pytest
import torch
from scipy import ndimage

from medvae.imaging.grid import DEFAULT_GRID
from medvae.imaging.volume import write_volume
from medvae.manifest import Case, Manifest, read_manifest, write_manifest
from medvae.preparation.standard_brain import read_template
from medvae.training.snapshots import draw_reconstructions

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell starts what it runs in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)  # or the programs under test would not heed it either

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _who_is_told_of_ctrl_c_stays():
    """A test that leaves another handler behind fails itself, and not one that happens to come after it."""
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    yield
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


@pytest.fixture(autouse=True, scope="session")
def _commands_work_in_the_process_of_the_tests():
    """Unless a test asks for --jobs: the tests have the cores already, and a process imports PyTorch for seconds."""
    with pytest.MonkeyPatch.context() as patch:
        for module in ("medvae.jobs", "medvae.commands.shared"):
            patch.setattr(f"{module}.available_cores", lambda: 1)
        yield


@pytest.fixture(autouse=True, scope="session")
def _few_tiles_are_drawn():
    """Two for eight: Matplotlib takes longer to draw them than a tiny network to learn."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(draw_reconstructions, "__defaults__", (2,))
        yield


STANDARD_GRID = DEFAULT_GRID.geometry
"""Where the voxels of the default grid lie."""


def make_brain(seed: int) -> np.ndarray:
    """The template brain, another for every seed: ``(80, 96, 80)`` uint8, 0 outside the brain."""
    rng = np.random.default_rng(seed)
    template, mask = read_template()
    field = ndimage.gaussian_filter(rng.standard_normal(mask.shape), 8)
    grain = ndimage.gaussian_filter(rng.standard_normal(mask.shape), 0.7)
    values = template / template.max() * (1 + 0.1 * field / field.std() + 0.05 * grain)
    return np.where(mask, np.clip(values * 220, 1, 255), 0).astype(np.uint8)


@pytest.fixture(scope="session")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Four healthy training scans, two for validation, one for testing, and one with a dark lesion."""
    folder = tmp_path_factory.mktemp("cohort")
    splits = ["train"] * 4 + ["validation"] * 2 + ["test"] * 2
    cases = []
    for index, split in enumerate(splits):
        name, brain = f"sub{index:02d}", make_brain(index)
        label = None
        if index == len(splits) - 1:
            lesion = np.zeros(brain.shape, bool)
            lesion[26:32, 44:50, 46:52] = True
            brain = np.where(lesion, np.maximum(brain * 0.4, 1), brain).astype(np.uint8)
            label = f"{name}_lesion.nii.gz"
            write_volume(folder / label, lesion.astype(np.uint8), STANDARD_GRID)
        write_volume(folder / f"{name}_T1.nii.gz", brain, STANDARD_GRID)
        cases.append(Case(id=name, image=f"{name}_T1.nii.gz", label=label, split=split))
    manifest = Manifest(name="small", modality={"0": "T1"}, cases=cases)
    return read_manifest(write_manifest(manifest, folder / "cohort.json"))


@pytest.fixture
def repository() -> Path:
    """The folder that holds configs/ and data_manifests/."""
    return Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of prepared scans, which pytest's workers share: the cohort is prepared once for most trainings."""
    base = tmp_path_factory.getbasetemp()
    return (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "prepared"


@pytest.fixture
def hasty_bending(monkeypatch: pytest.MonkeyPatch) -> None:
    """Deformable atlases are bent in few iterations, for tests that do not ask how well they lie on a scan."""
    monkeypatch.setattr("medvae.normative.atlas.ROUNDS", 1)
    monkeypatch.setattr("medvae.normative.deformation.LEVELS", ((4, 2), (2, 2)))
