"""Templates of the pages for a browser: those of reports, and those of a room that builds on them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Any
from urllib.parse import quote

import jinja2

from medvae.reporting.tables import ABSENT


@cache
def page_templates(package: str | None = None) -> jinja2.Environment:
    """The templates of ``medvae/reporting/templates`` and, before them, of the folder ``templates`` of a package.

    What is put into a page is escaped, and a name that is missing is an error.
    """
    loaders = [jinja2.PackageLoader(room, "templates") for room in (package, "medvae.reporting") if room]
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader(loaders), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["number"] = _shown_number
    environment.filters["address"] = quote
    environment.filters["place"] = _place
    return environment


def _place(mm: Sequence[float]) -> str:
    """A position in mm as text: "29 L, 9 P, 27 S"."""
    sides = zip(mm, ("RL", "AP", "SI"), strict=True)
    return ", ".join(f"{abs(value):.0f} {side[value < 0]}" for value, side in sides)


def _shown_number(value: Any, digits: int = 3) -> str:
    return f"{value:.{digits}f}" if isinstance(value, int | float) and math.isfinite(value) else ABSENT
