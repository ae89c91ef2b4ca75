"""Containers and the conda recipe hold what the wheel needs, without being built."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

import medvae

ROOT = Path(__file__).parents[1]
DOCKERFILE, APPTAINER = ROOT / "containers" / "Dockerfile", ROOT / "containers" / "apptainer.def"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CONDA = {"torch": "pytorch", "matplotlib": "matplotlib-base"}
"""Names of conda-forge that are not those of PyPI."""


def copied_by_docker():
    """Pairs of a file or folder of the checkout and its place below /source."""
    for line in re.findall(r"^COPY (?!--)(.+)$", DOCKERFILE.read_text(encoding="utf-8"), re.MULTILINE):
        *sources, target = line.split()
        for source in sources:
            yield source, target if source == target else f"{target.rstrip('/')}/{Path(source).name}".removeprefix("./")


def copied_by_apptainer():
    files = APPTAINER.read_text(encoding="utf-8").split("%files")[1].split("%post")[0]
    for line in files.strip().splitlines():
        source, target = line.split()
        yield source, target.removeprefix("/source/")


@pytest.mark.parametrize("copied", [copied_by_docker, copied_by_apptainer])
def test_what_is_copied_into_a_container_makes_the_whole_package(copied, tmp_path):
    pairs = sorted(copied())
    assert all(source == target for source, target in pairs)
    for source, _ in pairs:
        place = tmp_path / source
        place.parent.mkdir(parents=True, exist_ok=True)
        if source == "medvae":
            shutil.copytree(ROOT / source, place, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / source, place)
    code = "from hatchling.metadata.core import ProjectMetadata as P; print(P('.', None).core.license_files)"
    made = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    ours = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert made.stdout == ours.stdout
    assert (tmp_path / PROJECT["readme"]).is_file()


def test_docker_is_sent_what_is_copied_and_no_scans():
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert lines[1] == "*"
    assert {line[1:] for line in lines if line.startswith("!")} == {source for source, _ in copied_by_docker()}


@pytest.mark.parametrize("file", [DOCKERFILE, APPTAINER])
def test_its_python_is_one_that_medvae_is_for(file):
    versions = re.findall(r"(?:FROM|From:) python:([\d.]+)-", file.read_text(encoding="utf-8"))
    assert versions
    assert all(f"Programming Language :: Python :: {version}" in PROJECT["classifiers"] for version in versions)


def test_the_conda_recipe_says_what_pyproject_says():
    text = (ROOT / "packaging" / "conda" / "recipe.yaml").read_text(encoding="utf-8")
    recipe = yaml.safe_load(text)
    assert recipe["context"]["version"] == medvae.__version__
    assert f">={recipe['context']['python_min']}" == PROJECT["requires-python"]
    needed = [Requirement(line) for line in PROJECT["dependencies"]]
    expected = {f"{CONDA.get(one.name.lower(), one.name.lower())} {one.specifier}" for one in needed}
    assert {line for line in recipe["requirements"]["run"] if not line.startswith("python ")} == expected
    assert recipe["build"]["python"]["entry_points"] == [f"{k} = {v}" for k, v in PROJECT["scripts"].items()]
    assert recipe["about"]["license"] == PROJECT["license"]
    files = {path for pattern in PROJECT["license-files"] for path in ROOT.glob(pattern)}
    assert {ROOT / file for file in recipe["about"]["license_file"]} == files
