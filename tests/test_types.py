"""What `make lint` does not check is listed, and the list names only what there is."""

import tomllib
from pathlib import Path

import medvae

PACKAGE = Path(medvae.__file__).parent


def unchecked() -> list[str]:
    """The modules whose types mypy does not complain about yet."""
    settings = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["mypy"]
    assert settings["strict"]
    assert "exclude" not in settings
    overrides = [part for part in settings["overrides"] if part.get("ignore_errors")]
    return [module for part in overrides for module in part["module"]]


def test_only_modules_that_exist_are_exempt_from_the_type_check():
    known = {".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts) for path in PACKAGE.rglob("*.py")}
    assert sorted(set(unchecked()) - known) == []


def test_no_module_is_exempt_twice():
    assert len(set(unchecked())) == len(unchecked())


def test_every_ignored_complaint_has_a_reason():
    silent = [
        f"{path.relative_to(PACKAGE)}: {line.strip()}"
        for path in PACKAGE.rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if "# type: ignore" in line and not line.partition("# type: ignore")[2].partition("]")[2].strip()
    ]
    assert silent == []
