"""The rooms of the house: imports go one way, there is no circle, and a light command stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import medvae
from medvae.imaging.grid import GRIDS

PACKAGE = Path(medvae.__file__).parent

ORDER = (
    (
        "errors",
        "signatures",
        "parsing",
        "files",
        "locks",
        "schema",
        "registry",
        "foreign_names",
        "monai_import",
        "terminal",
        "progress",
        "tensors",
        "interrupts",
        "workers",
        "derivatives",
        "sources",
        "devices",
        "cores",
        "modality",
    ),
    ("manifest", "imaging", "drawing", "jobs", "kept", "cluster"),
    ("augmentation",),
    ("config", "importing", "dicom"),
    ("preparation", "lesions", "regions"),
    ("normative", "evaluation"),
    ("networks", "sampling"),
    ("scoring", "training"),
    ("detection",),
    (
        "overwriting",
        "fitting",
        "prediction_tables",
        "prediction_folder",
        "prediction",
        "prediction_dicom",
        "recalibration",
    ),
    ("reporting",),
    ("benchmark", "bids_app", "exporting", "app"),
    ("commands",),
    ("cli",),
    ("__main__",),
)
"""Each room imports from its own shelf and from those before it, never from a later one."""

GRID_VALUES = {text for grid in GRIDS.values() for text in (repr(grid.name), repr(grid.shape))}
"""How one would write a grid into the code: its name, its shape."""

SHELF = {room: number for number, rooms in enumerate(ORDER) for room in rooms}


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name, without ``medvae.``."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = list(path.relative_to(PACKAGE).with_suffix("").parts)
        if parts[-1] == "__init__":
            parts.pop()
        found[".".join(parts)] = path
    return found


def imports(path: Path, known: dict[str, Path], *, everywhere: bool) -> set[str]:
    """The modules of the package that a file imports; ``everywhere`` counts those inside functions too."""
    return {name if name in known else module for module, name in _imports(path, everywhere)} - {""}


@cache
def _imports(path: Path, everywhere: bool) -> frozenset[tuple[str, str]]:
    """Each module with the dotted name of what is imported from it, without ``medvae.``."""
    tree = parsed(path)
    skipped = {
        id(node)
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If) and "TYPE_CHECKING" in ast.unparse(branch.test)
        for node in ast.walk(branch)
    }
    found = set()
    for node in ast.walk(tree) if everywhere else tree.body:
        if id(node) in skipped and not everywhere:
            continue
        if isinstance(node, ast.ImportFrom) and node.module and (node.module + ".").startswith("medvae."):
            module = node.module.removeprefix("medvae").lstrip(".")
            found |= {(module, f"{module}.{a.name}".lstrip(".")) for a in node.names}
        elif isinstance(node, ast.Import):
            found |= {(a.name.removeprefix("medvae."),) * 2 for a in node.names if a.name.startswith("medvae.")}
    return frozenset(found)


def test_every_room_has_its_place():
    rooms = {name.split(".")[0] for name in modules() if name}
    assert rooms == set(SHELF)


def test_no_import_runs_back_to_a_later_room():
    known = modules()
    back = [
        f"{name} imports {other}"
        for name, path in known.items()
        if name
        for other in imports(path, known, everywhere=True)
        if SHELF[other.split(".")[0]] > SHELF[name.split(".")[0]]
    ]
    assert back == []


def test_no_imports_go_in_a_circle():
    known = modules()
    graph = {name: imports(path, known, everywhere=True) - {name} for name, path in known.items()}
    done: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        if name in way:
            pytest.fail("circle: " + " → ".join((*way[way.index(name) :], name)))
        if name not in done:
            for other in sorted(graph.get(name, ())):
                visit(other, (*way, name))
            done.add(name)

    for name in sorted(graph):
        visit(name, ())


def test_rooms_do_not_import_each_other():
    known = modules()
    arrows = {
        (name.split(".")[0], other.split(".")[0])
        for name, path in known.items()
        for other in imports(path, known, everywhere=True)
    }
    assert [pair for pair in arrows if pair[0] != pair[1] and pair[::-1] in arrows] == []


def documented_defaults(tree: ast.Module) -> set[int]:
    """Ids of the nodes in default arguments of public functions and classes whose docstring names the default grid."""
    documented = []
    for node in tree.body:
        documented.append((node, node))
        for inner in node.body if isinstance(node, ast.ClassDef) else ():
            documented.append((inner, node if getattr(inner, "name", "") == "__init__" else inner))
    return {
        id(part)
        for function, owner in documented
        if isinstance(function, ast.FunctionDef) and not owner.name.startswith("_")
        if "default grid" in (ast.get_docstring(owner) or "").replace("\n", " ")
        for default in (*function.args.defaults, *filter(None, function.args.kw_defaults))
        for part in ast.walk(default)
    }


def test_modules_take_the_grid_from_the_config_or_the_volume():
    """The default one is for `imaging.grid`, config and commands; elsewhere it is a documented default argument."""
    found = []
    for name, path in modules().items():
        if name == "imaging.grid" or name.split(".")[0] in ("config", "commands", "cli"):
            continue
        tree = parsed(path)
        allowed = documented_defaults(tree)
        for node in ast.walk(tree):
            by_name = "DEFAULT_GRID" in (getattr(node, "id", ""), getattr(node, "attr", ""))
            by_value = isinstance(node, ast.Constant | ast.Tuple) and ast.unparse(node) in GRID_VALUES
            if (by_name or by_value) and id(node) not in allowed:
                found.append(f"{name}, line {node.lineno}: {ast.unparse(node)}")
    assert found == []


LEAN = ("matplotlib", "accelerate", "batchgenerators", "SimpleITK")
"""Packages that neither loading a detector nor scoring with it needs."""


def in_a_fresh_python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_the_packaged_detector_loads_where_they_are_not_installed():
    block = (
        f"import sys; sys.modules.update(dict.fromkeys({LEAN}))"  # an import of None fails as a missing package does
    )
    load = "from medvae.detection.ensemble import load_detector; print(load_detector('t1-2mm').config.name)"
    assert in_a_fresh_python(f"{block}; {load}") == "t1-2mm"


def test_loading_a_detector_imports_no_training_stack_and_neither_compiler_nor_statistics():
    """torch's compiler takes longer to import than all the rest; an operation on the meta device imports it.

    MONAI itself imports two of the training stack, and SciPy's statistics, where they are installed, so those are
    looked for before a network is built.
    """
    slow = ("torch._dynamo", "torch._inductor", "scipy.stats", "scipy.signal")
    found = in_a_fresh_python(
        f"import sys, medvae.detection.ensemble, medvae.networks.segmenter, medvae.scoring.volume; "
        f"print([m for m in {LEAN} if m in sys.modules]); import medvae.prediction; "
        f"print([m for m in {slow} if m in sys.modules]); from medvae.detection.ensemble import load_detector; "
        f"load_detector('t1-2mm'); print('torch._dynamo' in sys.modules)"
    )
    assert found.split("\n") == ["[]", "[]", "False"]
