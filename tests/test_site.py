"""The documentation site: its nav, its links, its made pages, the messages it explains, and what it loads."""

import ast
import os
import re
import subprocess
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "website"))
import pages  # noqa: E402  # of the site, which is no package

CONFIG = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
DOCUMENTS = [*pages.pages(), *pages.STARTS]
needs_mkdocs = pytest.mark.skipif(
    not all(map(find_spec, ("mkdocs", "material", "mkdocstrings", "latex2mathml"))),
    reason="the site's programs are not installed: pip install -c constraints.txt -e '.[docs]'",
)


def nav_entries(nav):
    """The paths in a nav, in its order."""
    for entry in nav:
        for value in entry.values() if isinstance(entry, dict) else [entry]:
            yield from nav_entries(value) if isinstance(value, list) else [value]


def anchors(path):
    """The anchors of a page's headings, as GitHub names them."""
    found = set()
    for line, language in pages.lines_of((ROOT / path).read_text(encoding="utf-8")):
        heading = re.match(r"#+ +(.*)", line)
        if heading and language is None:
            title = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading[1])
            found.add("#" + re.sub(r"[^\w\- ]", "", title).strip().lower().replace(" ", "-"))
    return found


def test_the_nav_holds_every_page_and_every_entry_is_there():
    entries = list(nav_entries(CONFIG["nav"]))
    assert len(entries) == len(set(entries))
    of_docs = {pages.site_path(page) for page in pages.pages()}
    others = {*pages.outside().values(), *pages.made()}
    assert of_docs - set(entries) == set(), "pages of docs/ that the nav of mkdocs.yml lacks"
    assert set(entries) - of_docs - others == set(), "entries of the nav that are no page"
    assert {*pages.made(), *map(pages.site_path, ("README.md", "CONTRIBUTING.md"))} <= set(entries)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_link_of_a_document_leads_somewhere(document):
    text = (ROOT / document).read_text(encoding="utf-8")
    for target, anchor in pages.links(document, text):
        assert (ROOT / target).exists(), f"{document}: {target} does not exist"
        if anchor and target.endswith(".md"):
            assert anchor in anchors(target), f"{document}: {target} has no section {anchor}"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_the_site_reads_lists_as_github_does(document):
    """Python-Markdown wants a blank line before a list, and four spaces for what lies within an item."""
    item, before = re.compile(r"( *)([-*+]|\d+\.) +\S"), ""
    for number, (line, language) in enumerate(pages.lines_of((ROOT / document).read_text(encoding="utf-8")), 1):
        found = item.match(line) if language is None else None
        if found:
            in_list = not before.strip() or item.match(before) or before.startswith("  ")
            assert in_list, f"{document}:{number}: no blank line above this list"
            assert len(found[1]) % 4 == 0, f"{document}:{number}: indent by four spaces"
        before = line


def test_made_pages_come_from_the_code_alone():
    made = pages.made()
    assert not any((ROOT / "docs" / path).exists() for path in made), "a copy in docs/ would have to be kept by hand"
    commands, api = made["reference/commands.md"], made["reference/python.md"]
    for name in ("manifest ixi", "check", "prepare", "train", "predict", "evaluate", "report", "figure", "benchmark"):
        assert f"## medvae {name}\n" in commands
    assert "| `--at NAME` | Operating point by name" in commands
    assert "| `--pictures, --no-pictures` | Also draw a PNG per scan. | `--pictures` |" in commands
    assert "[CALIBRATION](../CALIBRATION.md)" in commands
    for name in ("medvae.predict", "medvae.detection.base.Maps", "medvae.fitting.fit", "medvae.manifest.read_manifest"):
        assert f"\n::: {name}\n" in api


def test_a_page_is_moved_with_its_links_and_formulas():
    text = "[a](../MODEL.md#b) [c](../../configs/best_t1.yaml) $`x`$\n```math\ny\nz\n```\n```\n[a](b) $`x`$\n```\n"
    moved = pages.for_the_site("docs/tutorials/T.md", text, lambda tex, block: f"<{tex}|{block}>")
    assert moved == (
        "[a](../MODEL.md#b) [c](../repository/configs/best_t1.yaml.md) <x|False>\n<y\nz|True>\n```\n[a](b) $`x`$\n```\n"
    )
    assert pages.for_the_site("README.md", "[a](docs/MODEL.md)", str) == "[a](../MODEL.md)\n"
    assert pages.for_the_site("docs/A.md", "[d](https://e.f) [e](#f)", str) == "[d](https://e.f) [e](#f)\n"


@cache
def told():
    """Every text in the code, what it leaves to names and numbers replaced by a zero byte."""
    texts = []
    for file in (ROOT / "medvae").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = (str(part.value) if isinstance(part, ast.Constant) else "\0" for part in node.values)
                texts.append("".join(parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    return "\0\0".join(texts)


def explained():
    lines = (ROOT / "docs" / "MESSAGES.md").read_text(encoding="utf-8").splitlines()
    return [line.removeprefix("> ") for line in lines if line.startswith("> ")]


@pytest.mark.parametrize("message", explained())
def test_a_message_that_is_explained_is_one_that_medvae_says(message):
    for part in message.split("…"):
        words = part.strip()
        assert len(words) < 3 or words in told(), f"the code says nowhere: {words}"
    assert max(map(len, message.split("…"))) >= 12


@needs_mkdocs
def test_the_site_builds_strictly_and_loads_nothing_from_the_network(tmp_path):
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    loads = re.compile(r"<(?:script|img|iframe|link)\b[^>]*(?:src|href)=[\"']?(?:https?:)?//[^>]*>")
    found = list((tmp_path / "site").rglob("*.html"))
    assert len(found) >= len(list(nav_entries(CONFIG["nav"])))
    for page in found:
        assert loads.findall(page.read_text(encoding="utf-8")) == [], page
    for style in (tmp_path / "site").rglob("*.css"):
        assert not re.search(r"url\([\"']?(?:https?:)?//|@import", style.read_text(encoding="utf-8")), style
    assert (tmp_path / "site" / "search" / "search_index.js").is_file()
    method = (tmp_path / "site" / "METHOD.html").read_text(encoding="utf-8")
    formulas = re.findall(r"<math.*?</math>", method, re.DOTALL)
    assert len(formulas) > 30
    assert [formula for formula in formulas if "\\" in formula] == []  # a command of TeX that is not known
