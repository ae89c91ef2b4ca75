"""The loop: from healthy slices to a trained network, in one run folder that can be stopped and resumed.

``RUN/config.yaml``       the resolved config
``RUN/metrics.jsonl``     loss terms in nats per brain voxel, one line per log interval
``RUN/checkpoints/``      the newest checkpoint: network, optimiser, schedule, generators and step
``RUN/network.safetensors``  the trained weights
``RUN/loss.png, reconstructions.png``  refreshed while training
"""

from __future__ import annotations

import json
import math
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor
from torch.utils.data import DataLoader

from medvae import objectives
from medvae.config import Config, dump_config
from medvae.errors import MedvaeError
from medvae.files import remove_leftovers, told, whole_folder, write_bytes, write_text
from medvae.networks.vae import ConvVAE
from medvae.preparation.grid import STANDARD_GRID
from medvae.preparation.prepare import PreparedVolume
from medvae.progress import Progress
from medvae.reporting.training_pictures import draw_loss, draw_reconstructions
from medvae.sampling.augmentation import SliceAugmenter
from medvae.sampling.slices import EpochOrder, SliceDataset, slices_of

WEIGHTS = "network.safetensors"
CHECKPOINT = "checkpoints/latest"


def build_network(config: Config, channels: int) -> ConvVAE:
    """The network of a config, freshly initialised from the run's seed.

    Raises
    ------
    MedvaeError
        If the slices cannot be halved as often as the network has widths.
    """
    options = config.network
    shape = slices_of(np.empty(STANDARD_GRID.shape, dtype=bool), config.sampling.plane).shape[1:]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        try:
            return ConvVAE(shape, channels=channels, **options.model_dump())
        except ValueError as error:
            raise MedvaeError(f"network.widths: {error}") from None


def load_network(config: Config, channels: int, weights: Path) -> ConvVAE:
    """The network of a config with trained weights, in evaluation mode and frozen."""
    network = build_network(config, channels)
    network.load_state_dict(load_file(weights))
    return network.eval().requires_grad_(False)


def open_run(out: Path | str, config: Config, *, resume: bool) -> Path:
    """Make the run folder, or check that the one that is there is the same run and may be resumed.

    Raises
    ------
    MedvaeError
        If the folder holds something and ``resume`` is False, or another config.
    """
    out = Path(out)
    resolved = dump_config(config)
    existing = out / "config.yaml"
    if existing.exists():
        if not resume:
            raise MedvaeError(
                f"{out}: already holds a run. Continue it with --resume, or choose another --out folder; "
                f"nothing was overwritten."
            )
        if existing.read_text(encoding="utf-8") != resolved:
            raise MedvaeError(
                f"{out}: was started with another config than the one given now (compare with {existing}). "
                f"Resume with the config it was started with, or choose another --out folder."
            )
    elif out.is_dir() and any(out.iterdir()):
        raise MedvaeError(f"{out}: is not empty and not a run of medvae. Choose another --out folder.")
    else:
        write_text(existing, resolved)
    return out


