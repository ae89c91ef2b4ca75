"""ITK-SNAP workspaces: scan, anomaly map overlay, lesion mask and truth, opened by a double click.

A workspace is XML: entries and folders of entries, modelled on files written by ITK-SNAP 3.6 and 4.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from xml.sax.saxutils import quoteattr

import numpy as np

from medvae.derivatives import VIEWERS
from medvae.drawing import FADE, MASK_COLOUR, TRUTH_COLOUR, map_colour, rgb
from medvae.errors import MedvaeError
from medvae.files import write_text
from medvae.reporting.handoff import OpenedCase, Shell, Viewer

WORKSPACE = "{id}.itksnap"
LABELS = f"{VIEWERS}/itksnap_labels.txt"
"""Names and colours of the mask's values."""
ROOT = PurePosixPath("/itksnap")
"""Nominal save location of every workspace. ITK-SNAP then resolves files relative to the actual location."""
_HEAD = """<?xml version="1.0" encoding="UTF-8" ?>
<!--ITK-SNAP (itksnap.org) Project File-->
<!DOCTYPE registry [
<!ELEMENT registry (entry*,folder*)>
<!ELEMENT folder (entry*,folder*)>
<!ELEMENT entry EMPTY>
<!ATTLIST folder key CDATA #REQUIRED>
<!ATTLIST entry key CDATA #REQUIRED>
<!ATTLIST entry value CDATA #REQUIRED>
]>
"""

Registry = Mapping[str, "str | Registry"]
Stop = tuple[float, tuple[int, int, int], int]
"""Stop of a colour map: position from 0 to 1; red, green, blue and opacity from 0 to 255."""


@dataclass(frozen=True)
class Layer:
    """An image of a workspace.

    ``window`` holds the intensities of the first and last colour, ``file_range`` the minimum and maximum of the file,
    relative to which ITK-SNAP defines windows.
    """

    path: Path
    role: str
    """"MainRole", "OverlayRole" or "SegmentationRole"."""
    name: str
    window: tuple[float, float] | None = None
    file_range: tuple[float, float] = (0.0, 1.0)
    colours: Sequence[Stop] | None = None
    """None for greyscale."""


def overlay_colours(threshold: float) -> list[Stop]:
    """The anomaly map's colours: transparent far below the threshold, fading in towards it, then opaque."""
    threshold = 1.0 if threshold > 0.999 else threshold  # if nothing is flagged; positions must ascend
    fade = [(0.0, 0), (FADE * threshold, 0), (threshold, 150)]
    solid = [(place, 215) for place in np.linspace(threshold, 1, 5)[1:] if threshold < 1]
    return [(float(place), map_colour(place), opacity) for place, opacity in [*fade, *solid]]


def truth_colours() -> list[Stop]:
    """Transparent at 0, half transparent at 1."""
    return [(0.0, rgb(TRUTH_COLOUR), 0), (0.5, rgb(TRUTH_COLOUR), 0), (1.0, rgb(TRUTH_COLOUR), 140)]


def label_file(path: Path | str) -> Path:
    """Write the names and colours of the mask's values for ITK-SNAP (Segmentation, Import Label Descriptions).

    A single invalid line makes ITK-SNAP reject the whole file.
    """
    red, green, blue = rgb(MASK_COLOUR)
    head = "# ITK-SNAP label descriptions: index, red, green, blue, opacity, visible, in 3D, name\n"
    clear = '    0     0    0    0        0  0  0    "Clear Label"\n'
    return write_text(path, f'{head}{clear}    1   {red:3d}  {green:3d}  {blue:3d}        1  1  1    "Anomaly"\n')


def write_workspace(path: Path | str, layers: Sequence[Layer], shape: tuple[int, int, int]) -> Path:
    """Write a workspace that can be moved, together with its files, to another folder or computer.

    Parameters
    ----------
    path
        Ends in ``.itksnap``.
    layers
        The scan (MainRole) first. Overlays are stacked in this order; a segmentation must be on exactly its grid.
    shape
        Voxels of the scan.

    Raises
    ------
    MedvaeError
        If a file does not exist (ITK-SNAP would then open nothing) or has no relative path.
    """
    path = Path(path)
    for layer in layers:
        if not layer.path.is_file():
            raise MedvaeError(f"{path}: {layer.path} does not exist; ITK-SNAP would refuse the workspace.")
    ways = [_relative(layer.path, path) for layer in layers]
    depth = max(sum(part == ".." for part in way.parts) for way in ways)
    root = ROOT.joinpath(*[f"up{level}" for level in range(depth, 0, -1)])  # so that no ".." leads above the root
    folders = {
        f"Layer[{index:03d}]": _layer(layer, os.path.normpath(root / way), shape if index == 0 else None)
        for index, (layer, way) in enumerate(zip(layers, ways, strict=True))
    }
    content: Registry = {"SaveLocation": str(root), "Version": "20170401", "Layers": folders}
    return write_text(path, f"{_HEAD}<registry>\n{_lines(content, 1)}</registry>\n")


def _relative(target: Path, workspace: Path) -> PurePosixPath:
    try:
        way = os.path.relpath(os.path.realpath(target.parent), os.path.realpath(workspace.parent))
    except ValueError:  # another Windows drive
        raise MedvaeError(
            f"{workspace}: a workspace finds its files by relative paths; none leads to {target}, on another drive. "
            f"Copy the scan to the drive of the predictions, or predict into a folder on the scan's."
        ) from None
    return PurePosixPath(Path(way).as_posix()) / target.name  # the name itself may be a link, as in DataLad


