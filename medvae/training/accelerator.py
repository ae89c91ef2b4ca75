"""The device and precision of a training, by Hugging Face accelerate."""

from __future__ import annotations

import importlib.util
import os
import warnings
from typing import TYPE_CHECKING

import torch

from medvae.devices import AUTO, find_device
from medvae.errors import MedvaeError, MedvaeWarning

if TYPE_CHECKING:
    from accelerate import Accelerator

_PACKAGES = ("accelerate", "batchgenerators")


def require_packages() -> None:
    """Refuse to train where the packages that only training needs are not installed.

    Raises
    ------
    MedvaeError
        That says how to install them.
    """
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise MedvaeError(
            f"training a network needs {' and '.join(missing)}, not installed here. Run: pip install "
            f'"medvae-anomaly[train]", or in a checkout of medvae pip install -e ".[train]".'
        )


def accelerator_on(name: str, precision: str) -> Accelerator:
    """What a training runs on: the device of a name, and the mixed precision that the config asks for.

    With ``auto`` accelerate chooses, also for each of several processes that ``torchrun`` or ``accelerate launch``
    started. A processor without instructions for bfloat16 is given float32, with a warning: PyTorch would emulate them,
    ten times slower (a step of ``configs/best_t1.yaml``: 6.4 s instead of 0.67 s).

    Raises
    ------
    MedvaeError
        As `find_device`; or if several processes were given one GPU.
    """
    from accelerate import Accelerator, PartialState
    from accelerate.state import AcceleratorState

    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    # accelerate keeps the first choice of a process, and would refuse another precision or ignore another device
    AcceleratorState._reset_state(reset_partial_state=not several)
    if name == "cpu" or (name == AUTO and not (torch.cuda.is_available() or torch.backends.mps.is_available())):
        precision = _of_processor(precision)
    if name == AUTO:
        return Accelerator(mixed_precision=precision)
    device = find_device(name)
    if device.type == "cpu":
        return Accelerator(mixed_precision=precision, cpu=True)
    if several and device.index is not None:
        raise MedvaeError(f'device "{name}": is one GPU for several processes; each takes its own with auto or cuda.')
    if not several:
        PartialState().device = device
    return Accelerator(mixed_precision=precision)


def _of_processor(precision: str) -> str:
    if precision != "bf16" or torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return precision
    warnings.warn(
        "training.precision=bf16: this processor has no instructions for bfloat16, so float32 is used, which is faster "
        "here.",
        MedvaeWarning,
        stacklevel=3,
    )
    return "no"
