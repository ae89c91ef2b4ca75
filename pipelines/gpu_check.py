"""Whether everything works on a GPU, how fast, and whether it finds there what it finds on the CPU.

    python pipelines/gpu_check.py --device cuda --minutes 8 --out runs/gpu_check/table.md

From a checkout with the package installed (``pip install -e ".[train]"``); nothing is downloaded. Rows, in this order:

*Prediction.* The detectors that come with medvae on included scans: in float32 against the CPU, then in bfloat16 and
float16 (``torch.autocast`` around the detector; ``medvae predict`` has no such option) against float32 on the device.
*Training.* Presets, some steps each on healthy scans of the cohort: steps and samples per second after the first tenth
(which starts the workers and chooses kernels), the share of that time for which training waited for tiles, peak memory
of the GPU, and the loss of the first and the last tenth. Learning rates rise within a tenth of the steps. Two presets
once more: compiled, and without channels-last memory.
*Scores.* Each that needs a network, with one that fits, against the CPU.

The rows are worked on in a process of their own, which is started anew when it dies or does not come back. Rows that
are fine are kept beside the table and not repeated; ``--again`` repeats them. A training ends early when its share of
the time has passed, and rows for which none is left are named. The exit status is 0 if all rows are fine; each problem
is told in a sentence. ``--device cpu --tiny`` shows in one or two minutes that the program works: small networks, few
steps.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvae.config.methods import SCORES
from medvae.errors import MedvaeError, MedvaeWarning
from medvae.files import write_json, write_text
from medvae.parsing import read_json_lines

if TYPE_CHECKING:  # the process that only watches needs no PyTorch
    import numpy as np

    from medvae.detection.base import Calibrated
    from medvae.manifest import Manifest
    from medvae.preparation.prepared import PreparedVolume

REPOSITORY = Path(__file__).resolve().parents[1]
MANIFESTS = REPOSITORY / "data_manifests"
PRESETS = (
    *(f"full/{path.stem}" for path in sorted((REPOSITORY / "configs" / "full").glob("*.yaml"))),
    "patients_t1", "patients_small_t1", "cevae_t1", "patients_flair",
)  # fmt: skip
VARIANTS = {
    "compiled": ("full/dae_slice", "training.compile=true"),
    "without channels-last": ("full/dae_patch", "training.channels_last=false"),
}
DETECTORS = {"t1-2mm": "included_t1.json", "flair-2mm": "included_flair_ms.json"}
"""Those that come with medvae, and the included scans that they are for."""
PRECISIONS = ("float32", "bfloat16", "float16")
SLICES, SEGMENTER = "cevae_slice", "t1-2mm/members/patients_t1"
"""The network of scores that need one that reconstructs (untrained), and of those that need one that segments."""

LARGEST_DIFFERENCE, SMALLEST_DICE = 0.05, 0.98
"""Of anomaly maps, which lie in [0, 1], and of masks, between float32 on the device and on the CPU. By default the
convolutions of a GPU round to TensorFloat-32."""
SMALLEST_CORRELATION = 0.99
"""Of a score's map on the device with that on the CPU."""

TINY = ("sampling.workers=0", "sampling.batch_size=2", "sampling.patches_per_volume=2", "network.widths=[4,8]",
        "network.latent_size=4", "network.squeeze=2", "preparation.bias_field=none")  # fmt: skip
TINY_PATCH = "sampling.patch_size=[16,16,16]"

Row = dict[str, Any]
NO_DEVICE = 4
"""Exit status of the other process."""

_SPARE_S = 45.0
"""That a row may take beyond its share before its process is ended."""


