"""`make lint` checks the types of every module."""

import tomllib
from pathlib import Path

import medvae

PACKAGE = Path(medvae.__file__).parent


def test_every_module_is_checked_strictly():
    settings = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["mypy"]
    assert settings["strict"]
    assert "exclude" not in settings
    assert not [part for part in settings["overrides"] if part.get("ignore_errors")]


def test_every_ignored_complaint_has_a_reason():
    silent = [
        f"{path.relative_to(PACKAGE)}: {line.strip()}"
        for path in PACKAGE.rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if "# type: ignore" in line and not line.partition("# type: ignore")[2].partition("]")[2].strip()
    ]
    assert silent == []
