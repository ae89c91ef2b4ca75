"""The loop: from healthy slices or patches to a trained network, in one run folder that can be stopped and resumed.

``RUN/config.yaml``       the resolved config
``RUN/cohort.json``       the healthy scans it learns from, by content
``RUN/metrics.jsonl``     loss terms in nats per brain voxel, one line per log interval
``RUN/checkpoints/``      the newest checkpoint: network, optimiser, generators and step
``RUN/network.safetensors``  the trained weights
``RUN/loss.png, reconstructions.png``  refreshed while training
``RUN/tensorboard/``      the same for TensorBoard, with `training.tensorboard`
"""

from __future__ import annotations

import json
import math
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader

from medvae.config import Config
from medvae.errors import MedvaeError
from medvae.files import remove_leftovers, whole_folder, write_bytes, write_text
from medvae.networks.build import build_network, load_network
from medvae.networks.interface import Network
from medvae.normative.atlas import VolumeWithAtlas
from medvae.normative.bias_field import VolumeWithoutShading
from medvae.preparation.prepared import PreparedVolume
from medvae.progress import Progress
from medvae.sampling.lesion_scans import LesionScans, MixedPatches, single
from medvae.sampling.order import EpochOrder
from medvae.sampling.tiles import Tiles, augment_batch, training_tiles, validation_tiles
from medvae.training import losses
from medvae.training.memory import keep_freed_memory
from medvae.training.run_folder import Metrics, forget_after, open_run
from medvae.training.snapshots import draw_loss, draw_reconstructions
from medvae.training.tensorboard import add_picture, open_board

WEIGHTS = "network.safetensors"
CHECKPOINT = "checkpoints/latest"
AVERAGE = "average.safetensors"