def plan(options: argparse.Namespace) -> dict[str, Callable[[argparse.Namespace, float], Row]]:
    """What to do, by the names of the rows; each is given the options and its share of the time in seconds."""
    rows: dict[str, Callable[[argparse.Namespace, float], Row]] = {}
    for detector in DETECTORS:
        rows[f"{detector}, float32"] = partial(predicted, detector, "float32")
    rows |= {preset: partial(trained, preset, ()) for preset in PRESETS}
    rows |= {f"score {name}": partial(scored, name, ()) for name, kind in SCORES.items() if kind.needs_network}
    rows["score kl_gradient, noisy copies"] = partial(scored, "kl_gradient", ("score.smoothgrad_draws=2",))
    for precision in PRECISIONS[1:]:
        for detector in DETECTORS:
            if not options.tiny or (detector, precision) == (
                "flair-2mm",
                "bfloat16",
            ):  # a CPU may take many times as long
                rows[f"{detector}, {precision}"] = partial(predicted, detector, precision)
    for words, (preset, override) in VARIANTS.items():
        if not (options.tiny and words == "compiled"):  # compiling takes a CPU minutes
            rows[f"{preset}, {words}"] = partial(trained, preset, (override,))
    return rows


def chosen(options: argparse.Namespace) -> list[str]:
    """The names of the rows that were asked for."""
    return [name for name in plan(options) if options.only is None or options.only in name]


def trained(preset: str, overrides: Sequence[str], options: argparse.Namespace, seconds: float) -> Row:
    """Some steps of a preset."""
    from medvae.config import read_config
    from medvae.normative.inputs import NetworkInputs
    from medvae.preparation.prepare import prepare_healthy, prepare_training
    from medvae.training.accelerator import accelerator_on
    from medvae.training.loop import train
    from medvae.training.run_folder import METRICS

    steps, begun = options.steps, time.monotonic()
    config = read_config(REPOSITORY / "configs" / f"{preset}.yaml")
    small: tuple[str, ...] = ()
    if options.tiny:
        small = (*TINY, *[TINY_PATCH] * (config.sampling.kind == "patch"))
        small += ("network.deformable=false",) * config.network_options.deformable  # all of it is done by the CPU
    if config.objective.patients and config.objective.patients.outlines:
        small = (*small, f"objective.patients.outlines={MANIFESTS / 'included' / 'stroke_outlines.npz'}")
    config = read_config(
        REPOSITORY / "configs" / f"{preset}.yaml",
        [f"training.steps={steps}", f"training.warmup_steps={max(1, steps // 10)}", "training.start_from=null",
         "training.start_weights_only=false", f"training.log_every={max(1, steps // 10)}",
         f"training.validate_every={steps}", f"training.checkpoint_every={10 * steps}", *small, *overrides],
    )  # fmt: skip
    cohort, cache = healthy_cohort(options), options.folder / "cache"
    training, scale = prepare_training(cohort, config.preparation, cache=cache, quiet=True)
    validation: list[PreparedVolume] = []
    if not options.tiny:  # the pictures of a validation take longer than a tiny network's steps
        validation = prepare_healthy(cohort, "validation", config.preparation, scale=scale, cache=cache, quiet=True)
    inputs = NetworkInputs.fit(config.network_options, len(training[0].image), training)
    precision = accelerator_on(options.device, config.training.precision).mixed_precision
    run = options.folder / "runs" / file_name(preset, *overrides)
    shutil.rmtree(run, ignore_errors=True)
    prepared = time.monotonic() - begun
    with contextlib.suppress(KeyboardInterrupt), interrupted_after(max(5.0, seconds - prepared)):
        train(config, training, validation, run, inputs=inputs, device=options.device, quiet=True)
    log = read_json_lines(run / METRICS) if (run / METRICS).exists() else []
    first, *later = [line for line in log if "total" in line] or [None]
    shutil.rmtree(run, ignore_errors=True)
    if not later:
        raise MedvaeError(f"had no time for {steps} steps; give more --minutes or fewer --steps.")
    last = later[-1]
    taken = [after["seconds"] - before["seconds"] for before, after in zip([first, *later], later, strict=False)]
    rate = (last["step"] - first["step"]) / max(sum(taken), 0.01)
    waited = sum(line["waiting"] * took for line, took in zip(later, taken, strict=True)) / max(sum(taken), 0.01)
    problems = []
    if last["step"] == steps and not options.tiny and not last["total"] < first["total"]:
        problems.append(f"the loss did not fall in {steps} steps ({first['total']:.4g} to {last['total']:.4g}).")
    return {
        "precision": precision, "batch_size": config.sampling.batch_size, "workers": config.sampling.workers,
        "steps": last["step"], "steps_per_second": rate, "samples_per_second": rate * config.sampling.batch_size,
        "waiting": waited, "first_loss": first["total"], "last_loss": last["total"], "before_training_s": prepared,
        "problems": problems, "note": f"stopped after {last['step']} steps: time" if last["step"] < steps else "",
    }  # fmt: skip


