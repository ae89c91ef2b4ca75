"""What is packed, under which name and terms: each notice lies beside its data and is named in the metadata."""

import glob
import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.licenses import canonicalize_license_expression

import medvae

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
NOTICES = ("LICENCES.*", "NOTICE.*")
DATA = {".gz", ".nii", ".npy", ".npz", ".safetensors"}
OTHERS_CODE = re.compile(r"\.(umd|min)\.js$")
TERMS = {
    "Apache-2.0": "Apache License",
    "CC-BY-SA-3.0": "CC BY-SA 3.0",
    "LicenseRef-CC-BY": "Creative Commons Attribution (CC BY)",
    "BSD-2-Clause": "BSD 2-Clause License",
    "ISC": "ISC License",
    "MIT": "MIT License",
    "LicenseRef-ICBM-152": "McGill University. Permission to use, copy, modify, and distribute",
}
"""Licence of the metadata to the words by which it is known in a notice."""


def notices():
    return {path for folder in ("medvae", "data_manifests") for n in NOTICES for path in (ROOT / folder).rglob(n)}


def license_files():
    """As a build backend finds them: one folder for each star."""
    return {Path(path) for pattern in PROJECT["license-files"] for path in glob.glob(pattern, root_dir=ROOT)}


def test_every_notice_is_one_of_the_license_files():
    for pattern in PROJECT["license-files"]:
        assert glob.glob(pattern, root_dir=ROOT), f"{pattern} finds nothing"
    assert license_files() == {Path("LICENSE")} | {path.relative_to(ROOT) for path in notices()}


@pytest.mark.parametrize("folder", ["medvae", "data_manifests"])
def test_data_and_code_of_others_have_a_notice_beside_them(folder):
    found = [
        path
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and (path.suffix in DATA or OTHERS_CODE.search(path.name))
    ]
    assert found
    beside = {path.parent for path in notices()}
    for path in found:
        above = [parent for parent in path.parents if parent.is_relative_to(ROOT / folder) and parent != ROOT / folder]
        assert beside.intersection(above), f"{path.relative_to(ROOT)} has no notice in its folder, nor above it"


def test_the_licence_expression_is_valid_and_says_what_the_notices_say():
    expression = PROJECT["license"]
    assert canonicalize_license_expression(expression) == expression
    assert set(expression.split(" AND ")) == set(TERMS)
    text = " ".join(" ".join((ROOT / file).read_text(encoding="utf-8").split()) for file in license_files())
    for name, words in TERMS.items():
        assert words in text, name


def test_the_terms_of_weights_name_their_source_without_changing_the_detector():
    text = (ROOT / "medvae" / "pretrained" / "LICENCES.md").read_text(encoding="utf-8")
    for folder in (ROOT / "medvae" / "pretrained").iterdir():
        if folder.is_dir():
            assert f"`{folder.name}/`" in text
            assert not [path for name in NOTICES for path in folder.rglob(name)]  # it would change the fingerprint
    assert "IXI" in text


def test_the_distribution_is_not_called_as_that_of_another_project():
    assert PROJECT["name"] != "medvae"
    assert PROJECT["scripts"] == {"medvae": "medvae.cli:main"}
    asked = re.compile(r"pip install[^\n]*\bmedvae(?!-)\b")
    for path in [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("medvae/**/*.py"),
        *ROOT.glob("medvae/**/*.md"),
    ]:
        if path.name != "CHANGELOG.md":  # which tells of the time before
            assert not asked.search(path.read_text(encoding="utf-8")), (
                f"{path.relative_to(ROOT)} names another's package"
            )


def test_versions_are_told_in_one_place():
    assert re.fullmatch(r"\d+\.\d+\.\d+((a|b|rc|\.dev)\d+)?", medvae.__version__)
    assert PROJECT["dynamic"] == ["version"]
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {medvae.__version__}\n" in citation
    assert f"## {medvae.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_types_are_announced():
    assert (ROOT / "medvae" / "py.typed").is_file()
    assert "Typing :: Typed" in PROJECT["classifiers"]


def test_exact_versions_exist_for_everything_that_is_installed_for_tests_and_documents():
    pinned = {re.split("==", line)[0].lower().replace("_", "-") for line in constraints()}
    extras = PROJECT["optional-dependencies"]
    own, *tools = extras["test"]
    others = re.fullmatch(rf"{PROJECT['name']}\[(.*)\]", own)[1].split(",")
    installed = [*PROJECT["dependencies"], *tools, *(needed for extra in others for needed in extras[extra])]
    for requirement in [*installed, *extras["docs"]]:
        name = re.match(r"[A-Za-z0-9._-]+", requirement)[0].lower().replace("_", "-")
        assert name in pinned, f"{requirement}: constraints.txt has no version of it"
        assert requirement in extras["docs"] or metadata.version(name)


def constraints():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]
