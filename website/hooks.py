"""What MkDocs calls while it builds the site: made pages, links that leave ``docs/``, formulas, names of anchors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pages  # beside this file, which MkDocs has on the path while it reads it
from latex2mathml.converter import convert
from mkdocs.structure.files import File, Files
from pymdownx.slugs import slugify

ASSETS = Path(__file__).with_name("assets")
SOURCES: dict[str, str] = {}
"""Path of the site to path of the repository, of every page that is a file there."""


def on_config(config: Any) -> Any:
    """Name anchors as GitHub does, so that a link to a section works there and here."""
    config.mdx_configs.setdefault("toc", {})["slugify"] = slugify(case="lower")
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are made, the files that pages link to, and what pages load."""
    SOURCES.clear()
    SOURCES.update({pages.site_path(page): page for page in pages.pages()})
    for source, path in pages.outside().items():
        SOURCES[path] = source
        files.append(File.generated(config, path, content=pages.shown(source)))
    for path, text in pages.made().items():
        files.append(File.generated(config, path, content=text))
    for asset in sorted(ASSETS.iterdir()):
        files.append(File.generated(config, f"assets/{asset.name}", abs_src_path=str(asset)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Lead links to where the site has their targets, and draw formulas."""
    source = SOURCES.get(page.file.src_uri)
    return markdown if source is None else pages.for_the_site(source, markdown, _math)


def _math(tex: str, block: bool) -> str:
    """MathML, which browsers draw without a script or a font of ours."""
    drawn = convert(tex, display="block" if block else "inline").replace("\n", "")
    return f'<div class="formula">{drawn}</div>' if block else f'<span class="formula">{drawn}</span>'