def scored(name: str, overrides: Sequence[str], options: argparse.Namespace, seconds: float) -> Row:
    """A score's map of some scans on the device, against the CPU."""
    import numpy as np

    from medvae.config import changed_config, read_config
    from medvae.detection.ensemble import load_single
    from medvae.devices import find_device
    from medvae.networks.build import build_network
    from medvae.preparation.prepare import prepare_case
    from medvae.scoring.volume import raw_score

    cohort, count, device = healthy_cohort(options), 1 if options.tiny else 2, find_device(options.device)
    cases, cache = cohort.of_split("validation")[:count], options.folder / "cache"
    if SCORES[name].needs_segmenter:
        detector = load_single(SEGMENTER, device="cpu")
        config, network = detector.config, detector.network
        if options.tiny:
            config = changed_config(config, ["sampling.plane=axial"])
        volumes = [prepare_case(cohort, c, config.preparation, scale=detector.scale, cache=cache) for c in cases]
        shown = [detector.shown(volume) for volume in volumes]
    else:
        small = (*TINY, "score.restoration_steps=3", "score.context_shifts=1") if options.tiny else ()
        config = read_config(
            REPOSITORY / "configs" / f"{SLICES}.yaml",
            [*small, f"score.kind={name}", *overrides, "score.polarity=bright"],
        )
        network = build_network(config, len(cohort.modalities)).eval().requires_grad_(False)
        volumes = [prepare_case(cohort, c, config.preparation, cache=cache) for c in cases]
        shown = [volume.image for volume in volumes]
    scales = (1.0,) * len(config.score.parts) if SCORES[name].combines else ()
    made: list[np.ndarray] = []
    took: list[float] = []
    for place in (options.device, "cpu"):
        network = network.to(find_device(place))
        if place != "cpu":
            raw_score(config, network, shown[0], volumes[0].mask, scales)  # kernels are chosen
        begun = time.monotonic()
        maps = [raw_score(config, network, x, v.mask, scales) for x, v in zip(shown, volumes, strict=True)]
        took.append((time.monotonic() - begun) / count)
        made.append(np.concatenate([one[volume.mask] for one, volume in zip(maps, volumes, strict=True)]))
    here, there = made
    largest, correlation = difference(here, there)
    problems = []
    if not np.isfinite(here).all():
        problems.append(f"the map is not finite on {device}.")
    elif correlation < SMALLEST_CORRELATION:
        problems.append(f"the map on {device} has a correlation of {correlation:.4f} with that on the CPU.")
    return {
        "largest_difference": largest, "largest_value": float(np.abs(there).max()), "correlation": correlation,
        "seconds": took[0], "cpu_seconds": took[1], "problems": problems, "note": "",
    }  # fmt: skip


