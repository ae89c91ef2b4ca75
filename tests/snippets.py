"""What README and docs tell people to type: the fenced blocks of a page, and whether they would work.

- ``python``: the blocks of a page are run one after the other, in one folder and with the names of the blocks before,
  as a reader does who follows the page (`Reader`). The folder holds small stand-ins: the repository's configs, made
  quick; a small cohort for every manifest; a healthy scan for every scan that is read; a detector without a network for
  every run that is loaded. A block that names a detector of `medvae.detection.detector.pretrained`, or that stands
  below the comment ``<!-- not run: why -->``, is compiled, and what it imports is looked up.
- no language, ``bash``, ``sh``, ``shell`` or ``console``: what calls ``medvae`` is parsed by the command line itself,
  with comments, ``...`` and the brackets of what may be left out taken away. An unknown command, option or config key,
  a missing one and a number that is none fail. Words in capitals stand for what a reader puts there. Programs and
  targets of the repository (``python pipelines/…``, ``make …``) and their options must be there.
- ``json``, ``yaml``: parsed; a manifest is read as one, a study as one, and anything with the keys of a config as one.
"""

from __future__ import annotations

import ast
import importlib
import itertools
import json
import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import typer
import yaml

from medvae.benchmark.study import read_study
from medvae.cli import app
from medvae.config import Config, read_config
from medvae.detection.detector import pretrained
from medvae.manifest import Manifest, read_manifest, write_manifest
from medvae.schema import parse

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "docs" / "tutorials").glob("*.md"))]
SHELL = ("", "bash", "sh", "shell", "console")
FENCE = re.compile(r"(?P<indent> *)(?P<fence>```+|~~~+) *(?P<language>[\w+-]*)")
NOT_RUN = re.compile(r"<!-- not run: \S.*-->")
PLACEHOLDER = re.compile(r"[A-Z][A-Z0-9_]*")
ENDS = {";", "&&", "||", "|", ">", "&"}
"""Of a command, in a line of several."""
LOADERS = {"load_detector", "load", "find_detector", "recalibrate", "fit_ensemble", "predict"}
"""Functions whose first argument names a run that has to be there, or several."""
QUICK = {
    "network": {"widths": [4, 8, 8], "latent_size": 8, "squeeze": 4},
    "training": {"steps": 2, "validate_every": 1000},
    "sampling": {"batch_size": 4, "workers": 0},
}
"""What makes a preset of slices train in a second."""


@dataclass(frozen=True)
class Block:
    """What stands between two fences."""

    page: str
    line: int
    """Of its first line in the page."""
    language: str
    text: str
    run: bool = True

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks_of(page: str, text: str) -> list[Block]:
    """The fenced blocks of a page, without the indentation of their fences."""
    found: list[Block] = []
    lines, opened, start = text.splitlines(), None, 0
    for number, line in enumerate(lines):
        fence = FENCE.match(line)
        if opened is None and fence:
            opened, start = fence, number
        elif opened is not None and fence and fence["fence"].startswith(opened["fence"]) and not fence["language"]:
            inside = "".join(each.removeprefix(opened["indent"]) + "\n" for each in lines[start + 1 : number])
            above = next((each.strip() for each in reversed(lines[:start]) if each.strip()), "")
            run = NOT_RUN.fullmatch(above) is None
            found.append(Block(page, start + 2, opened["language"].lower(), inside, run))
            opened = None
    if opened is not None:
        raise AssertionError(f"{page}:{start + 1}: a fence that is never closed")
    return found


def blocks(*languages: str) -> list[Block]:
    """Those of all pages, in some languages."""
    found = [block for page in PAGES for block in blocks_of(page.name, page.read_text(encoding="utf-8"))]
    return [block for block in found if block.language in languages]


def check_commands(text: str) -> int:
    """Check every command of a block that is medvae's or the repository's; how many there were."""
    checked = 0
    for words in _commands(text):
        if ("-m", "medvae") in itertools.pairwise(words):  # python -m medvae, torchrun ... -m medvae
            words = words[words.index("medvae") :]
        if words[0] in ("medvae", ".venv/bin/medvae"):
            _check_medvae(list(_without_brackets(words[1:])))
        elif words[0] == "make":
            _check_make(words[1:])
        elif Path(words[0]).name.startswith("python") and words[1:2] and words[1].endswith(".py"):
            _check_program(words[1], list(_without_brackets(words[2:])))
        else:
            continue
        checked += 1
    return checked


def check_document(block: Block, folder: Path) -> None:
    """Check a block of JSON or YAML."""
    content = json.loads(block.text) if block.language == "json" else yaml.safe_load(block.text)
    if not isinstance(content, dict):
        return
    file = folder / f"block.{block.language}"
    file.write_text(block.text, encoding="utf-8")
    if "cases" in content:
        read_manifest(file, files_must_exist=False)
    elif "methods" in content:
        read_study(file)
    elif set(content) & set(Config.model_fields):
        parse(Config, {"name": "part"} | content, str(block))


def check_imports(block: Block) -> None:
    """Compile a block, and look up what it imports."""
    tree = ast.parse(block.text, str(block))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for name in node.names:
                importlib.import_module(name.name)
        elif isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module or "")
            for name in node.names:
                if not hasattr(module, name.name):
                    importlib.import_module(f"{node.module}.{name.name}")


