"""The loop: from healthy slices or patches to a trained network, in one run folder that can be stopped and resumed.

``RUN/config.yaml``       the resolved config
``RUN/cohort.json``       the healthy scans it learns from, by content
``RUN/metrics.jsonl``     loss terms in nats per brain voxel, one line per log interval, and how long it
                          took and waited for tiles
``RUN/checkpoints/``      the newest checkpoint: network, optimiser, generators and step
``RUN/network.safetensors``  the trained weights
``RUN/loss.png, reconstructions.png``  refreshed while training
``RUN/tensorboard/``      the same for TensorBoard, with `training.tensorboard`
"""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from medvae.config import Config, NetworkConfig
from medvae.devices import AUTO
from medvae.errors import MedvaeError
from medvae.files import write_bytes
from medvae.networks.build import build_network, load_network
from medvae.networks.interface import Network
from medvae.normative.inputs import NetworkInputs, ShownScan
from medvae.preparation.prepared import PreparedVolume
from medvae.progress import Progress
from medvae.sampling.lesion_scans import LesionScans, MixedPatches, single
from medvae.sampling.order import EpochOrder
from medvae.sampling.tiles import Tiles, augment_batch, training_tiles, validation_tiles
from medvae.training.checkpoints import as_safetensors, go_on, save_checkpoint
from medvae.training.learner import Learner, new_learner
from medvae.training.metrics import Metrics, TimedBatches
from medvae.training.objectives.base import LossTerms
from medvae.training.run_folder import METRICS, open_run
from medvae.training.snapshots import draw_loss, draw_reconstructions
from medvae.training.tensorboard import add_picture, open_board

WEIGHTS = "network.safetensors"