def predicted(name: str, precision: str, options: argparse.Namespace, seconds: float) -> Row:
    """A detector on included scans: in float32 against the CPU, in less against float32 on the same device."""
    import numpy as np
    import torch

    from medvae.detection.scan import Scan
    from medvae.devices import find_device
    from medvae.evaluation.curves import SparseCounts
    from medvae.evaluation.metrics.of_voxels import voxel_dice
    from medvae.imaging.labels import label_map
    from medvae.imaging.volume import read_volume
    from medvae.manifest import read_manifest

    manifest, device = read_manifest(MANIFESTS / DETECTORS[name]), find_device(options.device)
    patients, healthy = (manifest.of_split("test", healthy=is_healthy) for is_healthy in (False, True))
    cases = patients[:1] if options.tiny else [*patients, *healthy[:1]]
    detector = detector_of(name, options)
    point = detector.point(detector.config.calibration.mask_at)
    scans = [Scan.of_case(manifest, case) for case in cases]
    volumes = [scan.prepare(detector, cache=options.folder / "cache") for scan in scans]

    def maps_of(place: str, dtype: str) -> tuple[list[Any], float]:
        here = detector.on(place)
        reduced = contextlib.nullcontext()
        if dtype != "float32":
            reduced = torch.autocast(find_device(place).type, getattr(torch, dtype))
        with reduced:
            if place != "cpu":
                here.native_maps(volumes[0], point)  # kernels are chosen
            begun = time.monotonic()
            made = [here.native_maps(volume, point) for volume in volumes]
            return made, (time.monotonic() - begun) / len(volumes)

    reference_place = "cpu" if precision == "float32" else options.device
    expected, cpu_seconds = maps_of(reference_place, "float32")
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    made, took = expected, cpu_seconds
    if (options.device, precision) != (reference_place, "float32"):
        made, took = maps_of(options.device, precision)
    found, wanted = (np.concatenate([one.anomaly[one.brain_mask] for one in maps]) for maps in (made, expected))
    masks, there = (np.concatenate([one.lesion_mask.ravel() > 0 for one in maps]) for maps in (made, expected))
    dice = voxel_dice(int((masks & there).sum()), int(masks.sum()), int(there.sum()))
    largest, correlation = difference(found, wanted)
    row: Row = {"largest_difference": largest, "correlation": correlation, "dice": dice, "seconds": took,
                "reference_seconds": cpu_seconds, "scans": len(scans), "problems": [], "note": ""}  # fmt: skip
    if not np.isfinite(found).all():
        if precision == "float32":
            row["problems"].append(f"the anomaly map is not finite on {device}.")
        return row | {"note": "the anomaly map is not finite"}
    truths = [label_map(read_volume(manifest.resolve(c.label)), manifest.label_values).lesion for c in cases if c.label]
    for key, maps in (("ap", made), ("reference_ap", expected)):  # patients come first
        pairs = zip(maps, truths, strict=False)
        row[key] = statistics.mean(
            SparseCounts.of(one.anomaly[one.brain_mask], truth[one.brain_mask]).summary().ap for one, truth in pairs
        )
    if precision == "float32" and (largest > LARGEST_DIFFERENCE or dice < SMALLEST_DICE):
        row["problems"].append(
            f"the anomaly maps on {device} differ from those on the CPU by up to {largest:.3g}, the masks' Dice is "
            f"{dice:.4f}; {LARGEST_DIFFERENCE} and {SMALLEST_DICE} were expected."
        )
    return row


def detector_of(name: str, options: argparse.Namespace) -> Calibrated:
    """A detector on the CPU; with ``--tiny`` its network of slices alone, in one plane."""
    from dataclasses import replace

    from medvae.config import changed_config
    from medvae.detection.ensemble import load_detector, load_single

    if not options.tiny:
        return load_detector(name, device="cpu")
    detector = load_single(f"{name}/members/patients_{name.partition('-')[0]}", device="cpu")
    return replace(detector, config=changed_config(detector.config, ["sampling.plane=axial", "score.flipped=false"]))


