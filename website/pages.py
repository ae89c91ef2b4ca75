"""What the documentation site shows beyond ``docs/``: pages made from the code, and files that pages link to.

Nothing here needs MkDocs: `website/hooks.py` hands it to MkDocs, and `tests/test_site.py` looks at it without.
"""

from __future__ import annotations

import ast
import json
import posixpath
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
STARTS = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "RELEASING.md")
"""Pages outside ``docs/`` that the site always has."""
OUTSIDE = "repository"
"""Where the site shows files that lie outside ``docs/``."""
LANGUAGES = {".yaml": "yaml", ".json": "json", ".py": "python", ".toml": "toml"}
FENCE = re.compile(r" *(```+|~~~+)(.*)")
LINK = re.compile(r"(?<=\]\()(?P<path>[^()\s#]*)(?P<anchor>#[^()\s]*)?(?=\))")
INLINE_MATH = re.compile(r"\$`([^`]+)`\$")
NAMED = re.compile(r"`(medvae(?:\.\w+)+)[`(]")
ADDRESS = re.compile(r"[a-z]+:")


# Pages of the repository


def pages() -> list[str]:
    """Every page of ``docs/``, as paths of the repository."""
    return sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md"))


def lines_of(text: str) -> Iterator[tuple[str, str | None]]:
    """The lines of a page, each with the language of the fence around it; None outside, and for the fences."""
    opened, language = "", None
    for line in text.splitlines():
        fence = FENCE.match(line)
        if fence and not opened:
            opened = fence[1]
            yield line, None
            language = fence[2].strip()
        elif fence and fence[1].startswith(opened) and not fence[2].strip():
            opened, language = "", None
            yield line, None
        else:
            yield line, language


def links(source: str, text: str) -> list[tuple[str, str]]:
    """What a page of the repository links to, as paths of the repository, with anchors; no addresses."""
    found = []
    for line, language in lines_of(text):
        if language is None:
            for link in LINK.finditer(line):
                if (link["path"] or link["anchor"]) and not ADDRESS.match(link["path"]):
                    target = posixpath.normpath(posixpath.join(posixpath.dirname(source), link["path"]))
                    found.append((target if link["path"] else source, link["anchor"] or ""))
    return found


def outside() -> dict[str, str]:
    """Files outside ``docs/`` that the site shows or a page links to: path of the repository to path of the site."""
    waiting, found = [*pages(), *STARTS], {}
    while waiting:
        source = waiting.pop()
        if not source.startswith("docs/"):
            found[source] = site_path(source)
        if source.endswith(".md"):
            for target, _ in links(source, _text(source)):
                if target not in found and not target.startswith("docs/") and (ROOT / target).is_file():
                    found[target] = site_path(target)
                    waiting.append(target)
    return dict(sorted(found.items()))


def site_path(path: str) -> str:
    """Where the site has a file of the repository."""
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    return f"{OUTSIDE}/{path}" + ("" if path.endswith(".md") else ".md")


def shown(path: str) -> str:
    """A file outside ``docs/`` as a page: Markdown as it is, notebooks as text and code, the rest as a listing."""
    text = _text(path)
    if path.endswith(".ipynb"):
        return (
            "\n\n".join(_cell(cell["cell_type"], "".join(cell["source"])) for cell in json.loads(text)["cells"]) + "\n"
        )
    if path.endswith(".md"):
        return text
    return f"# {path}\n\n~~~~ {LANGUAGES.get(Path(path).suffix, 'text')}\n{text.rstrip()}\n~~~~\n"


def _cell(kind: str, source: str) -> str:
    return source if kind == "markdown" else f"```python\n{source}\n```"


def for_the_site(source: str, text: str, math: Callable[[str, bool], str]) -> str:
    """A page as the site wants it: links lead to where it has their targets, and formulas are drawn by ``math``.

    Formulas are written as GitHub reads them: fences of ``math``, and dollars around backquotes in a line.
    """
    here = posixpath.dirname(site_path(source))

    def moved(link: re.Match[str]) -> str:
        path, anchor = link["path"], link["anchor"] or ""
        if not path or ADDRESS.match(path):
            return link[0]
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        return posixpath.relpath(site_path(target) if _is_page(target) else target, here or ".") + anchor

    out: list[str] = []
    formula: list[str] = []
    for line, language in lines_of(text):
        if language == "math":
            formula.append(line)
        elif language is not None:
            out.append(line)
        elif formula:  # the fence that ends it; the one that began it is the last line
            out[-1] = math("\n".join(formula), True)
            formula = []
        else:
            line = LINK.sub(moved, line)
            out.append(INLINE_MATH.sub(lambda found: math(found[1], False), line))
    return "\n".join(out) + "\n"


def _is_page(target: str) -> bool:
    return target.startswith("docs/") or (ROOT / target).is_file()


