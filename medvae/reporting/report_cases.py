"""One case of a report: its row in the table, and its page with the viewer."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from medvae.drawing import grey_window, page_colours
from medvae.errors import MedvaeError
from medvae.evaluation.metrics import Metric, PointMetric, Table, columns, registered
from medvae.evaluation.result import MASK, CaseResult, Quantity
from medvae.files import write_text
from medvae.reporting.cases import PredictedCase
from medvae.reporting.report_curves import VoxelsAbove
from medvae.reporting.report_pictures import data_uri, strip
from medvae.reporting.report_volumes import (
    STEPS,
    Layers,
    encoded,
    largest_findings,
    places_of,
    read_layers,
    voxels_above,
)
from medvae.reporting.tables import point_name

PAGE_STEPS = 1000
"""Steps of a page's threshold slider."""
VIEWER = "niivue.umd.js"
SAID = (
    "Model", "ModelFingerprint", "OperatingPoint", "Threshold", "ThresholdSource", "Guarantee", "CasePValue",
    "CasePValueMeaning", "Sources", "BrainVolumeMl", "BrainMaskFrom", "FindingsWithoutRegion", "Notes",
)  # fmt: skip
"""Fields that a page takes from the sidecar of a mask, if present."""


@dataclass(frozen=True)
class CaseRow:
    """Row of a case in the table of a report; NaN where there is no number."""

    id: str
    page: str
    """File of its page in the folder of the pages, without ending."""
    kind: str = ""
    """"lesion", "healthy", "unlabelled", or empty where nobody says."""
    volume_ml: float = math.nan
    findings: float = math.nan
    p_value: float = math.nan
    measured: Mapping[str, float] = field(default_factory=dict)
    """Numbers against the truth, by metric: threshold-free ones, and those of the mask."""
    picture: bytes | None = None
    pictured: bool = False
    """Its picture is a file beside its page."""
    problem: str = ""

    def value(self, name: str) -> float:
        """A number of the table by the name of a field or metric; NaN if there is none."""
        return self.measured[name] if name in self.measured else getattr(self, name, math.nan)


def page_names(ids: Sequence[str]) -> dict[str, str]:
    """A unique file name per case, valid in every file system and URL: letters, digits, ``. _ -``."""
    names: dict[str, str] = {}
    taken: set[str] = set()
    for case in ids:
        name = re.sub(r"[^\w.-]", "_", case)[:80].strip(".") or "case"
        if name != case or name.lower() in taken:
            name += "-" + hashlib.sha256(case.encode()).hexdigest()[:8]
        taken.add(name.lower())
        names[case] = name
    return names


def make_case(
    item: PredictedCase,
    numbers: CaseResult | None,
    page: str,
    write: Callable[..., None],
    plain: Callable[[str], str],
    unmeasured: str = "",
    *,
    unreadable: str = "",
) -> tuple[CaseRow, VoxelsAbove | None]:
    """Write a case's page; if a file cannot be read, the page says so and has no viewer.

    Parameters
    ----------
    item
        The prediction, with its scan if known.
    numbers
        Its measured numbers, if any.
    page
        Name of the page, without ending.
    write
        Writes the files from the row, the layers (None without a viewer) and the other content of the page.
    plain
        Removes this machine's folders from a message.
    unmeasured
        Why it could not be measured; shown unless its files have a worse problem.
    unreadable
        Why its files are not to be read, if they are not.

    Returns
    -------
    row, voxels
        For the table; and for the curves, None if the scan or its truth could not be read.
    """
    row = CaseRow(
        item.id, page, _kind(item, numbers), _number(item.sidecar.get("LesionVolumeMl")),
        p_value=_number(item.sidecar.get("CasePValue")), measured=_measured(item, numbers),
    )  # fmt: skip
    layers, problems = (None, [unreadable]) if unreadable else _read(item)
    if layers is None:
        row = replace(row, problem=plain(" ".join(problems)))
        write(row, None, {"findings": [], "places": [], "above": None})
        return row, None
    problems = problems or [unmeasured] * bool(unmeasured)
    count, findings = largest_findings(layers)
    placed = places_of(findings, count, item.sidecar.get("Findings"))
    above, voxels = _above(layers)
    shown = layers.shown
    picture = strip(shown, findings[0]["mm"] if findings else None)
    row = replace(row, findings=count, picture=picture, problem=plain(" ".join(problems)))
    window = grey_window(layers.scan, layers.heat > 0)
    write(row, shown, {"findings": findings, "places": placed, "above": above, "window": window})
    readable = not problems and row.kind in ("lesion", "healthy")
    return row, voxels if readable else None


