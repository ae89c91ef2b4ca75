"""A folder with each member's network as ONNX or TorchScript, and a JSON beside it that says what it expects.

``OUT/NAME.onnx``, ``OUT/NAME.ts``   the network of a member
``OUT/NAME.json``   names, shapes and meaning of inputs and outputs, preparation, licence, and how it was compared
``OUT/LICENCE.md``   the terms of the weights
"""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from medvae import __version__
from medvae.detection.base import Calibrated
from medvae.detection.ensemble import Ensemble
from medvae.detection.scan import scan_of
from medvae.errors import MedvaeError
from medvae.exporting import onnx, torchscript
from medvae.exporting.comparison import TOLERANCE, Run, largest_difference, sizes_of
from medvae.exporting.network import Member, members_with_network, template_volume
from medvae.exporting.terms import Terms
from medvae.files import is_empty, whole_folder, write_bytes, write_json, write_text
from medvae.preparation.prepared import ImageAndMask

Format = Literal["onnx", "torchscript"]


@dataclass(frozen=True)
class ExportedNetwork:
    """What was written of a member."""

    name: str
    file: Path
    largest_difference: float
    """From PyTorch's outputs, on tiles of a brain."""
    any_size: bool
    """Whether tiles may have another size than in training."""


def export_networks(
    detector: Calibrated, out: Path | str, to: Format, terms: Terms, *, scan: Path | str | None = None
) -> tuple[list[ExportedNetwork], list[str]]:
    """Write the network of each member, compared with PyTorch on tiles of a brain before anything gets its name.

    Parameters
    ----------
    detector
        A detector or an ensemble.
    out
        A new folder.
    to
        The format.
    terms
        Of the weights.
    scan
        A scan to compare on; the MNI152 brain by default.

    Returns
    -------
    written, left_out
        The networks, and the names of members without one.

    Raises
    ------
    MedvaeError
        If no member has a network, ``out`` is not empty, a package is missing, or an exported network differs.
    """
    out = require_new(out)
    members = members_with_network(detector)
    if to == "onnx":
        onnx.require_packages()
    for member in members:
        _ = member.plain  # refuses one that cannot be exported before the brain is prepared
    volume = template_volume(detector) if scan is None else scan_of(scan).prepare(detector)
    brain = "the MNI152 brain that comes with medvae" if scan is None else Path(scan).name
    written = []
    with whole_folder(out) as folder:
        for member in members:
            content, largest, tiles, any_size = _converted(member, to, member.shown(volume))
            file = folder / f"{member.name}{_FORMATS[to].ending}"
            write_bytes(file, content)
            compared = {"tiles": tiles, "of": brain, "largest_difference": largest, "tolerance": TOLERANCE}
            write_json(folder / f"{member.name}.json", _description(member, detector, file, compared, terms, any_size))
            written.append(ExportedNetwork(member.name, out / file.name, largest, any_size))
        write_text(folder / "LICENCE.md", terms.text)
    names = {item.name for item in written}
    others = detector.members if isinstance(detector, Ensemble) else {}
    return written, [name for name in others if name not in names]


def require_new(out: Path | str) -> Path:
    """``out``, if it is a new or an empty folder.

    Raises
    ------
    MedvaeError
        If it is not.
    """
    if not is_empty(out):
        raise MedvaeError(f"{out}: is not empty. Choose another --out folder; nothing was overwritten.")
    return Path(out)


def _converted(member: Member, to: Format, scan: ImageAndMask) -> tuple[bytes, float, int, bool]:
    """The file of a member's network, how it differs, on how many tiles, and whether it takes other sizes."""
    sizes = sizes_of(member, scan)
    tile = member.tiles(scan, sizes.trained)[:2]
    form, plain = _FORMATS[to], member.plain
    if sizes.other is not None:
        content = form.convert(member, tile, True)
        try:
            both = (sizes.trained, sizes.other)
            return content, *largest_difference(member, plain, form.open(content), scan, both), True
        except (MedvaeError, RuntimeError, ValueError):
            pass  # the size is a constant of what was traced
        except Exception as error:  # onnxruntime's own, which derive from nothing else
            if not type(error).__module__.startswith("onnxruntime"):
                raise
    content = form.convert(member, tile, False)
    return content, *largest_difference(member, plain, form.open(content), scan, [sizes.trained]), False


@dataclass(frozen=True)
class _Form:
    ending: str
    convert: Callable[[Member, Tensor, bool], bytes]
    open: Callable[[bytes], Run]


_FORMATS: dict[Format, _Form] = {
    "onnx": _Form(onnx.ENDING, lambda member, tile, free: onnx.converted(member, tile, any_size=free), onnx.opened),
    "torchscript": _Form(
        torchscript.ENDING, lambda member, tile, _: torchscript.converted(member, tile), torchscript.opened
    ),
}


def _description(
    member: Member, detector: Calibrated, file: Path, compared: dict[str, Any], terms: Terms, any_size: bool
) -> dict[str, Any]:
    step = member.step if any_size else None
    sides = list(member.config.tile_shape) if step is None else [f"multiple of {step}"] * len(member.config.tile_shape)
    shape = ["batch", member.channel_count, *sides]
    packages = ["torch", "monai", *(["onnx", "onnxruntime"] if file.suffix == onnx.ENDING else [])]
    own = member.description()
    own["input"] |= {"shape": shape}
    return {
        "file": file.name,
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "format": {"name": "ONNX", "opset": onnx.OPSET} if file.suffix == onnx.ENDING else {"name": "TorchScript"},
        "detector": {"name": detector.config.name, "fingerprint": detector.fingerprint},
        "licence": terms.licence,
        "intended_use": "Research. Not a medical device, not for clinical use.",
        **own,
        "compared_with_pytorch": compared,
        "versions": {"medvae": __version__} | {name: importlib.metadata.version(name) for name in packages},
    }