def train(
    config: Config,
    training: Sequence[PreparedVolume],
    validation: Sequence[PreparedVolume],
    out: Path | str,
    *,
    resume: bool = False,
    quiet: bool = False,
    prior: Network | None = None,
) -> Network:
    """Train the network of ``config`` on healthy volumes.

    Every random number derives from (seed, epoch, index) or (seed, step), so that six steps equal three, a stop
    and three more. Ctrl-C and SIGTERM write a checkpoint before the process ends. Started by ``torchrun`` or
    ``accelerate launch``, every process takes a batch of ``sampling.batch_size`` in each step, and the first writes.

    Parameters
    ----------
    config
        The run; ``config.network`` must not be null.
    training, validation
        Prepared healthy volumes; the validation scans are measured, never learned from.
    out
        The run folder.
    resume
        Go on from the newest checkpoint of ``out``, if there is one.
    quiet
        No progress display.
    prior
        The trained network of ``config.network.prior``, see `medvae.detection.prior.with_prior`; it stays as it is.

    Returns
    -------
    Network
        The trained network, on the CPU, frozen.

    Raises
    ------
    MedvaeError
        If ``out`` holds another run, or a loss becomes NaN or infinite: the term is named and the last good
        checkpoint stays.
    KeyboardInterrupt
        After the checkpoint is written.
    """
    out = open_run(out, config, resume=resume)
    options = config.training
    if not training:
        raise MedvaeError('There is no healthy training scan: mark cases without lesions as split "train".')
    if config.network.atlas and not isinstance(training[0], VolumeWithAtlas):
        raise MedvaeError(
            "network.atlas: the network is shown the healthy mean of each place, but the scans came without: give "
            "VolumeWithAtlas(volume, fit_atlas(training), config.network.mirror) of each, or call medvae.fitting.fit."
        )
    if config.network.shading == "removed" and not isinstance(training[0], VolumeWithoutShading):
        raise MedvaeError(
            "network.shading: the network is to see none of it, but the scans came with it: give "
            "VolumeWithoutShading(volume, fit_reference(training)) of each, or call medvae.fitting.fit."
        )
    if config.network.prior and prior is None:
        raise MedvaeError("network.prior: a trained network is to be shown, and none came: call medvae.fitting.fit.")
    channels = training[0].image.shape[0]
    if (out / WEIGHTS).exists():
        return load_network(config, channels, out / WEIGHTS)

    AcceleratorState._reset_state()  # or it refuses another precision than that of an earlier training in this process
    accelerator = Accelerator(mixed_precision=options.precision)
    if accelerator.device.type == "cpu":
        keep_freed_memory()
    network = build_network(config, channels)
    if config.network.prior:
        network.prior.load_state_dict(prior.state_dict())
    optimiser = torch.optim.Adam([p for p in network.parameters() if p.requires_grad], lr=options.learning_rate)
    if options.channels_last:
        network = network.to(
            memory_format=torch.channels_last if len(config.tile_shape) == 2 else torch.channels_last_3d
        )
    average = (
        AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(options.ema_decay)) if options.ema_decay else None
    )
    if options.compile:
        network = torch.compile(network)
    network, optimiser = accelerator.prepare(network, optimiser)
    if average:
        average.to(accelerator.device)

    constraint = _geco(config, accelerator.device)
    step = 0
    if accelerator.is_main_process:
        remove_leftovers(out / CHECKPOINT)
    accelerator.wait_for_everyone()
    if (out / CHECKPOINT).is_dir():
        accelerator.load_state(str(out / CHECKPOINT))
        if average:
            average.load_state_dict(load_file(out / CHECKPOINT / AVERAGE))
        reached = json.loads((out / CHECKPOINT / "step.json").read_text())
        step = reached["step"]
        if constraint:
            constraint.restore(reached["geco"])
        if accelerator.is_main_process:
            forget_after(out / "metrics.jsonl", step)

    dataset = training_tiles(config, training)
    held_out = validation_tiles(config, validation) if validation else None
    batch, start, stop = config.sampling.batch_size, step, options.steps
    mixed = MixedPatches(dataset, batch, config.seed) if isinstance(dataset, LesionScans) else None
    begin, end = mixed.scans_of(start, stop) if mixed else (start * batch, stop * batch)
    processes = accelerator.num_processes  # every process takes batches of its own
    order = EpochOrder(len(dataset), seed=config.seed, start=begin * processes, stop=end * processes)
    loader = DataLoader(
        dataset, batch_size=1 if mixed else batch, sampler=order, num_workers=config.sampling.workers,
        worker_init_fn=_one_thread, pin_memory=torch.cuda.is_available(), collate_fn=single if mixed else None,
    )  # fmt: skip
    loader = accelerator.prepare(loader)
    batches = mixed.batches(loader, start, stop) if mixed else loader

    def kept() -> Network:
        return average.module if average else accelerator.unwrap_model(network, keep_torch_compile=False)

    def save_checkpoint() -> None:
        if accelerator.is_main_process:
            try:
                with whole_folder(out / CHECKPOINT) as folder:
                    accelerator.save_state(str(folder), safe_serialization=True)
                    if average:
                        write_bytes(folder / AVERAGE, _as_safetensors(average))
                    reached = {"step": step} | ({"geco": constraint.state()} if constraint else {})
                    write_text(folder / "step.json", json.dumps(reached))
            except (RuntimeError, SafetensorError) as error:  # what torch and safetensors make of a full disk
                raise MedvaeError(
                    f"{out / CHECKPOINT}: the checkpoint of step {step} could not be written ({error}). An "
                    f"earlier one is intact. Free some space and run the command again with --resume."
                ) from error

    quiet = quiet or not accelerator.is_main_process
    board = open_board(out, config, step) if accelerator.is_main_process else nullcontext()
    progress = Progress("Training", options.steps, start=step, quiet=quiet)
    with board as board, _stop_signal() as stopping, progress as progress:
        metrics = Metrics(out / "metrics.jsonl", silent=not accelerator.is_main_process, board=board)
        for x, mask, *keys in batches:  # keys come with tiles that are still to be augmented
            if keys:
                x, mask = augment_batch(config, x, mask, *keys)
            network.train()
            seed = (config.seed, step, accelerator.process_index)
            beta = constraint.beta if constraint else None
            terms = losses.training_loss(config.objective, network, x, mask, seed, step, beta, config.grid.voxel_mm)
            _require_finite(terms, step, out)
            if constraint:
                constraint.update(accelerator.reduce(terms.reconstruction.detach(), "mean"))
            accelerator.backward(terms.total)
            accelerator.clip_grad_norm_(network.parameters(), options.clip_gradient_norm)
            for group in optimiser.param_groups:  # a function of the step: nothing to put into a checkpoint
                group["lr"] = options.learning_rate * _rate(step, options.warmup_steps, options.steps)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            if average:
                average.update_parameters(accelerator.unwrap_model(network, keep_torch_compile=False))
            step += 1
            last = step == options.steps
            metrics.add(terms._asdict() | ({"beta": beta} if constraint else {}))
            if step % options.log_every == 0 or last:
                line = metrics.write(step)
                progress.update(step, **{k: v for k, v in line.items() if k not in ("step", "seconds")})
            if (step % options.validate_every == 0 or last) and held_out and accelerator.is_main_process:
                _validate(kept(), held_out, config, step, metrics)
                draw_loss(out / "metrics.jsonl", out / "loss.png")
                picture = draw_reconstructions(kept(), held_out, config, out / "reconstructions.png")
                add_picture(board, picture, step)
            if stopping.is_set():
                metrics.write(step)
                save_checkpoint()
                raise KeyboardInterrupt
            if step % options.checkpoint_every == 0 and not last:
                save_checkpoint()

    trained = kept().float().cpu()
    if accelerator.is_main_process:
        write_bytes(out / WEIGHTS, _as_safetensors(trained))
    return trained.eval().requires_grad_(False)


