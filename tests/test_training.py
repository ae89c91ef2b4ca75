import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from medvae.config import Config, dump_config
from medvae.detection.detector import Detector
from medvae.errors import MedvaeError
from medvae.fitting import fit
from medvae.networks.build import load_network
from medvae.preparation.prepare import prepare_healthy
from medvae.training import checkpoints, loop
from medvae.training.loop import train
from medvae.training.metrics import TIMES, Metrics, TimedBatches
from medvae.training.objectives import context, elbo
from medvae.training.run_folder import open_run, record_cohort

SMALL = {
    "name": "small",
    "sampling": {"batch_size": 8, "workers": 0},
    "network": {"widths": [4, 8, 8], "latent_size": 8, "squeeze": 4},
    "training": {"steps": 6, "warmup_steps": 2, "log_every": 1, "validate_every": 3, "checkpoint_every": 3},
}


def small(**changes) -> Config:
    merged = {**SMALL, **changes}
    merged["training"] = SMALL["training"] | changes.get("training", {})
    return Config.model_validate(merged)


@pytest.fixture(scope="module")
def scans(cohort, prepared):
    config = small()
    return tuple(
        prepare_healthy(cohort, split, config.preparation, cache=prepared, quiet=True)
        for split in ("train", "validation")
    )


def weights(network):
    return torch.cat([p.flatten() for p in network.state_dict().values()])


def stop_after(monkeypatch, step):
    """Send this process a Ctrl-C in the middle of a step."""
    original, calls = context.cevae_loss, []

    def loss(*arguments, **options):
        calls.append(1)
        if len(calls) == step:
            os.kill(os.getpid(), signal.SIGINT)
        return original(*arguments, **options)

    monkeypatch.setattr(context, "cevae_loss", loss)
    return original


@pytest.mark.parametrize("backend", ["batchgenerators", "tensor"])
def test_six_steps_equal_three_a_stop_and_three_more(tmp_path, scans, monkeypatch, backend):
    tensor = backend == "tensor"
    averaged, held = ({"ema_decay": 0.5}, {"geco_target": 0.5}) if tensor else ({}, {})
    config = small(augmentation={"backend": backend}, training=averaged, objective=held)
    whole = train(config, *scans, tmp_path / "whole", quiet=True)
    original = stop_after(monkeypatch, 3)
    with pytest.raises(KeyboardInterrupt):
        train(config, *scans, tmp_path / "parts", quiet=True)
    assert not (tmp_path / "parts" / loop.WEIGHTS).exists()
    names = {path.name for path in (tmp_path / "parts" / checkpoints.CHECKPOINT).iterdir()}
    assert not [name for name in names if name.startswith("custom_checkpoint")]  # would be unpickled in full
    monkeypatch.setattr(context, "cevae_loss", original)
    torch.manual_seed(99)
    np.random.seed(99)
    resumed = train(config, *scans, tmp_path / "parts", resume=True, quiet=True)
    assert torch.equal(weights(whole), weights(resumed))

    def totals(folder):
        lines = [json.loads(line) for line in (tmp_path / folder / "metrics.jsonl").read_text().splitlines()]
        return [(line["step"], line["total"]) for line in lines if "total" in line]

    assert totals("whole") == totals("parts")
    assert [step for step, _ in totals("whole")] == [1, 2, 3, 4, 5, 6]


def kill_in(monkeypatch, step):
    """End the process in the middle of a step, as SIGKILL does: nothing is written any more."""
    original, calls = context.cevae_loss, []

    def killed(*arguments, **options):
        calls.append(1)
        if len(calls) == step:
            raise SystemExit("killed")
        return original(*arguments, **options)

    monkeypatch.setattr(context, "cevae_loss", killed)


def log_of(folder):
    """The lines of metrics.jsonl, without how long they took."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in TIMES} for line in lines]


UNEVEN = {"steps": 7, "log_every": 3, "validate_every": 4, "checkpoint_every": 5}
"""Steps between two lines, two validations and two checkpoints that have nothing in common."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory, scans):
    folder = tmp_path_factory.mktemp("whole")
    network = train(small(training=UNEVEN, objective={"geco_target": 0.5}), *scans, folder / "run", quiet=True)
    return network, folder / "run"


