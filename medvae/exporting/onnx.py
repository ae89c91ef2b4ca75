"""A network as ONNX, compared in onnxruntime."""

from __future__ import annotations

import importlib.util
import io
import warnings
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from medvae.errors import MedvaeError
from medvae.exporting.comparison import Run
from medvae.exporting.network import INPUT, Member, PlainNetwork

ENDING = ".onnx"
OPSET = 17
_AXES = ("x", "y", "z")


def require_packages() -> None:
    """Refuse to begin where ONNX cannot be written or tried.

    Raises
    ------
    MedvaeError
        If a package is missing.
    """
    missing = [name for name in ("onnx", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        raise MedvaeError(
            f'--to onnx needs {" and ".join(missing)}, which is not installed: pip install "medvae-anomaly[export]".'
        )


def converted(member: Member, tile: Tensor, *, any_size: bool) -> bytes:
    """The network as an ONNX file for any number of tiles, and with ``any_size`` for other sizes.

    It is PyTorch's exporter by tracing: the one by ``torch.export`` gives the same numbers, but takes 53 s instead of
    2 s for the 3D network of t1-2mm, needs onnxscript, and names the axes after expressions.
    """
    plain = _with_accurate_norms(member.plain)
    spatial = dict(enumerate(_AXES[: tile.ndim - 2], start=2)) if any_size else {}
    outputs = {name: {0: "batch"} | (spatial if _is_map(plain, name, tile) else {}) for name in plain.names}
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of sizes that are constants, and of the exporter's age
        torch.onnx.export(
            plain,
            (tile,),
            stream,  # type: ignore[arg-type]  # the exporter by tracing takes it, the types are of the other
            dynamo=False,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=list(plain.names),
            dynamic_axes={INPUT: {0: "batch"} | spatial} | outputs,
        )
    return stream.getvalue()


def opened(content: bytes) -> Run:
    """What runs an ONNX file, on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def run(tile: Tensor) -> Sequence[np.ndarray]:
        found: Any = session.run(None, {INPUT: tile.numpy()})
        return found

    return run


class _InstanceNorm(nn.Module):
    """An instance normalisation by means of means, axis by axis.

    onnxruntime's own adds up all voxels of a channel in float32: on a real brain, tiles of 48³ voxels were rounded by
    more than 0.0001 in the logits of t1-2mm.
    """

    def __init__(self, norm: nn.InstanceNorm2d | nn.InstanceNorm3d) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps

    def forward(self, x: Tensor) -> Tensor:
        centred = x - self._mean(x)
        found = centred / torch.sqrt(self._mean(centred * centred) + self.eps)
        if self.weight is None:
            return found
        shape = (1, -1, *[1] * (x.ndim - 2))
        return found * self.weight.reshape(shape) + self.bias.reshape(shape)

    def _mean(self, x: Tensor) -> Tensor:
        for axis in range(x.ndim - 1, 1, -1):
            x = x.mean(axis, keepdim=True)
        return x


def _with_accurate_norms(plain: PlainNetwork) -> PlainNetwork:
    changed = deepcopy(plain)
    for parent in list(changed.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, nn.InstanceNorm2d | nn.InstanceNorm3d) and not layer.track_running_stats:
                setattr(parent, name, _InstanceNorm(layer))
    return changed


def _is_map(plain: torch.nn.Module, name: str, tile: Tensor) -> bool:
    """Whether an output has a tile's axes: a dense latent has not."""
    with torch.no_grad():
        found = plain(tile[:1])
    outputs = (found,) if isinstance(found, Tensor) else found
    which = list(plain.names).index(name)  # type: ignore[arg-type]  # names are words, the types say Tensor
    return bool(outputs[which].ndim == tile.ndim)