class Reader:
    """Somebody who follows a page from top to bottom, in a folder of stand-ins.

    Parameters
    ----------
    folder
        An empty one, which is the current folder while blocks are run.
    cohort
        Stands for every manifest.
    run
        A finished run of a detector without a network, which stands for every run that is loaded.
    """

    def __init__(self, folder: Path, cohort: Manifest, run: Path) -> None:
        self._folder, self._cohort, self._run = folder, cohort, run
        self._names: dict[str, object] = {"__name__": "__main__"}
        for config, text in _quick_configs().items():
            copy = folder / config
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_text(text)

    def follow(self, block: Block) -> None:
        """Run a block; one that cannot be run in a second has its imports looked up."""
        tree = ast.parse(block.text, str(block))
        strings = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and _is_text(node.value)}
        if not block.run or strings & set(pretrained()):
            check_imports(block)
            return
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                self._stand_in(node)
        exec(compile(tree, str(block), "exec"), self._names)

    def _stand_in(self, call: ast.Call) -> None:
        name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        arguments = [*call.args, *(keyword.value for keyword in call.keywords)]
        for number, argument in enumerate(arguments):
            for node in ast.walk(argument):
                if not isinstance(node, ast.Constant) or not _is_text(node.value):
                    continue
                path = self._folder / node.value
                if path.exists():
                    continue
                path.parent.mkdir(parents=True, exist_ok=True)
                if path.suffix == ".json" and "manifest" in name:
                    absolute = [self._absolute(case) for case in self._cohort.cases]
                    write_manifest(self._cohort.model_copy(update={"cases": absolute}), path)
                elif path.name.endswith((".nii", ".nii.gz", ".mgz", ".nrrd")):
                    shutil.copyfile(self._cohort.images(self._cohort.case("sub06"))[0], path)
                elif name in LOADERS and number == 0 and not path.suffix:
                    shutil.copytree(self._run, path)

    def _absolute(self, case):
        paths = {key: getattr(case, key) for key in ("image", "mask", "label") if getattr(case, key)}
        return case.model_copy(update={key: str(self._cohort.resolve(path)) for key, path in paths.items()})


@cache
def _quick_configs() -> dict[Path, str]:
    """The presets, made small, by their places in the checkout."""
    found = sorted((ROOT / "configs").rglob("*.yaml"))
    return {p.relative_to(ROOT): yaml.safe_dump(_quick(yaml.safe_load(p.read_text(encoding="utf-8")))) for p in found}


def _quick(config: dict) -> dict:
    if config.get("sampling", {}).get("kind", "slice") != "slice" or config.get("network", {}) is None:
        return config
    return config | {section: (config.get(section) or {}) | changes for section, changes in QUICK.items()}


def _is_text(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) < 100 and "\n" not in value


def _commands(text: str) -> Iterator[list[str]]:
    """The words of each command: lines that go on are joined, prompts and comments left out."""
    for line in text.replace("\\\n", " ").splitlines():
        try:
            words = shlex.split(line.strip().removeprefix("$ "), comments=True)
        except ValueError:  # prose, or what a program says
            continue
        for ends, command in itertools.groupby(words, key=lambda word: word in ENDS):
            if not ends:
                yield list(command)


def _without_brackets(words: list[str]) -> Iterator[str]:
    """``[--out DIR]``, ``[KEY=VALUE ...]`` and ``...`` as if a reader had given what may be given."""
    for word in words:
        if word.startswith("["):
            word = word[1:]
        if word.count("]") > word.count("["):
            word = word[:-1]
        word = word.removesuffix("...").removesuffix("…")
        if word:
            yield word


@cache
def _program():
    return typer.main.get_command(app)


def _check_medvae(words: list[str]) -> None:
    command, name = _program(), "medvae"
    while hasattr(command, "commands"):
        options = list(itertools.takewhile(lambda word: word.startswith("-"), words))
        if len(options) == len(words) or "--help" in options:
            return
        command.make_context(name, words[: len(options) + 1])
        name, *words = words[len(options) :]
        if PLACEHOLDER.fullmatch(name):  # whichever of the commands: an option is one of theirs
            known = {option for one in command.commands.values() for param in one.params for option in param.opts}
            unknown = [word for word in words if word.startswith("--") and word not in known]
            assert not unknown, f"no command has {', '.join(unknown)}"
            return
        assert name in command.commands, f"there is no command {name}"
        command = command.commands[name]
    if "--help" in words:
        return
    # "1" is a path, a name and a number: whatever a reader puts there
    context = command.make_context(name, ["1" if PLACEHOLDER.fullmatch(word) else word for word in words])
    for word in words:
        if word.startswith(("configs/", "data_manifests/")):
            assert (ROOT / word).exists(), f"there is no {word}"
    overrides = [word for word in context.params.get("overrides") or [] if word != "KEY=VALUE"]
    if overrides:
        config = ROOT / str(context.params["config"])
        read_config(config if config.is_file() else None, overrides)


def _check_make(words: list[str]) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    unknown = {word for word in words if "=" not in word} - targets
    assert not unknown, f"make has no {', '.join(unknown)}"


def _check_program(program: str, words: list[str]) -> None:
    assert (ROOT / program).is_file(), f"there is no {program}"
    text = (ROOT / program).read_text(encoding="utf-8")
    for word in words:
        if word.startswith("--"):
            assert f'"{word.split("=")[0]}"' in text, f"{program} has no {word}"