def _layer(layer: Layer, path: str, shape: tuple[int, int, int] | None) -> Registry:
    colour_map = {"Preset": "Grayscale"} if layer.colours is None else _colour_map(layer.colours)
    shown: dict[str, str | Registry] = {"CustomNickName": layer.name}
    curve = _curve(layer.window, layer.file_range) if layer.window else {}
    mapping: Registry = {"ColorMap": colour_map, **curve}
    if layer.role == "OverlayRole":
        shown = {"Alpha": "1", "Sticky": "1"} | shown  # without it the overlay is a tile next to the scan
    if layer.role != "SegmentationRole":
        shown["DisplayMapping"] = mapping
    content: dict[str, str | Registry] = {"AbsolutePath": path, "Role": layer.role, "LayerMetaData": shown}
    if shape is not None:
        content["ProjectMetaData"] = _project(shape, mapping)
    return content


def _project(shape: tuple[int, int, int], mapping: Registry) -> Registry:
    """Settings of the whole workspace; ITK-SNAP 3.6 uses them only if the dimensions are the scan's.

    It then takes the scan's window from here, or the default window if it is not repeated.
    """
    label = {
        "Alpha": "255",
        "Color": " ".join(map(str, rgb(MASK_COLOUR))),
        "Flags": "1 1",
        "Index": "1",
        "Label": "Anomaly",
    }
    return {
        "Files": {"Grey": {"Dimensions": " ".join(map(str, shape))}},
        "IRIS": {
            "SliceViewLayerLayout": "Stacked",
            "DisplayMapping": mapping,
            "LabelState": {"SegmentationAlpha": "0.35", "DrawingLabel": "1"},
            "LabelTable": {"NumberOfElements": "1", "Element[0]": label},
        },
    }


def _colour_map(stops: Sequence[Stop]) -> Registry:
    content: dict[str, str | Registry] = {"Preset": "Custom", "NumberOfControlPoints": str(len(stops))}
    content["NaNColor"] = {"R": "0", "G": "0", "B": "0", "A": "0"}
    for number, (place, colour, opacity) in enumerate(stops):
        side = dict(zip("RGBA", map(str, (*colour, opacity)), strict=True))
        point: Registry = {"Index": f"{place:.6g}", "Type": "Continuous", "Left": side, "Right": side}
        content[f"ControlPoint[{number:04d}]"] = point
    return content


def _curve(window: tuple[float, float], file_range: tuple[float, float]) -> Registry:
    """Linear map from intensity to colour position; intensities are fractions of the file's range."""
    low, high = file_range
    points: dict[str, str | Registry] = {"NumberOfControlPoints": "3"}
    for number, place in enumerate((0.0, 0.5, 1.0)):
        intensity = window[0] + place * (window[1] - window[0])
        points[f"ControlPoint[{number}]"] = {
            "tValue": f"{(intensity - low) / max(high - low, 1e-12):.8g}",
            "xValue": f"{place:g}",
        }
    return {"Curve": points}


def _lines(content: Registry, depth: int) -> str:
    """Entries first, then folders, as the DTD requires."""
    pad = "  " * depth
    entries = [
        f"{pad}<entry key={quoteattr(key)} value={quoteattr(value)} />\n"
        for key, value in content.items()
        if isinstance(value, str)
    ]
    folders = [
        f"{pad}<folder key={quoteattr(key)} >\n{_lines(value, depth + 1)}{pad}</folder>\n"
        for key, value in content.items()
        if not isinstance(value, str)
    ]
    return "".join([*entries, *folders])


def _write_case(opened: OpenedCase) -> None:
    """Write the workspace of scan, map overlay, mask and truth."""
    case, array, anomaly = opened.case, opened.volume.array, opened.anomaly
    whole, limits = (float(array.min()), float(array.max())), (float(anomaly.min()), float(anomaly.max()))
    layers = [Layer(opened.scan, "MainRole", case.id, opened.window, whole)]
    colours = overlay_colours(case.threshold)
    layers += [Layer(case.map, "OverlayRole", "Anomaly map (0 to 1)", (0.0, 1.0), limits, colours)]
    if opened.truth is not None and opened.truth_file is not None:
        highest = float(opened.truth.max())
        layers += [Layer(opened.truth_file, "OverlayRole", "Truth", (0.0, 1.0), (0.0, highest), truth_colours())]
    layers += [Layer(case.mask, "SegmentationRole", f"Anomaly ({case.operating_point})")]
    write_workspace(opened.path(WORKSPACE), layers, opened.volume.geometry.shape)


def _write_labels(opened: OpenedCase) -> None:
    label_file(opened.path(LABELS))


def _command(opened: OpenedCase, shell: Shell) -> str:
    return f"itksnap -w {shell(opened.path(WORKSPACE))}"


def _tile_command(opened: OpenedCase, shell: Shell) -> str:
    case = opened.case
    return f"itksnap -g {shell(opened.scan)} -s {shell(case.mask)} -l {shell(opened.path(LABELS))} -o {shell(case.map)}"


ITKSNAP = Viewer(name="ITK-SNAP", files=(WORKSPACE,), write=_write_case, command=_command)
ITKSNAP_TILE = Viewer(
    name="ITK-SNAP without the workspace (the map is a tile)",
    files=(LABELS,),
    write=_write_labels,
    command=_tile_command,
    second_choice=True,
)
