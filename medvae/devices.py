"""The device on which a network runs: found by name, and checked before any computation."""

from __future__ import annotations

import logging
import re

import torch

from medvae.errors import MedvaeError

AUTO = "auto"
"""A CUDA GPU if there is one, else the CPU; training also takes Apple's GPU, as accelerate chooses."""

_NAMES = re.compile(r"auto|cpu|mps(:0)?|cuda(:[0-9]+)?")  # mps:0 is what a tensor says that was moved to mps
_LOG = logging.getLogger("medvae")


def find_device(name: str = AUTO) -> torch.device:
    """The device of a name, if this machine has it.

    Parameters
    ----------
    name
        ``auto`` (a CUDA GPU if there is one, else the CPU), ``cpu``, ``cuda``, ``cuda:1`` (the second GPU) or ``mps``
        (Apple's GPU).

    Raises
    ------
    MedvaeError
        If there is no such name, or no such device on this machine.
    """
    if not _NAMES.fullmatch(name):
        raise MedvaeError(
            f'device "{name}" is not known. Expected: auto, cpu, cuda, cuda:1 (the second GPU) or mps (Apple\'s GPU).'
        )
    if name == AUTO:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cuda":
        _require_cuda(device)
    elif device.type == "mps" and not torch.backends.mps.is_available():
        raise MedvaeError('device "mps": this machine has no GPU of Apple that PyTorch can use. Take auto or cpu.')
    _LOG.debug("device: %s", device)
    return device


def _require_cuda(device: torch.device) -> None:
    if not torch.cuda.is_available():
        why = "no GPU is seen (nvidia-smi shows what the driver sees)"
        if torch.version.cuda is None:
            why = f"PyTorch {torch.__version__} is a build without CUDA (its installation page offers those with it)"
        raise MedvaeError(f'device "{device}": there is none that PyTorch can use: {why}. Take auto or cpu.')
    count = torch.cuda.device_count()
    if device.index is not None and device.index >= count:
        found = ", ".join(f"cuda:{index} ({torch.cuda.get_device_name(index)})" for index in range(count))
        raise MedvaeError(f'device "{device}": this machine has {found}. Take one of them.')
