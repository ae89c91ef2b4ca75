"""Hand-off to viewers: for every prediction a workspace of ITK-SNAP, a segmentation for 3D Slicer, and commands.

``OUT/ID.itksnap``                  scan, map over it, mask and truth, by one double click
``OUT/ID.seg.nrrd``                 mask and truth for 3D Slicer, with names and colours
``OUT/viewers/ID.txt``              commands that open the case in ITK-SNAP, FSLeyes and MRIcroGL
``OUT/viewers/itksnap_labels.txt``  names and colours of the mask's values
``OUT/viewers/ID_truth.nii.gz``     the known lesion on the scan's grid, for cases that have one
``OUT/viewers/ID_scan.nii.gz``      the scan, where it is not NIfTI itself
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medvae.errors import MedvaeError
from medvae.files import write_text
from medvae.manifest import Manifest
from medvae.prediction import VIEWERS as FOLDER
from medvae.reporting.cases import PredictedCase, read_cases
from medvae.reporting.colours import FADE, MAP_COLOURS, MASK_COLOUR, TRUTH_COLOUR, grey_window, rgb
from medvae.reporting.itksnap import Layer, label_file, overlay_colours, truth_colours, write_workspace
from medvae.reporting.slicer import Segment, write_segmentation
from medvae.volume import read_volume, write_volume

LABELS = "itksnap_labels.txt"


@dataclass(frozen=True)
class HandOff:
    """What was written for one case."""

    id: str
    workspace: Path
    segmentation: Path
    commands: dict[str, str]
    """Viewer to the command that opens the case from the current folder."""


def write_viewer_files(
    folder: Path | str,
    *,
    ids: Sequence[str] | None = None,
    manifest: Manifest | None = None,
    scans: Mapping[str, Path | str] | None = None,
) -> tuple[list[HandOff], dict[str, str]]:
    """Write the files above for the predictions of a folder; arguments as `medvae.reporting.cases.read_cases`.

    Returns
    -------
    written, problems
        And what is wrong with each case for which nothing could be written.
    """
    cases, problems = read_cases(folder, ids=ids, manifest=manifest, scans=scans)
    written = []
    for case in cases:
        try:
            written.append(_write_case(case))
        except MedvaeError as error:
            problems[case.id] = str(error)
    return written, problems


def _write_case(case: PredictedCase) -> HandOff:
    beside = case.folder / FOLDER
    labels = label_file(beside / LABELS)
    volume = read_volume(case.scan)
    anomaly, mask = read_volume(case.map).array, read_volume(case.mask).array > 0
    scan = case.scan
    if volume.header is None:  # MGH is not read by every viewer; NRRD and MetaImage are placed with other rounding
        scan = write_volume(beside / f"{case.id}_scan.nii.gz", volume.array, volume.placement, intent="scan")
    window = grey_window(volume.array, anomaly > 0)

    whole = (float(volume.array.min()), float(volume.array.max()))
    layers = [Layer(scan, "MainRole", case.id, window, whole)]
    colours, limits = overlay_colours(case.threshold), (float(anomaly.min()), float(anomaly.max()))
    layers += [Layer(case.map, "OverlayRole", "Anomaly map (0 to 1)", (0.0, 1.0), limits, colours)]
    segments = [Segment("Anomaly", MASK_COLOUR, mask)]
    truth = case.truth()
    if truth is not None:
        file = beside / f"{case.id}_truth.nii.gz"
        write_volume(file, truth.astype(np.uint8), volume.placement, intent="truth")
        layers += [Layer(file, "OverlayRole", "Truth", (0.0, 1.0), (0.0, float(truth.max())), truth_colours())]
        segments += [Segment("Truth", TRUTH_COLOUR, truth)]
    layers += [Layer(case.mask, "SegmentationRole", f"Anomaly ({case.operating_point})")]
    workspace = write_workspace(case.folder / f"{case.id}.itksnap", layers, volume.geometry.shape)
    segmentation = write_segmentation(case.folder / f"{case.id}.seg.nrrd", segments, volume.geometry)
    given = _commands(case, scan, labels, workspace, window, None)
    there = _commands(case, scan, labels, workspace, window, case.folder)
    text = "".join(f"# {viewer}\n{command}\n\n" for viewer, command in there.items())
    write_text(beside / f"{case.id}.txt", f"# To be given in the folder of the predictions, {FOLDER}/..\n\n{text}")
    return HandOff(case.id, workspace, segmentation, given)


def _commands(
    case: PredictedCase, scan: Path, labels: Path, workspace: Path, window: tuple[float, float], at: Path | None
) -> dict[str, str]:
    """Viewer to command, with paths as they were given or from the folder ``at``."""

    def short(path: Path) -> str:
        try:
            return shlex.quote(Path(os.path.relpath(path, at)).as_posix() if at else str(path))
        except ValueError:  # another drive of Windows
            return shlex.quote(str(path))

    grey, fade = f"-dr {window[0]:.5g} {window[1]:.5g}", f"{FADE * case.threshold:.3g}"
    image, anomaly, mask = short(scan), short(case.map), short(case.mask)
    outline = " ".join(f"{channel / 255:.2f}" for channel in rgb(MASK_COLOUR))
    return {
        "ITK-SNAP": f"itksnap -w {short(workspace)}",
        "FSLeyes": f"fsleyes {image} {grey} {anomaly} -cm {MAP_COLOURS} -dr 0 1 -cr {fade} 1 "
        f"-ma -mr {fade} {case.threshold:.3g} -a 85 {mask} -ot mask -mc {outline} -o",
        "MRIcroGL": f"MRIcroGL {image} {grey} {anomaly} -cm 4hot -dr {case.threshold:.3g} 1",
        "ITK-SNAP without the workspace (the map is a tile)": f"itksnap -g {image} -s {mask} -l {short(labels)} "
        f"-o {anomaly}",
    }