def train(
    config: Config,
    training: Sequence[PreparedVolume],
    validation: Sequence[PreparedVolume],
    out: Path | str,
    *,
    resume: bool = False,
    quiet: bool = False,
) -> ConvVAE:
    """Train the network of ``config`` on healthy volumes.

    Every random number derives from (seed, epoch, index) or (seed, step), so that six steps equal three, a stop
    and three more. Ctrl-C and SIGTERM write a checkpoint before the process ends.

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

    Returns
    -------
    ConvVAE
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
    channels = training[0].image.shape[0]
    if (out / WEIGHTS).exists():
        return load_network(config, channels, out / WEIGHTS)

    accelerator = Accelerator(mixed_precision=options.precision)
    network = build_network(config, channels)
    optimiser = torch.optim.Adam(network.parameters(), lr=options.learning_rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: _rate(step, options.warmup_steps, options.steps)
    )
    network, optimiser = accelerator.prepare(network, optimiser)
    accelerator.register_for_checkpointing(schedule)

    step = 0
    remove_leftovers(out / CHECKPOINT)
    if (out / CHECKPOINT).is_dir():
        accelerator.load_state(str(out / CHECKPOINT))
        step = json.loads((out / CHECKPOINT / "step.json").read_text())["step"]
        _forget_after(out / "metrics.jsonl", step)

    plane = config.sampling.plane
    shape = slices_of(training[0].mask, plane).shape[1:]
    augmenter = SliceAugmenter(config.augmentation, plane, shape) if config.augmentation.enabled else None
    fraction = config.sampling.min_brain_fraction
    dataset = SliceDataset(
        training, plane, min_brain_fraction=fraction, augmenter=augmenter, seed=config.seed
    )  # fmt: skip
    held_out = SliceDataset(validation, plane, min_brain_fraction=fraction) if validation else None
    batch = config.sampling.batch_size
    order = EpochOrder(len(dataset), seed=config.seed, start=step * batch, stop=options.steps * batch)
    loader = DataLoader(
        dataset, batch_size=batch, sampler=order, num_workers=config.sampling.workers, worker_init_fn=_one_thread,
        pin_memory=torch.cuda.is_available(),
    )  # fmt: skip
    loader = accelerator.prepare(loader)

    def save_checkpoint() -> None:
        if accelerator.is_main_process:
            try:
                with whole_folder(out / CHECKPOINT) as folder:
                    accelerator.save_state(str(folder), safe_serialization=True)
                    write_text(folder / "step.json", json.dumps({"step": step}))
            except (RuntimeError, SafetensorError) as error:  # what torch and safetensors make of a full disk
                raise MedvaeError(
                    f"{out / CHECKPOINT}: the checkpoint of step {step} could not be written ({error}). The one before "
                    f"it is intact. Free some space and run the command again with --resume."
                ) from error

    metrics = _Metrics(out / "metrics.jsonl")
    with _stop_signal() as stopping, Progress("Training", options.steps, start=step, quiet=quiet) as progress:
        for x, mask in loader:
            network.train()
            terms = _loss(network, x, mask, config, seed=(config.seed, step, accelerator.process_index))
            _require_finite(terms, step, out)
            accelerator.backward(terms.total)
            accelerator.clip_grad_norm_(network.parameters(), options.clip_gradient_norm)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            schedule.step()
            step += 1
            last = step == options.steps
            metrics.add(terms)
            if step % options.log_every == 0 or last:
                line = metrics.write(step)
                progress.update(step, **{k: v for k, v in line.items() if k not in ("step", "seconds")})
            if (step % options.validate_every == 0 or last) and held_out and accelerator.is_main_process:
                _validate(accelerator.unwrap_model(network), held_out, config, step, metrics)
                draw_loss(out / "metrics.jsonl", out / "loss.png")
                draw_reconstructions(accelerator.unwrap_model(network), held_out, out / "reconstructions.png")
            if stopping.is_set():
                metrics.write(step)
                save_checkpoint()
                raise KeyboardInterrupt
            if step % options.checkpoint_every == 0 and not last:
                save_checkpoint()

    trained = accelerator.unwrap_model(network).float().cpu()
    if accelerator.is_main_process:
        write_bytes(out / WEIGHTS, save({k: v.contiguous() for k, v in trained.state_dict().items()}))
    return trained.eval().requires_grad_(False)


def _loss(network: ConvVAE, x: Tensor, mask: Tensor, config: Config, seed: Sequence[int]) -> objectives.LossTerms:
    options = config.objective
    generator = torch.Generator(x.device)
    generator.manual_seed(int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0] >> 1))
    noise = torch.randn(len(x), config.network.latent_size, generator=generator, device=x.device)
    common = {"likelihood": options.likelihood, "scale": options.likelihood_scale, "beta": options.beta}
    if options.kind == "vae":
        return objectives.vae_loss(network, x, mask, noise, **common)
    corrupted, _ = objectives.blank_squares(
        x, mask, generator, count=options.context_squares, side=options.context_side, fill=options.context_fill
    )
    return objectives.cevae_loss(
        network, x, corrupted, mask, noise, context_weight=options.context_weight, **common
    )  # fmt: skip


@torch.no_grad()
def _validate(network: ConvVAE, held_out: SliceDataset, config: Config, step: int, metrics: _Metrics) -> None:
    """ELBO terms on the healthy validation slices with z = μ, in nats per brain voxel."""
    network.eval()
    device = next(network.parameters()).device
    options = config.objective
    sums = torch.zeros(3, dtype=torch.float64)
    for start in range(0, len(held_out), 128):
        x = torch.from_numpy(held_out.images[start : start + 128]).to(device)
        mask = torch.from_numpy(held_out.masks[start : start + 128]).to(device)
        terms = objectives.vae_loss(
            network, x, mask, None, likelihood=options.likelihood, scale=options.likelihood_scale, beta=options.beta
        )
        voxels = float(mask.sum())
        sums += torch.tensor([float(terms.reconstruction) * voxels, float(terms.kl) * voxels, voxels])
    reconstruction, kl, voxels = sums.tolist()
    metrics.line({"step": step, "validation_reconstruction": reconstruction / voxels, "validation_kl": kl / voxels})


def _require_finite(terms: objectives.LossTerms, step: int, out: Path) -> None:
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


def _forget_after(metrics: Path, step: int) -> None:
    """Drop the lines of steps that a resumed run is about to repeat."""
    if metrics.exists():
        lines = [line for line in metrics.read_text().splitlines() if json.loads(line)["step"] <= step]
        write_text(metrics, "".join(line + "\n" for line in lines))


class _Metrics:
    """Averages loss terms between log lines and appends them to metrics.jsonl."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._sums: dict[str, float] = {}
        self._count = 0
        self._started = time.monotonic()

    def add(self, terms: objectives.LossTerms) -> None:
        for name, term in terms._asdict().items():
            if term is not None:
                self._sums[name] = self._sums.get(name, 0.0) + float(term.detach())
        self._count += 1

    def write(self, step: int) -> dict[str, float]:
        if not self._count:
            return {}
        means = {name: total / self._count for name, total in self._sums.items()}
        self._sums, self._count = {}, 0
        line = {"step": step, "seconds": round(time.monotonic() - self._started, 2), **means}
        self.line(line)
        return line

    def line(self, content: dict[str, float]) -> None:
        with told(self._path), open(self._path, "a", encoding="utf-8") as stream:
            stream.write(json.dumps(content) + "\n")


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