def healthy_cohort(options: argparse.Namespace) -> Manifest:
    """A few healthy scans of the cohort."""
    from medvae.benchmark.cohorts import combine
    from medvae.manifest import read_manifest

    manifest, counts = read_manifest(options.manifest), {"train": 3, "validation": 1}
    if not options.tiny:
        counts = {"train": 8, "validation": 2}
    chosen = [case for split, count in counts.items() for case in manifest.of_split(split, healthy=True)[:count]]
    return combine(options.folder / "cohort.json", "gpu_check", [(manifest, chosen)])


def difference(found: np.ndarray, expected: np.ndarray) -> tuple[float, float]:
    """The largest difference, and the correlation."""
    import numpy as np

    if np.array_equal(found, expected):
        return 0.0, 1.0
    found, expected = found.astype(np.float64), expected.astype(np.float64)
    with np.errstate(all="ignore"):
        return float(np.abs(found - expected).max()), float(np.corrcoef(found, expected)[0, 1])


@contextlib.contextmanager
def interrupted_after(seconds: float) -> Iterator[None]:
    """Ctrl-C after some seconds, which a training heeds between two steps."""
    import _thread

    timer = threading.Timer(seconds, _thread.interrupt_main)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def work(names: Sequence[str], options: argparse.Namespace, deadline: float) -> None:
    """Do rows, one after the other, and write each as it is finished."""
    import torch

    warnings.simplefilter("ignore", MedvaeWarning)  # of precision, which the table tells
    write_json(options.folder / "environment.json", environment(options))
    rows = plan(options)
    cuda = torch.cuda.is_available() and options.device != "cpu"
    for number, name in enumerate(names):
        gc.collect()
        if cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        seconds, begun = share(deadline, len(names) - number), time.monotonic()
        try:
            row = rows[name](options, seconds)
        except Exception as error:  # a row that fails is a finding, and the others go on
            row = {"problems": [sentence(error)], "note": "", "traceback": traceback.format_exc()}
        if cuda:
            row["allocated_gb"] = torch.cuda.max_memory_allocated() / 2**30
            row["reserved_gb"] = torch.cuda.max_memory_reserved() / 2**30
        row["took_s"] = time.monotonic() - begun
        write_json(path_of(name, options), {"name": name, "settings": settings(options)} | finite(row))
        if any("CUDA error" in problem for problem in row["problems"]):
            sys.exit(3)  # nothing works in this process any more


def share(deadline: float, rows: int) -> float:
    """Seconds for a row: others often need less than an equal share. The last ones leave time to end in order."""
    rest = deadline - time.time()
    return max(5.0, min(1.5 * rest / max(1, rows), rest - 10))


def sentence(error: Exception) -> str:
    """What went wrong."""
    text = " ".join(str(error).split())
    if "OutOfMemoryError" in (type(error).__name__, type(error.__cause__).__name__) or "out of memory" in text:
        return "out of memory: lower sampling.batch_size."
    return text if isinstance(error, MedvaeError) else f"{type(error).__name__}: {text[:300]}"


def environment(options: argparse.Namespace) -> dict[str, Any]:
    """What the rows were measured on."""
    import torch

    from medvae import __version__
    from medvae.cores import available_cores
    from medvae.devices import find_device

    device = find_device(options.device)
    found = {"medvae": __version__, "torch": torch.__version__, "device": str(device), "cores": available_cores()}
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found |= {
            "device": f"{properties.name}, {properties.total_memory / 2**30:.0f} GB", "CUDA": torch.version.cuda,
            "cuDNN": torch.backends.cudnn.version(), "TF32 in convolutions": torch.backends.cudnn.allow_tf32,
        }  # fmt: skip
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
            said = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
            found["driver"] = said.split()[0] if said.strip() else "unknown"
    return found


