"""A network as TorchScript, compared as it is loaded again."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from medvae.exporting.comparison import Run
from medvae.exporting.network import Member

ENDING = ".ts"


def converted(member: Member, tile: Tensor) -> bytes:
    """The network as TorchScript.

    It is traced: ``torch.jit.trace`` is deprecated, but still there in PyTorch 2.13, and what it writes is what C++
    (libtorch), MONAI Label and MONAI Deploy load. A ``torch.export`` program (.pt2) needs Python or a compiler of its
    own.
    """
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of sizes that are constants, and of its deprecation
        torch.jit.save(torch.jit.trace(member.plain, tile, check_trace=False), stream)
    return stream.getvalue()


def opened(content: bytes) -> Run:
    """What runs a TorchScript file, on the CPU."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = torch.jit.load(io.BytesIO(content), map_location="cpu")

    def run(tile: Tensor) -> Sequence[np.ndarray]:
        with torch.no_grad():
            found = network(tile)
        return [one.numpy() for one in ((found,) if isinstance(found, Tensor) else found)]

    return run