def train(
    config: Config,
    training: Sequence[PreparedVolume],
    validation: Sequence[PreparedVolume],
    out: Path | str,
    *,
    resume: bool = False,
    quiet: bool = False,
    inputs: NetworkInputs | None = None,
    reconstructor: Network | None = None,
    start: Network | None = None,
    device: str = AUTO,
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
    inputs
        What the network is shown, if it was fitted to the training scans before.
    reconstructor
        The trained network of ``config.network.reconstructor``, see `medvae.detection.reconstructor`; it stays as it
        is.
    start
        The trained network of ``training.start_from``, see `medvae.detection.start`.
    device
        Where to train, as in `medvae.devices.find_device`; with ``auto`` accelerate chooses.

    Returns
    -------
    Network
        The trained network, on the CPU, frozen.

    Raises
    ------
    MedvaeError
        If there is no such device, ``out`` holds another run, or a loss becomes NaN or infinite: the term is named
        and the last good checkpoint stays.
    KeyboardInterrupt
        After the checkpoint is written.
    """
    out = open_run(out, config, resume=resume)
    options = _require_all(config, training, reconstructor, start)
    modalities = training[0].image.shape[0]
    if (out / WEIGHTS).exists():
        return load_network(config, modalities, out / WEIGHTS)
    inputs = inputs or NetworkInputs.fit(options, modalities, training)
    learner = new_learner(config, modalities, reconstructor, device, start=start)
    go_on(learner, out)
    batches = _batches(config, [inputs.shown(volume) for volume in training], learner)
    held_out = validation_tiles(config, [inputs.shown(volume) for volume in validation]) if validation else None
    _fit(config, learner, batches, held_out, out, quiet=quiet)
    trained = build_network(config, modalities)  # without the mixed precision that wraps the one that was trained
    trained.load_state_dict(learner.kept.state_dict())
    if learner.writes:
        write_bytes(out / WEIGHTS, as_safetensors(trained))
    return trained.eval().requires_grad_(False)


def _require_all(
    config: Config, training: Sequence[PreparedVolume], reconstructor: Network | None, start: Network | None
) -> NetworkConfig:
    """The options of the network, when all that it needs is there."""
    if not training:
        raise MedvaeError('There is no healthy training scan: mark cases without lesions as split "train".')
    if config.network is None:
        raise MedvaeError("network: is null, so there is nothing to train: call medvae.fitting.fit.")
    if config.network.reconstructor and reconstructor is None:
        raise MedvaeError(
            "network.reconstructor: a trained network is to be shown, and none came: call medvae.fitting.fit."
        )
    if config.training.start_from and start is None:
        raise MedvaeError("training.start_from: a trained network is missing: call medvae.fitting.fit.")
    return config.network


def _batches(config: Config, training: Sequence[ShownScan], learner: Learner) -> Iterable[tuple[Tensor, ...]]:
    """Tiles and masks of this process's steps, from the learner's step to the last, on its device."""
    dataset = training_tiles(config, training)
    batch, start, stop = config.sampling.batch_size, learner.step, config.training.steps
    mixed = MixedPatches(dataset, batch, config.seed) if isinstance(dataset, LesionScans) else None
    begin, end = mixed.scans_of(start, stop) if mixed else (start * batch, stop * batch)
    processes = learner.accelerator.num_processes  # every process takes batches of its own
    order = EpochOrder(len(dataset), seed=config.seed, start=begin * processes, stop=end * processes)
    loader = DataLoader(
        dataset, batch_size=1 if mixed else batch, sampler=order, num_workers=config.sampling.workers,
        worker_init_fn=_one_thread, pin_memory=learner.accelerator.device.type == "cuda",
        collate_fn=single if mixed else None,
        prefetch_factor=mixed.block if mixed and config.sampling.workers else None,  # a block is asked for at once
    )  # fmt: skip
    loader = learner.accelerator.prepare(loader)
    return mixed.batches(loader, start, stop) if mixed else loader


def _fit(
    config: Config,
    learner: Learner,
    batches: Iterable[tuple[Tensor, ...]],
    held_out: Tiles | None,
    out: Path,
    *,
    quiet: bool,
) -> None:
    """Take all steps, with the log, the pictures and the checkpoints that are due after each."""
    options = config.training
    opened = open_board(out, config, learner.step) if learner.writes else nullcontext()
    progress = Progress("Training", options.steps, start=learner.step, quiet=quiet or not learner.writes)
    with opened as board, _stop_signal() as stopping, progress as progress:
        metrics = Metrics(out / METRICS, silent=not learner.writes, board=board)
        handed = TimedBatches(_from_workers(batches, config.sampling.workers))
        for x, mask, *keys in handed:  # keys come with tiles that are still to be augmented
            if keys:
                x, mask = augment_batch(config, x, mask, *keys)
            with _memory_told(config, learner, out):
                _step(config, learner, x, mask, out)
            last = learner.step == options.steps
            if learner.step % options.log_every == 0 or last:
                means = learner.means.take()
                waiting = metrics.write(learner.step, means, handed.take())
                progress.update(learner.step, **means, waiting=waiting)
            if (learner.step % options.validate_every == 0 or last) and held_out and learner.writes:
                _validate(config, learner, held_out, metrics)
                draw_loss(out / METRICS, out / "loss.png")
                picture = draw_reconstructions(learner.kept, held_out, config, out / "reconstructions.png")
                add_picture(board, picture, learner.step)
            if stopping.is_set():
                save_checkpoint(learner, out)
                raise KeyboardInterrupt
            if learner.step % options.checkpoint_every == 0 and not last:
                save_checkpoint(learner, out)


def _from_workers(batches: Iterable[tuple[Tensor, ...]], workers: int) -> Iterator[tuple[Tensor, ...]]:
    """The batches; a worker that the machine has no room for is told in words."""
    try:
        yield from batches
    except RuntimeError as error:
        text = str(error)
        if any(sign in text for sign in ("shared memory", "</torch_", "Bus error")):
            raise MedvaeError(
                f"sampling.workers={workers}: the shared memory through which workers hand over their tiles is full "
                f"(/dev/shm). Give sampling.workers=0, or more of it (docker run --shm-size=1g)."
            ) from error
        if "killed by signal" in text or "exited unexpectedly" in text:
            raise MedvaeError(
                f"sampling.workers={workers}: a worker process was killed, probably because memory ran out. Give fewer "
                f"(sampling.workers=0 needs least)."
            ) from error
        raise


@contextmanager
def _memory_told(config: Config, learner: Learner, out: Path) -> Iterator[None]:
    """Say in words that a GPU has not enough memory."""
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        raise MedvaeError(
            f"{out}: the memory of the GPU was not enough for step {learner.step + 1}, with "
            f"sampling.batch_size={config.sampling.batch_size}. Lower it, or end what else uses the GPU (nvidia-smi "
            f"lists it)."
        ) from error


def _step(config: Config, learner: Learner, x: Tensor, mask: Tensor, out: Path) -> None:
    """One step of the optimiser on a batch of tiles ``x (N, C, *spatial)``."""
    options, accelerator, optimiser = config.training, learner.accelerator, learner.optimiser
    learner.network.train()
    seed = (config.seed, learner.step, accelerator.process_index)
    beta = learner.geco.beta if learner.geco else None
    terms = learner.objective.training_terms(learner.network, x, mask, seed, learner.step, beta)
    _require_finite(terms, learner.step, out)
    if learner.geco:
        learner.geco.update(accelerator.reduce(terms.reconstruction.detach(), "mean"))
    accelerator.backward(terms.total)
    accelerator.clip_grad_norm_(learner.network.parameters(), options.clip_gradient_norm)
    for group in optimiser.param_groups:  # a function of the step: nothing to put into a checkpoint
        group["lr"] = options.learning_rate * _rate(learner.step, options.warmup_steps, options.steps)
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    if learner.average:
        learner.average.update_parameters(learner.bare)
    learner.step += 1
    learner.means.add(terms._asdict() | {"beta": beta})


@torch.no_grad()
def _validate(config: Config, learner: Learner, held_out: Tiles, metrics: Metrics) -> None:
    """Loss terms on healthy validation tiles without noise, in nats per brain voxel."""
    network = learner.kept.eval()
    device = next(network.parameters()).device
    sums: dict[str, float] = {}
    voxels = 0.0
    for start in range(0, len(held_out), 64):
        tiles = [held_out[0, index] for index in range(start, min(start + 64, len(held_out)))]
        x, mask = (torch.stack(parts).to(device) for parts in zip(*tiles, strict=True))
        terms = learner.objective.validation_terms(network, x, mask, (config.seed, start))
        for name, value in terms.items():
            sums[name] = sums.get(name, 0.0) + float(value)
        voxels += float(mask.sum())
    metrics.line({"step": learner.step, **{f"validation_{name}": total / voxels for name, total in sums.items()}})


def _require_finite(terms: LossTerms, step: int, out: Path) -> None:
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