def test_a_run_that_is_stopped_after_every_step_has_the_log_of_one_that_was_not(tmp_path, scans, whole):
    config, out = small(training=UNEVEN, objective={"geco_target": 0.5}), tmp_path / "run"
    expected = log_of(whole[1])
    assert [line["step"] for line in expected] == [3, 4, 6, 7, 7]
    for step in range(1, 8):
        with pytest.MonkeyPatch.context() as patch:
            stop_after(patch, 1)
            with pytest.raises(KeyboardInterrupt):
                train(config, *scans, out, resume=True, quiet=True)
        written = log_of(out) if step >= 3 else []
        assert written == [line for line in expected if line["step"] <= step]
    resumed = train(config, *scans, out, resume=True, quiet=True)
    assert torch.equal(weights(whole[0]), weights(resumed))
    assert log_of(out) == expected
    assert (out / "loss.png").read_bytes() == (whole[1] / "loss.png").read_bytes()


def test_a_run_that_is_killed_in_every_step_has_the_log_of_one_that_was_not(tmp_path, scans, whole):
    config, out = small(training=UNEVEN, objective={"geco_target": 0.5}), tmp_path / "run"
    expected = log_of(whole[1])
    for step in range(1, 8):
        reached = 5 if step > 6 else 0  # the step of the newest checkpoint
        with pytest.MonkeyPatch.context() as patch:
            kill_in(patch, step - reached)
            with pytest.raises(SystemExit):
                train(config, *scans, out, resume=True, quiet=True)
        written = log_of(out) if step > 3 else []
        assert written == [line for line in expected if line["step"] < step]
        if step == 4:
            with open(out / "metrics.jsonl", "a") as stream:
                stream.write('{"step": 6, "tot')  # in the middle of a line
    resumed = train(config, *scans, out, resume=True, quiet=True)
    assert torch.equal(weights(whole[0]), weights(resumed))
    assert log_of(out) == expected
    assert (out / "loss.png").read_bytes() == (whole[1] / "loss.png").read_bytes()


def test_run_folder_holds_what_it_promises(tmp_path, scans):
    train(small(training={"checkpoint_every": 2}), *scans, tmp_path / "run", quiet=True)
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == [
        "checkpoints", "config.yaml", "loss.png", "metrics.jsonl", "network.safetensors", "reconstructions.png",
    ]  # fmt: skip


def test_two_runs_of_one_seed_are_equal_and_workers_do_not_matter(tmp_path, scans):
    first = train(small(), *scans, tmp_path / "a", quiet=True)
    second = train(small(sampling={"batch_size": 8, "workers": 1}), *scans, tmp_path / "b", quiet=True)
    assert torch.equal(weights(first), weights(second))
    other = train(small(seed=1), *scans, tmp_path / "c", quiet=True)
    assert not torch.equal(weights(first), weights(other))


@pytest.mark.parametrize("kind", ["vae", "cevae"])
def test_loss_falls(tmp_path, scans, kind):
    options = {"steps": 40, "learning_rate": 3e-3, "log_every": 5, "validate_every": 40, "checkpoint_every": 40}
    config = small(objective={"kind": kind}, training=options)
    train(config, *scans, tmp_path / "run", quiet=True)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    totals = [line["total"] for line in lines if "total" in line]
    assert totals[-1] < totals[0] - 0.1
    assert ("context" in lines[0]) == (kind == "cevae")


def test_existing_run_is_not_overwritten(tmp_path, scans):
    train(small(), *scans, tmp_path / "run", quiet=True)
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    with pytest.raises(MedvaeError, match="already holds a run"):
        train(small(), *scans, tmp_path / "run", quiet=True)
    with pytest.raises(MedvaeError, match="another config"):
        train(small(seed=5), *scans, tmp_path / "run", resume=True, quiet=True)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").write_text("dear")
    with pytest.raises(MedvaeError, match="not empty"):
        train(small(), *scans, tmp_path / "thesis", quiet=True)
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before
    assert [p.name for p in (tmp_path / "thesis").iterdir()] == ["chapter1.tex"]


def test_loss_that_is_not_finite_stops_at_once_and_names_the_term(tmp_path, scans, monkeypatch):
    original = elbo.kl_divergence
    monkeypatch.setattr(elbo, "kl_divergence", lambda *a: original(*a) * float("nan"))
    with pytest.raises(MedvaeError, match=r"step 1 \(term: kl"):
        train(small(), *scans, tmp_path / "run", quiet=True)