def supervise(names: Sequence[str], options: argparse.Namespace, command: Sequence[str]) -> bool:
    """Have the rows done by another process, which is started anew where it died or did not come back in time.

    False if there is no such device, which that process has said.
    """
    deadline = time.time() + 60 * options.minutes
    left = list(names)
    while left and time.time() < deadline:
        child = subprocess.Popen([*command, "--worker", str(deadline), *left], start_new_session=True)
        begun, limit = time.time(), share(deadline, len(left)) + _SPARE_S
        ended = None
        try:
            while left and ended is None:
                time.sleep(0.1)
                ended = child.poll()
                while left and (row := read_row(left[0], options)) is not None:
                    print(f"{len(names) - len(left) + 1}/{len(names)} {left.pop(0)}: {in_words(row)}", flush=True)
                    begun, limit = time.time(), share(deadline, len(left)) + _SPARE_S
                    write_table(options)
                if time.time() > deadline or time.time() > begun + limit:
                    break
        finally:
            end(child)
        if ended == NO_DEVICE:
            return False
        if left and time.time() < deadline:
            why = f"its process died (exit status {ended})."
            if ended is None:
                why = f"its process did not come back within {limit:.0f} s."
            name = left.pop(0)
            if read_row(name, options) is None:
                row = {"name": name, "settings": settings(options), "problems": [why], "note": ""}
                write_json(path_of(name, options), row)
            print(f"{len(names) - len(left)}/{len(names)} {name}: {why}", flush=True)
    return True


def end(child: subprocess.Popen[bytes]) -> None:
    """End the process and those that it has started."""
    if os.name == "posix":
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
    child.kill()
    child.wait()


def settings(options: argparse.Namespace) -> dict[str, Any]:
    """What a row depends on: one that was made with others is made anew."""
    return {"device": options.device, "tiny": options.tiny, "steps": options.steps, "manifest": str(options.manifest)}


def file_name(*parts: str) -> str:
    """Parts of a name without what a file's name may not hold."""
    return "_".join("".join(c if c.isalnum() or c in "-.=" else "_" for c in part) for part in parts)


def path_of(name: str, options: argparse.Namespace) -> Path:
    """Where a row is kept."""
    return options.folder / "rows" / f"{file_name(name)}.json"


