"""The wheel that users install: all that prediction needs, nothing else, and it works without the checkout."""

import os
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import medvae

ROOT = Path(__file__).parents[1]
METADATA = f"medvae_anomaly-{medvae.__version__}.dist-info"
BUILD = "from hatchling.build import build_wheel; import sys; build_wheel(sys.argv[1])"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-c", BUILD, str(folder)], cwd=ROOT, check=True)
    (built,) = folder.iterdir()
    return built


@pytest.fixture(scope="module")
def names(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_it_is_for_every_system_and_small(wheel):
    assert wheel.name == f"medvae_anomaly-{medvae.__version__}-py3-none-any.whl"
    assert wheel.stat().st_size < 20e6


def test_it_holds_the_package_and_nothing_else_of_the_checkout(names):
    there = {path.relative_to(ROOT).as_posix() for path in (ROOT / "medvae").rglob("*") if path.is_file()}
    assert {name for name in names if not name.startswith(METADATA)} == {n for n in there if "__pycache__" not in n}


@pytest.mark.parametrize(
    "name",
    [
        "medvae/pretrained/t1-2mm/calibration.json",
        "medvae/pretrained/t1-2mm/members/patients_t1/network.safetensors",
        "medvae/pretrained/t1-2mm/members/patients_small_t1/network.safetensors",
        "medvae/pretrained/flair-2mm/config.yaml",
        "medvae/preparation/template/mni152_t1.nii.gz",
        "medvae/regions/mni152_regions.nii.gz",
        "medvae/reporting/templates/case.html",
        "medvae/reporting/viewer/niivue.umd.js",
        "medvae/py.typed",
        f"{METADATA}/licenses/LICENSE",
        f"{METADATA}/licenses/medvae/pretrained/LICENCES.md",
        f"{METADATA}/licenses/medvae/preparation/template/NOTICE.txt",
        f"{METADATA}/entry_points.txt",
    ],
)
def test_it_holds_weights_templates_and_terms(names, name):
    assert name in names


def test_only_training_needs_the_packages_of_training(wheel):
    with zipfile.ZipFile(wheel) as archive:
        metadata = Parser().parsestr(archive.read(f"{METADATA}/METADATA").decode())
    needed = [Requirement(line) for line in metadata.get_all("Requires-Dist")]
    always = {one.name for one in needed if one.marker is None or one.marker.evaluate({"extra": ""})}
    training = {one.name for one in needed if one.marker is not None and one.marker.evaluate({"extra": "train"})}
    assert {"torch", "nibabel", "simpleitk"} <= {name.lower() for name in always}
    assert training - always == {"accelerate", "batchgenerators"}


def test_it_works_where_the_checkout_and_the_packages_of_training_are_not(wheel, tmp_path):
    """An import of None fails as a missing package does; MONAI looks for these packages, too."""
    code = (
        "import sys; sys.modules.update(dict.fromkeys(('accelerate', 'batchgenerators', 'pandas', 'sklearn')));"
        "import medvae; print(medvae.__file__);"
        "from medvae.detection.ensemble import load_detector; print(load_detector('t1-2mm').config.name);"
        "from medvae.regions.atlas import region_atlas; region_atlas();"
        "import medvae.reporting.seen, medvae.reporting.report, medvae.recalibration, medvae.bids_app.participant"
    )
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [str(tmp_path / "medvae" / "__init__.py"), "t1-2mm"]