def test_without_training_scans(tmp_path, scans):
    with pytest.raises(MedvaeError, match="no healthy training scan"):
        train(small(), [], scans[1], tmp_path / "run", quiet=True)


def test_training_works_outside_the_main_thread(tmp_path, scans):
    thread = threading.Thread(target=lambda: train(small(), *scans, tmp_path / "run", quiet=True))
    thread.start()
    thread.join()
    assert (tmp_path / "run" / loop.WEIGHTS).exists()


def test_a_gpu_with_too_little_memory_is_told_in_words(scans, tmp_path, monkeypatch):
    def full(*_, **__):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

    monkeypatch.setattr(context, "cevae_loss", full)
    with pytest.raises(MedvaeError, match=r"memory of the GPU was not enough for step 1, with sampling.batch_size=8"):
        train(small(), *scans, tmp_path / "run", quiet=True)


@pytest.mark.parametrize("changes", [{"precision": "bf16"}, {"precision": "bf16", "channels_last": True}])
def test_the_trained_network_is_the_one_that_is_loaded_whatever_the_precision(scans, tmp_path, monkeypatch, changes):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)  # or emulated
    config = small(training=changes)
    trained = train(config, *scans, tmp_path / "run", quiet=True)  # thresholds are set with it
    loaded = load_network(config, 1, tmp_path / "run" / "network.safetensors")
    x = torch.rand(2, 1, *config.tile_shape)
    assert torch.equal(trained(x).reconstruction, loaded(x).reconstruction)


def test_one_process_trains_in_several_precisions(tmp_path, scans, monkeypatch):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)  # or emulated: that is enough here
    found = [weights(train(small(training={"precision": precision}), *scans, tmp_path / str(number), quiet=True))
             for number, precision in enumerate(("no", "bf16", "no"))]  # fmt: skip
    assert torch.equal(found[0], found[2])
    assert not torch.equal(found[0], found[1])


def test_learning_rate_warms_up_and_falls_to_nothing():
    rates = [loop._rate(step, 10, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == 1
    assert rates[10] == pytest.approx(1, abs=1e-3)
    assert rates[55] == pytest.approx(0.5, abs=0.02)
    assert rates[99] < 1e-3
    assert loop._rate(0, 0, 100) == 1


def test_averaged_weights_are_what_is_kept(tmp_path, scans):
    last = train(small(), *scans, tmp_path / "last", quiet=True)
    barely = train(small(training={"ema_decay": 0.001}), *scans, tmp_path / "barely", quiet=True)
    slow = train(small(training={"ema_decay": 0.9}), *scans, tmp_path / "slow", quiet=True)
    assert torch.allclose(weights(last), weights(barely), atol=1e-4)
    assert not torch.allclose(weights(last), weights(slow), atol=1e-4)


def test_two_processes_share_the_steps_and_one_of_them_writes(tmp_path, cohort):
    config = tmp_path / "small.yaml"
    config.write_text(dump_config(small(training={"steps": 4, "checkpoint_every": 2})))
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = ["-m", "medvae", "train", str(config), "--data", str(cohort.path), "--out", str(tmp_path / "run"), "-q"]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*launch, *command], env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "total" in line] == [1, 2, 3, 4]
    assert Detector.load(tmp_path / "run").fingerprint


def test_of_several_processes_the_first_alone_looks_and_writes(tmp_path, scans, cohort, monkeypatch):
    out = tmp_path / "run"
    out.mkdir()
    (out / ".config.yaml.x.part").write_text("the first process is writing its config")
    with pytest.raises(MedvaeError, match="not empty"):
        open_run(out, small(), resume=False)
    monkeypatch.setenv("RANK", "1")
    open_run(out, small(), resume=False)
    record_cohort(out, cohort)
    assert [file.name for file in out.iterdir()] == [".config.yaml.x.part"]


