"""The checkpoint of a run: written whole or not at all, and read back without running anyone's code."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from medvae.errors import MedvaeError
from medvae.files import remove_leftovers, whole_folder, write_bytes, write_text
from medvae.schema import read_document
from medvae.training.learner import Learner
from medvae.training.metrics import forget_after
from medvae.training.run_folder import METRICS

CHECKPOINT = "checkpoints/latest"
AVERAGE = "average.safetensors"
REACHED = "step.json"

_DAMAGED = (
    SafetensorError,
    RuntimeError,
    OSError,
    EOFError,
    ValueError,
    TypeError,
    LookupError,
    pickle.UnpicklingError,
)
"""What the readers of a checkpoint raise when a file of it is cut, missing, or wants to run code."""


def save_checkpoint(learner: Learner, out: Path) -> None:
    """Write network, optimiser, generators, step and running sums to ``out``; the first process does.

    Raises
    ------
    MedvaeError
        If the disk is full; the checkpoint before stays.
    """
    if not learner.writes:
        return
    try:
        with whole_folder(out / CHECKPOINT) as folder:
            learner.accelerator.save_state(str(folder), safe_serialization=True)
            if learner.average:
                write_bytes(folder / AVERAGE, as_safetensors(learner.average))
            reached = {"step": learner.step, "means": learner.means.state()}
            if learner.geco:
                reached["geco"] = learner.geco.state()
            write_text(folder / REACHED, json.dumps(reached))
    except (RuntimeError, SafetensorError) as error:  # what torch and safetensors make of a full disk
        raise MedvaeError(
            f"{out / CHECKPOINT}: the checkpoint of step {learner.step} could not be written ({error}). An "
            f"earlier one is intact. Free some space and run the command again with --resume."
        ) from error


def go_on(learner: Learner, out: Path) -> None:
    """Go on from the checkpoint of ``out``, or from the first step if there is none.

    What the log tells of later steps is dropped: they are about to be repeated.
    """
    if learner.writes:
        remove_leftovers((out / CHECKPOINT).parent)
    learner.accelerator.wait_for_everyone()
    if (out / CHECKPOINT).is_dir():
        try:
            _restore(learner, out / CHECKPOINT)
        except _DAMAGED as error:
            raise MedvaeError(
                f"{out / CHECKPOINT}: cannot be read ({' '.join(str(error).split())[:200]}): it is damaged, or medvae "
                f"did not write it. Copy the run again, or begin anew with --overwrite."
            ) from error
    if learner.writes:
        forget_after(out / METRICS, learner.step)


def _restore(learner: Learner, folder: Path) -> None:
    learner.accelerator.load_state(str(folder))
    if learner.average:
        learner.average.load_state_dict(load_file(folder / AVERAGE))
    reached = read_document(folder / REACHED)
    learner.step = reached["step"]
    if "means" in reached:  # a checkpoint of an earlier version has none
        learner.means.restore(reached["means"])
    if learner.geco:
        learner.geco.restore(reached["geco"])


def as_safetensors(module: torch.nn.Module) -> bytes:
    """The weights of a module, as the bytes of a safetensors file."""
    return save({name: tensor.contiguous() for name, tensor in module.state_dict().items()})
