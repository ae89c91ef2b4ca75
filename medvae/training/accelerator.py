"""The device and precision of a training, by Hugging Face accelerate."""

from __future__ import annotations

import os

from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState

from medvae.devices import AUTO, find_device
from medvae.errors import MedvaeError


def accelerator_on(name: str, precision: str) -> Accelerator:
    """What a training runs on: the device of a name, and the mixed precision that the config asks for.

    With ``auto`` accelerate chooses, also for each of several processes that ``torchrun`` or ``accelerate launch``
    started.

    Raises
    ------
    MedvaeError
        As `find_device`; or if several processes were given one GPU.
    """
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    # accelerate keeps the first choice of a process, and would refuse another precision or ignore another device
    AcceleratorState._reset_state(reset_partial_state=not several)
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
