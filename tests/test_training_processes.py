"""Training by several processes: a step of two equals that of one with the batches of both."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

pytest.importorskip("accelerate", reason="needs the extra train")

STEP = """
import os, sys, torch
from medvae.config import Config
from medvae.training.learner import new_learner

config = Config.model_validate({
    "name": "small",
    "network": {"widths": [4, 8, 8], "latent_size": 8, "squeeze": 4},
    "objective": {"kind": "dae", "noise_standard_deviation": 1e-12},  # else each process would draw its own
})
learner = new_learner(config, 1, None, "cpu")
rank, processes = learner.accelerator.process_index, learner.accelerator.num_processes
x = torch.randn(8, 1, *config.tile_shape, generator=torch.Generator().manual_seed(0))[rank::processes]
mask = torch.ones_like(x, dtype=torch.bool)  # of as many voxels in each: the loss is a mean over them
terms = learner.objective.training_terms(learner.network, x, mask, (0, 0, rank), 0)
learner.accelerator.backward(terms.total)
if rank == 0:
    torch.save((processes, [p.grad for p in learner.bare.parameters() if p.grad is not None]), sys.argv[1])
learner.accelerator.wait_for_everyone()  # one that leaves while the other still talks to it is ended by its threads
learner.accelerator.end_training()
"""


def gradients(folder, processes):
    (folder / "step.py").write_text(STEP)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": "1"}
    out = folder / f"{processes}.pt"
    done = subprocess.run(
        [*launch, folder / "step.py", out], env=environment, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    found, values = torch.load(out)
    assert found == processes
    return values


def test_the_gradients_of_two_processes_are_those_of_one_with_the_batches_of_both(tmp_path):
    one, two = gradients(tmp_path, 1), gradients(tmp_path, 2)
    assert len(one) == len(two) > 5
    alone, shared = (torch.cat([gradient.flatten() for gradient in values]) for values in (one, two))
    assert alone.norm() > 0.1
    assert (shared - alone).norm() < 1e-3 * alone.norm()