def _text(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


# Pages made from the code


def made() -> dict[str, str]:
    """Pages made from the code: path of the site to Markdown."""
    return {"reference/commands.md": commands(), "reference/python.md": python_api()}


def commands() -> str:
    """Every command with its arguments and options, as ``medvae COMMAND --help`` tells them."""
    import typer

    from medvae.cli import app

    group = typer.main.get_command(app)
    parts = ["# Commands", _prose(group.help or ""), _table(group), *_each("medvae", group)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _each(path: str, group: Any) -> Iterator[str]:
    for name in group.list_commands(None):
        command, called = group.commands[name], f"{path} {name}"
        yield f"{'##' if path == 'medvae' else '###'} {called}"
        yield _prose(command.help or "")
        if hasattr(command, "commands"):
            yield from _each(called, command)
            continue
        words = [called, *(_argument(one) for one in command.params if not _is_option(one))]
        words += [f"{one.opts[0]} {_metavar(one)}" for one in command.params if _is_option(one) and one.required]
        yield f"```\n{' '.join(words)} [OPTIONS]\n```"
        yield _table(command)
        if command.epilog:
            yield f"Example:\n\n```\n{command.epilog.removeprefix('Example: ')}\n```"


def _table(command: Any) -> str:
    rows = [(_argument(one), one) for one in command.params if not _is_option(one)]
    for one in command.params:
        if _is_option(one) and "--help" not in one.opts:
            names = ", ".join([*one.opts, *one.secondary_opts])
            rows.append((names if one.is_flag else f"{names} {_metavar(one)}", one))
    if not rows:
        return ""
    lines = ["| | meaning | default |", "|---|---|---|"]
    for names, one in rows:
        told = _prose(getattr(one, "help", None) or "").replace("\n", " ").replace("|", "\\|")
        lines.append(f"| `{names.strip()}` | {told} | {_default(one)} |")
    return "\n".join(lines)


def _is_option(one: Any) -> bool:
    return any(name.startswith("-") for name in one.opts)


def _argument(one: Any) -> str:
    name = f"{one.metavar or one.name.upper()}" + " ..." * (one.nargs == -1)
    return name if one.required else f"[{name}]"


def _metavar(one: Any) -> str:
    return "" if one.is_flag else str(one.metavar or one.name.upper())


def _default(one: Any) -> str:
    if one.required:
        return "required"
    value = one.default
    if value is None or value == () or value == [] or callable(value) or "Sentinel" in type(value).__name__:
        return ""
    if isinstance(value, bool):
        return "" if not one.secondary_opts else f"`{(one.opts if value else one.secondary_opts)[0]}`"
    return f"`{' '.join(map(str, value)) if isinstance(value, list | tuple) else value}`"


def _prose(text: str) -> str:
    """A help text as Markdown: rich's bold is bold, names of documents are links."""
    text = re.sub(r"[ \t]*\n[ \t]*", "\n", text.strip()).replace("<", "&lt;").replace("*", "\\*")
    text = re.sub(r"\[bold\](.*?)\[/\w*\]", r"**\1**", text)
    return re.sub(r"docs/(\w+)\.md", lambda found: f"[{found[1]}](../{found[1]}.md)", text)


def python_api() -> str:
    """The functions and classes that pages name, each from its docstring by mkdocstrings."""
    modules: dict[str, list[str]] = {}
    for name in api_names():
        modules.setdefault(name.rpartition(".")[0], []).append(name)
    parts = [
        "# Python API",
        "What the documents import or name, from the docstrings. [From Python](../PYTHON.md) shows how it is used. "
        "Arrays are `(C, X, Y, Z)` in the file's own voxel order, affines lead to mm (RAS+).",
    ]
    for module, names in modules.items():
        parts += [f"## {module}", *(f"::: {name}" for name in names)]
    return "\n\n".join(parts) + "\n"


def api_names() -> list[str]:
    """Functions and classes of medvae that pages import or name, the page *From Python* first."""
    first = ["docs/PYTHON.md", "README.md"]
    found: dict[str, None] = {"medvae.predict": None}
    for page in [*first, *(page for page in pages() if page not in first and "archive" not in page)]:
        block: list[str] = []
        for line, language in lines_of(_text(page)):
            if language in ("python", "py"):
                block.append(line)
            elif block:
                found |= dict.fromkeys(_imported("\n".join(block)))
                block = []
            if language is None:
                found |= dict.fromkeys(NAMED.findall(line))
    return [name for name in found if _is_defined(*name.rsplit(".", 1))]


def _imported(code: str) -> list[str]:
    try:
        nodes = ast.walk(ast.parse(code))
    except SyntaxError:  # a part of a file
        return []
    return [
        f"{node.module}.{name.name}"
        for node in nodes
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "medvae"
        for name in node.names
    ]


def _is_defined(module: str, name: str) -> bool:
    """Whether a module of medvae has a function or class of this name, its own or imported into a package."""
    path = ROOT.joinpath(*module.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    if not file.is_file() or name.startswith("_"):
        return False
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name:
            return True
        if isinstance(node, ast.ImportFrom) and path.is_dir() and name in [one.name for one in node.names]:
            inner = ROOT.joinpath(*f"{node.module}".split("."), name)
            return not (inner.is_dir() or inner.with_suffix(".py").is_file())
    return False