def scalars(folder):
    """What TensorBoard shows: name to ``[(step, value), …]``, and the steps of pictures."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0})
    board.Reload()
    names = {name: [(event.step, event.value) for event in board.Scalars(name)] for name in board.Tags()["scalars"]}
    return names, [event.step for name in board.Tags()["images"] for event in board.Images(name)]


def test_tensorboard_holds_the_numbers_of_metrics_once_also_after_a_stop(tmp_path, scans, monkeypatch):
    pytest.importorskip("tensorboard")
    config = small(training={"tensorboard": True, "checkpoint_every": 2})
    with pytest.MonkeyPatch.context() as patch:
        kill_in(patch, 2)  # before the first checkpoint
        with pytest.raises(SystemExit):
            train(config, *scans, tmp_path / "run", quiet=True)
    original = stop_after(monkeypatch, 3)
    with pytest.raises(KeyboardInterrupt):
        train(config, *scans, tmp_path / "run", resume=True, quiet=True)
    # As if it had been killed a step later: lines after the checkpoint are repeated.
    (tmp_path / "run" / "checkpoints" / "latest" / "step.json").write_text('{"step": 2}')
    monkeypatch.setattr(context, "cevae_loss", original)
    train(config, *scans, tmp_path / "run", resume=True, quiet=True)
    expected = {}
    for line in map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()):
        for name in line.keys() - {"step", *TIMES}:
            expected.setdefault(name, []).append((line["step"], pytest.approx(line[name], rel=1e-5)))
    found, pictures = scalars(tmp_path / "run" / "tensorboard")
    assert found == expected
    assert [step for step, _ in found["total"]] == [1, 2, 3, 4, 5, 6]
    assert pictures == [3, 6]


def test_tensorboard_that_is_not_installed_is_told_before_anything_is_done(tmp_path, cohort, monkeypatch, prepared):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MedvaeError, match=r"Run: pip install tensorboard,"):
        fit(small(training={"tensorboard": True}), cohort, tmp_path / "run", cache=prepared, quiet=True)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("missing", [("accelerate",), ("batchgenerators",), ("accelerate", "batchgenerators")])
def test_packages_of_training_that_are_not_installed_are_told_before_anything_is_done(
    tmp_path, cohort, monkeypatch, missing, prepared
):
    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *rest: None if name in missing else find(name, *rest))
    with pytest.raises(MedvaeError, match=rf'needs {" and ".join(missing)},.* pip install "medvae-anomaly\[train\]"'):
        fit(small(), cohort, tmp_path / "run", cache=prepared, quiet=True)
    assert not (tmp_path / "run").exists()
    untrained = small(network=None, score={"kind": "intensity"})
    fit(untrained, cohort, tmp_path / "without", cache=prepared, quiet=True)
    assert (tmp_path / "without" / "detector").is_dir()


def _no_room(*_, **__):
    raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1_2_3>: No space left on device (28)")


def _killed(_):
    os.kill(os.getpid(), signal.SIGKILL)


def test_shared_memory_that_is_too_small_is_told_with_what_helps(tmp_path, scans, monkeypatch):
    monkeypatch.setattr(torch.UntypedStorage, "_new_shared", _no_room)
    config = small(sampling={"batch_size": 8, "workers": 1})
    with pytest.raises(MedvaeError, match=r"shared memory.*Give sampling\.workers=0") as caught:
        train(config, *scans, tmp_path / "run", quiet=True)
    assert "\n" not in str(caught.value)


def test_a_worker_of_training_that_the_system_killed_is_told(tmp_path, scans, monkeypatch):
    monkeypatch.setattr(loop, "_one_thread", _killed)
    config = small(sampling={"batch_size": 8, "workers": 1})
    with pytest.raises(MedvaeError, match=r"killed, probably because memory ran out.*sampling\.workers=0"):
        train(config, *scans, tmp_path / "run", quiet=True)


def test_a_line_says_which_share_of_its_time_training_waited_for_tiles(tmp_path, monkeypatch):
    clock = iter([0.0, 0.0, 3.0, 3.0, 3.5, 4.0])  # begun, two batches of 3 and 0.5 s, written
    monkeypatch.setattr("medvae.training.metrics.time", SimpleNamespace(monotonic=lambda: next(clock)))
    metrics, batches = Metrics(tmp_path / "metrics.jsonl"), TimedBatches(["a", "b"])
    assert [next(batches), next(batches)] == ["a", "b"]
    assert metrics.write(2, {"total": 1.5}, batches.take()) == 0.875
    assert batches.take() == 0
    line = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert line == {"step": 2, "seconds": 4.0, "waiting": 0.875, "total": 1.5}