def case_writer(
    template: jinja2.Template, folder: Path, item: PredictedCase, shared: dict[str, Any]
) -> Callable[[CaseRow, Layers | None, dict[str, Any]], None]:
    """A function that writes the page of a case and a script with its volumes."""

    def write(row: CaseRow, layers: Layers | None, more: dict[str, Any]) -> None:
        if layers is not None:
            volumes = json.dumps(encoded(layers), separators=(",", ":"))
            write_text(folder / f"{row.page}.js", f"window.medvaeVolumes = {volumes};\n")
        points = [
            {"name": point_name(name), "threshold": point["Threshold"]}
            for name, point in (item.sidecar.get("OperatingPoints") or {}).items()
            if isinstance(point, dict) and _number(point.get("Threshold")) <= 1
        ]
        threshold = _number(item.sidecar.get("Threshold"))
        page = {
            "points": points, "steps": PAGE_STEPS, "threshold": threshold if math.isfinite(threshold) else None,
            "flagged": more["above"] and more["above"]["flagged"], "dice": more["above"] and more["above"]["dice"],
            "at": more["findings"][0]["mm"] if more["findings"] else None,
            "truth": layers is not None and layers.truth is not None,
            "spread": layers is not None and layers.spread is not None,
            "window": more.get("window"), "colours": page_colours(),
        }  # fmt: skip
        spacing = [] if layers is None else [f"{mm:.3g}" for mm in layers.geometry.spacing_mm]
        html = template.render(
            **shared,
            row=row,
            sidecar={**dict.fromkeys(SAID), **item.sidecar},
            against_truth=columns(Table.CASE_PAGE, Metric),
            page=page,
            point=point_name(item.operating_point),
            findings=more["findings"],
            places=more["places"],
            spacing=" × ".join(spacing),
            viewer=VIEWER if layers is not None else None,
            picture=data_uri(row.picture) if row.picture else None,
        )
        write_text(folder / f"{row.page}.html", html)

    return write


def _read(item: PredictedCase) -> tuple[Layers | None, list[str]]:
    if item.scan is None:
        return None, [f"The scan {item.scan_name} was not found: there is nothing to lay the map on."]
    try:
        if problem := item.foreign():  # the map says nothing about this scan
            return None, [problem]
        layers = read_layers(item)
    except (MedvaeError, OSError) as error:
        return None, [str(error)]
    problems = []
    try:
        layers = replace(layers, truth=item.truth())
    except (MedvaeError, OSError) as error:
        problems.append(f"Its truth is not shown: {error}")
    return layers, problems


def _above(layers: Layers) -> tuple[dict[str, list[float] | None], VoxelsAbove]:
    """Flagged volume and Dice at each step of the page's slider; and the voxels for the curves."""
    brain = layers.heat > 0
    truth = np.zeros_like(brain) if layers.truth is None else layers.truth & brain
    lesion, every = voxels_above(layers.heat[truth]), voxels_above(layers.heat[brain])
    total = int(truth.sum())
    voxels = VoxelsAbove(lesion, every - lesion, total, int(brain.sum()) - total)
    each = slice(None, None, STEPS // PAGE_STEPS)
    flagged = every[each] * layers.geometry.voxel_volume_ml
    dice = 2 * lesion[each] / np.maximum(1, every[each] + total) if total else None
    return {
        "flagged": [round(float(ml), 3) for ml in flagged],
        "dice": None if dice is None else [round(float(value), 4) for value in dice],
    }, voxels


def _kind(item: PredictedCase, numbers: CaseResult | None) -> str:
    return item.kind or ("" if numbers is None else "healthy" if numbers.healthy else "lesion")


def _measured(item: PredictedCase, numbers: CaseResult | None) -> dict[str, float]:
    """A case's threshold-free numbers, and those of its mask: as written, or at its operating point."""
    if numbers is None:
        return {}
    at = MASK if Quantity("flagged", MASK) in numbers.numbers else item.operating_point
    of_mask = {metric.name for metric in registered(PointMetric)}
    return {
        quantity.name: value
        for quantity, value in numbers.numbers.items()
        if quantity.part is None and (quantity.point == at if quantity.name in of_mask else True)
    }


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else math.nan
