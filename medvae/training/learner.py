"""A network in training, with all that changes in a step."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from medvae.config import Config
from medvae.networks.build import build_network
from medvae.networks.interface import Network
from medvae.training.accelerator import accelerator_on
from medvae.training.memory import keep_freed_memory
from medvae.training.metrics import RunningMeans
from medvae.training.objectives.base import Objective, objective_of
from medvae.training.objectives.geco import Geco

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass
class Learner:
    """What a step changes, and what a checkpoint keeps."""

    accelerator: Accelerator
    """The device, the precision, and the other processes."""
    network: nn.Module
    """The network that is trained, wrapped for compilation or several processes where these are asked for."""
    optimiser: torch.optim.Optimizer
    objective: Objective
    average: AveragedModel | None
    """The moving average of the weights, where ``training.ema_decay`` asks for one."""
    geco: Geco | None
    """β, where ``objective.geco_target`` adapts it."""
    means: RunningMeans = field(default_factory=RunningMeans)
    """Of the loss terms since the last line of the log."""
    step: int = 0
    """Steps done."""

    @property
    def bare(self) -> nn.Module:
        """The network that is trained, without its wrappers."""
        return self.accelerator.unwrap_model(self.network, keep_torch_compile=False)

    @property
    def kept(self) -> Network:
        """The network with the weights that training ends in: the averaged ones, or the last."""
        return cast(Network, self.average.module if self.average else self.bare)

    @property
    def writes(self) -> bool:
        """Whether this process, of perhaps several, is the one that writes files."""
        return self.accelerator.is_main_process


def new_learner(
    config: Config, modalities: int, reconstructor: Network | None, device: str, *, start: Network | None = None
) -> Learner:
    """The network of a config before its first step, on its device.

    Parameters
    ----------
    config
        The run; ``config.network`` must not be null.
    modalities
        Of a scan.
    reconstructor
        The trained network of ``config.network.reconstructor``, whose weights are copied.
    device
        As in `medvae.devices.find_device`; with ``auto`` accelerate chooses.
    start
        A network of the same config whose weights are the first ones.
    """
    options = config.training
    accelerator = accelerator_on(device, options.precision)
    if accelerator.device.type == "cpu":
        keep_freed_memory()
    network = build_network(config, modalities)
    if config.network is not None and config.network.reconstructor:
        if reconstructor is None:
            raise ValueError("network.reconstructor: the trained network whose weights are copied is missing.")
        network.get_submodule("reconstructor").load_state_dict(reconstructor.state_dict())
    if start is not None:
        network.load_state_dict(start.state_dict())
    optimiser = torch.optim.Adam([p for p in network.parameters() if p.requires_grad], lr=options.learning_rate)
    if options.channels_last:
        layout = torch.channels_last if len(config.tile_shape) == 2 else torch.channels_last_3d
        network.to(memory_format=layout)  # type: ignore[call-overload]  # torch documents it, its types leave it out
    average = (
        AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(options.ema_decay)) if options.ema_decay else None
    )
    trained, optimiser = accelerator.prepare(torch.compile(network) if options.compile else network, optimiser)
    if average:
        average.to(accelerator.device)
    loss = config.objective
    geco = None
    if loss.geco_target is not None:
        geco = Geco(loss.beta, loss.geco_target, loss.geco_speed, accelerator.device)
    return Learner(accelerator, trained, optimiser, objective_of(loss, config.grid.voxel_mm), average, geco)
