"""``medvae figure``: slices of predictions for a paper."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medvae.commands.shared import AllowLarge, Device

if TYPE_CHECKING:
    from medvae.imaging.planes import Plane

EXAMPLE = "medvae figure overlays patient07 --manifest cohort.json --out figure.pdf"


def figure(
    predictions: Annotated[Path, typer.Argument(metavar="DIR", help="The --out folder of medvae predict.")],
    cases: Annotated[list[str] | None, typer.Argument(metavar="CASE", help="Which, in order; all of DIR.")] = None,
    *,
    out: Annotated[Path, typer.Option(help="The picture; its ending (.png, .pdf, .svg) says the format.")],
    manifest: Annotated[Path | None, typer.Option(help="Manifest that knows the truth.")] = None,
    detector: Annotated[
        Path | None, typer.Option(metavar="RUN", help="The run that predicted them: draw its reconstruction too.")
    ] = None,
    plane: Annotated[str, typer.Option(help="axial, coronal or sagittal.")] = "axial",
    slices: Annotated[
        int | None, typer.Option(min=1, help="Slices per case, those with most truth or findings; 6 in all by default.")
    ] = None,
    mm: Annotated[
        list[float] | None, typer.Option(help="Show the slice at this coordinate instead; may be repeated.")
    ] = None,
    neurological: Annotated[bool, typer.Option("--neurological", help="The patient's left on the left.")] = False,
    allow_large: AllowLarge = False,
    device: Device = "auto",
    title: Annotated[str, typer.Option(help="Above the picture instead of the cases' names.")] = "",
) -> None:
    """Draw slices of one or several predicted cases for a paper.

    Rows: scan, reconstruction, anomaly map, lesion mask, truth, as far as available; all at one scale, with a scale
    bar and a colour bar. Slices are chosen by area of truth, else of the lesion mask, at least 6 mm apart. Coordinates
    are the scan's, in mm (RAS). The same command writes the same bytes.
    """
    planes: tuple[Plane, ...] = ("axial", "coronal", "sagittal")
    cut = next((known for known in planes if known == plane), None)
    if cut is None:
        raise typer.BadParameter(f'"{plane}" is no plane: axial, coronal or sagittal.')
    if slices is not None and mm:
        raise typer.BadParameter("give --slices, or --mm, and not both.")
    from medvae.manifest import read_manifest
    from medvae.reporting.case_picture import draw_figure

    cohort, made_by = read_manifest(manifest) if manifest else None, None
    if detector:
        from medvae.detection.ensemble import load_detector

        made_by = load_detector(detector, device=device)
    written = draw_figure(
        predictions, out, ids=cases or None, manifest=cohort, detector=made_by, plane=cut, slices=slices,
        positions_mm=mm or (), radiological=not neurological, title=title,
    )  # fmt: skip
    typer.echo(f"written: {written}")