def read_row(name: str, options: argparse.Namespace) -> Row | None:
    """A row that was made with these options."""
    try:
        row = json.loads(path_of(name, options).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return row if row.get("settings") == settings(options) else None


def finite(row: Row) -> Row:
    """A row as JSON can hold it."""
    return {k: None if isinstance(v, float) and v - v != 0 else v for k, v in row.items()}


def in_words(row: Row) -> str:
    """A row in a line."""
    if row["problems"]:
        return " ".join(row["problems"])
    if "steps_per_second" in row:
        return f"{row['steps_per_second']:.3g} steps per second"
    return f"{number(row['seconds'])} s per scan, differs by up to {number(row['largest_difference'])}"


def number(value: float | None) -> str:
    """Three digits, or a dash."""
    return "–" if value is None else f"{value:.3g}"


def write_table(options: argparse.Namespace) -> list[str]:
    """Write the Markdown table and the JSON of all rows; gives the problems, a sentence each."""
    names = list(plan(options))
    rows = {name: row for name in names if (row := read_row(name, options)) is not None}
    problems = [f"{name}: {problem}" for name, row in rows.items() for problem in row["problems"]]
    if missing := [name for name in chosen(options) if name not in rows]:
        problems.append(f"not done, as there was no time: {'; '.join(missing)}. Run the same command again.")
    environs = options.folder / "environment.json"
    about = json.loads(environs.read_text(encoding="utf-8")) if environs.exists() else {}
    lines = ["# medvae on " + about.get("device", options.device), ""]
    lines += [", ".join(f"{key} {value}" for key, value in about.items() if key != "device") + ".", ""]
    if options.tiny:
        lines += ["Tiny networks and a few steps: this shows that the program works, its numbers mean nothing.", ""]
    memory = "peak memory, allocated / reserved (GB)"
    lines += _columns("Training", ["preset", "precision", "batch", "steps", "steps per s", "samples per s", "waiting",
                                   memory, "loss, first → last", ""], [
        [name, row["precision"], str(row["batch_size"]), str(row["steps"]), number(row["steps_per_second"]),
         number(row["samples_per_second"]), f"{row['waiting']:.0%}", _memory(row),
         f"{number(row['first_loss'])} → {number(row['last_loss'])}", row["note"]]
        for name, row in rows.items() if "steps" in row
    ])  # fmt: skip
    lines += _columns("Prediction", ["detector", "compared with", "largest difference of the map", "Dice of the masks",
                                     "mean AP", "AP of the other", "s per prepared scan", "s of the other",
                                     memory, ""], [
        [name, "float32 on the CPU" if name.endswith("float32") else "float32", number(row["largest_difference"]),
         f"{row['dice']:.4f}", number(row.get("ap")), number(row.get("reference_ap")), number(row["seconds"]),
         number(row["reference_seconds"]), _memory(row), row["note"]]
        for name, row in rows.items() if "dice" in row
    ])  # fmt: skip
    lines += _columns("Scores against the CPU", ["score", "largest difference", "largest value", "correlation",
                                                 "s per scan", "s on the CPU", memory], [
        [name, number(row["largest_difference"]), number(row["largest_value"]), number(row["correlation"]),
         number(row["seconds"]), number(row["cpu_seconds"]), _memory(row)]
        for name, row in rows.items() if "cpu_seconds" in row
    ])  # fmt: skip
    lines += ["## Problems", "", *(f"- {problem}" for problem in problems or ["none"]), ""]
    write_text(options.out, "\n".join(lines))
    write_json(options.out.with_suffix(".json"), {"environment": about, "rows": rows, "problems": problems})
    return problems


def _columns(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    head = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    return [f"## {title}", "", *head, *(f"| {' | '.join(row)} |" for row in rows), ""]


def _memory(row: Row) -> str:
    return f"{row['allocated_gb']:.2f} / {row['reserved_gb']:.2f}" if "allocated_gb" in row else "–"


def main(arguments: Sequence[str] | None = None) -> int:
    """Check what is asked for and write the table; 0 if all rows are fine."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1 (the second GPU), mps or cpu.")
    parser.add_argument("--manifest", type=Path, default=MANIFESTS / "included_t1.json", help="With healthy T1 scans.")
    parser.add_argument("--steps", type=int, help="Of each training; 200, or 3 with --tiny.")
    parser.add_argument("--minutes", type=float, default=8.0, help="For all rows together.")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu_check/table.md"), help="The table.")
    parser.add_argument("--only", metavar="WORDS", help="Only rows whose name holds these words.")
    parser.add_argument("--again", action="store_true", help="Do rows again that are fine already.")
    parser.add_argument("--tiny", action="store_true", help="Small networks and a few steps.")
    parser.add_argument("--worker", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    options.steps = options.steps or (3 if options.tiny else 200)
    options.out, options.manifest = options.out.resolve(), options.manifest.resolve()
    options.folder = options.out.parent
    (options.folder / "rows").mkdir(parents=True, exist_ok=True)
    if options.worker:
        deadline, *names = options.worker
        try:
            work(names, options, float(deadline))
        except MedvaeError as error:  # there is no such device
            print(error, file=sys.stderr)
            return NO_DEVICE
        return 0
    names = chosen(options)
    kept = {} if options.again else {name: row for name in names if (row := read_row(name, options)) is not None}
    names = [name for name in names if name not in kept or kept[name]["problems"]]
    for name in names:
        path_of(name, options).unlink(missing_ok=True)
    given = sys.argv[1:] if arguments is None else list(arguments)
    if not supervise(names, options, [sys.executable, __file__, *given]):
        return 1
    problems = write_table(options)
    print(f"{options.out}: {'all rows are fine.' if not problems else ''}")
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