def _geco(config: Config, device: torch.device) -> losses.Geco | None:
    options = config.objective
    if options.geco_target is None:
        return None
    return losses.Geco(options.beta, options.geco_target, options.geco_speed, device)


@torch.no_grad()
def _validate(network: Network, held_out: Tiles, config: Config, step: int, metrics: Metrics) -> None:
    """Loss terms on healthy validation tiles without noise, in nats per brain voxel."""
    network.eval()
    device = next(network.parameters()).device
    options = config.objective
    sums: dict[str, float] = {}
    voxels = 0.0
    for start in range(0, len(held_out), 64):
        tiles = [held_out[0, index] for index in range(start, min(start + 64, len(held_out)))]
        x, mask = (torch.stack(parts).to(device) for parts in zip(*tiles, strict=True))
        terms = losses.validation_terms(options, network, x, mask, (config.seed, start), config.grid.voxel_mm)
        for name, value in terms.items():
            sums[name] = sums.get(name, 0.0) + float(value)
        voxels += float(mask.sum())
    metrics.line({"step": step, **{f"validation_{name}": total / voxels for name, total in sums.items()}})


def _as_safetensors(module: torch.nn.Module) -> bytes:
    return save({name: tensor.contiguous() for name, tensor in module.state_dict().items()})


def _require_finite(terms: losses.LossTerms, step: int, out: Path) -> None:
    if torch.isfinite(terms.total):
        return
    bad = [name for name, term in terms._asdict().items() if term is not None and not torch.isfinite(term)]
    names = ", ".join(name for name in bad if name != "total") or "total"
    raise MedvaeError(
        f"{out}: the loss became {terms.total.item()} at step {step + 1} (term: {names}). Training stopped; the last "
        f"checkpoint is intact. Lower training.learning_rate, or use training.precision=no."
    )


def _rate(step: int, warmup: int, steps: int) -> float:
    """Learning-rate factor: linear warm-up, then a cosine to zero."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, steps - warmup))))


def _one_thread(_: int) -> None:
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the training process, which then ends its workers


@contextmanager
def _stop_signal() -> Iterator[threading.Event]:
    """An event that is set by Ctrl-C or SIGTERM instead of ending the process in the middle of a step."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    before = {s: signal.signal(s, lambda *_: event.set()) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield event
    finally:
        for s, handler in before.items():
            signal.signal(s, handler)
